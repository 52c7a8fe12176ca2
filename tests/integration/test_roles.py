"""Three roles on PostgreSQL: one owns the log, one appends, one reads. Each can do its work and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

import analytics
from eventstore.demo import examples
from eventstore.errors import InputError, NotOwner, ProjectionError, StoreUnavailable
from eventstore.event import Event
from eventstore.log.guards import check_guards
from eventstore.log.partitions import list_partitions
from eventstore.log.records import prepare
from eventstore.projections.catalogue import projections
from eventstore.store import EventStore
from tests.commands import Command, run
from tests.partitioned import event, shrink, some, wait_for
from tests.rows import Stranger
from tests.serving import PROJECTIONS, applied, assert_problem, created, serving, settled
from tests.signing import public_pem
from tests.stores import PostgresqlServer

INSUFFICIENT_PRIVILEGE = "42501"
_numbers = itertools.count()


@dataclass(frozen=True)
class Logins:
    """A store with roles, and a URL for a login of each; `admin` is a superuser's."""

    admin: str
    owner: str
    writer: str
    reader: str
    prefix: str


@pytest.fixture
def logins(postgresql_server: PostgresqlServer) -> Iterator[Logins]:
    """A filled store whose tables were handed to roles of its own."""
    prefix = f"shop{next(_numbers)}"
    with postgresql_server.new() as url:
        with EventStore.open(url) as store:
            for delivery in examples():
                store.ingest([(1, delivery.line())])
            store.project()
            store.make_roles(prefix=prefix)
        urls = {}
        with Stranger(url) as stranger:
            for role in ("owner", "writer", "reader"):
                stranger.execute(f"CREATE ROLE {prefix}_{role}_login LOGIN IN ROLE {prefix}_{role}")
                urls[role] = make_url(url).set(username=f"{prefix}_{role}_login").render_as_string(hide_password=False)
        yield Logins(url, urls["owner"], urls["writer"], urls["reader"], prefix)
        with Stranger(url) as stranger:
            names = ", ".join(f"{prefix}_{role}" for role in ("owner", "writer", "reader"))
            stranger.execute(f"DROP OWNED BY {names}")
            stranger.execute(f"DROP ROLE {names}, {', '.join(f'{prefix}_{role}_login' for role in urls)}")


def refused(url: str, *statements: str) -> None:
    """Each statement is refused for want of a right, not by a guard."""
    for statement in statements:
        with Stranger(url) as stranger, pytest.raises(psycopg.errors.InsufficientPrivilege):
            stranger.execute(statement)


def rights(url: str) -> list[tuple[Any, ...]]:
    """Every right of every role on everything in the schema, and who owns it."""
    with Stranger(url) as stranger:
        return stranger.rows(
            "SELECT relname, relowner::regrole::text, relacl::text FROM pg_class "
            "WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
        ) + stranger.rows(
            "SELECT attrelid::regclass::text, attname, attacl::text FROM pg_attribute WHERE attacl IS NOT NULL ORDER BY 1, 2"
        )


# The writer


def test_a_server_that_is_only_a_writer_receives_projects_and_answers(logins: Logins, tmp_path: Path) -> None:
    with serving(tmp_path / "served", url=logins.writer) as server, server.client() as client:
        head = client.get("/healthz").json()["head"]
        assert head > 0
        made = client.post("/v1/velo/wixMarketing_onCouponCreated", json=created("w-1", "w-c"))
        assert made.json()["position"] == head + 1
        client.post("/v1/velo/wixMarketing_onCouponApplied", json=applied("w-2", "w-o", "w-c"))
        again = client.post("/v1/velo/wixMarketing_onCouponApplied", json=applied("w-2", "w-o", "w-c"))
        assert again.json()["outcome"] == "duplicate"
        conflict = client.post("/v1/velo/wixMarketing_onCouponApplied", json=applied("w-2", "another", "w-c"))
        assert conflict.json()["outcome"] == "conflict"
        client.post("/v1/velo/wixMarketing_onCouponApplied", json={"metadata": {"id": "w-3"}})
        assert client.post("/v1/velo/wixMarketing_onCouponApplied", content=b"{").status_code == 400
        state = settled(client, head + 2, "/v1/coupons/w-c")
        assert state["usage"]["times_used"] == 1
        token = server.new_token("--site", "w-site")
        with server.client(token) as other:
            assert other.get("/v1/coupons").status_code == 200
        server.stop()
        assert server.complaints == []
    with EventStore.open(logins.writer) as store:
        [entry] = [each for each in store.list_quarantined(kind="conflict") if each.event_id == "w-2"]
        store.resolve_quarantined([entry.id], "sent by hand")
        list(store.retry_quarantined(kind="quarantined"))
        assert store.status().guard_findings == ()
        assert store.find("w-2", site_id="local").position == head + 2


