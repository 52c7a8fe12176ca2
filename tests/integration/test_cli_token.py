"""`eventstore token`: made, listed and revoked by command."""

from __future__ import annotations

import re

from tests.commands import Command


def test_tokens_are_made_listed_and_revoked_and_their_secrets_shown_once(eventstore: Command) -> None:
    made = eventstore.run("token", "create", "--site", "my-site", "--name", "the relay")
    secret = made.stdout.strip()
    assert re.fullmatch(r"evs_[\w-]{43}", secret)
    assert "bound to my-site, may ingest and read" in made.stderr
    told = eventstore.json("token", "create", "--any-site", "--scopes", "read")
    assert (told["site_id"], told["scopes"], told["name"]) == (None, ["read"], "any site")
    listed = eventstore("token", "list")
    assert secret not in listed
    assert told["token"] not in listed
    eventstore("token", "revoke", told["token_id"])
    first, second = eventstore.json("token", "list")
    assert (first["name"], first["revoked_at"]) == ("the relay", None)
    assert second["token_id"] == told["token_id"]
    assert second["revoked_at"] is not None
    assert "token" not in first
    assert "no live token" in eventstore.refused("token", "revoke", told["token_id"], status=3)


def test_wrong_ways_to_make_a_token_are_refused(eventstore: Command) -> None:
    for options in ([], ["--site", "s", "--any-site"]):
        done = eventstore.run("token", "create", *options)
        assert done.returncode == 2
        assert "say which site it is bound to" in done.stderr
    assert "scopes are ingest, read, admin" in eventstore.refused(
        "token", "create", "--site", "s", "--scopes", "write", status=1
    )
    assert "at least one scope" in eventstore.refused("token", "create", "--site", "s", "--scopes", ",", status=1)
    assert eventstore.json("token", "list") == []
