"""Stores that programs of the past have written, brought up to date by this one: nothing is lost and everything goes on."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy import event, make_url, select

from eventstore import apps, webhooks
from eventstore.errors import StoreNotReady
from eventstore.event import Event
from eventstore.log.engine import make_engine, writing
from eventstore.log.guards import missing_guards
from eventstore.log.leaf import leaf_hash, stored_hashes
from eventstore.log.records import Outcome, OutcomeKind, Rejected
from eventstore.log.schema import HEAD_REVISION, migrate, revision
from eventstore.log.tables import events
from eventstore.log.types import to_micros
from eventstore.projections.catalogue import projections
from eventstore.store import EventStore
from tests.commands import run
from tests.processes import FORKING
from tests.serving import SITE, Serving
from tests.snapshots import (
    APP,
    HANDLER,
    KEPT,
    LINE,
    OBJECT,
    OBSERVED_AT,
    OTHER_SITE,
    WEBHOOK,
    Sent,
    Snapshot,
    private_key,
    public_pem,
    sign,
    snapshots,
    table_digest,
    use,
    velo_use,
    wrapped,
)
from tests.stores import NewUrl, PostgresqlServer, text_of

SNAPSHOTS = snapshots()
PAST = [each.revision for each in SNAPSHOTS if each.revision < HEAD_REVISION]


@dataclass(frozen=True)
class Old:
    """A store as a program of the past left it."""

    snapshot: Snapshot
    engine: str
    url: str

    @property
    def secret(self) -> str:
        return self.snapshot.expected.tokens[f"{self.engine}: of every site"]

    def assert_intact(self, of_revision: str) -> None:
        """The store is of this revision, and every row stands as the old program left it, in each column that it knew."""
        engine = make_engine(self.url)
        try:
            assert revision(engine) == of_revision
            for name, expected in self.snapshot.expected.tables[self.engine].items():
                if name == "projection_work":
                    continue  # who works at the store now
                assert table_digest(engine, name, expected.columns, expected.key) == expected, name
        finally:
            engine.dispose()


@pytest.fixture(scope="module", params=[each.revision for each in SNAPSHOTS])
def snapshot(request: pytest.FixtureRequest) -> Snapshot:
    """Each snapshot in turn."""
    return Snapshot(request.param)


@pytest.fixture(scope="module")
def pristine(
    request: pytest.FixtureRequest, snapshot: Snapshot, dialect: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A store restored from the snapshot, for copying."""
    if dialect == "sqlite":
        path = tmp_path_factory.mktemp("past") / "log.db"
        snapshot.restore_sqlite(path)
        return f"sqlite:///{path}"
    server: PostgresqlServer = request.getfixturevalue("postgresql_server")
    database = server.new_database("template0")
    snapshot.restore_postgresql(database)
    return text_of(database)


@pytest.fixture
def old(snapshot: Snapshot, dialect: str, pristine: str, new_url: NewUrl) -> Iterator[Old]:
    """A store of the past that a test has to itself."""
    with new_url(pristine) as url:
        yield Old(snapshot, dialect, url)


@pytest.fixture
def store(old: Old) -> Iterator[EventStore]:
    """The same, opened, and so upgraded, by this program."""
    with EventStore.open(old.url) as opened:
        yield opened


@pytest.fixture(scope="module")
def upgraded(snapshot: Snapshot, dialect: str, pristine: str, new_url: NewUrl) -> Iterator[tuple[Old, EventStore]]:
    """An upgraded store for all the tests that only look at its log."""
    with new_url(pristine) as url, EventStore.open(url) as opened:
        yield Old(snapshot, dialect, url), opened


def scripts() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    return config


def test_every_past_revision_has_a_snapshot() -> None:
    known = {script.revision for script in ScriptDirectory.from_config(scripts()).walk_revisions()}
    missing = sorted(known - {HEAD_REVISION} - {each.revision for each in SNAPSHOTS})
    assert not missing, (
        f"no snapshot of the revisions {missing}: run `python -m tests.snapshots --make` with the last program that had "
        "each of them; tests/snapshots.py says how"
    )
    assert {each.revision for each in SNAPSHOTS} <= known
    assert [each.expected.revision for each in SNAPSHOTS] == [each.revision for each in SNAPSHOTS]


