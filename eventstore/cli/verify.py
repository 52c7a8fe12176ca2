"""`verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from eventstore.cli.common import json_option, open_store, print_json, print_table

if TYPE_CHECKING:
    from eventstore.log.guards import Finding


@click.command()
@click.option(
    "--guards", is_flag=True, help="Check what keeps the log append-only: triggers, functions, keys, partitions."
)
@json_option
@click.pass_context
def verify(ctx: click.Context, guards: bool, as_json: bool) -> None:
    """Check the store. Exit status 1 if anything is wrong.

    --guards compares every guard, word for word, with what the migrations made, and looks for what could rewrite events on
    their way in: triggers and rules that are not this program's, row-level security, missing keys, detached partitions.
    """
    if not guards:
        raise click.UsageError("say what to check: --guards")
    with open_store(ctx) as store:
        findings = store.check_guards()
    if as_json:
        print_json({"guards": [asdict(each) for each in findings]})
    elif findings:
        print_findings(findings)
    else:
        click.echo("guards: every one stands as it was made")
    if findings:
        click.echo("the database does not keep the log append-only", err=True)
        ctx.exit(1)


def print_findings(findings: Sequence[Finding]) -> None:
    """What is wrong with the guards, and what to do about it."""
    print_table(
        "What is wrong with the guards",
        ["guard", "table", "fault", "what", "what to do"],
        [(each.name, each.table, each.fault, each.problem, each.remedy) for each in findings],
    )