def test_a_writer_parks_what_a_projection_cannot_take_and_skips_it(logins: Logins) -> None:
    with EventStore.open(logins.writer) as store:
        sound = Event(
            event_id="sound",
            type="coupon.deleted",
            source="velo",
            site_id="shop",
            entity_id="parked",
            coupon_id="parked",
            event_time=datetime(2026, 9, 1, tzinfo=UTC),
        )
        broken = prepare(sound.model_copy(update={"event_id": "broken"}))._replace(payload=b"{")
        store.submit([broken, prepare(sound)]).result()
        store.project()
        letters = store.dead_letters()
        assert {letter.projection for letter in letters} == {"coupons", "redemptions", "loyalty_coupons"}
        assert [each.parked_at for each in store.retry_dead_letters()] == [letter.position for letter in letters]
        for letter in letters:
            assert store.skip_dead_letter(letter.id, "no event").events == 1
        assert store.coupon("parked").deleted
        assert store.dead_letters() == []


def test_a_writer_registers_apps_and_tokens(logins: Logins, tmp_path: Path, folder: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).write_text(public_pem(name))
    eventstore = Command(logins.writer)
    eventstore("app", "add", "--name", "shop", "--key-file", str(tmp_path / "first"), "--instance", "i-1")
    eventstore("app", "add", "--name", "shop", "--key-file", str(tmp_path / "first"), "--instance", "i-2")
    eventstore("app", "rotate", "--name", "shop", "--key-file", str(tmp_path / "second"))
    eventstore("app", "remove", "--name", "shop")
    eventstore("token", "create", "--site", "s")
    [token] = eventstore.json("token", "list")
    eventstore("token", "revoke", token["token_id"])
    assert eventstore.json("token", "list")[0]["revoked_at"] is not None


def test_a_writer_cannot_change_the_log_or_its_guards(logins: Logins) -> None:
    refused(
        logins.writer,
        "UPDATE events SET payload = '{}'",
        "DELETE FROM events",
        "TRUNCATE events",
        "UPDATE event_keys SET position = 1",
        "DELETE FROM event_keys",
        "UPDATE log_head SET id = 1",
        "DELETE FROM log_head",
        "INSERT INTO log_head VALUES (2, 0, 0)",
        "UPDATE quarantine SET body = ''",
        "DELETE FROM quarantine",
        "UPDATE wix_app_keys SET public_key = ''",
        "DELETE FROM wix_app_keys",
        "UPDATE api_tokens SET scopes = 'admin'",
        "DELETE FROM api_tokens",
        "UPDATE delivery_counts SET day = ''",
        "DELETE FROM delivery_counts",
        "UPDATE alembic_version SET version_num = '0001'",
        "ALTER TABLE events DISABLE TRIGGER ALL",
        "ALTER TABLE events_from_1 DISABLE TRIGGER events_no_change",
        "ALTER TABLE events DETACH PARTITION events_from_1",
        "ALTER TABLE events ALTER COLUMN payload TYPE text USING '{}'",
        "DROP TRIGGER events_no_change ON events",
        "CREATE TRIGGER mine BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION eventstore_refuse()",
        "CREATE RULE mine AS ON INSERT TO events DO INSTEAD NOTHING",
        "CREATE OR REPLACE FUNCTION eventstore_refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "DROP TABLE events",
        "DROP TABLE events_from_1",
        "CREATE TABLE mine (x int)",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SET session_replication_role = replica",
        "SELECT * FROM events_from_1",
        "INSERT INTO events_from_1 SELECT * FROM events",
        "UPDATE events_from_1 SET payload = '{}'",
        "DELETE FROM events_from_1",
        "TRUNCATE events_from_1",
        f"SET ROLE {logins.prefix}_owner",
        f"GRANT {logins.prefix}_owner TO CURRENT_USER",
    )
    with Stranger(logins.admin) as stranger:
        stranger.drop_guards()
    refused(logins.writer, "UPDATE events SET payload = '{}'", "DELETE FROM event_keys", "DELETE FROM events_from_1")


def test_what_takes_an_owner_says_so_to_a_writer(logins: Logins, folder: Path) -> None:
    with EventStore.open(logins.writer) as store:
        assert store.maintain().made == ()
        for wanted in (
            lambda: store.maintain(ahead=5),
            lambda: store.make_roles(prefix=logins.prefix),
            store.rebuild_projections,
        ):
            with pytest.raises((NotOwner, ProjectionError)) as told:
                wanted()
            assert "own" in str(told.value)
    done = Command(logins.writer).run("maintain", "--ahead", "5")
    assert done.returncode == 1
    assert f"{logins.prefix}_owner" in done.stderr
    with Stranger(logins.admin) as stranger:
        stranger.drop_guard("quarantine", "quarantine_no_rewrite")
    done = Command(logins.writer).run("init", "--repair-guards")
    assert done.returncode == 1
    assert f"{logins.prefix}_owner" in done.stderr


