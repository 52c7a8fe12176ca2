"""A store whose projections another version of their models has made: served as it is, and rebuilt by `eventstore upgrade`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from itertools import islice
from pathlib import Path

import pytest

import analytics
from eventstore.demo import month
from eventstore.differences import known_coupons
from eventstore.errors import ProjectionError, StoreNotReady
from eventstore.event import Event
from eventstore.log.schema import HEAD_REVISION
from eventstore.projections import tables
from eventstore.projections.catalogue import Catalogue, Projection, parse, projections
from eventstore.projections.rebuild import RebuildProgress
from eventstore.store import EventStore
from tests.commands import Command, cells
from tests.partitioned import wait_for
from tests.rows import change
from tests.serving import APPLIED, CREATED, applied, created, serving, settled
from tests.slow_model import project, shown, stored
from tests.snapshots import snapshots
from tests.stores import NewUrl

OLDER = 90
"""The version of the older models: any that is not today's."""
DELIVERIES = 60


def older(name: str) -> Projection:
    """The model as a program before this one had it: it named coupons otherwise, and did not know of limits for a customer."""
    text = (files("eventstore.projections") / "models" / f"{name}.sql").read_text(encoding="utf-8")
    if name == "coupons":
        lines = [line for line in text.splitlines() if "limit_per_customer  " not in line]
        assert len(text.splitlines()) - len(lines) == 2
        text = "\n".join(lines).replace("    c.name    ", "    'old ' || c.name    ")
        assert "'old '" in text
    return replace(parse(text, f"{name}.sql"), version=OLDER)


def open_older(url: str, *names: str) -> EventStore:
    """The store, opened by a program that has the older models of these names."""
    program = EventStore(url)
    program.catalogue = Catalogue(older(model.name) if model.name in names else model for model in projections())
    program.init()
    return program


def ingest(store: EventStore, count: int, *, after: int = 0) -> None:
    store.ingest(islice(enumerate(delivery.line() for delivery in month()), after, after + count))


def log_of(store: EventStore) -> list[Event]:
    return [record.event for record in store.stream()]


@pytest.fixture(scope="module")
def made_by_another(new_url: NewUrl) -> Iterator[str]:
    """A store whose table of coupons another version of the model has made."""
    with new_url() as url:
        change(url, "DROP TABLE coupons", "DELETE FROM projection_checkpoints WHERE name = 'coupons'")
        store = open_older(url, "coupons")
        ingest(store, DELIVERIES)
        store.project()
        store.close()
        yield url


@pytest.fixture
def old(made_by_another: str, new_url: NewUrl) -> Iterator[str]:
    """A copy of it, to do with as one likes."""
    with new_url(of=made_by_another) as url:
        yield url


def versions(store: EventStore) -> dict[str, int]:
    with store.engine.connect() as connection:
        return {name: each.version for name, each in tables.read_checkpoints(connection).items()}


def positions(store: EventStore) -> dict[str, int]:
    with store.engine.connect() as connection:
        return {name: each.position for name, each in tables.read_checkpoints(connection).items()}


def test_a_table_of_another_version_is_served_as_it_is_while_ingestion_goes_on_until_an_upgrade(old: str) -> None:
    with EventStore.open(old) as store:
        assert store.projections_behind() == ("coupons",)
        reached = positions(store)["coupons"]
        named = {coupon.coupon_id: coupon.name for coupon in store.coupons() if coupon.name is not None}
        assert named
        assert all(name.startswith("old ") for name in named.values())
        assert {coupon.limit_per_customer for coupon in store.coupons()} == {None}
        [one] = known_coupons(store.engine, store.coupons()[0].site_id, [store.coupons()[0].coupon_id]).values()
        assert one.told

        ingest(store, DELIVERIES, after=DELIVERIES)
        store.project()
        assert positions(store) == {name: reached if name == "coupons" else store.head() for name in positions(store)}
        expected = project(log_of(store))
        assert {name: store.projection_rows(name) for name in expected if name != "coupons"} == {
            name: [rows[key] for key in sorted(rows)] for name, rows in expected.items() if name != "coupons"
        }
        assert {each.coupon_id: each.name for each in store.coupons()} == named | {
            each.coupon_id: each.name for each in store.coupons() if each.name is None
        }

        told: list[RebuildProgress] = []
        done = store.upgrade(on_progress=told.append)
        assert told
        assert done.revision_before == done.revision == HEAD_REVISION
        [upgraded] = done.projections
        assert (upgraded.name, upgraded.version_before) == ("coupons", OLDER)
        assert versions(store)["coupons"] == upgraded.version != OLDER
        assert done.position == store.head()
        assert store.projections_behind() == ()
        assert shown(store.engine) == project(log_of(store))

        ingest(store, 20, after=2 * DELIVERIES)
        store.project()
        assert shown(store.engine) == project(log_of(store))
        assert not store.upgrade().did_something


