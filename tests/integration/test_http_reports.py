"""Reports over HTTP: the answers of the library in three forms, kept while they are true, from one site for its tokens."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import analytics
from eventstore.demo import month
from eventstore.log.engine import make_engine
from eventstore.store import EventStore
from tests.processes import command_line
from tests.serving import (
    APPLIED,
    CREATED,
    PATIENCE,
    SITE,
    NewServer,
    Serving,
    answers,
    applied,
    assert_problem,
    created,
    fixture,
    ndjson,
    wrapped,
)

DIALECT = "sqlite"  # what is asked here is the lake, which is the same of both stores
NAMES = [each.name for each in analytics.reports()]
PARQUET = "application/vnd.apache.parquet"
SHOPS = ("shop-a", "shop-b")
every_report = pytest.mark.parametrize("name", NAMES)
sqlite = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
"""For what asks nothing of the store: on one engine."""


def fill(url: str) -> None:
    """Two shops with a month each, and rewards of a third site."""
    with EventStore.open(url) as store:
        for seed, site in enumerate(SHOPS, start=1):
            lines = [delivery.line() for delivery in month(seed, events=400)]
            store.ingest(enumerate(lines, start=1), site=site)
        store.receive(fixture("sdk_loyalty_coupon_created.json"), route="sdk", site=SITE)
        assert store.head() > 700


@dataclass
class Shop:
    """A server over two shops, and one client that may see both."""

    server: Serving
    client: httpx.Client
    connection: analytics.AnalyticsConnection

    def expected(self, name: str, **parameters: object) -> analytics.ReportResult:
        """What the library answers over a lake of its own."""
        return analytics.run_report(self.connection, name, **parameters)


@pytest.fixture(scope="module")
def shop(new_server: NewServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Nothing is appended to it: its log stays as it is."""
    with new_server() as server, server.client() as client:
        fill(server.store)
        with analytics.connect(server.store, lake=tmp_path_factory.mktemp("lake") / "lake") as connection:
            yield Shop(server, client, connection)
        assert server.complaints == []


def ask(client: httpx.Client, name: str, *, headers: dict[str, str] | None = None, **parameters: Any) -> httpx.Response:
    response = client.get(f"/v1/reports/{name}", params=parameters, headers=headers)
    assert response.status_code == 200, response.text
    return response


def answered(client: httpx.Client, how: str) -> int:
    """How many answers the server has computed, or given out of memory, by its metrics."""
    found = re.findall(
        rf'^eventstore_reports_total\{{.*how="{how}"\}} (\d+)$', client.get("/metrics").text, re.MULTILINE
    )
    return sum(map(int, found))


def append(client: httpx.Client, event_id: str, order: str, site: str = SHOPS[0]) -> int:
    """One more use; its position."""
    line = wrapped(APPLIED, applied(event_id, order), site=site)
    [told] = answers(client.post("/v1/events", content=ndjson(line)))
    position: int = told["position"]
    return position


def lake_of(server: Serving) -> Path:
    engine = make_engine(server.store)
    try:
        return Path(analytics.default_lake(engine))
    finally:
        engine.dispose()


# --- what is answered -------------------------------------------------------------------------------------------------


def test_the_list_says_of_every_report_what_it_answers_takes_and_tells(shop: Shop) -> None:
    told = shop.client.get("/v1/reports").json()["reports"]
    assert [each["name"] for each in told] == NAMES
    for each, report in zip(told, analytics.reports(), strict=True):
        assert (each["title"], each["question"]) == (report.title, report.question)
        assert each["columns"] == [
            {"name": column.name, "unit": column.unit, "doc": column.doc} for column in report.columns
        ]
        assert [
            (one["name"], one["type"], one["default"], tuple(one["choices"]), one["doc"]) for one in each["parameters"]
        ] == [(one.name, one.type, one.default, one.choices, one.doc) for one in report.parameters]
        assert all(one["expected"] for one in each["parameters"])


