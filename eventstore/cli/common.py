"""What the commands share: opening the store, printing for people and for programs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click
import orjson

if TYPE_CHECKING:
    from rich.console import Console

    from eventstore.config import Settings
    from eventstore.store import EventStore

NOTHING = "–"
"""What stands in a table for an absent value."""
PLAIN_WIDTH = 200
"""Columns that a table may take where the output is not a terminal."""
LEAST_WIDTH = 12
"""Columns of the terminal that a long text needs at least to be read in a table."""

VISIBLE = {code: 0x2400 + code for code in range(0x20)} | dict.fromkeys(range(0x7F, 0xA0), 0xFFFD)
"""Pictures for control characters: what a coupon is called must not command the terminal."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs instead of a table.")
site_option = click.option("--site", metavar="ID", help="Only this site (Wix's instance id).")


def output_of(as_json: bool, as_csv: bool, **others: object) -> str | None:
    """What is printed: json, csv, or None for a table. Raises UsageError for two ways at once.

    `others`: options that go with no more than a table, as they are given.
    """
    named = [name for name, given in (("--json", as_json), ("--csv", as_csv)) if given]
    named += [
        f"--{name.replace('_', '-')}" for name, given in others.items() if given is not None and given is not False
    ]
    if len(named) > 1:
        raise click.UsageError(f"{named[0]} and {named[1]} exclude each other")
    return "json" if as_json else "csv" if as_csv else None


def parameters_of(given: Sequence[str], **options: str | None) -> dict[str, str]:
    """What `-p NAME=VALUE` gives, and options that are short for one. Raises UsageError for what is none or given twice."""
    found: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise click.UsageError(f"-p takes NAME=VALUE, not {each!r}")
        if name in found:
            raise click.UsageError(f"-p {name}=… is given twice; give it once")
        found[name] = value
    for name, option in options.items():
        if option is None:
            continue
        if name in found:
            raise click.UsageError(f"--{name} and -p {name}=… say the same; give one of them")
        found[name] = option
    return found


def settings_of(ctx: click.Context, **given: object) -> Settings:
    """The settings under the command's options."""
    from eventstore.config import load_settings

    return load_settings(url=ctx.find_root().obj, **given)


@contextmanager
def open_store(ctx: click.Context, *, create: bool = False, settings: Settings | None = None) -> Iterator[EventStore]:
    """The store that `--store` or the settings name. Without `create`, a store that is not there is an error."""
    from eventstore.store import EventStore

    store = EventStore.configured(settings_of(ctx) if settings is None else settings, create=create)
    try:
        yield store
    finally:
        store.close()


def console() -> Console:
    """Where tables go: as wide as the terminal, or wide enough for a file or a pipe."""
    from rich.console import Console

    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(orjson.dumps(value, default=_plain, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode())


def print_json_lines(values: Iterable[Any]) -> None:
    """A JSON document a line on standard output, each as it comes."""
    for value in values:
        click.echo(orjson.dumps(value, default=_plain, option=orjson.OPT_UTC_Z).decode())


def _plain(item: Any) -> Any:
    if isinstance(item, Decimal):
        return float(item) if item != item.to_integral_value() else int(item)
    if isinstance(item, frozenset | set):
        return sorted(item)
    if hasattr(item, "model_dump"):
        return item.model_dump()
    raise TypeError(type(item).__name__)


def cell(value: object) -> str:
    """A value as a person would write it in a table."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def print_table(
    title: str | None, headings: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str] = ()
) -> None:
    """A table for people; the columns named in `right` hold numbers. Where it is too wide, each row has a table of its own."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if title is not None:
        console().print(Text(title.translate(VISIBLE), style="bold"))
    cells = [[cell(value) for value in row] for row in rows]
    if len(headings) > 2 and not _fits(headings, cells):
        for number, several in enumerate(cells, start=1):
            print_table(None, [f"row {number}", ""], list(zip(headings, several, strict=True)))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    numbers = set(right)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in numbers else "left", overflow="fold")
    for several in cells:
        # Text, not markup: a coupon's name may hold brackets.
        table.add_row(*[Text(each.translate(VISIBLE)) for each in several])
    console().print(table)


def _fits(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether a table of these can be read: long texts may be folded, but not into slivers."""
    least = 0
    for number, heading in enumerate(headings):
        longest = max([len(heading), *(len(row[number]) for row in rows)])
        least += min(longest, LEAST_WIDTH) + 2
    return least <= console().width


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def progress(description: str, unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar with count, rate and time left on standard error; `update(done, total)` moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    terminal = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.fields[of]} " + unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=terminal,
        transient=True,
        disable=not terminal.is_terminal,
    ) as bar:
        task = bar.add_task(description, total=None, of="?", rate="")

        def update(done: int, total: int | None) -> None:
            elapsed = bar.tasks[0].elapsed or 0.0
            rate = f"{done / elapsed:,.0f} {unit}/s" if elapsed > 0.1 else ""
            bar.update(task, completed=done, total=total, of="?" if total is None else f"{total:,}", rate=rate)

        yield update
