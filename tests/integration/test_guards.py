"""What keeps the log append-only is compared with what the migrations made: anything less is found, told, and put back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, make_url

from eventstore.demo import examples
from eventstore.errors import GuardsDown
from eventstore.log.engine import write_transaction
from eventstore.log.expected_guards import expected_triggers, sqlite_guards
from eventstore.log.guards import Fault, check_guards, missing_guards
from eventstore.store import EventStore
from tests.commands import Command
from tests.rows import Stranger
from tests.serving import Serving, cli
from tests.snapshots import libpq, postgresql_tool
from tests.stores import PostgresqlServer


def change(store: EventStore, *statements: str) -> None:
    with write_transaction(store.engine) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def found(store: EventStore) -> set[tuple[str, str, str]]:
    """What is told, as (guard or table, on which table, fault); what is told must say what to do."""
    findings = check_guards(store.engine)
    assert all(each.problem and each.remedy for each in findings)
    return {(each.name, each.table, each.fault.value) for each in findings}


NEXT_POSITION_BODY = "BEGIN RETURN NULL; END"
REFUSE = "FUNCTION eventstore_refuse()"
POSTGRESQL_TAMPERINGS = {
    "a trigger dropped": (
        ["DROP TRIGGER event_keys_no_change ON event_keys"],
        {("event_keys_no_change", "event_keys", "missing")},
    ),
    "a trigger dropped with its copies": (
        ["DROP TRIGGER events_no_change ON events"],
        {
            ("events_no_change", table, "missing")
            for table in ("events", "events_from_1", "events_from_10000001", "events_from_20000001")
        },
    ),
    "a partition's own trigger dropped": (
        ["DROP TRIGGER events_no_direct_insert ON events_from_10000001"],
        {("events_no_direct_insert", "events_from_10000001", "missing")},
    ),
    "a trigger disabled": (
        ["ALTER TABLE log_head DISABLE TRIGGER log_head_forward_only"],
        {("log_head_forward_only", "log_head", "disabled")},
    ),
    "a partition's copy disabled": (
        ["ALTER TABLE events_from_1 DISABLE TRIGGER events_no_change"],
        {("events_no_change", "events_from_1", "disabled")},
    ),
    "all triggers of a partition disabled": (
        ["ALTER TABLE events_from_1 DISABLE TRIGGER ALL"],
        {
            (name, "events_from_1", "disabled")
            for name in ("events_no_change", "events_no_truncate", "events_no_direct_insert")
        },
    ),
    "a trigger that does not fire in replication": (
        ["ALTER TABLE quarantine ENABLE TRIGGER quarantine_no_delete"],
        {("quarantine_no_delete", "quarantine", "disabled")},
    ),
    "a trigger that fires in replication only": (
        ["ALTER TABLE quarantine ENABLE REPLICA TRIGGER quarantine_no_delete"],
        {("quarantine_no_delete", "quarantine", "disabled")},
    ),
    "another event": (
        [
            "DROP TRIGGER event_keys_no_change ON event_keys",
            f"CREATE TRIGGER event_keys_no_change BEFORE DELETE ON event_keys FOR EACH ROW EXECUTE {REFUSE}",
            "ALTER TABLE event_keys ENABLE ALWAYS TRIGGER event_keys_no_change",
        ],
        {("event_keys_no_change", "event_keys", "altered")},
    ),
    "another time": (
        [
            "DROP TRIGGER log_head_no_delete ON log_head",
            f"CREATE TRIGGER log_head_no_delete AFTER DELETE ON log_head FOR EACH ROW EXECUTE {REFUSE}",
            "ALTER TABLE log_head ENABLE ALWAYS TRIGGER log_head_no_delete",
        ],
        {("log_head_no_delete", "log_head", "altered")},
    ),
    "another level": (
        [
            "DROP TRIGGER log_head_no_delete ON log_head",
            f"CREATE TRIGGER log_head_no_delete BEFORE DELETE ON log_head FOR EACH STATEMENT EXECUTE {REFUSE}",
            "ALTER TABLE log_head ENABLE ALWAYS TRIGGER log_head_no_delete",
        ],
        {("log_head_no_delete", "log_head", "altered")},
    ),
    "fewer columns": (
        [
            "DROP TRIGGER wix_app_keys_no_rewrite ON wix_app_keys",
            (
                "CREATE TRIGGER wix_app_keys_no_rewrite BEFORE UPDATE OF id, app_id, key_id, added_at ON wix_app_keys "
                f"FOR EACH ROW EXECUTE {REFUSE}"
            ),
            "ALTER TABLE wix_app_keys ENABLE ALWAYS TRIGGER wix_app_keys_no_rewrite",
        ],
        {("wix_app_keys_no_rewrite", "wix_app_keys", "altered")},
    ),
    "a condition": (
        [
            "DROP TRIGGER event_keys_no_change ON event_keys",
            (
                "CREATE TRIGGER event_keys_no_change BEFORE UPDATE OR DELETE ON event_keys "
                f"FOR EACH ROW WHEN (OLD.site_id <> 'mine') EXECUTE {REFUSE}"
            ),
            "ALTER TABLE event_keys ENABLE ALWAYS TRIGGER event_keys_no_change",
        ],
        {("event_keys_no_change", "event_keys", "altered")},
    ),
    "another function": (
        [
            "CREATE FUNCTION let_pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "DROP TRIGGER event_keys_no_change ON event_keys",
            (
                "CREATE TRIGGER event_keys_no_change BEFORE UPDATE OR DELETE ON event_keys "
                "FOR EACH ROW EXECUTE FUNCTION let_pass()"
            ),
            "ALTER TABLE event_keys ENABLE ALWAYS TRIGGER event_keys_no_change",
        ],
        {("event_keys_no_change", "event_keys", "altered")},
    ),
    "a function of the same name in another schema": (
        [
            "CREATE SCHEMA other",
            "CREATE FUNCTION other.eventstore_refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "DROP TRIGGER event_keys_no_change ON event_keys",
            (
                "CREATE TRIGGER event_keys_no_change BEFORE UPDATE OR DELETE ON event_keys "
                "FOR EACH ROW EXECUTE FUNCTION other.eventstore_refuse()"
            ),
            "ALTER TABLE event_keys ENABLE ALWAYS TRIGGER event_keys_no_change",
        ],
        {("event_keys_no_change", "event_keys", "altered")},
    ),
    "a function's text": (
        [
            (
                "CREATE OR REPLACE FUNCTION eventstore_next_positions() RETURNS trigger LANGUAGE plpgsql "
                f"SET search_path = pg_catalog, public, pg_temp AS '{NEXT_POSITION_BODY}'"
            )
        ],
        {("eventstore_next_positions", "events", "altered")},
    ),
    "a function's settings": (
        ["ALTER FUNCTION eventstore_head_forward_only() RESET search_path"],
        {("eventstore_head_forward_only", "events", "altered")},
    ),
    "one more setting": (
        ["ALTER FUNCTION eventstore_refuse() SET session_replication_role = replica"],
        {("eventstore_refuse", "events", "altered")},
    ),
    "a function's rights": (
        ["ALTER FUNCTION eventstore_next_positions() SECURITY DEFINER"],
        {("eventstore_next_positions", "events", "altered")},
    ),
    "a function that sees an old moment": (
        ["ALTER FUNCTION eventstore_head_forward_only() STABLE"],
        {("eventstore_head_forward_only", "events", "altered")},
    ),
    "a trigger of a stranger": (
        [
            "CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.payload := '{}'; RETURN NEW; END$$",
            "CREATE TRIGGER a_stranger BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION forge()",
        ],
        {
            ("a_stranger", table, "foreign")
            for table in ("events", "events_from_1", "events_from_10000001", "events_from_20000001")
        },
    ),
    "a trigger of a stranger on a partition": (
        [
            "CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.payload := '{}'; RETURN NEW; END$$",
            "CREATE TRIGGER a_stranger BEFORE INSERT ON events_from_1 FOR EACH ROW EXECUTE FUNCTION forge()",
        ],
        {("a_stranger", "events_from_1", "foreign")},
    ),
    "a rule": (
        ["CREATE RULE elsewhere AS ON INSERT TO event_keys DO INSTEAD NOTHING"],
        {("elsewhere", "event_keys", "foreign")},
    ),
    "a table that inherits": (
        ["CREATE TABLE forged () INHERITS (event_keys)"],
        {("forged", "event_keys", "foreign")},
    ),
    "row-level security": (
        ["ALTER TABLE events ENABLE ROW LEVEL SECURITY"],
        {("events", "events", "foreign")},
    ),
    "row-level security on a partition": (
        ["ALTER TABLE events_from_1 FORCE ROW LEVEL SECURITY"],
        {("events_from_1", "events_from_1", "foreign")},
    ),
    "a table that a crash empties": (
        ["ALTER TABLE event_keys SET UNLOGGED"],
        {("event_keys", "event_keys", "table")},
    ),
    "the ledger's key": (
        ["ALTER TABLE event_keys DROP CONSTRAINT pk_event_keys"],
        {("event_keys", "event_keys", "table")},
    ),
    "the log's key": (
        ["ALTER TABLE events DROP CONSTRAINT pk_events"],
        {("events", "events", "table")},
    ),
    "quarantine's unique constraint": (
        ["ALTER TABLE quarantine DROP CONSTRAINT uq_quarantine_site_id_body_hash_kind"],
        {("quarantine", "quarantine", "table")},
    ),
    "rows without what they must have": (
        ["ALTER TABLE events ALTER COLUMN leaf_hash DROP NOT NULL"],
        {("events", "events", "table")},
    ),
    "a partition detached": (
        ["ALTER TABLE events DETACH PARTITION events_from_1"],
        {("partitions", "events", "table")},
    ),
    "a partition for all the rest": (
        ["CREATE TABLE the_rest PARTITION OF events DEFAULT"],
        {
            ("events_no_direct_insert", "the_rest", "missing"),
            ("events_no_truncate", "the_rest", "missing"),
        },
    ),
}

SQLITE_TAMPERINGS = {
    "a trigger dropped": (["DROP TRIGGER events_no_delete"], {("events_no_delete", "events", "missing")}),
    "another condition": (
        [
            "DROP TRIGGER events_next_position",
            (
                "CREATE TRIGGER events_next_position BEFORE INSERT ON events WHEN NEW.position < 0 "
                "BEGIN SELECT RAISE(ROLLBACK, 'events is append-only: the position must be the next one'); END"
            ),
        ],
        {("events_next_position", "events", "altered")},
    ),
    "another table": (
        [
            "CREATE TABLE elsewhere (x)",
            "DROP TRIGGER events_no_update",
            (
                "CREATE TRIGGER events_no_update BEFORE UPDATE ON elsewhere "
                "BEGIN SELECT RAISE(ABORT, 'events is append-only: UPDATE refused'); END"
            ),
        ],
        {("events_no_update", "events", "altered")},
    ),
    "a refusal that only skips the row": (
        [
            "DROP TRIGGER events_no_delete",
            "CREATE TRIGGER events_no_delete BEFORE DELETE ON events BEGIN SELECT RAISE(IGNORE); END",
        ],
        {("events_no_delete", "events", "altered")},
    ),
    "a trigger of a stranger": (
        ["CREATE TRIGGER a_stranger AFTER INSERT ON events BEGIN DELETE FROM quarantine; END"],
        {("a_stranger", "events", "foreign")},
    ),
    "a trigger of a stranger on a table in other letters": (
        ["CREATE TRIGGER a_stranger BEFORE INSERT ON EVENT_KEYS BEGIN SELECT RAISE(IGNORE); END"],
        {("a_stranger", "event_keys", "foreign")},
    ),
    "a table made anew without its key": (
        [
            "CREATE TABLE anew AS SELECT * FROM event_keys",
            "DROP TABLE event_keys",
            "ALTER TABLE anew RENAME TO event_keys",
        ],
        {
            ("event_keys", "event_keys", "table"),
            ("event_keys_no_update", "event_keys", "missing"),
            ("event_keys_no_delete", "event_keys", "missing"),
            ("event_keys_no_replace", "event_keys", "missing"),
        },
    ),
    "a table dropped": (
        ["DROP TABLE quarantine"],
        {
            ("quarantine", "quarantine", "table"),
            ("quarantine_no_rewrite", "quarantine", "missing"),
            ("quarantine_no_delete", "quarantine", "missing"),
            ("quarantine_no_replace", "quarantine", "missing"),
        },
    ),
}


def fill(store: EventStore) -> None:
    for delivery in examples():
        store.ingest([(1, delivery.line())])


@pytest.mark.parametrize("tampering", POSTGRESQL_TAMPERINGS)
def test_every_tampering_with_a_guard_on_postgresql_is_found(postgresql_store: EventStore, tampering: str) -> None:
    fill(postgresql_store)
    assert check_guards(postgresql_store.engine) == []
    statements, expected = POSTGRESQL_TAMPERINGS[tampering]
    change(postgresql_store, *statements)
    assert found(postgresql_store) == expected
    _assert_told(postgresql_store)


@pytest.mark.parametrize("tampering", SQLITE_TAMPERINGS)
def test_every_tampering_with_a_guard_on_sqlite_is_found(sqlite_store: EventStore, tampering: str) -> None:
    assert check_guards(sqlite_store.engine) == []
    statements, expected = SQLITE_TAMPERINGS[tampering]
    change(sqlite_store, *statements)
    assert found(sqlite_store) == expected
    _assert_told(sqlite_store)


def _assert_told(store: EventStore) -> None:
    with pytest.raises(GuardsDown, match="eventstore verify --guards"):
        store.require_guards()


@pytest.mark.parametrize("guard", [each.name for each in expected_triggers() if each.table != "{partition}"])
def test_each_guard_on_postgresql_that_is_dropped_is_missed(postgresql_store: EventStore, guard: str) -> None:
    [table] = [each.table for each in expected_triggers() if each.name == guard and each.table != "{partition}"]
    change(postgresql_store, f"DROP TRIGGER {guard} ON {table}")
    assert missing_guards(postgresql_store.engine) == [guard]


def test_each_guard_on_sqlite_that_is_dropped_is_missed(new_sqlite: Callable[[], EventStore]) -> None:
    for guard in sqlite_guards():
        with new_sqlite() as store:
            change(store, f"DROP TRIGGER {guard}")
            assert missing_guards(store.engine) == [guard]


@pytest.fixture
def new_sqlite(template: Path, tmp_path: Path) -> Callable[[], EventStore]:
    """Opens an empty SQLite store, another one at each call."""
    numbers = iter(range(1_000))

    def open_one() -> EventStore:
        path = tmp_path / f"{next(numbers)}.db"
        path.write_bytes(template.read_bytes())
        return EventStore.open(path)

    return open_one


def test_a_guard_written_with_other_white_space_is_the_same_guard(sqlite_store: EventStore) -> None:
    table, statement = sqlite_guards()["events_no_update"]
    assert table == "events"
    change(sqlite_store, "DROP TRIGGER events_no_update", statement.replace(" ", "\n\t  "))
    assert check_guards(sqlite_store.engine) == []


def _tampered(store: EventStore) -> set[str]:
    """Every fault of ours that there can be at once: dropped, disabled, altered, and functions too."""
    if store.engine.dialect.name == "sqlite":
        change(
            store,
            *[f"DROP TRIGGER {name}" for name in sqlite_guards() if not name.startswith("wix")],
            "CREATE TRIGGER events_no_delete BEFORE DELETE ON events BEGIN SELECT RAISE(IGNORE); END",
        )
        return {name for name in sqlite_guards() if not name.startswith("wix")}
    change(
        store,
        "DROP TRIGGER events_no_change ON events",
        "DROP TRIGGER events_next_position ON events",
        "DROP TRIGGER events_no_truncate ON events_from_1",
        "DROP TRIGGER events_no_direct_insert ON events_from_10000001",
        "DROP TRIGGER quarantine_no_rewrite ON quarantine",
        "ALTER TABLE log_head DISABLE TRIGGER ALL",
        f"CREATE OR REPLACE FUNCTION eventstore_stays_retired() RETURNS trigger LANGUAGE plpgsql AS '{NEXT_POSITION_BODY}'",
        "ALTER FUNCTION eventstore_refuse() SECURITY DEFINER",
    )
    return {
        "events_no_change", "events_next_position", "events_no_truncate", "events_no_direct_insert",
        "quarantine_no_rewrite", "log_head_forward_only", "log_head_no_delete", "log_head_no_truncate",
        "eventstore_stays_retired", "eventstore_refuse",
    }  # fmt: skip


def test_guards_that_were_taken_away_are_put_back_as_they_were(store: EventStore) -> None:
    fill(store)
    before = definitions(store)
    names = _tampered(store)
    assert {each.name for each in store.repair_guards()} == names
    assert check_guards(store.engine) == []
    assert definitions(store) == before
    assert store.repair_guards() == []
    fill(store)


def definitions(store: EventStore) -> list[tuple[object, ...]]:
    """Triggers and functions as the database itself words them."""

    def rows(connection: Connection, sql: str) -> list[tuple[object, ...]]:
        return [tuple(row) for row in connection.exec_driver_sql(sql)]

    with store.engine.connect() as connection:
        if store.engine.dialect.name == "sqlite":
            return rows(connection, "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY 1")
        return rows(
            connection,
            "SELECT pg_get_triggerdef(oid), tgenabled::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
        ) + rows(
            connection,
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1",
        )


def test_what_a_stranger_put_there_is_left_to_a_person(store: EventStore) -> None:
    if store.engine.dialect.name == "sqlite":
        change(store, "CREATE TRIGGER a_stranger AFTER INSERT ON events BEGIN SELECT 1; END")
    else:
        change(store, "CREATE RULE a_stranger AS ON DELETE TO events DO INSTEAD NOTHING")
    assert store.repair_guards() == []
    [left] = check_guards(store.engine)
    assert (left.name, left.fault) == ("a_stranger", Fault.FOREIGN)
    assert "DROP" in left.remedy


# Elsewhere than usual


def test_a_log_in_a_schema_of_any_name_is_guarded_maintained_and_shared_all_the_same(
    postgresql_server: PostgresqlServer,
) -> None:
    with postgresql_server.new() as url:
        with Stranger(url) as stranger:
            stranger.execute("DROP SCHEMA public CASCADE")
            stranger.execute('CREATE SCHEMA "Shop\'s ""log"""')
            name = make_url(url).database
            stranger.execute(f'ALTER DATABASE {name} SET search_path = "Shop\'s ""log"""')
        with EventStore.open(url) as store:
            fill(store)
            assert check_guards(store.engine) == []
            change(
                store,
                "DROP TRIGGER events_no_change ON events",
                "ALTER FUNCTION eventstore_next_positions() RESET search_path",
            )
            assert {each.name for each in store.repair_guards()} == {"events_no_change", "eventstore_next_positions"}
            assert len(store.maintain(ahead=3).made) == 1
            roles = store.make_roles(prefix="elsewhere")
            store.rebuild_projections()
            assert check_guards(store.engine) == []
            fill(store)
            names = f"{roles.owner}, {roles.writer}, {roles.reader}"
            change(store, f"REASSIGN OWNED BY {names} TO CURRENT_USER", f"DROP OWNED BY {names}", f"DROP ROLE {names}")