def test_a_writer_s_server_warns_that_it_may_not_make_partitions_and_goes_on_once_the_owner_did(
    postgresql_server: PostgresqlServer, tmp_path: Path
) -> None:
    prefix = f"shop{next(_numbers)}"
    with postgresql_server.new() as url:
        with EventStore.open(url) as store:
            shrink(store, 3)
            store.make_roles(prefix=prefix)
        login = f"{prefix}_login"
        with Stranger(url) as stranger:
            stranger.execute(f"CREATE ROLE {login} LOGIN IN ROLE {prefix}_writer")
        writer = make_url(url).set(username=login).render_as_string(hide_password=False)
        with serving(tmp_path / "served", url=writer) as server, server.client() as client:
            for number in range(3):
                assert client.post(APPLIED_PATH, json=applied(f"e-{number}", f"o-{number}")).status_code == 200
            full = client.post(APPLIED_PATH, json=applied("e-3", "o-3"))
            assert "eventstore maintain" in assert_problem(full, 503)["detail"]
            assert int(full.headers["retry-after"]) >= 1
            wait_for(lambda: any("eventstore maintain" in each for each in server.complaints))
            assert run("--store", url, "maintain").returncode == 0
            assert client.post(APPLIED_PATH, json=applied("e-3", "o-3")).json()["position"] == 4
        with Stranger(url) as stranger:
            names = ", ".join(f"{prefix}_{role}" for role in ("owner", "writer", "reader"))
            stranger.execute(f"REASSIGN OWNED BY {names} TO CURRENT_USER")
            stranger.execute(f"DROP OWNED BY {names}")
            stranger.execute(f"DROP ROLE {names}, {login}")


APPLIED_PATH = "/v1/velo/wixMarketing_onCouponApplied"


# The reader


def test_a_reader_runs_reports_and_cannot_write(logins: Logins) -> None:
    with EventStore.open(logins.admin) as store:
        size = store.head()
    with analytics.connect(logins.reader) as db:
        assert db.sql("SELECT count(*) FROM events").fetchall() == [(size,)]
        for report in analytics.reports():
            assert analytics.run_report(db, report.name).columns
        assert db.sql("SELECT count(*) FROM deliveries").fetchall()[0][0] >= 1
    with EventStore.open(logins.reader, create=False) as store:
        assert store.status().events == size
        assert store.status().guard_findings == ()
        assert len(store.read(limit=5)) == 5
        with pytest.raises(StoreUnavailable, match="permission denied"):
            store.append(event(1))
    refused(
        logins.reader,
        "SELECT * FROM api_tokens",
        "SELECT count(*) FROM api_tokens",
        "SELECT * FROM events_from_1",
        "INSERT INTO events SELECT * FROM events",
        "UPDATE log_head SET size = size",
        "SELECT * FROM log_head FOR UPDATE",
        "UPDATE coupons SET code = ''",
        "DELETE FROM projection_checkpoints",
        "INSERT INTO quarantine SELECT * FROM quarantine",
        "CREATE TABLE mine (x int)",
        "SET session_replication_role = replica",
    )


# The owner


def test_what_a_member_of_the_owner_makes_belongs_to_the_owner_and_the_others_can_use_it(logins: Logins) -> None:
    with EventStore.open(logins.owner) as store:
        made = store.maintain(ahead=4).made
        assert len(made) == 2
        before = rights(logins.admin)
        store.rebuild_projections()
        assert check_guards(store.engine) == []
    after = rights(logins.admin)
    derived = {model.name for model in projections()}
    owners = {name: owner for name, owner, *_ in after if name in derived or name in made}
    assert set(owners) == derived | set(made)
    assert set(owners.values()) == {f"{logins.prefix}_owner"}
    assert {normal(each) for each in after if each[0] in derived} == {
        normal(each) for each in before if each[0] in derived
    }
    with EventStore.open(logins.writer) as store:
        size = store.head()
        store.append(event(1))
        assert store.project() == size + 1
    with analytics.connect(logins.reader) as db:
        assert db.sql("SELECT count(*) FROM redemptions").fetchall()[0][0] >= 1


