"""`notebook` and `dashboard`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from eventstore.cli.common import print_json, print_table, settings_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_parameters = click.option(
    "--param",
    "-p",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="What to begin with: site, since, until (days, as 2026-09-01) or coupon; repeatable.",
)
_browser = click.option("--browser/--no-browser", default=True, help="Whether to open a browser.  [default: open one]")


@click.command()
@click.argument("name", required=False)
@click.option("--list", "list_all", is_flag=True, help="List the notebooks and what they are for.")
@click.option("--json", "as_json", is_flag=True, help="With --list: JSON for programs.")
@click.option(
    "--export",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Run it and write FILE.html or FILE.ipynb.",
)
@click.option(
    "--port", default=0, show_default="a free one", type=click.IntRange(0, 65535), help="The port to listen on."
)
@_browser
@_parameters
@click.pass_context
def notebook(
    ctx: click.Context,
    name: str | None,
    list_all: bool,
    as_json: bool,
    export: Path | None,
    port: int,
    browser: bool,
    given: tuple[str, ...],
) -> None:
    """Open a notebook on the store, to read and to change; without a NAME the tour, start_here.

    What opens is a copy, in the folder notebooks/ of the working directory; one that is there is opened as it is. --export
    runs the installed one, and writes a page that needs no network, or a Jupyter notebook.
    """
    from analytics import exporting
    from analytics import notebook as books

    if list_all or as_json:
        _print_list(as_json)
        return
    settings = settings_of(ctx)
    asked = _asked(given)
    wanted = name or books.FIRST
    if export is None:
        books.edit(wanted, settings=settings, port=port, browser=browser, asked=asked, say=click.echo)
        return
    position = exporting.export(wanted, export, settings=settings, asked=asked)
    click.echo(f"{export}: {wanted} at position {position:,}")


@click.command()
@click.argument("name", required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", default=8788, show_default=True, type=click.IntRange(0, 65535), help="The port; 0 takes a free one."
)
@_browser
@_parameters
@click.pass_context
def dashboard(
    ctx: click.Context, name: str | None, host: str, port: int, browser: bool, given: tuple[str, ...]
) -> None:
    """Run the notebook overview, or NAME, as an app to look at: filters and charts, and no code.

    On an address that other machines reach, the URL that is printed holds a secret, without which nothing is shown.
    """
    from analytics import notebook as books

    settings = settings_of(ctx)
    wanted = name or books.DASHBOARD
    books.dashboard(
        wanted, settings=settings, host=host, port=port, browser=browser, asked=_asked(given), say=click.echo
    )


def _asked(given: Sequence[str]) -> dict[str, str]:
    asked = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals:
            raise click.UsageError(f"-p takes NAME=VALUE, not {each!r}")
        asked[name] = value
    return asked


def _print_list(as_json: bool) -> None:
    from analytics.notebook import notebooks

    if as_json:
        print_json([{"name": each.name, "title": each.title, "about": each.about} for each in notebooks()])
    else:
        print_table(None, ["notebook", "what it is for"], [(each.name, each.about) for each in notebooks()])