@every_report
def test_a_report_is_answered_as_the_library_does_in_each_form(shop: Shop, name: str) -> None:
    told = ask(shop.client, name)
    assert told.headers["content-type"] == "application/json"
    found = told.json()
    given: dict[str, Any] = {key: value for key, value in found["parameters"].items() if key == "at"}
    expected = shop.expected(name, **given)
    assert found["rows"] == json.loads(expected.to_json())
    assert (found["report"], found["title"], found["position"]) == (name, expected.title, expected.position)
    assert [each["name"] for each in found["columns"]] == [each.name for each in expected.columns]
    assert found["parameters"].keys() == expected.parameters.keys()

    as_csv = ask(shop.client, name, format="csv", **given)
    assert as_csv.headers["content-type"] == "text/csv; charset=utf-8"
    assert as_csv.headers["content-disposition"] == f'attachment; filename="{name}.csv"'
    assert as_csv.content.decode() == expected.to_csv()

    as_parquet = ask(shop.client, name, format="parquet", **given)
    assert as_parquet.headers["content-type"] == PARQUET
    assert as_parquet.headers["content-disposition"] == f'attachment; filename="{name}.parquet"'
    table = pq.read_table(pa.BufferReader(as_parquet.content))
    assert table.column_names == [each.name for each in expected.columns]
    assert [tuple(row.values()) for row in table.to_pylist()] == list(expected.rows)
    assert table.schema.metadata[b"position"] == str(expected.position).encode()


def test_the_history_of_two_shops_says_something_in_most_reports(shop: Shop) -> None:
    # Or the comparisons here would be of nothing with nothing.
    silent = {name for name in NAMES if not ask(shop.client, name).json()["rows"]}
    assert len(silent) <= 3
    assert {"usage-per-coupon", "redemptions", "usage-over-time", "delivery-log", "findings"}.isdisjoint(silent)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("redemptions", {"since": "2026-09-10", "until": "2026-09-20T12:00:00+02:00", "limit": "7"}),
        ("usage-over-time", {"per": "WEEK", "tz": "europe/berlin", "site": "shop-b"}),
        ("reconciliation", {"differing": "true"}),
        ("usage-per-coupon", {"site": "nobody's; DROP TABLE coupons --"}),
        ("code-reuse", {"code": "\x00"}),
    ],
    ids=["times and counts", "choices and zones", "booleans", "no SQL", "a NUL"],
)
def test_parameters_are_typed_as_on_the_command_line_and_never_pasted(
    shop: Shop, name: str, parameters: dict[str, Any]
) -> None:
    expected = shop.expected(name, **parameters)
    found = ask(shop.client, name, **parameters).json()
    assert found["rows"] == json.loads(expected.to_json())
    assert ask(shop.client, name, format="csv", **parameters).text == expected.to_csv()


def test_the_answer_names_the_parameters_that_it_was_asked_with(shop: Shop) -> None:
    found = ask(shop.client, "redemptions", since="2026-09-10", limit="7").json()
    assert found["parameters"] == {
        "site": None,
        "since": "2026-09-10T00:00:00Z",
        "until": None,
        "coupon": None,
        "limit": 7,
    }
    assert len(found["rows"]) == 7


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("*/*", "application/json"),
        ("text/csv", "text/csv; charset=utf-8"),
        (PARQUET, PARQUET),
        ("application/json, text/csv", "application/json"),
        ("application/json;q=0.2, text/csv;q=0.9", "text/csv; charset=utf-8"),
        ("text/csv;q=0, */*", "application/json"),
        ("text/csv;q=wrong", "application/json"),
        ("text/html,*/*;q=0.8", "application/json"),
        (f"text/html, {PARQUET.upper()} ; q=0.5", PARQUET),
        ("", "application/json"),
    ],
)
def test_the_accept_header_chooses_the_form(shop: Shop, accept: str, form: str) -> None:
    told = ask(shop.client, "usage-per-app", headers={"accept": accept})
    assert told.headers["content-type"] == form
    assert "Accept" in told.headers["vary"]
    over = ask(shop.client, "usage-per-app", headers={"accept": accept}, format="csv")
    assert over.headers["content-type"] == "text/csv; charset=utf-8"


def test_amounts_keep_every_digit_and_formulas_are_disarmed(new_server: NewServer) -> None:
    with new_server() as server, server.client() as client:
        dear = created("dear", "c-1", code="=1+1", type="MoneyOff", moneyOffAmount=123456789.000001)
        body = json.dumps(dear).replace("1.23456789000001E8", "123456789.000001").encode()
        assert client.post(f"/v1/velo/{CREATED}", content=body).json()["outcome"] == "appended"
        assert '"discount_value":123456789.000001' in ask(client, "usage-per-coupon").text
        [row] = csv.DictReader(io.StringIO(ask(client, "usage-per-coupon", format="csv").text))
        assert (row["code"], row["discount_value"]) == ("'=1+1", "123456789.000001")
        table = pq.read_table(pa.BufferReader(ask(client, "usage-per-coupon", format="parquet").content))
        assert table.to_pylist()[0]["discount_value"] == Decimal("123456789.000001")