def test_snapshots_hold_every_kind_of_delivery_and_answer() -> None:
    for snapshot in SNAPSHOTS:
        sent = snapshot.deliveries()
        hows = {LINE, OBJECT, KEPT} | ({WEBHOOK} if snapshot.expected.app_key else set())
        assert {each.how for each in sent} == hows
        assert {answer.kind for each in sent for answer in each.answers} == set(OutcomeKind)
        assert all(snapshot.expected.outcomes[kind] > 0 for kind in OutcomeKind)
        assert 0 < snapshot.expected.projected < snapshot.expected.events


def test_an_old_store_is_refused_until_it_is_upgraded_by_a_command(old: Old) -> None:
    if old.snapshot.revision == HEAD_REVISION:
        pytest.skip("of the present revision")
    with pytest.raises(StoreNotReady, match=rf"revision {old.snapshot.revision}, .*`eventstore init`"):
        EventStore.open(old.url, create=False)
    old.assert_intact(old.snapshot.revision)
    done = run("--store", old.url, "init")
    assert done.returncode == 0, done.stderr
    old.assert_intact(HEAD_REVISION)


def test_an_upgrade_leaves_every_row_of_the_log_as_it_was_byte_for_byte(
    pristine: str, upgraded: tuple[Old, EventStore]
) -> None:
    old, store = upgraded
    replace(old, url=pristine).assert_intact(old.snapshot.revision)
    old.assert_intact(HEAD_REVISION)
    assert missing_guards(store.engine) == []
    assert migrate(store.engine) is False


def test_every_leaf_hash_of_an_upgraded_store_follows_from_its_row(upgraded: tuple[Old, EventStore]) -> None:
    old, store = upgraded
    with store.engine.connect() as connection:
        rows = connection.execute(select(events).order_by(events.c.position)).all()
    assert [row.position for row in rows] == [*range(1, old.snapshot.expected.events + 1)]
    for row in rows:
        hashes = stored_hashes(row.payload.encode(), row.original)
        times = to_micros(row.event_time), to_micros(row.recorded_at)
        ids = row.site_id, row.event_id, row.type, row.source, row.entity_id, row.coupon_id
        assert leaf_hash(*ids, *times, row.sequence, row.anonymize, hashes) == row.leaf_hash, row.position


def test_the_exact_bytes_of_every_old_delivery_can_still_be_read(upgraded: tuple[Old, EventStore]) -> None:
    """Of a page of several coupons each event has its own part."""
    old, store = upgraded
    found = 0
    for each in old.snapshot.deliveries():
        for answer in each.answers if len(each.answers) == 1 else ():
            if answer.kind is OutcomeKind.APPENDED and each.how != OBJECT:
                assert answer.position is not None
                assert store.original(answer.position) == each.body
                found += 1
            elif answer.quarantine_id is not None:
                assert store.show_quarantined(answer.quarantine_id).body == each.body
                found += 1
    assert found > old.snapshot.expected.events / 2


# What is told again


def told_again(answer: Outcome) -> tuple[object, ...]:
    """What must be answered to a delivery that was answered so when it came first; a reason may be worded anew."""
    kind = OutcomeKind.DUPLICATE if answer.kind is OutcomeKind.APPENDED else answer.kind
    return kind, answer.event_id, answer.position, answer.quarantine_id


def send_again(store: EventStore, each: Sent, at: datetime) -> list[Outcome]:
    """Send a delivery of the past as it was sent then: a webhook as of the time at which it came, for it has expired since."""
    if each.how == LINE:
        outcomes: list[Outcome] = []
        summary = store.ingest(
            [(1, each.body)],
            site=each.site,
            observed_at=OBSERVED_AT,
            on_answer=lambda answer: outcomes.extend(answer.outcomes),
        )
        assert "refused" not in summary.counts
        return outcomes
    if each.how == WEBHOOK:
        return store.submit(webhooks.reread(store.engine, each.body, at)).result()
    if each.how == KEPT:
        return store.submit([Rejected(each.site, "velo", HANDLER, None, "resent", each.body)]).result()
    return [store.append(Event.from_payload(each.body))]