def test_an_upgrade_with_a_projection_of_one_s_own_is_the_owner_s_and_then_everybody_s(logins: Logins) -> None:
    own = [PROJECTIONS / "app_weeks"]
    with pytest.raises(NotOwner, match=f"{logins.prefix}_owner"):
        EventStore.open(logins.writer, projections=own)
    with EventStore.open(logins.writer) as store:
        assert not store.upgrade().did_something
    with EventStore.open(logins.owner, projections=own) as store:
        assert "app_weeks" in {each.name for each in store.upgrade().projections}
    assert {owner for name, owner, *_ in rights(logins.admin) if name == "app_weeks"} == {f"{logins.prefix}_owner"}
    with EventStore.open(logins.writer, projections=own) as store:
        store.append(event(1))
        assert store.project() == store.head()
        with Stranger(logins.admin) as stranger:
            stranger.execute("UPDATE projection_checkpoints SET version = 90 WHERE name = 'app_weeks'")
        assert store.projections_behind() == ("app_weeks",)
        with pytest.raises(NotOwner, match=f"{logins.prefix}_owner"):
            store.upgrade()
    with EventStore.open(logins.reader, create=False, projections=own) as store:
        assert store.projection_rows("app_weeks")


def test_making_roles_again_changes_nothing_and_mends_what_was_granted_beside_it(logins: Logins) -> None:
    before = rights(logins.admin)
    with Stranger(logins.admin) as stranger:
        stranger.execute(f"GRANT ALL ON events, api_tokens, events_from_1 TO {logins.prefix}_reader, PUBLIC")
        stranger.execute(f"GRANT UPDATE (payload) ON events TO {logins.prefix}_writer")
    assert rights(logins.admin) != before
    with EventStore.open(logins.admin) as store:
        assert store.make_roles(prefix=logins.prefix).made == ()
    assert sorted(map(normal, rights(logins.admin))) == sorted(map(normal, before))


def normal(row: tuple[Any, ...]) -> tuple[str, ...]:
    """An access list without the order in which it was granted."""
    return tuple(str(sorted(each.strip("{}").split(","))) if each and "=" in each else str(each) for each in row)


def test_an_owner_without_superpowers_who_may_make_roles_can_hand_the_tables_over(
    postgresql_server: PostgresqlServer,
) -> None:
    """As on a hosted PostgreSQL, where nobody is superuser."""
    prefix = f"hosted{next(_numbers)}"
    with postgresql_server.new() as url:
        with Stranger(url) as stranger:
            stranger.execute(f"CREATE ROLE {prefix}_dba LOGIN CREATEROLE")
            stranger.execute("DROP SCHEMA public CASCADE")
            stranger.execute(f"CREATE SCHEMA public AUTHORIZATION {prefix}_dba")
        dba = make_url(url).set(username=f"{prefix}_dba").render_as_string(hide_password=False)
        with EventStore.open(dba) as store:
            assert len(store.make_roles(prefix=prefix).made) == 3
            list(store.append_many(some(3)))
            assert store.maintain(ahead=3).made
            store.rebuild_projections()
            with store.engine.connect() as connection:
                assert len(list_partitions(connection)) == 4
            assert check_guards(store.engine) == []
        with Stranger(url) as stranger:
            names = ", ".join(f"{prefix}_{role}" for role in ("owner", "writer", "reader", "dba"))
            stranger.execute(f"REASSIGN OWNED BY {names} TO CURRENT_USER")
            stranger.execute(f"DROP OWNED BY {names}")
            stranger.execute(f"DROP ROLE {names}")


# The command


def test_init_makes_roles_and_prints_what_to_grant(postgresql_server: PostgresqlServer, folder: Path) -> None:
    prefix = f"cli{next(_numbers)}"
    with postgresql_server.new() as url:
        eventstore = Command(url)
        shown = eventstore("init", "--roles", "--prefix", prefix)
        for role in ("owner", "writer", "reader"):
            assert f"role {prefix}_{role} (made)" in shown
            assert f"GRANT {prefix}_{role} TO" in shown
        assert "(already there)" in eventstore("init", "--roles", "--prefix", prefix)
        with Stranger(url) as stranger:
            logging_in = f"SELECT count(*) FROM pg_roles WHERE rolname LIKE '{prefix}%' AND rolcanlogin"
            assert stranger.rows(logging_in) == [(0,)]
            names = ", ".join(f"{prefix}_{role}" for role in ("owner", "writer", "reader"))
            stranger.execute(f"REASSIGN OWNED BY {names} TO CURRENT_USER")
            stranger.execute(f"DROP OWNED BY {names}")
            stranger.execute(f"DROP ROLE {names}")
        for wrong in ("Shop", "a-b", "x; DROP TABLE events", "", "a" * 60):
            assert "prefix" in eventstore.refused("init", "--roles", "--prefix", wrong, status=1)
        assert eventstore.run("init", "--prefix", prefix).returncode == 2


def test_roles_are_postgresql_s(sqlite_store: EventStore, folder: Path) -> None:
    with pytest.raises(InputError, match="PostgreSQL"):
        sqlite_store.make_roles()
    path = sqlite_store.engine.url.database
    assert path is not None
    assert "PostgreSQL" in Command(path).refused("init", "--roles", status=1)