@every_report
def test_an_empty_store_has_an_answer_to_every_report(shared_empty: httpx.Client, name: str) -> None:
    found = ask(shared_empty, name).json()
    assert (found["rows"], found["position"]) == ([], 0)
    assert ask(shared_empty, name, format="csv").text.count("\r\n") == 1
    assert pq.read_table(pa.BufferReader(ask(shared_empty, name, format="parquet").content)).num_rows == 0


@pytest.fixture(scope="module")
def shared_empty(new_server: NewServer) -> Iterator[httpx.Client]:
    with new_server() as server, server.client() as client:
        yield client


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "status", "told"),
    [
        ("usage-per-cupon", 404, "did you mean usage-per-coupon?"),
        ("..", 404, ""),
        ("usage-per-coupon?unknown=1", 400, "no parameter 'unknown'; it has site, since, until"),
        ("usage-per-coupon?sinse=2026-09-01", 400, "did you mean since?"),
        ("usage-per-coupon?since=yesterday", 400, "the parameter since takes a date"),
        ("usage-per-coupon?since=2026-09-01T12:00:00", 400, "with its zone"),
        ("usage-per-coupon?since=2026-09-01&since=2026-09-02", 400, "since is given twice"),
        ("usage-per-coupon?site=a&site=b", 400, "site is given twice"),
        ("usage-over-time?per=year", 400, "one of day, week, month"),
        ("usage-over-time?tz=Europe/Berlim", 400, "did you mean Europe/Berlin?"),
        ("redemptions?limit=-1", 400, "a whole number from 0 on"),
        ("redemptions?limit=99999999999999999999", 400, "a whole number from 0 on"),
        ("usage-per-coupon?format=xml", 422, "'json', 'csv' or 'parquet'"),
        ("usage-per-coupon?site=%00", 422, "site"),
        ("usage-per-coupon?wait_for=-1", 422, "wait_for"),
        ("usage-per-coupon?wait_for=1000000", 400, "ends at"),
    ],
)
def test_what_is_asked_wrongly_is_refused_by_name_with_what_is_expected(
    shop: Shop, address: str, status: int, told: str
) -> None:
    assert told in assert_problem(shop.client.get(f"/v1/reports/{address}"), status)["detail"]


def test_only_a_token_that_may_read_is_answered(shop: Shop) -> None:
    with shop.server.client(shop.server.new_token("--name", "till", "--scopes", "ingest", "--any-site")) as till:
        for path in ("/v1/reports", "/v1/reports/usage-per-coupon"):
            assert "lacks the scope read" in assert_problem(till.get(path), 403)["detail"]
            assert_problem(httpx.get(shop.server.url + path, timeout=PATIENCE), 401)


@pytest.fixture(scope="module")
def of_a(shop: Shop) -> Iterator[httpx.Client]:
    """A client whose token is bound to the first shop."""
    with shop.server.client(shop.server.new_token("--name", "a", "--scopes", "read", "--site", SHOPS[0])) as client:
        yield client


@every_report
def test_a_token_of_one_site_is_told_of_that_site_alone(shop: Shop, of_a: httpx.Client, name: str) -> None:
    # First for all sites, so that there is an answer that could be given to the wrong one.
    everything = ask(shop.client, name)
    ways: tuple[dict[str, Any], ...] = ({}, {"site": SHOPS[0]})
    for parameters in ways:
        own = ask(of_a, name, **parameters)
        found = own.json()
        given: dict[str, Any] = {key: value for key, value in found["parameters"].items() if key == "at"}
        expected = shop.expected(name, site=SHOPS[0], **given)
        assert found["parameters"]["site"] == SHOPS[0]
        assert found["rows"] == json.loads(expected.to_json())
        assert SHOPS[1] not in own.text
        assert own.headers["etag"] != everything.headers["etag"]
        # What it knows of the others' answer is no proof that it may have it.
        known = {"if-none-match": everything.headers["etag"]}
        assert of_a.get(f"/v1/reports/{name}", params=parameters, headers=known).status_code == 200
    for other in (SHOPS[1], "", "nowhere"):
        told = assert_problem(of_a.get(f"/v1/reports/{name}", params={"site": other}), 403)
        assert f"bound to the site {SHOPS[0]}" in told["detail"]


