"""The log can only grow: the database itself refuses whatever would change what it holds, whoever asks and however."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from eventstore.demo import examples
from eventstore.errors import StoreUnavailable
from eventstore.log.guards import missing_guards
from eventstore.log.records import Rejected
from eventstore.log.tables import events
from eventstore.store import EventStore
from tests.rows import Stranger
from tests.stores import PostgresqlServer

EVENT_COLUMNS = "event_id, site_id, type, source, entity_id, event_time, recorded_at, anonymize, payload, leaf_hash"
EVENT_VALUES = "'forged', 'site', 'coupon.created', 'rest', 'c', 1, 1, 0, '{}', x'00'"


def event_insert(verb: str, position: str, *, named: str = "position") -> str:
    return f"{verb} INTO events ({named}, {EVENT_COLUMNS}) VALUES ({position}, {EVENT_VALUES})"


LAST = "(SELECT max(position) FROM events)"
KEY = "(SELECT site_id FROM event_keys WHERE position = 1), (SELECT event_id FROM event_keys WHERE position = 1), 99, x'00'"
EVIDENCE_COLUMNS = "id, site_id, kind, route, reason, body, body_hash, received_at"
SAME_EVIDENCE = "site_id, kind, route, 'forged', x'00', body_hash, received_at FROM quarantine WHERE id = 1"
OTHER_EVIDENCE = "'other', 'other', 'rest', 'forged', x'00', x'00', 1"

ATTACKS = {
    "events": [
        "UPDATE events SET payload = '{}'",
        "UPDATE events SET payload = '{}' WHERE position = 1",
        "UPDATE events SET position = position + 1000",
        "UPDATE events SET rowid = rowid + 1000",
        "UPDATE events SET _rowid_ = 1000 WHERE position = 1",
        "UPDATE events SET leaf_hash = leaf_hash",
        "UPDATE OR REPLACE events SET position = 2 WHERE position = 1",
        "UPDATE OR REPLACE events SET rowid = 2 WHERE rowid = 1",
        "UPDATE OR IGNORE events SET payload = '{}'",
        "UPDATE OR FAIL events SET payload = '{}'",
        "UPDATE OR ROLLBACK events SET payload = '{}'",
        "DELETE FROM events",
        "DELETE FROM events WHERE position = 1",
        f"DELETE FROM events WHERE position = {LAST}",
        event_insert("REPLACE", "1"),
        event_insert("INSERT OR REPLACE", "1"),
        event_insert("INSERT OR REPLACE", LAST),
        event_insert("INSERT OR REPLACE", "1", named="rowid"),
        event_insert("INSERT OR REPLACE", "1", named="oid"),
        event_insert("INSERT OR IGNORE", "1"),
        event_insert("INSERT", f"{LAST} + 2"),
        event_insert("INSERT", f"{LAST} + 2", named="rowid"),
        event_insert("INSERT OR IGNORE", f"{LAST} + 2"),
        event_insert("REPLACE", f"{LAST} + 2"),
        event_insert("INSERT", "0"),
        event_insert("INSERT", "-1"),
        event_insert("INSERT", "NULL"),
        event_insert("INSERT OR REPLACE", "NULL"),
        event_insert("INSERT", "'one'"),
        event_insert("INSERT", "9223372036854775807"),
        f"INSERT INTO events ({EVENT_COLUMNS}) VALUES ({EVENT_VALUES})",
        f"INSERT OR REPLACE INTO events ({EVENT_COLUMNS}) VALUES ({EVENT_VALUES})",
        event_insert("INSERT", "1") + " ON CONFLICT DO UPDATE SET payload = 'forged'",
        event_insert("INSERT", "1") + " ON CONFLICT (position) DO UPDATE SET payload = 'forged'",
        event_insert("INSERT", "1") + " ON CONFLICT DO NOTHING",
    ],
    "event_keys": [
        "UPDATE event_keys SET position = 99",
        "UPDATE event_keys SET content_hash = x'00' WHERE position = 1",
        "UPDATE OR REPLACE event_keys SET event_id = 'forged', site_id = 'forged'",
        "UPDATE OR IGNORE event_keys SET position = 99",
        "DELETE FROM event_keys",
        "DELETE FROM event_keys WHERE position = 1",
        f"REPLACE INTO event_keys VALUES ({KEY})",
        f"INSERT OR REPLACE INTO event_keys VALUES ({KEY})",
        f"INSERT OR IGNORE INTO event_keys VALUES ({KEY})",
        f"INSERT INTO event_keys VALUES ({KEY}) ON CONFLICT DO UPDATE SET position = 99",
        f"INSERT INTO event_keys VALUES ({KEY}) ON CONFLICT DO NOTHING",
    ],
    "log_head": [
        "UPDATE log_head SET size = size - 1",
        "UPDATE log_head SET size = 0",
        "UPDATE log_head SET size = -1",
        "UPDATE log_head SET size = size + 1",
        "UPDATE log_head SET size = 'one'",
        "UPDATE log_head SET size = NULL",
        "UPDATE OR REPLACE log_head SET size = NULL",
        "UPDATE log_head SET recorded_at = recorded_at - 1",
        "UPDATE log_head SET recorded_at = recorded_at + 1",
        "UPDATE log_head SET recorded_at = 'then'",
        "UPDATE log_head SET id = 2",
        "UPDATE log_head SET rowid = 2",
        "UPDATE OR REPLACE log_head SET size = 0",
        "DELETE FROM log_head",
        "INSERT INTO log_head VALUES (1, 0, 0)",
        "INSERT INTO log_head VALUES (2, 0, 0)",
        "INSERT INTO log_head VALUES (NULL, 0, 0)",
        "REPLACE INTO log_head VALUES (1, 0, 0)",
        "INSERT OR REPLACE INTO log_head VALUES (1, 0, 0)",
        "INSERT INTO log_head VALUES (1, 0, 0) ON CONFLICT DO UPDATE SET size = 0",
    ],
    "quarantine": [
        "UPDATE quarantine SET body = x'00'",
        "UPDATE quarantine SET reason = 'forged', resolved_at = 1",
        "UPDATE quarantine SET headers = '{}'",
        "UPDATE quarantine SET headers = NULL WHERE headers IS NOT NULL",
        "UPDATE quarantine SET event_id = 'forged' WHERE event_id IS NULL",
        "UPDATE quarantine SET position = 99",
        "UPDATE quarantine SET id = id + 1000",
        "UPDATE quarantine SET rowid = rowid + 1000",
        "UPDATE OR REPLACE quarantine SET id = 2 WHERE id = 1",
        "UPDATE OR REPLACE quarantine SET rowid = 2 WHERE id = 1",
        "UPDATE OR REPLACE quarantine SET oid = 2, resolution = 'seen' WHERE id = 1",
        "UPDATE OR IGNORE quarantine SET kind = 'forged'",
        "DELETE FROM quarantine",
        "DELETE FROM quarantine WHERE resolved_at IS NULL",
        f"REPLACE INTO quarantine ({EVIDENCE_COLUMNS}) SELECT 1, {SAME_EVIDENCE}",
        f"INSERT OR REPLACE INTO quarantine ({EVIDENCE_COLUMNS}) SELECT NULL, {SAME_EVIDENCE}",
        f"INSERT OR REPLACE INTO quarantine ({EVIDENCE_COLUMNS}) SELECT 1000, {SAME_EVIDENCE}",
        f"INSERT OR REPLACE INTO quarantine ({EVIDENCE_COLUMNS}) VALUES (1, {OTHER_EVIDENCE})",
        f"INSERT INTO quarantine ({EVIDENCE_COLUMNS}) SELECT 1, {SAME_EVIDENCE} ON CONFLICT DO UPDATE SET reason = 'forged'",
    ],
}


def fill(store: EventStore) -> None:
    """Wix's own examples (one of which is a conflict), and two deliveries that no reader took."""
    for delivery in examples():
        store.ingest([(1, delivery.line())])
    kept = [Rejected("site", "rest", None, None, f"reason {n}", b"body %d" % n, {"via": "test"}) for n in range(2)]
    store.submit([*kept]).result()


