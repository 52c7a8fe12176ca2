"""`eventstore quarantine`: what its commands print, and with which status they end."""

from __future__ import annotations

import json
import subprocess

import pytest

from eventstore.quarantine import Entry
from eventstore.store import EventStore
from tests.commands import Command, run_bytes
from tests.quarantined import (
    conflict,
    encoded,
    keep,
    listed,
    register,
    signed,
    unreadable,
)
from tests.serving import (
    PATIENCE,
    SITE,
    command,
    created,
    environment,
)


class Quarantine:
    """`eventstore quarantine …` on one store."""

    def __init__(self, eventstore: Command) -> None:
        self.url = eventstore.url
        self._eventstore = eventstore

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """What the command prints; it must end with `status`."""
        done = self._eventstore.run("quarantine", *arguments)
        assert done.returncode == status, done.stderr or done.stdout
        return done.stdout if status in (0, 1) and done.stdout else done.stderr


@pytest.fixture
def quarantine(eventstore: Command) -> Quarantine:
    return Quarantine(eventstore)


def test_the_list_is_a_table_for_people_and_json_for_programs(store: EventStore, quarantine: Quarantine) -> None:
    first = keep(store, unreadable(1))
    second = conflict(store, created("e-1"), created("e-1", code="OTHER"))
    store.resolve_quarantined([first], "not ours")
    table = quarantine("list")
    assert "event id e-1 stands at position 1" in table
    assert "an older reader" not in table
    assert "not ours" in quarantine("list", "--all")
    found = json.loads(quarantine("list", "--all", "--json"))
    assert [(each["id"], each["kind"], each["resolution"]) for each in found] == [
        (first, "quarantined", "not ours"),
        (second, "conflict", None),
    ]
    assert found[0].keys() == set(Entry.__dataclass_fields__)
    assert json.loads(quarantine("list", "--kind", "quarantined", "--json")) == []
    page = json.loads(quarantine("list", "--all", "--after", str(first), "--limit", "1", "--json"))
    assert [each["id"] for each in page] == [second]


def test_show_makes_control_characters_visible_and_sets_a_conflict_beside_the_log(
    store: EventStore, quarantine: Quarantine
) -> None:
    number = conflict(store, created("e-1"), created("e-1", code="\x1b[2J\x9b2J"))
    shown = quarantine("show", str(number))
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "In the log under this id, at position 1" in shown
    assert "SPRING" in shown
    assert '"code": "\\u001b[2J\ufffd2J"' in shown
    told = json.loads(quarantine("show", str(number), "--json"))
    assert told["body"] == created("e-1", code="\x1b[2J\x9b2J")
    assert (told["body_form"], told["size"]) == ("json", len(encoded(created("e-1", code="\x1b[2J\x9b2J"))))
    assert [each["path"] for each in told["contradiction"]["differences"]] == ["coupon.code"]


def test_show_body_prints_the_exact_bytes_and_nothing_else(store: EventStore, quarantine: Quarantine) -> None:
    body = bytes(range(256)) * 1_000
    number = keep(store, body)
    assert run_bytes("--store", quarantine.url, "quarantine", "show", str(number), "--body") == (0, body, b"")
    assert "not text" in quarantine("show", str(number))
    assert json.loads(quarantine("show", str(number), "--json"))["body_form"] == "bytes"
    line = " ".join(command("--store", f"'{quarantine.url}'", "quarantine", "show", str(number), "--body"))
    cut = subprocess.run(
        ["sh", "-c", f"{line} | head -c 1"],
        env=environment(),
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    assert (cut.stdout, cut.stderr) == (b"\0", b"")


def test_show_decodes_a_signed_webhook_and_says_that_it_is_one(store: EventStore, quarantine: Quarantine) -> None:
    register(store)
    number = keep(store, signed(), route="rest", handler=None, site=SITE)
    shown = quarantine("show", str(number))
    assert "a signed webhook" in shown
    assert '"alg": "RS256"' in shown
    assert '"slug": "created"' in shown
    told = json.loads(quarantine("show", str(number), "--json"))
    assert told["body_form"] == "jwt"
    assert told["body"]["header"] == {"alg": "RS256", "typ": "JWT"}
    assert set(told["body"]["payload"]) == {"data", "iat", "exp"}


def test_what_only_looks_like_a_signed_webhook_is_shown_as_text(store: EventStore, quarantine: Quarantine) -> None:
    number = keep(store, b"eyJ.x.y")
    assert "eyJ.x.y" in quarantine("show", str(number))
    assert "stays open" in quarantine("retry", str(number), status=1)


def test_retry_by_command_ends_with_1_while_any_entry_stays_open(store: EventStore, quarantine: Quarantine) -> None:
    readable = keep(store, encoded(created("e-1")))
    number = conflict(store, created("e-2"), created("e-2", code="OTHER"))
    said = quarantine("retry", "--all", status=1)
    assert said.splitlines() == [
        f"{readable}: resolved: retried: appended at position 2",
        f"{number}: stays open: event id e-2 stands at position 1 with other content",
    ]
    told = json.loads(quarantine("retry", str(number), "--derived-id", "--json"))
    assert [(each["id"], each["open"], each["said"]) for each in told] == [
        (number, False, "retried under a derived id: appended at position 3")
    ]
    assert told[0]["events"][0]["outcome"] == "appended"
    assert quarantine("list", "--json").strip() == "[]"


def test_resolve_by_command_keeps_the_note(store: EventStore, quarantine: Quarantine) -> None:
    first, second = keep(store, unreadable(1)), keep(store, unreadable(2))
    assert quarantine("resolve", str(first), str(second), "--note", "sent again") == f"resolved {first}, {second}\n"
    assert {entry.resolution for entry in listed(store).values()} == {"sent again"}
    assert "UTC: sent again" in quarantine("resolve", str(first), "--note", "twice", status=1)


def test_wrong_use_is_one_line_and_a_status_that_means_it(store: EventStore, quarantine: Quarantine) -> None:
    number = str(keep(store, unreadable()))
    for arguments, status in {
        ("show", "99"): 3,
        ("show", number, "--body", "--json"): 2,
        ("retry", "99"): 3,
        ("retry",): 2,
        ("retry", number, "--all"): 2,
        ("retry", number, "--kind", "conflict"): 2,
        ("resolve", number): 2,
        ("resolve", "99", "--note", "none"): 3,
        ("resolve", number, "--note", "two\nlines"): 1,
        ("list", "--kind", "other"): 2,
    }.items():
        assert quarantine(*arguments, status=status).lower().count("error: ") == 1, arguments