def test_a_store_restored_from_a_dump_has_its_guards_and_goes_on(postgresql_server: PostgresqlServer) -> None:
    with postgresql_server.new() as url, postgresql_server.new() as into:
        with EventStore.open(url) as store:
            fill(store)
            kept = store.read()
        with Stranger(into) as stranger:
            stranger.execute("DROP SCHEMA public CASCADE")
            stranger.execute("CREATE SCHEMA public")
        dump = postgresql_tool("pg_dump", libpq(make_url(url)))
        postgresql_tool("psql", "--quiet", "--set", "ON_ERROR_STOP=1", libpq(make_url(into)), given=dump)
        with EventStore.open(into) as store:
            assert check_guards(store.engine) == []
            assert store.read() == kept
            assert store.append(kept[0].event.model_copy(update={"event_id": "next"})).position == len(kept) + 1


# The commands and the server


def test_verify_tells_what_is_wrong_and_ends_with_1(eventstore: Command) -> None:
    assert "every one stands" in eventstore("verify", "--guards")
    assert json.loads(eventstore("verify", "--guards", "--json")) == {"guards": []}
    with Stranger(eventstore.url) as stranger:
        stranger.drop_guard("quarantine", "quarantine_no_rewrite")
    done = eventstore.run("verify", "--guards")
    assert done.returncode == 1
    assert "--repair-guards" in done.stdout
    told = eventstore.run("verify", "--guards", "--json")
    assert told.returncode == 1
    [finding] = json.loads(told.stdout)["guards"]
    assert set(finding) == {"name", "table", "fault", "problem", "remedy"}