def came_at(store: EventStore, answer: Outcome, before: datetime) -> datetime:
    """When a delivery came; of a duplicate only the delivery before it tells."""
    if answer.kind is OutcomeKind.APPENDED:
        assert answer.position is not None
        return store.read(after=answer.position - 1, limit=1)[0].recorded_at
    if answer.quarantine_id is not None:
        return max(store.show_quarantined(answer.quarantine_id).received_at, before)
    return before


def test_what_an_old_store_was_told_is_known_after_an_upgrade_and_what_is_new_takes_the_next_position(
    old: Old, store: EventStore
) -> None:
    at = OBSERVED_AT
    for each in old.snapshot.deliveries():
        at = came_at(store, each.answers[0], at)
        outcomes = send_again(store, each, at)
        assert [outcome[:4] for outcome in outcomes] == [told_again(answer) for answer in each.answers], each.body
    head = old.snapshot.expected.events
    assert store.head() == head
    kinds = [entry.kind for entry in store.list_quarantined(limit=1_000)]
    expected = old.snapshot.expected.outcomes
    assert (kinds.count("conflict"), kinds.count("quarantined")) == (
        expected["conflict"] - repeated(old, OutcomeKind.CONFLICT),
        expected["quarantined"] - repeated(old, OutcomeKind.QUARANTINED),
    )
    for number in (1, 2, 3):
        [outcome] = store.receive(wrapped(velo_use(f"new-{number}", "c-1", f"new-{number}")), site=OTHER_SITE)
        assert outcome[:3] == (OutcomeKind.APPENDED, f"new-{number}", head + number)
    times = [record.recorded_at for record in store.read(after=head - 1)]
    assert len(times) == 4
    assert times == sorted(times)


def repeated(old: Old, kind: OutcomeKind) -> int:
    """How many deliveries of the past found themselves in quarantine already."""
    ids = [answer.quarantine_id for each in old.snapshot.deliveries() for answer in each.answers if answer.kind is kind]
    return len(ids) - len(set(ids))


def test_what_waited_in_an_old_quarantine_is_read_at_last(old: Old, store: EventStore) -> None:
    [kept] = [each for each in old.snapshot.deliveries() if each.how == KEPT]
    head = old.snapshot.expected.events
    [answer] = kept.answers
    assert answer.quarantine_id is not None
    [retried] = store.retry_quarantined([answer.quarantine_id])
    assert not retried.open, retried.said
    assert [outcome[:3] for outcome in retried.outcomes] == [(OutcomeKind.APPENDED, "kept", head + 1)]
    assert store.original(head + 1) == kept.body
    conflicts = store.list_quarantined(kind="conflict")
    assert conflicts
    under_derived_ids = list(store.retry_quarantined(kind="conflict", derived_id=True))
    assert [each.open for each in under_derived_ids] == [False] * len(conflicts)
    # One second event of an id may have been told by two deliveries.
    kinds = [outcome.kind for each in under_derived_ids for outcome in each.outcomes]
    assert set(kinds) <= {OutcomeKind.APPENDED, OutcomeKind.DUPLICATE}
    assert kinds.count(OutcomeKind.APPENDED) >= 2
    assert store.head() == head + 1 + kinds.count(OutcomeKind.APPENDED)
    still = {entry.id for entry in store.list_quarantined()}
    assert {each.id for each in store.retry_quarantined() if each.open} == still


# Access


def test_old_tokens_and_apps_still_open_an_upgraded_store(old: Old, tmp_path: Path) -> None:
    expected = old.snapshot.expected
    server = Serving(tmp_path, url=old.url)
    server.token = old.secret
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    if expected.app_key is None:  # apps are younger than this store: one can be registered now
        with EventStore.open(old.url) as store:
            apps.add_app(store.engine, name=APP, key=public_pem(key), instances=[SITE])
    else:
        key = private_key(expected.app_key)
    try:
        server.start()
        with server.client() as client:
            answer = client.post("/v1/webhooks/wix", content=sign(key, use("new", "c-1", "new"))).json()
            assert answer == {"outcome": "appended", "event_id": "new", "position": expected.events + 1}
            again = client.post("/v1/velo/" + HANDLER, json=velo_use("new-too", "c-1", "new-too")).json()
            assert (again["outcome"], again["position"]) == ("appended", expected.events + 2)
        with server.client(expected.tokens[f"{old.engine}: of one site"]) as client:
            assert client.get("/v1/coupons/c-1/history", params={"site": OTHER_SITE}).status_code == 403
            assert client.get("/v1/coupons", params={"limit": 3}).status_code == 200
        with server.client(expected.tokens[f"{old.engine}: revoked"]) as client:
            assert client.get("/v1/coupons").status_code == 401
    finally:
        server.close()


