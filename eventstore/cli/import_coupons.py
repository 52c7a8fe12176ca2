"""`import-coupons`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

import click

from eventstore.cli.common import cell, json_option, open_store, print_json, print_table, progress
from eventstore.cli.files import Problems, files_argument, numbered_lines, observed_at_option, taken_at
from eventstore.errors import EventStoreError, StoreUnavailable

if TYPE_CHECKING:
    from eventstore.differences import Difference
    from eventstore.ingest import LineAnswer
    from eventstore.reconcile import Reconciliation

SHOWN_DIFFERENCES = 50
"""Differences shown to people; the rest is counted."""

MEANINGS = {
    "missing": "at Wix, and the store did not know it",
    "changed": "the store had other facts",
    "drifted": "Wix counts other uses than the log holds",
    "absent": "in the store and not deleted, but not at Wix",
}


@click.command("import-coupons")
@files_argument
@click.option("--site", metavar="ID", help="The site they belong to; else the one in the settings.")
@observed_at_option
@click.option(
    "--complete", is_flag=True, help="The files are all that Wix has of the site: also show what they do not have."
)
@click.option("--dry-run", is_flag=True, help="Compare only: append nothing, keep nothing.")
@json_option
@click.pass_context
def import_coupons(
    ctx: click.Context,
    files: tuple[str, ...],
    site: str | None,
    observed_at: datetime | None,
    complete: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Append coupons as Query Coupons answers them, and show how they differ from what the store knew before.

    A file is a page, a list of pages or coupons, or one of them a line; `-` reads standard input. This is how the store
    learns of coupons older than itself, and how lost events come to light. Importing a file again appends nothing new.
    Exit status 1 if anything was refused or quarantined.
    """
    problems = Problems()
    stopped: EventStoreError | None = None
    with open_store(ctx, create=not dry_run) as store:
        with store.reconcile(site=site, complete=complete, dry_run=dry_run) as found:
            try:
                for name in files:
                    _take(found, name, taken_at(name, observed_at), problems)
            except EventStoreError as error:
                stopped = error  # what was compared before must still be told: the next run finds it known
            head = store.head()
            (_print_json if as_json else _print)(found, dry_run, complete, head, problems)
        if not dry_run:
            store.project()
    if isinstance(stopped, StoreUnavailable):
        raise StoreUnavailable(
            f"{name}: stopped: {stopped}; run it again, what is in is not appended twice"
        ) from stopped
    if stopped is not None:
        raise stopped
    ctx.exit(1 if found.summary.counts.get("refused") or found.summary.counts.get("quarantined") else 0)


def _take(found: Reconciliation, name: str, observed_at: datetime, problems: Problems) -> None:
    with progress(name, "coupons") as update:
        done = 0

        def on_answer(answer: LineAnswer) -> None:
            nonlocal done
            done += len(answer.outcomes)
            problems.add(name, answer)
            update(done, None)

        found.take(numbered_lines(name), observed_at=observed_at, on_answer=on_answer)


def _print_json(found: Reconciliation, dry_run: bool, complete: bool, head: int, problems: Problems) -> None:
    differences = [asdict(each) for each in found.differences()]
    print_json(
        {
            "dry_run": dry_run,
            "lines": found.summary.lines,
            "events": found.summary.counts,
            "head": head,
            "agreeing": found.agreeing,
            "newer": found.newer,
            "absent_known": found.whole if complete else None,
            "counts": Counter(each["kind"].value for each in differences),
            "differences": differences,
            "problems": problems.shown,
        }
    )


def _print(found: Reconciliation, dry_run: bool, complete: bool, head: int, problems: Problems) -> None:
    counts = found.summary.counts
    title = "nothing is appended in a dry run, it would be so" if dry_run else f"the log now holds {head:,} events"
    print_table(
        f"{found.summary.lines:,} lines read, {title}",
        ["outcome", "coupons"],
        [(kind, counts.get(kind, 0)) for kind in ("appended", "duplicate", "conflict", "quarantined", "refused")],
        right=["coupons"],
    )
    differences = found.differences()
    shown = list(islice(differences, SHOWN_DIFFERENCES))
    kinds = Counter(each.kind.value for each in shown)
    kinds.update(each.kind.value for each in differences)
    rows = [(kind, kinds[kind], meaning) for kind, meaning in MEANINGS.items() if kind != "absent" or found.whole]
    rows += [("agreeing", found.agreeing, "no difference"), ("newer", found.newer, "the store is newer: not compared")]
    print_table("Wix beside the store", ["difference", "coupons", "meaning"], rows, right=["coupons"])
    if shown:
        print_table(
            "Differences",
            ["difference", "code", "coupon", "what"],
            [(each.kind.value, each.code, each.coupon_id, told(each)) for each in shown],
        )
    if kinds.total() > len(shown):
        click.echo(f"… and {kinds.total() - len(shown):,} more; --json lists them all")
    if complete and not found.whole:
        click.echo(
            "absent coupons are not shown: not everything could be read, so that the list is not whole", err=True
        )
    problems.print()


def told(difference: Difference) -> str:
    """The details of a difference, in words."""
    return _WORDS[difference.kind.value](difference)


def _missing(difference: Difference) -> str:
    made, used = difference.details["created_at"], difference.details["number_of_usages"]
    return f"made {cell(made)}, used {cell(used)} times by Wix's count"


def _changed(difference: Difference) -> str:
    changes = difference.details.items()
    said = [f"{name}: {cell(each['ours'])} → {cell(each['wix'])}" for name, each in changes if name != "deleted"]
    return "; ".join((["deleted here, but at Wix"] if "deleted" in difference.details else []) + said)


def _drifted(difference: Difference) -> str:
    details = difference.details
    return (
        f"{cell(details['times_used'])} uses in the log, {cell(details['number_of_usages'])} by Wix's count "
        f"({details['difference']:+,})"
    )


def _absent(difference: Difference) -> str:
    return f"last heard of {cell(difference.details['last_event_time'])}"


_WORDS: dict[str, Callable[[Difference], str]] = {
    "missing": _missing,
    "changed": _changed,
    "drifted": _drifted,
    "absent": _absent,
}