def test_verify_asks_what_to_verify(eventstore: Command) -> None:
    done = eventstore.run("verify")
    assert done.returncode == 2
    assert "--guards" in done.stderr


def test_init_puts_guards_back_and_says_which(eventstore: Command) -> None:
    assert "every one stands" in eventstore("init", "--repair-guards")
    with Stranger(eventstore.url) as stranger:
        stranger.drop_guard("quarantine", "quarantine_no_rewrite")
    assert "ALTERED" not in eventstore.run("status").stdout
    shown = eventstore("init", "--repair-guards")
    assert "put back: quarantine_no_rewrite on quarantine" in shown
    assert eventstore.json("status")["guard_findings"] == []


def test_init_that_cannot_mend_everything_ends_with_1(path: Path, folder: Path) -> None:
    eventstore = Command(path)
    with Stranger(str(path)) as stranger:
        stranger.execute("CREATE TRIGGER a_stranger AFTER INSERT ON events BEGIN SELECT 1; END")
        stranger.drop_guard("events", "events_no_update")
    done = eventstore.run("init", "--repair-guards")
    assert done.returncode == 1
    assert "put back: events_no_update" in done.stdout
    assert "a_stranger" in done.stdout
    assert "not this program's" in done.stderr


def test_status_names_a_guard_that_was_altered(path: Path, folder: Path) -> None:
    eventstore = Command(path)
    with Stranger(str(path)) as stranger:
        stranger.drop_guard("events", "events_no_delete")
        stranger.execute("CREATE TRIGGER events_no_delete BEFORE DELETE ON events BEGIN SELECT 1; END")
    done = eventstore.run("status")
    assert done.returncode == 1
    assert "ALTERED: events_no_delete" in done.stdout
    assert "verify --guards" in done.stderr


def test_a_server_refuses_to_start_on_a_log_without_its_guards(store_url: str, tmp_path: Path) -> None:
    with Stranger(store_url) as stranger:
        stranger.drop_guard("quarantine", "quarantine_no_rewrite")
    done = cli("--store", store_url, "serve", "--port", "0", cwd=tmp_path)
    assert done.returncode == 1
    assert "quarantine_no_rewrite" in done.stderr
    assert "verify --guards" in done.stderr
    assert "Traceback" not in done.stderr
    unguarded = Serving(tmp_path, "--unguarded", url=store_url)
    try:
        unguarded.start()
        with unguarded.client() as client:
            assert client.get("/healthz").json()["status"] == "ok"
    finally:
        unguarded.close()