def test_wix_s_signature_on_old_webhooks_can_still_be_checked(upgraded: tuple[Old, EventStore]) -> None:
    old, store = upgraded
    signed = [each for each in old.snapshot.deliveries() if each.how == WEBHOOK]
    for each in signed:
        [answer] = each.answers
        if answer.kind is OutcomeKind.APPENDED:
            assert answer.position is not None
            check = store.check_signature(answer.position)
            assert (check.valid, check.agrees, check.app) == (True, True, APP), check.reason
    assert bool(signed) == (old.snapshot.expected.app_key is not None)


# Projections


def projected(store: EventStore) -> dict[str, list[tuple[Any, ...]]]:
    with store.engine.connect() as connection:
        return {
            model.name: sorted(tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {model.name}"))
            for model in projections()
        }


def test_projections_of_an_old_store_go_on_to_what_a_rebuild_says_and_the_old_program_said(
    upgraded: tuple[Old, EventStore],
) -> None:
    old, store = upgraded
    assert store.project() == old.snapshot.expected.events
    live = projected(store)
    store.rebuild_projections()
    assert projected(store) == live
    used = {f"{each.site_id}/{each.coupon_id}": each.usage.times_used for each in store.coupons(limit=1_000)}
    assert used == old.snapshot.expected.used


# Interruptions


STRIDE = {"sqlite": 13, "postgresql": 19}
"""Of the statements of an upgrade every so manieth is died at, from the first one on: each try takes all those before it again,
and PostgreSQL is told more of them."""
SHORT_STRIDE = 4
"""The same of the latest upgrade, which has few."""
AT_COMMIT = None


def _migrate_and_die(url: str, at: int | None) -> None:
    """Upgrade a store, and end as by a power cut just before the statement of this number, or before the commit."""
    engine = make_engine(url)
    numbers = itertools.count()

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def count(*_: object) -> None:
        if next(numbers) == at:
            die()

    event.listen(engine, "before_cursor_execute", count)
    if at is AT_COMMIT:
        event.listen(engine, "commit", die)
    migrate(engine)


def test_an_upgrade_killed_in_its_midst_leaves_the_old_store_and_the_next_try_succeeds(old: Old) -> None:
    number = old.snapshot.revision
    if number == HEAD_REVISION:
        pytest.skip("of the present revision")
    killed = 0
    stride = SHORT_STRIDE if number == PAST[-1] else STRIDE[make_url(old.url).get_backend_name()]
    for at in itertools.chain([AT_COMMIT], itertools.count(step=stride)):
        process = FORKING.Process(target=_migrate_and_die, args=(old.url, at))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        old.assert_intact(number)
        killed += 1
    assert killed > 2, "it was never in the midst of it"
    old.assert_intact(HEAD_REVISION)
    with EventStore.open(old.url) as store:
        assert missing_guards(store.engine) == []
        [outcome] = store.receive(wrapped(velo_use("new", "c-1", "new")), site=OTHER_SITE)
        assert outcome.position == old.snapshot.expected.events + 1


def test_a_log_with_events_is_never_migrated_down(upgraded: tuple[Old, EventStore]) -> None:
    old, store = upgraded
    config = scripts()
    for target in ("base", "-1", *(number for number in PAST)):
        with store.engine.connect() as plain:
            connection = writing(plain)
            config.attributes["connection"] = connection
            with connection.begin(), pytest.raises(RuntimeError, match="never migrated down"):
                command.downgrade(config, target)
    old.assert_intact(HEAD_REVISION)
