"""Tokens: shown once, stored hashed, scoped, and bound to a site."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256

import pytest
from sqlalchemy import select

from eventstore import access
from eventstore.access import Scope, Token, parse_scopes
from eventstore.errors import InputError, NotAllowed, NotFound
from eventstore.log.tables import api_tokens
from eventstore.store import EventStore


def token(*scopes: Scope, site_id: str | None = None) -> Token:
    return Token("tok_1", "a name", site_id, frozenset(scopes), datetime(2026, 9, 1, tzinfo=UTC))


@pytest.mark.parametrize("scope", [Scope.INGEST, Scope.READ])
def test_a_token_may_do_what_its_scopes_say_and_no_more(scope: Scope) -> None:
    token(scope).require(scope)
    for other in set(Scope) - {scope}:
        with pytest.raises(NotAllowed, match=f"'a name' lacks the scope {other}"):
            token(scope).require(other)


def test_an_admin_may_do_everything() -> None:
    for scope in Scope:
        token(Scope.ADMIN).require(scope)


def test_a_token_without_scopes_may_do_nothing() -> None:
    for scope in Scope:
        with pytest.raises(NotAllowed):
            token().require(scope)


@pytest.mark.parametrize(
    ("bound", "named", "filed"),
    [
        (None, None, "default"),
        (None, "named", "named"),
        ("mine", None, "mine"),
        ("mine", "mine", "mine"),
    ],
)
def test_a_bound_token_s_site_comes_first_then_the_site_named_then_the_default(
    bound: str | None, named: str | None, filed: str
) -> None:
    assert token(Scope.INGEST, site_id=bound).site_for(named, "default") == filed


@pytest.mark.parametrize("named", ["other", "", "MINE", "mine "])
def test_a_bound_token_refuses_every_other_site(named: str) -> None:
    with pytest.raises(NotAllowed, match="bound to the site mine"):
        token(Scope.INGEST, site_id="mine").site_for(named, "default")


@pytest.mark.parametrize(
    ("text", "scopes"),
    [
        ("ingest", {Scope.INGEST}),
        ("ingest,read", {Scope.INGEST, Scope.READ}),
        (" read , ingest ,", {Scope.INGEST, Scope.READ}),
        ("read,read", {Scope.READ}),
        ("admin", {Scope.ADMIN}),
        ("", set()),
    ],
)
def test_scopes_are_read_from_text(text: str, scopes: set[Scope]) -> None:
    assert parse_scopes(text) == scopes


@pytest.mark.parametrize("text", ["write", "ingest,write", "INGEST", "ingest;read"])
def test_an_unknown_scope_is_an_error_that_lists_those_there_are(text: str) -> None:
    with pytest.raises(InputError, match="scopes are ingest, read, admin"):
        parse_scopes(text)


def test_a_token_s_secret_finds_it_and_is_stored_only_as_its_hash(store: EventStore) -> None:
    secret, made = store.create_token(name="the site's relay", site_id="mine")
    assert access.find_token(store.engine, access.digest(secret)) == made
    assert made.scopes == {Scope.INGEST, Scope.READ}
    assert len(secret) > 40
    with store.engine.connect() as connection:
        row = connection.execute(select(api_tokens)).one()
    assert bytes(row.token_hash) == sha256(secret.encode()).digest()
    assert secret not in {str(value) for value in row}


def test_no_two_secrets_are_alike(store: EventStore) -> None:
    made = [store.create_token(name="same", site_id=None) for _ in range(20)]
    assert len({secret for secret, _ in made}) == len({each.token_id for _, each in made}) == 20


@pytest.mark.parametrize("change", [str.upper, str.lower, lambda s: s[:-1], lambda s: s + "A", lambda s: f" {s}"])
def test_a_secret_that_differs_at_all_finds_nothing(store: EventStore, change: object) -> None:
    secret, _ = store.create_token(name="x", site_id=None)
    assert callable(change)
    assert access.find_token(store.engine, access.digest(change(secret))) is None
    assert access.find_token(store.engine, access.digest("")) is None


def test_a_revoked_token_finds_nothing_any_more_but_stays_listed(store: EventStore) -> None:
    secret, made = store.create_token(name="gone", site_id=None)
    other, _ = store.create_token(name="stays", site_id=None)
    access.revoke_token(store.engine, made.token_id)
    assert access.find_token(store.engine, access.digest(secret)) is None
    assert access.find_token(store.engine, access.digest(other)) is not None
    listed = {each.name: each for each in access.list_tokens(store.engine)}
    assert listed["gone"].revoked_at is not None
    assert listed["stays"].revoked_at is None
    assert access.count_tokens(store.engine) == 2


@pytest.mark.parametrize("twice", [True, False])
def test_only_a_live_token_can_be_revoked(store: EventStore, twice: bool) -> None:
    _, made = store.create_token(name="x", site_id=None)
    if twice:
        access.revoke_token(store.engine, made.token_id)
    with pytest.raises(NotFound, match="no live token"):
        access.revoke_token(store.engine, made.token_id if twice else "tok_unheard")


def test_a_token_needs_a_scope(store: EventStore) -> None:
    with pytest.raises(InputError, match="at least one scope"):
        store.create_token(name="x", site_id=None, scopes=" , ")
    assert access.count_tokens(store.engine) == 0


def test_tokens_are_listed_oldest_first(store: EventStore) -> None:
    for number in range(5):
        store.create_token(name=str(number), site_id=None)
    assert [each.name for each in access.list_tokens(store.engine)] == ["0", "1", "2", "3", "4"]
