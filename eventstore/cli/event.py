"""`event`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.common import json_option, open_store, print_json, print_table, site_option
from eventstore.errors import NotFound

if TYPE_CHECKING:
    from eventstore.log.records import RecordedEvent
    from eventstore.signatures import SignatureCheck


@click.command()
@click.argument("event_id", metavar="ID|POSITION")
@site_option
@click.option(
    "--original", is_flag=True, help="Print the exact bytes that the event was delivered as, and nothing else."
)
@click.option(
    "--check-signature",
    is_flag=True,
    help="Check Wix's signature on those bytes again, with the key that was valid when they came. "
    "Exit status 1 if it does not hold or there is none.",
)
@json_option
@click.pass_context
def event(
    ctx: click.Context, event_id: str, site: str | None, original: bool, check_signature: bool, as_json: bool
) -> None:
    """Show one event of the log by its id or position: its facts, where it came from, and the proof of that."""
    with open_store(ctx) as store:
        record = store.find(event_id, site_id=site)
        checked = store.check_signature(record.position) if check_signature else None
        kept = store.original(record.position) if original else None
    if original:
        # With both asked for, the verdict must not mix with the bytes.
        if kept is None:
            raise NotFound("the event was built in Python: there are no bytes of a delivery")
        sys.stdout.buffer.write(kept)
        if checked is not None:
            click.echo(_verdict(checked), err=True)
    elif as_json:
        told = {"position": record.position, "recorded_at": record.recorded_at, "leaf_hash": record.leaf_hash.hex()}
        told |= {"event": record.event.model_dump(exclude_none=True), "findings": record.event.findings}
        print_json(told if checked is None else told | {"signature": checked._asdict()})
    else:
        _print(record)
        if checked is not None:
            click.echo(_verdict(checked))
    if checked is not None and not (checked.valid and checked.agrees):
        ctx.exit(1)


def _verdict(checked: SignatureCheck) -> str:
    if not (checked.valid and checked.agrees):
        return f"{click.style('signature:', fg='red', bold=True)} NOT PROVED: {checked.reason}"
    return (
        f"{click.style('signature:', fg='green', bold=True)} valid: signed by the app {checked.app} with the key "
        f"{(checked.key_id or '')[:16]}, which was valid when it was recorded"
    )


def _print(record: RecordedEvent) -> None:
    told = record.event
    facts = told.model_dump(
        mode="json", exclude_none=True, exclude={"event_time", "coupon", "loyalty", "body", "changed"}
    )
    print_table(
        f"Event {told.event_id}",
        ["fact", "value"],
        [
            ("position", record.position),
            ("recorded at", record.recorded_at),
            ("event time", told.event_time),
            *((name.replace("_", " "), value) for name, value in _flat(facts)),
            ("leaf hash", record.leaf_hash.hex()),
        ],
    )
    parts = told.model_dump(mode="json", exclude_none=True, include={"coupon", "loyalty", "body", "changed"})
    for name, part in parts.items():
        print_table(name.capitalize(), ["field", "value"], _flat(part, name))
    for finding in told.findings:
        click.echo(f"{click.style('finding:', fg='yellow', bold=True)} {finding}")


def _flat(part: Any, name: str = "") -> list[tuple[str, object]]:
    """The scalars in a JSON value, each with its path."""
    if not isinstance(part, dict | list) or not part:
        return [(name, part)]
    found = part.items() if isinstance(part, dict) else enumerate(part)
    return [row for key, value in found for row in _inner(key, value)]


def _inner(key: object, value: Any) -> list[tuple[str, object]]:
    return [(f"{key}.{name}" if name else f"{key}", each) for name, each in _flat(value)]