def dump(connection: sqlite3.Connection) -> list[str]:
    return list(connection.iterdump())


@pytest.fixture(scope="module")
def filled(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "log.db"
    path.write_bytes(template.read_bytes())
    with EventStore.open(path) as store:
        fill(store)
    return path


@pytest.fixture(params=["recursive triggers off", "recursive triggers on"])
def stranger(request: pytest.FixtureRequest, filled: Path) -> Iterator[sqlite3.Connection]:
    """Somebody with the file and a plain driver."""
    with closing(sqlite3.connect(filled, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA recursive_triggers = {request.param.rsplit(' ', 1)[1]}")
        yield connection


@pytest.mark.parametrize("table", ATTACKS)
def test_the_database_refuses_to_change_the_log_and_nothing_of_it_changes(
    stranger: sqlite3.Connection, table: str
) -> None:
    before = dump(stranger)
    assert int(stranger.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) >= 1
    for attack in ATTACKS[table]:
        with pytest.raises(sqlite3.IntegrityError):
            stranger.execute(attack)
        assert dump(stranger) == before, attack


def test_a_null_position_cannot_slip_into_the_head_unnoticed(stranger: sqlite3.Connection) -> None:
    before = dump(stranger)
    with pytest.raises(sqlite3.IntegrityError):
        stranger.execute("UPDATE OR IGNORE log_head SET size = NULL, recorded_at = NULL")
    assert dump(stranger) == before


def test_a_whole_transaction_of_attacks_leaves_nothing_behind(stranger: sqlite3.Connection) -> None:
    before = dump(stranger)
    stranger.execute("BEGIN IMMEDIATE")
    for attack in (attack for attacks in ATTACKS.values() for attack in attacks):
        if not stranger.in_transaction:  # what rolls back has ended it
            stranger.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.IntegrityError):
            stranger.execute(attack)
    stranger.commit()
    assert dump(stranger) == before


def test_how_a_quarantined_delivery_was_resolved_may_be_noted_beside_the_evidence(
    store: EventStore, store_url: str
) -> None:
    fill(store)
    with Stranger(store_url) as other:
        other.execute("UPDATE quarantine SET resolved_at = 1, resolution = 'read by a newer reader' WHERE id = 1")
        assert other.rows("SELECT resolution FROM quarantine WHERE id = 1") == [("read by a newer reader",)]


def test_the_guards_do_not_stand_in_the_way_of_growing(store_url: str) -> None:
    with EventStore.open(store_url) as store:
        fill(store)
        size = store.head()
        assert size > 0
        for delivery in examples():
            store.ingest([(1, delivery.line())])
        assert missing_guards(store.engine) == []
    with EventStore.open(store_url) as store:
        assert store.head() >= size


RAISED, CONSTRAINT_VIOLATED = "P0", "23"
"""PostgreSQL's classes of errors for a refusal, as against a mistake in the attack."""
OTHERS = EVENT_COLUMNS.split(", ")
OF_ANOTHER = "(1000, " + ", ".join(f"s.{name}" for name in OTHERS) + ")"
OTHER_COLUMNS = ", ".join(column.name for column in events.columns if column.name != "position")
POSTGRESQL_ATTACKS = [
    "UPDATE events SET payload = '{}' WHERE position = 1",
    "UPDATE events SET position = position + 1000",
    "DELETE FROM events WHERE position = 1",
    "DELETE FROM events",
    # Another position than the next.
    f"INSERT INTO events SELECT position + 1000, {OTHER_COLUMNS} FROM events WHERE position = 1",
    "TRUNCATE events",
    "TRUNCATE events, event_keys, log_head, quarantine",
    "INSERT INTO events SELECT * FROM events WHERE position = 1 ON CONFLICT (position) DO UPDATE SET payload = '{}'",
    f"INSERT INTO events (position, {EVENT_COLUMNS}) SELECT 1000, {EVENT_COLUMNS} FROM events WHERE position = 1",
    f"INSERT INTO events (position, {EVENT_COLUMNS}) SELECT 0, {EVENT_COLUMNS} FROM events WHERE position = 1",
    f"INSERT INTO events (position, {EVENT_COLUMNS}) SELECT NULL, {EVENT_COLUMNS} FROM events WHERE position = 1",
    "MERGE INTO events USING (SELECT 1 AS one) AS s ON position = s.one WHEN MATCHED THEN DELETE",
    f"""MERGE INTO events AS e USING (SELECT * FROM events WHERE position = 1) AS s ON e.position = 1000
    WHEN NOT MATCHED THEN INSERT (position, {EVENT_COLUMNS}) VALUES {OF_ANOTHER}""",
    # The next position, and one that is not the one after it.
    f"INSERT INTO events SELECT {LAST} + n, {OTHER_COLUMNS} FROM events, unnest(ARRAY[1, 3]) n WHERE position = 1",
    # Two positions in one statement, of which each follows one that is there.
    f"INSERT INTO events SELECT n, {OTHER_COLUMNS} FROM events, unnest(ARRAY[-1, 0]) n WHERE position = 1",
    # Past events, into the table that holds the rows.
    "UPDATE events_from_1 SET payload = '{}' WHERE position = 1",
    "UPDATE ONLY events_from_1 SET position = position + 1000",
    "DELETE FROM events_from_1",
    "TRUNCATE events_from_1",
    "TRUNCATE events_from_10000001",
    f"INSERT INTO events_from_1 SELECT {LAST} + 1, {OTHER_COLUMNS} FROM events WHERE position = 1",
    f"INSERT INTO events_from_1 SELECT position + 1000, {OTHER_COLUMNS} FROM events WHERE position = 1",
    f"INSERT INTO events_from_10000001 SELECT position + 10000000, {OTHER_COLUMNS} FROM events WHERE position = 1",
    "COPY events_from_1 FROM PROGRAM 'true'",
    f"""MERGE INTO events_from_1 AS e USING (SELECT * FROM events WHERE position = 1) AS s ON e.position = 1000
    WHEN NOT MATCHED THEN INSERT (position, {EVENT_COLUMNS}) VALUES {OF_ANOTHER}""",
    "UPDATE event_keys SET content_hash = ''::bytea",
    "DELETE FROM event_keys",
    "TRUNCATE event_keys",
    "INSERT INTO event_keys TABLE event_keys ON CONFLICT (site_id, event_id) DO UPDATE SET position = 99",
    "UPDATE log_head SET size = size - 1",
    "UPDATE log_head SET size = size + 1",
    "UPDATE log_head SET recorded_at = recorded_at - 1",
    "UPDATE log_head SET recorded_at = recorded_at + 1",
    "UPDATE log_head SET id = 2",
    "DELETE FROM log_head",
    "TRUNCATE log_head",
    "INSERT INTO log_head VALUES (1, 0, 0)",
    "INSERT INTO log_head VALUES (2, 0, 0)",
    "UPDATE quarantine SET body = ''::bytea",
    "UPDATE quarantine SET id = id + 1000",
    "DELETE FROM quarantine",
    "TRUNCATE quarantine",
]


@pytest.mark.parametrize("role", ["origin", "replica"])
def test_postgresql_refuses_to_change_the_log_in_replication_sessions_too(
    postgresql_store: EventStore, role: str
) -> None:
    store = postgresql_store
    fill(store)
    tables = {
        "events": "position",
        "event_keys": "position",
        "log_head": "id",
        "quarantine": "id",
    }

    def everything() -> list[object]:
        with store.engine.connect() as connection:
            return [
                tuple(row)
                for table, order in tables.items()
                for row in connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY {order}")
            ]

    before = everything()
    for attack in POSTGRESQL_ATTACKS:
        with store.engine.connect() as connection:
            connection.exec_driver_sql(f"SET session_replication_role = {role}")
            with pytest.raises(DBAPIError) as refused:
                connection.exec_driver_sql(attack)
            assert refused.value.orig is not None
            assert getattr(refused.value.orig, "sqlstate", "")[:2] in {RAISED, CONSTRAINT_VIOLATED}, refused.value
            connection.rollback()
        assert everything() == before, attack


# What a session may set up for itself, so that a guard that looks for the log's tables by name would find others.
DECOYS = {
    "temporary tables": [
        "CREATE TEMPORARY TABLE events AS SELECT * FROM public.events",
        "INSERT INTO pg_temp.events SELECT position + 998, {others} FROM public.events WHERE position = 1",
        "CREATE TEMPORARY TABLE log_head AS SELECT 1 AS id, 999 AS size, 0 AS recorded_at",
        "CREATE TEMPORARY TABLE added AS SELECT 1::bigint AS position",
    ],
    "a schema searched first": [
        "CREATE SCHEMA decoy",
        "CREATE TABLE decoy.events AS SELECT * FROM public.events",
        "INSERT INTO decoy.events SELECT position + 998, {others} FROM public.events WHERE position = 1",
        "CREATE TABLE decoy.added AS SELECT 1::bigint AS position",
        "CREATE FUNCTION decoy.never(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT false'",
        "CREATE FUNCTION decoy.always(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "CREATE OPERATOR decoy.<> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = decoy.never)",
        "CREATE OPERATOR decoy.< (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = decoy.never)",
        "CREATE OPERATOR decoy.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = decoy.always)",
        "SET search_path = decoy, pg_catalog, public",
    ],
}


@pytest.mark.parametrize("decoy", DECOYS)
def test_the_guards_look_at_the_log_itself_whatever_a_session_puts_in_its_way(
    postgresql_store: EventStore, decoy: str
) -> None:
    store = postgresql_store
    fill(store)
    size = store.head()
    attacks = [
        f"INSERT INTO public.events SELECT 1000, {OTHER_COLUMNS} FROM public.events WHERE position OPERATOR(pg_catalog.=) 1",
        "UPDATE public.log_head SET size = 999",
        "UPDATE public.log_head SET recorded_at = recorded_at - 1",
        "DELETE FROM public.events",
    ]
    for attack in attacks:
        with store.engine.connect() as connection:
            for statement in DECOYS[decoy]:
                connection.exec_driver_sql(statement.format(others=OTHER_COLUMNS))
            with pytest.raises(DBAPIError) as refused:
                connection.exec_driver_sql(attack)
            assert "append-only" in str(refused.value.orig) or "log_head only" in str(refused.value.orig)
            connection.rollback()
    assert store.head() == size


def test_a_position_may_not_follow_one_that_a_statement_under_way_only_pretends_to_add(
    postgresql_store: EventStore,
) -> None:
    """A function inside a statement sees the rows that the statement has added so far, before they were checked."""
    store = postgresql_store
    fill(store)
    size = store.head()
    nested = f"""CREATE FUNCTION pg_temp.nested(after bigint) RETURNS text LANGUAGE plpgsql AS $$BEGIN
    INSERT INTO events SELECT after + 1, {OTHER_COLUMNS} FROM events WHERE position = 1; RETURN '{{}}'; END$$"""
    columns = OTHER_COLUMNS.replace("payload", "CASE n WHEN {last} THEN pg_temp.nested({after}) ELSE payload END")
    outer = f"""INSERT INTO events SELECT n, {columns}
    FROM events, unnest(ARRAY[{{positions}}]) n WHERE position = 1"""
    with store.engine.connect() as connection:
        connection.exec_driver_sql(nested)
        connection.commit()
        for positions, after in (([size + 3, size + 5], size + 3), ([size + 3, size + 2], size + 3)):
            told = ", ".join(map(str, positions))
            attack = outer.format(last=positions[-1], after=after, positions=told)
            with pytest.raises(DBAPIError, match="append-only"):
                connection.exec_driver_sql(attack)
            connection.rollback()
        # And what leaves no gap in the end is let in, in whatever order it was added.
        connection.exec_driver_sql(outer.format(last=size + 1, after=size + 2, positions=f"{size + 2}, {size + 1}"))
        added = connection.exec_driver_sql(f"SELECT position FROM events WHERE position > {size} ORDER BY position")
        assert added.scalars().all() == [size + 1, size + 2, size + 3]
        connection.rollback()


@given(
    statements=st.lists(
        st.tuples(st.lists(st.integers(-2, 8), min_size=1, max_size=5), st.booleans()), min_size=1, max_size=8
    )
)
def test_whatever_is_inserted_positions_stay_without_gap(
    blank: EventStore, statements: list[tuple[list[int], bool]]
) -> None:
    """Positions relative to the log's end, in any order, each statement kept or undone."""
    columns = f"(position, {EVENT_COLUMNS})"
    values = EVENT_VALUES.replace("0, '{}', x'00'", "false, '{}', ''::bytea")
    with blank.engine.connect() as connection:
        size = 0
        for relative, kept in statements:
            positions = [size + 1 + each for each in relative]
            sound = sorted(positions) == list(range(size + 1, size + 1 + len(positions)))
            savepoint = connection.begin_nested()
            insert = f"INSERT INTO events {columns} SELECT n, {values} FROM unnest(ARRAY{positions}) n"
            if sound:
                connection.exec_driver_sql(insert)
            else:
                with pytest.raises(DBAPIError):
                    connection.exec_driver_sql(insert)
            if sound and kept:
                savepoint.commit()
                size += len(positions)
            else:
                savepoint.rollback()
            there = connection.exec_driver_sql("SELECT position FROM events ORDER BY position").scalars().all()
            assert there == list(range(1, size + 1))
        connection.rollback()


@pytest.fixture(scope="module")
def blank(postgresql_server: PostgresqlServer) -> Iterator[EventStore]:
    """An empty PostgreSQL store, which each example leaves as it was."""
    with postgresql_server.new() as url, EventStore.open(url) as opened:
        yield opened


def test_a_dropped_or_disabled_guard_is_reported(store: EventStore) -> None:
    assert missing_guards(store.engine) == []
    with store.engine.begin() as connection:
        if store.engine.dialect.name == "sqlite":
            connection.exec_driver_sql("DROP TRIGGER quarantine_no_rewrite")
        else:
            connection.exec_driver_sql("ALTER TABLE quarantine DISABLE TRIGGER quarantine_no_rewrite")
    assert missing_guards(store.engine) == ["quarantine_no_rewrite"]
    assert store.status().missing_guards == ("quarantine_no_rewrite",)


def test_a_guard_that_fires_in_ordinary_sessions_only_is_reported(postgresql_store: EventStore) -> None:
    with postgresql_store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE events ENABLE TRIGGER events_no_change")
    assert missing_guards(postgresql_store.engine) == ["events_no_change"]


def test_a_forged_head_makes_the_log_unavailable_leaves_no_gap_and_is_blamed_on_no_event(
    store: EventStore, store_url: str
) -> None:
    fill(store)
    before = store.status()
    with Stranger(store_url) as other:
        other.drop_guard("log_head", "log_head_forward_only")
        other.execute("UPDATE log_head SET size = size + 10")
        with pytest.raises(StoreUnavailable, match="append-only"):
            store.append(store.read()[0].event.model_copy(update={"event_id": "next"}))
        assert other.rows("SELECT max(position) FROM events") == [(before.events,)]
        assert other.rows("SELECT count(*) FROM quarantine") == [(before.quarantined + before.conflicts,)]
