"""`quarantine list | show | retry | resolve`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
import orjson

from eventstore.cli.common import (
    VISIBLE,
    cell,
    json_option,
    open_store,
    print_json,
    print_table,
    site_option,
)
from eventstore.errors import UnreadableDelivery
from eventstore.event import INT64_MAX

if TYPE_CHECKING:
    from eventstore.quarantine import KeptEntry
    from eventstore.retry import Retried

SIGNED = "a signed webhook (JWT), decoded here without proof; retry checks its signature"

entry_id = click.IntRange(1, INT64_MAX)
kind_option = click.option("--kind", type=click.Choice(["conflict", "quarantined"]), help="Only entries of this kind.")


@click.group()
def quarantine() -> None:
    """Deliveries that could not become events, and ids used for two events: see them, try again, mark as dealt with.

    An entry is `quarantined` if it could not be read, or a `conflict` if its id stands in the log with other content. None
    is ever deleted.
    """


@quarantine.command("list")
@click.option("--all", "resolved", is_flag=True, help="Also entries that are resolved.")
@kind_option
@site_option
@click.option(
    "--after", type=click.IntRange(0, INT64_MAX), default=0, metavar="ID", help="Only entries behind this one."
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Entries at most.")
@json_option
@click.pass_context
def list_(
    ctx: click.Context, resolved: bool, kind: str | None, site: str | None, after: int, limit: int, as_json: bool
) -> None:
    """List what is open, oldest first."""
    with open_store(ctx) as store:
        found = store.list_quarantined(kind=kind, site_id=site, resolved=resolved, after=after, limit=limit)
    if as_json:
        print_json([asdict(each) for each in found])
        return
    ending = ["resolved", "resolution"] if resolved else []
    print_table(
        None,
        ["id", "kind", "site", "route", "handler", "event", "reason", "received", *ending],
        [
            (
                str(each.id),
                each.kind,
                each.site_id,
                each.route,
                each.handler,
                each.event_id,
                each.reason,
                each.received_at,
                *([each.resolved_at, each.resolution] if resolved else []),
            )
            for each in found
        ],
        right=["id"],
    )
    if len(found) == limit:
        click.echo(f"the first {cell(limit)}; --after {found[-1].id} shows more", err=True)


@quarantine.command()
@click.argument("number", metavar="ID", type=entry_id)
@click.option("--body", is_flag=True, help="Print the exact bytes of the delivery and nothing else.")
@json_option
@click.pass_context
def show(ctx: click.Context, number: int, body: bool, as_json: bool) -> None:
    """Show one entry, its body, and what it contradicts."""
    if body and as_json:
        raise click.UsageError("--body prints the bytes as they are: leave out --json")
    with open_store(ctx) as store:
        kept = store.show_quarantined(number)
    if body:
        click.echo(kept.body, nl=False)
    elif as_json:
        _print_entry_as_json(kept)
    else:
        _print_entry(kept)


@quarantine.command()
@click.argument("ids", metavar="ID…", nargs=-1, type=entry_id)
@click.option("--all", "every", is_flag=True, help="All that are open.")
@kind_option
@site_option
@click.option(
    "--derived-id", is_flag=True, help="Append a conflict's event under an id derived from its content: Wix reuses ids."
)
@json_option
@click.pass_context
def retry(
    ctx: click.Context,
    ids: tuple[int, ...],
    every: bool,
    kind: str | None,
    site: str | None,
    derived_id: bool,
    as_json: bool,
) -> None:
    """Read entries anew, append what they hold.

    Today's readers are used, and the events appended as if just delivered; it is safe to repeat. An entry whose events
    stand in the log then is resolved; any other stays open and says why. Exit status 1 if any stays open.
    """
    if every == bool(ids):
        raise click.UsageError("say which entries: their ids, or --all")
    if ids and (kind is not None or site is not None):
        raise click.UsageError("--kind and --site choose among --all; leave them out where ids are given")
    done: list[Retried] = []
    with open_store(ctx) as store:
        try:
            for each in store.retry_quarantined(ids or None, kind=kind, site_id=site, derived_id=derived_id):
                done.append(each)
                if not as_json:
                    click.echo(f"{each.id}: {'stays open' if each.open else 'resolved'}: {_visible(each.said)}")
        finally:
            # Told even if the database fails half-way: what is done is done.
            if as_json:
                print_json([_retried(each) for each in done])
        if any(outcome.kind == "appended" for each in done for outcome in each.outcomes):
            store.project()
    still_open = sum(each.open for each in done)
    if not as_json:
        click.echo(f"{cell(len(done) - still_open)} resolved, {cell(still_open)} open", err=True)
        if not derived_id and any(outcome.kind == "conflict" for each in done for outcome in each.outcomes):
            click.echo("--derived-id appends an event whose id stands in the log under an id of its own", err=True)
    ctx.exit(1 if still_open else 0)


@quarantine.command()
@click.argument("ids", metavar="ID…", nargs=-1, required=True, type=entry_id)
@click.option("--note", required=True, metavar="TEXT", help="How they were dealt with, in at most 500 characters.")
@click.pass_context
def resolve(ctx: click.Context, ids: tuple[int, ...], note: str) -> None:
    """Mark entries as dealt with.

    All of those given or none; the note is kept with them.
    """
    with open_store(ctx) as store:
        store.resolve_quarantined(ids, note)
    click.echo(f"resolved {', '.join(map(str, dict.fromkeys(ids)))}")


# Showing


def _retried(each: Retried) -> dict[str, Any]:
    return {
        "id": each.id,
        "open": each.open,
        "said": each.said,
        "events": [
            {
                "outcome": kind,
                "event_id": event_id,
                "position": position,
                "quarantine_id": quarantine_id,
                "reason": reason,
            }
            for kind, event_id, position, quarantine_id, reason in each.outcomes
        ],
    }


def _print_entry_as_json(kept: KeptEntry) -> None:
    shown = asdict(kept)
    form, content = _decoded(kept.body)
    print_json({**shown, "body_form": form, "body": content})


def _print_entry(kept: KeptEntry) -> None:
    facts = asdict(kept)
    for name in ("headers", "body", "contradiction"):
        del facts[name]
    facts["id"] = str(kept.id)
    facts["size"] = f"{kept.size:,} bytes"
    headers = [(f"header {name}", value) for name, value in (kept.headers or {}).items()]
    print_table(
        f"Quarantine entry {kept.id}",
        ["fact", "value"],
        [(name, value) for name, value in facts.items() if value is not None] + headers,
    )
    against = kept.contradiction
    if against is not None:
        title = f"In the log under this id, at position {against.position}"
        if against.problem is not None:
            click.echo(f"{title}; cannot be compared: {_visible(against.problem)}\n")
        elif not against.differences:
            click.echo(f"{title}: the same, to today's readers\n")
        else:
            print_table(
                title,
                ["field", "logged", "quarantined"],
                [(each.path, _value(each.logged), _value(each.quarantined)) for each in against.differences],
            )
    form, content = _decoded(kept.body)
    if form == "jwt":
        click.echo(f"Body: {SIGNED}\n")
        content = {**content, "payload": _unfolded(content["payload"])}
    else:
        click.echo("Body" if form != "bytes" else "Body: not text; --body prints its bytes")
    text = content if isinstance(content, str) else orjson.dumps(content, option=orjson.OPT_INDENT_2).decode()
    click.echo("\n".join(_visible(line) for line in text.split("\n")))


def _decoded(body: bytes) -> tuple[str, Any]:
    """What a body is and how it can be shown: `json` and `jwt` decoded, `text`, or `bytes` with escapes for what is no text."""
    from eventstore.wix import decode
    from eventstore.wix.jwt import is_jwt, unverified

    try:
        if is_jwt(body):
            header, payload = unverified(body)
            found = {"header": header, "payload": payload}
            orjson.dumps(found)  # Python's reader takes numbers, depths and half characters that this one does not.
            return "jwt", found
        return "json", decode(body)
    except (UnreadableDelivery, orjson.JSONEncodeError):
        pass
    try:
        return "text", body.decode()
    except UnicodeDecodeError:
        return "bytes", body.decode(errors="backslashreplace")


def _unfolded(payload: dict[str, Any]) -> dict[str, Any]:
    """The payload with the JSON texts opened that Wix puts its event into, one in the other."""
    try:
        inner = orjson.loads(payload["data"]) if isinstance(payload.get("data"), str) else None
    except orjson.JSONDecodeError:
        inner = None
    return {**payload, "data": _unfolded(inner)} if isinstance(inner, dict) else payload


def _value(value: Any) -> object:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


def _visible(text: str) -> str:
    return text.translate(VISIBLE)