# --- what is kept -----------------------------------------------------------------------------------------------------


@every_report
def test_asked_again_of_an_unchanged_log_nothing_is_computed(shop: Shop, name: str) -> None:
    at: dict[str, Any] = (
        {"at": "2026-09-15"} if "at" in {each.name for each in analytics.report(name).parameters} else {}
    )
    first = ask(shop.client, name, **at)
    computed, kept = answered(shop.client, "computed"), answered(shop.client, "kept")
    assert ask(shop.client, name, **at).content == first.content
    for form in ("csv", "parquet"):
        ask(shop.client, name, format=form, **at)
    known = shop.client.get(f"/v1/reports/{name}", params=at, headers={"if-none-match": first.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    assert known.headers["etag"] == first.headers["etag"]
    assert known.headers["cache-control"] == first.headers["cache-control"] == "private, no-cache"
    assert answered(shop.client, "computed") == computed
    assert answered(shop.client, "kept") == kept + 4


def test_an_etag_is_of_one_question_in_one_form(shop: Shop) -> None:
    ways: tuple[dict[str, Any], ...] = (
        {},
        {"format": "csv"},
        {"format": "parquet"},
        {"site": SHOPS[0]},
        {"since": "2026-09-10"},
        {"until": "2026-09-10"},
    )
    asked = [ask(shop.client, name, **each) for name in ("usage-per-coupon", "usage-per-app") for each in ways]
    tags = [each.headers["etag"] for each in asked]
    assert len(set(tags)) == len(asked)
    # The same in other words is the same question.
    again = ask(shop.client, "usage-per-coupon", until="2026-09-10T02:00:00+02:00")
    assert again.headers["etag"] == tags[5]


@pytest.mark.parametrize("header", ["W/{tag}", '"another", {tag}', "*", '"x" ,{tag}'])
def test_if_none_match_takes_lists_weak_tags_and_anything(shop: Shop, header: str) -> None:
    tag = ask(shop.client, "usage-per-app").headers["etag"]
    headers = {"if-none-match": header.format(tag=tag)}
    assert shop.client.get("/v1/reports/usage-per-app", headers=headers).status_code == 304
    assert shop.client.get("/v1/reports/usage-per-app", headers={"if-none-match": '"x"'}).status_code == 200


def test_the_answer_after_an_append_shows_it(new_server: NewServer) -> None:
    with new_server() as server, server.client() as client:
        fill(server.store)
        tag = None
        for number in range(1, 7):
            position = append(client, f"use-{number}", f"order-{number}")
            told = client.get(
                "/v1/reports/usage-per-coupon",
                params={"site": SHOPS[0], "wait_for": position},
                headers={} if tag is None else {"if-none-match": tag},
            )
            assert told.status_code == 200
            tag = told.headers["etag"]
            assert told.json()["position"] == position
            [row] = [row for row in told.json()["rows"] if row["coupon_id"] == "c-1"]
            assert row["times_used"] == number


def test_what_changes_without_the_log_is_shown_too(new_server: NewServer) -> None:
    with new_server() as server, server.client() as client:
        position = append(client, "use", "order", SHOPS[0])
        [first] = ask(client, "delivery-log").json()["rows"]
        usage = ask(client, "usage-per-coupon").headers["etag"]
        for number in (1, 2):
            assert append(client, "use", "order", SHOPS[0]) == position
            again = ask(client, "delivery-log").json()
            assert (again["position"], again["rows"][0]["duplicates"]) == (position, number)
        assert first["duplicates"] == 0
        # Only the one report reads the counts.
        assert ask(client, "usage-per-coupon").headers["etag"] == usage


def test_a_report_that_looks_at_the_clock_says_which_minute_it_took(shop: Shop) -> None:
    before = datetime.now(UTC).replace(second=0, microsecond=0)
    found = ask(shop.client, "unused-and-expiring").json()
    taken = datetime.fromisoformat(found["parameters"]["at"])
    assert before <= taken <= datetime.now(UTC)
    assert (taken.second, taken.microsecond) == (0, 0)


# --- the lake ---------------------------------------------------------------------------------------------------------


def test_a_lake_that_is_removed_under_the_server_is_made_anew(new_server: NewServer) -> None:
    with new_server() as server, server.client() as client:
        fill(server.store)
        first = ask(client, "usage-per-coupon")
        lake = lake_of(server)
        assert lake.is_dir()
        shutil.rmtree(lake)
        assert ask(client, "usage-per-coupon").content == first.content
        assert ask(client, "usage-per-coupon", site=SHOPS[0]).json()["rows"]
        assert lake.is_dir()
        assert ask(client, "redemptions").json()["position"] == first.json()["position"]


def test_a_damaged_lake_is_503_with_the_way_out_until_it_is_removed(new_server: NewServer) -> None:
    with new_server() as server, server.client() as client:
        fill(server.store)
        first = ask(client, "usage-per-coupon")
        lake = lake_of(server)
        for table, report in (("coupons", "register"), ("events", "findings")):
            for file in (lake / table).rglob("*.parquet"):
                file.write_bytes(b"this was a Parquet file" * 100)
            found = client.get(f"/v1/reports/{report}")
            assert found.status_code == 503
            assert f"remove {lake}, it is made anew" in found.json()["detail"]
        shutil.rmtree(lake)
        assert ask(client, "register").json()["rows"]
        assert ask(client, "usage-per-coupon").content == first.content


def test_an_answer_that_its_limit_may_have_cut_says_so_in_a_field_and_a_header(shop: Shop) -> None:
    whole = ask(shop.client, "redemptions", limit="all")
    assert (whole.json()["cut"], whole.headers.get("eventstore-cut")) == (False, None)
    assert len(whole.json()["rows"]) > 3
    cut = ask(shop.client, "redemptions", limit="3")
    assert (cut.json()["cut"], cut.headers["eventstore-cut"], len(cut.json()["rows"])) == (True, "limit=3", 3)
    assert ask(shop.client, "redemptions", limit="3", format="csv").headers["eventstore-cut"] == "limit=3"


def test_a_report_as_of_a_moment_does_not_look_at_the_clock(shop: Shop) -> None:
    assert ask(shop.client, "register").json()["parameters"]["at"] is not None
    assert ask(shop.client, "register", as_of="2026-09-01").json()["parameters"]["at"] is None


def test_every_worker_answers_the_same_with_the_same_tag(new_server: NewServer) -> None:
    with new_server("--workers", "2") as server:
        fill(server.store)
        found: dict[int, set[str]] = {}
        deadline = time.monotonic() + PATIENCE
        while len(found) < 2:
            assert time.monotonic() < deadline
            with server.client() as another:
                pid = another.get("/healthz").json()["pid"]
                found.setdefault(pid, set()).add(ask(another, "findings").headers["etag"])
        assert len(set.union(*found.values())) == 1


def test_events_are_taken_in_while_the_lake_is_made_and_reports_are_computed(new_server: NewServer) -> None:
    with new_server() as server, server.client() as client:
        with EventStore.open(server.store) as store:
            lines = [delivery.line() for delivery in month(events=2_500)]
            store.ingest(enumerate(lines, start=1), site=SHOPS[0])
        told: list[int] = []

        def question() -> None:
            with server.client() as other:
                for name in ("findings", "redemptions", "reconciliation"):
                    response = other.get(f"/v1/reports/{name}")
                    while response.status_code == 503:
                        response = other.get(f"/v1/reports/{name}")
                    assert response.status_code == 200, response.text
                    told.append(response.json()["position"])

        asking = threading.Thread(target=question)
        asking.start()
        taken: list[int] = []
        while asking.is_alive():
            taken.append(append(client, f"use-{len(taken)}", f"order-{len(taken)}"))
        asking.join()
        assert len(told) == 3
        assert taken == list(range(taken[0], taken[0] + len(taken)))
        # They were appended before the answers came, and not behind them.
        assert len(taken) > 5
        assert ask(client, "usage-per-coupon").json()["position"] == taken[-1]


# --- limits -----------------------------------------------------------------------------------------------------------


def test_an_answer_of_too_many_rows_is_refused_with_what_would_make_it_smaller(new_server: NewServer) -> None:
    with new_server(EVENTSTORE_REPORT_ROWS="20") as server, server.client() as client:
        fill(server.store)
        told = assert_problem(client.get("/v1/reports/redemptions"), 400)
        assert "more than 20 rows; ask for less by site, since, until, coupon, limit" in told["detail"]
        assert len(ask(client, "redemptions", limit="20").json()["rows"]) == 20


def with_hard_questions(*arguments: str) -> None:
    """`eventstore`, with two more reports: one that never ends, and one that needs all the memory there is."""
    import analytics.catalogue

    known = analytics.catalogue.reports()
    plain = analytics.report("usage-per-app")
    endless = "SELECT count(*) FROM range(1000000000) AS a(i), range(100000) AS b(j) WHERE hash(i, j) = 1"
    hungry = (
        "SELECT i, count(*) FROM (SELECT md5(i::VARCHAR) AS i FROM range(1000000000) AS a(i)) GROUP BY i ORDER BY i"
    )
    taken = " AND ".join(f"(${each.name} IS NULL OR ${each.name} IS NOT NULL)" for each in plain.parameters)
    more = (
        replace(plain, name="endless", sql=f"{endless} AND {taken}"),
        replace(
            plain,
            name="hungry",
            sql=f"SELECT * FROM ({hungry}) WHERE {taken}",
        ),
    )
    everything = (*known, *more)
    analytics.catalogue.reports = analytics.reports = lambda: everything  # type: ignore[assignment]
    command_line(*arguments)


@contextmanager
def hard(url: str, folder: Path, **settings: str) -> Iterator[Serving]:
    """A server with the hard questions."""
    server = Serving(folder, url=url, **settings)
    server.call = with_hard_questions
    try:
        server.start()
        yield server
    finally:
        server.close()


@contextmanager
def waiting(server: Serving, *names: str) -> Iterator[list[HTTPConnection]]:
    """Callers who have asked for these reports and wait, and who leave with the block."""
    address = urlsplit(server.url)
    callers = []
    for name in names:
        caller = HTTPConnection(str(address.hostname), address.port, timeout=PATIENCE)
        caller.request("GET", f"/v1/reports/{name}", headers={"Authorization": f"Bearer {server.token}"})
        callers.append(caller)
    try:
        yield callers
    finally:
        for caller in callers:
            caller.close()


def wait_until_running(client: httpx.Client, number: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while f"}} {number}\n" not in re.sub(
        r"(?s).*(eventstore_reports_running\{[^}]*\} \d+\n).*", r"\1", client.get("/metrics").text
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@sqlite
def test_two_questions_are_computed_at_once_and_end_when_their_askers_leave(store_url: str, tmp_path: Path) -> None:
    fill(store_url)
    with hard(store_url, tmp_path, EVENTSTORE_REPORT_SECONDS="600") as server, server.client() as client:
        kept = ask(client, "usage-per-coupon")
        with waiting(server, "endless", "endless?since=2026-09-01", "endless?since=2026-09-02"):
            wait_until_running(client, 2)
            # What is kept needs no turn, and neither do events.
            assert ask(client, "usage-per-coupon").content == kept.content
            positions = [append(client, f"use-{number}", f"order-{number}") for number in range(20)]
            assert positions == list(range(positions[0], positions[0] + 20))
            refused = client.get("/v1/reports/usage-per-coupon")
            assert "too many questions" in assert_problem(refused, 503)["detail"]
            assert int(refused.headers["retry-after"]) > 0
        wait_until_running(client, 0)
        assert ask(client, "usage-per-coupon").json()["position"] == positions[-1]
        assert server.stop()[0] == 0
    assert [line for line in server.complaints if '"refused"' not in line] == []


@sqlite
def test_a_question_that_takes_too_long_is_ended(store_url: str, tmp_path: Path) -> None:
    fill(store_url)
    with hard(store_url, tmp_path, EVENTSTORE_REPORT_SECONDS="1") as server, server.client() as client:
        told = assert_problem(client.get("/v1/reports/endless"), 400)["detail"]
        assert "the report endless: the query took longer than 1 seconds and was ended" in told
        assert ask(client, "usage-per-coupon").json()["rows"]
        assert server.complaints == []


@sqlite
def test_a_question_that_needs_more_memory_than_it_may_have_is_refused(store_url: str, tmp_path: Path) -> None:
    with hard(store_url, tmp_path, EVENTSTORE_REPORT_MEMORY="50MB") as server, server.client() as client:
        told = assert_problem(client.get("/v1/reports/hungry"), 400)["detail"]
        assert "memory_limit='50MB'" in told
        assert ask(client, "usage-per-coupon").json()["rows"] == []


@sqlite
def test_a_server_told_to_stop_ends_the_questions_under_way(store_url: str, tmp_path: Path) -> None:
    with (
        hard(store_url, tmp_path, EVENTSTORE_REPORT_SECONDS="600") as server,
        server.client() as client,
        waiting(server, "endless"),
    ):
        wait_until_running(client, 1)
        status, said = server.stop()
        assert status == 0
        assert "stopped" in said