def test_readers_that_were_open_before_an_upgrade_show_the_new_table_after_it(old: str) -> None:
    with EventStore.open(old) as reader, EventStore.open(old) as other:
        assert {each.limit_per_customer for each in reader.coupons()} == {None}
        other.upgrade()
        assert [each.name for each in reader.coupons()] == [each.name for each in other.coupons()]
        assert not any((each.name or "").startswith("old ") for each in reader.coupons())


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_an_upgrade_can_be_broken_off_and_repeated(old: str) -> None:
    class PulledOut(Exception):
        pass

    def pull(at: RebuildProgress) -> None:
        if at.stage == "write":
            raise PulledOut

    with EventStore.open(old) as store:
        before = [each.name for each in store.coupons()]
        with pytest.raises(PulledOut):
            store.upgrade(on_progress=pull)
        assert [each.name for each in store.coupons()] == before
        assert store.projections_behind() == ("coupons",)
        assert store.upgrade().did_something
        assert shown(store.engine) == project(log_of(store))


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_sql_is_not_concerned_by_an_older_table(old: str) -> None:
    """What an older table lacks is in the lake, which is made of the log."""
    with analytics.connect(old) as connection:
        found = connection.execute("SELECT count(*), count(name), count(limit_per_customer) FROM coupons").fetchall()
        assert found[0][0] >= found[0][1] > 0 < found[0][2]


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", ["redemptions", "coupon_usage"])
def test_models_that_hang_together_are_upgraded_together_and_the_others_go_on(new_url: NewUrl, name: str) -> None:
    with new_url() as url:
        change(url, f"DROP TABLE {name}", f"DELETE FROM projection_checkpoints WHERE name = '{name}'")
        store = open_older(url, name)
        ingest(store, 40)
        store.project()
        store.close()
        with EventStore.open(url) as today:
            assert today.projections_behind() == (name,)
            ingest(today, 40, after=40)
            today.project()
            left = {each for each, position in positions(today).items() if position < today.head()}
            # What reads from a table that stands still stands still with it.
            assert left == ({"redemptions", "coupon_usage"} if name == "redemptions" else {"coupon_usage"})
            assert {each.name for each in today.upgrade().projections} == {"redemptions", "coupon_usage"}
            today.project()
            assert shown(today.engine) == project(log_of(today))


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_table_of_another_shape_altogether_waits_for_the_upgrade_and_says_so(new_url: NewUrl) -> None:
    with new_url() as url:
        with EventStore.open(url) as store:
            ingest(store, 30)
            store.project()
        change(
            url,
            "UPDATE projection_checkpoints SET version = 90 WHERE name = 'coupons'",
            "DROP TABLE coupons",
            "CREATE TABLE coupons (of_another_shape TEXT)",
        )
        with EventStore.open(url) as store:
            with pytest.raises(
                ProjectionError, match=r"another key: it lacks site_id, coupon_id; run `eventstore upgrade`"
            ):
                store.coupons()
            store.upgrade()
            assert shown(store.engine) == project(log_of(store))


# The command, and a server beside it


def test_a_server_goes_on_with_the_older_table_through_an_upgrade_and_follows_again(old: str, tmp_path: Path) -> None:
    with EventStore.open(old) as store:
        token, _ = store.create_token(name="test", site_id=None)
    with serving(tmp_path / "served", url=old, token=token) as server, server.client() as client:
        wait_for(lambda: any("eventstore upgrade" in each for each in server.complaints))
        [warning] = server.complaints
        assert '"coupons"' in warning
        names = {each["coupon_id"]: each["name"] for each in client.get("/v1/coupons").json()["coupons"]}
        assert any(name and name.startswith("old ") for name in names.values())
        answer = client.post(f"/v1/velo/{CREATED}", json=created("new-1", "c-new", name="New", limitPerCustomer=1))
        assert answer.json()["outcome"] == "appended"

        done = Command(old).json("upgrade")
        assert [each["name"] for each in done["projections"]] == ["coupons"]
        found = settled(client, done["position"], "/v1/coupons/c-new")
        assert (found["name"], found["limit_per_customer"]) == ("New", 1)
        names = {each["coupon_id"]: each["name"] for each in client.get("/v1/coupons").json()["coupons"]}
        assert not any(name and name.startswith("old ") for name in names.values())
        last = client.post(f"/v1/velo/{APPLIED}", json=applied("new-2", "o-new", "c-new")).json()["position"]
        assert settled(client, last, "/v1/coupons/c-new")["usage"]["times_used"] == 1
        assert server.complaints == [warning]
    with EventStore.open(old) as store:
        assert shown(store.engine) == project(log_of(store))


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_the_command_says_what_it_did_and_that_there_is_nothing_more_to_do(old: str) -> None:
    eventstore = Command(old)
    told = cells(eventstore("upgrade"))
    assert ["coupons", str(OLDER), *map(str, project_version("coupons")), str(row_count(old, "coupons"))] in told
    assert "nothing to do" in eventstore("upgrade")
    done = eventstore.json("upgrade")
    assert (done["projections"], done["revision"]) == ([], HEAD_REVISION)


def project_version(name: str) -> tuple[int, ...]:
    return (projections().find(name).version,)


def row_count(url: str, name: str) -> int:
    with EventStore.open(url) as store:
        return len(stored(store.engine)[name])


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_report_is_not_concerned_by_an_older_table(old: str) -> None:
    done = Command(old).run("report", "usage-per-coupon", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_store_of_an_older_schema_is_migrated_by_an_upgrade(dialect: str, tmp_path: Path) -> None:
    past = snapshots()[0]
    path = tmp_path / "log.db"
    past.restore_sqlite(path)
    with pytest.raises(StoreNotReady):
        EventStore.open(path, create=False)
    assert f"schema: from revision {past.revision} to {HEAD_REVISION}" in Command(path)("upgrade")
    with EventStore.open(path, create=False) as store:
        assert store.projections_behind() == ()


def test_there_must_be_a_store_to_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    assert "eventstore init" in Command(path).refused("upgrade", status=1)
    assert not path.exists()


def test_a_store_that_is_as_it_should_be_is_left_alone(store: EventStore) -> None:
    ingest(store, 10)
    before = positions(store)
    assert not store.upgrade().did_something
    assert positions(store) == before
