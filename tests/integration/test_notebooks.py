"""The notebooks: run on stores of every size, written to files, opened for editing, and shown in a real browser.

What they ask is the lake's, whichever engine the store is on: on both they are run; the rest stands on SQLite.
"""

from __future__ import annotations

import ast
import base64
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import pyarrow as pa
import pytest

import analytics
from analytics import exporting, parts
from analytics.notebook import FOLDER, notebook, notebooks
from analytics.sql_cells import SqlCells
from eventstore.config import Settings
from eventstore.demo import examples, month
from eventstore.errors import InputError
from eventstore.store import EventStore
from tests.browser import CHROMIUM, Browser, browser, count, found
from tests.commands import Command
from tests.processes import Program
from tests.serving import APPLIED, CREATED, DELETED, PATIENCE, environment
from tests.stores import NewUrl, SqliteStores

NAMES = [each.name for each in notebooks()]
STORES = ("demo", "empty", "five")
SITE = "shop"
HOSTILE = "</script><img src=x onerror=alert(1)>"
"""What a coupon may be called by somebody who means no good."""
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on the PATH: nothing can be opened in a browser"
)


def fill_demo(store: EventStore) -> None:
    deliveries = [*examples(), *month(7, events=400)]
    store.ingest(enumerate((each.line() for each in deliveries), 1), site=SITE)


def fill_nothing(_: EventStore) -> None:
    """An empty store stays empty."""


def fill_five(store: EventStore) -> None:
    """A coupon made, used, told of once more, used again beyond its limit of one, and deleted."""

    def send(handler: str, number: int, day: int, **body: Any) -> None:
        metadata = {"id": f"event-{number}", "entityId": "c-1", "eventTime": f"2026-09-{day:02d}T10:00:00.000001Z"}
        sent = json.dumps({"metadata": {**metadata, "triggeredByAnonymizeRequest": False}, **body}).encode()
        [outcome] = store.receive(sent, handler=handler, site=SITE)
        assert outcome.kind == "appended", outcome

    shown = {"_id": "c-1", "name": HOSTILE, "code": "ONE", "type": "MoneyOff", "moneyOffAmount": 5, "usageLimit": 1}
    send(CREATED, 1, 1, entity={**shown, "active": True})
    for number, (order, day, uses) in enumerate((("o-1", 2, 1), ("o-1", 3, 1), ("o-2", 4, 2)), start=2):
        used = {**shown, "active": True, "numberOfUsages": uses}
        send(APPLIED, number, day, data={"coupon": used, "wixAppId": "app-1", "wixAppOrderId": order})
    send(DELETED, 5, 5)


FILL = {"demo": fill_demo, "empty": fill_nothing, "five": fill_five}


class NewSettings(Protocol):
    def __call__(self, kind: str) -> Settings: ...


@contextmanager
def stores(new: Any, folder: Path) -> Iterator[NewSettings]:
    """Makes a store of a kind once, however often it is asked for; its lake is in `folder`."""
    urls: dict[str, str] = {}
    opened: list[AbstractContextManager[str]] = []

    def settings(kind: str) -> Settings:
        if kind not in urls:
            opened.append(new())
            urls[kind] = opened[-1].__enter__()
            with EventStore.open(urls[kind]) as store:
                FILL[kind](store)
        return Settings(url=urls[kind], lake=str(folder / kind))

    try:
        yield settings
    finally:
        for each in opened:
            each.__exit__(None, None, None)


@pytest.fixture(scope="module")
def settings_on_each(new_url: NewUrl, dialect: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewSettings]:
    with stores(new_url, tmp_path_factory.mktemp(f"lakes-{dialect}")) as made:
        yield made


@pytest.fixture(scope="module")
def settings_of(sqlite_stores: SqliteStores, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewSettings]:
    with stores(sqlite_stores.new, tmp_path_factory.mktemp("lakes")) as made:
        yield made


def every(kind: type[Any], shown: object) -> list[Any]:
    """The parts of a kind in what a cell shows, however deep."""
    if isinstance(shown, kind):
        return [shown]
    inner = getattr(shown, "things", None) or ([shown.content] if isinstance(shown, parts.Card) else [])
    return [each for thing in inner for each in every(kind, thing)]


def all_shown(ran: exporting.Ran, kind: type[Any]) -> list[Any]:
    return [each for cell in ran.cells for each in every(kind, cell.shown)]


def tiles(ran: exporting.Ran) -> dict[str, str]:
    return {tile.label: tile.value for each in all_shown(ran, parts.Tiles) for tile in each.tiles}


def assert_whole(page: str) -> None:
    """Nothing is loaded, and nothing runs that a coupon is called."""
    head, _, rest = page.partition('<script type="application/json" id="specs">')
    specs, _, scripts = rest.partition("</script>")
    json.loads(specs)
    # Nothing is loaded: neither by the page, nor by the library within it, which it may not.
    assert re.findall(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?(?!data:)""", head + specs) == []
    assert re.findall(r"""(?:url\(|@import)[^)]*//""", head) == []
    assert "default-src 'none'" in head
    assert "connect-src" not in head
    assert scripts.count("</script>") == 1
    assert HOSTILE not in page


# --- run --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "name", "kind"),
    [
        *(("sqlite", name, kind) for name in NAMES for kind in STORES),
        *(("postgresql", name, "demo") for name in NAMES),
    ],
    indirect=["dialect"],
)
def test_every_notebook_runs_on_a_store_of_any_size_and_its_page_holds_all_it_needs(
    name: str, kind: str, settings_on_each: NewSettings
) -> None:
    used = settings_on_each(kind)
    ran = exporting.run(name, settings=used)
    with EventStore.open(used.url) as store:
        assert ran.position == store.status().events
    assert [cell for cell in ran.cells if cell.shown is not None]
    assert_whole(exporting.page(ran))


def test_the_dashboard_counts_five_events_as_one_does_by_hand(settings_of: NewSettings) -> None:
    shown = tiles(exporting.run("overview", settings=settings_of("five")))
    assert (shown["Uses"], shown["Coupons used"], shown["Counts that differ"]) == ("2", "1", "0")


def test_the_dashboard_agrees_with_the_store_on_a_month_of_a_shop(settings_of: NewSettings) -> None:
    used = settings_of("demo")
    shown = tiles(exporting.run("overview", settings=used, asked={"since": "2000-01-01", "until": "2100-01-01"}))
    with EventStore.open(used.url) as store:
        store.project()
        times = [each.usage.times_used for each in store.coupons(limit=1000)]
    assert shown["Uses"] == f"{sum(times):,}"
    assert shown["Coupons used"] == f"{sum(1 for each in times if each):,}"


def test_a_span_of_days_and_a_site_leave_out_the_rest(settings_of: NewSettings) -> None:
    used = settings_of("five")
    days = {"since": "2026-09-03", "until": "2026-09-04"}
    assert tiles(exporting.run("overview", settings=used, asked=days))["Uses"] == "1"
    assert tiles(exporting.run("overview", settings=used, asked={"site": SITE}))["Uses"] == "2"


def test_an_empty_store_is_told_in_sentences_and_not_in_empty_frames(settings_of: NewSettings) -> None:
    ran = exporting.run("overview", settings=settings_of("empty"))
    from analytics.charts import Chart

    assert all_shown(ran, Chart) == []
    assert "No coupon was used in this span of days." in [each.text for each in all_shown(ran, parts.Sentence)]


@pytest.mark.parametrize("asked", ["ONE", "one", "c-1"])
def test_a_coupon_s_story_is_found_by_its_code_in_any_case_and_by_its_id(asked: str, settings_of: NewSettings) -> None:
    ran = exporting.run("coupon_story", settings=settings_of("five"), asked={"coupon": asked})
    shown = tiles(ran)
    assert (shown["Code"], shown["State"], shown["Uses"], shown["Wix's count"]) == ("ONE", "deleted", "2", "2")
    [history] = all_shown(ran, parts.Table)
    names, rows, _ = parts.table(history.data)
    types = [row[names.index("type")] for row in rows]
    assert types == ["coupon.created", "coupon.deleted"]


def test_a_coupon_that_is_not_there_is_said_not_to_be(settings_of: NewSettings) -> None:
    ran = exporting.run("coupon_story", settings=settings_of("five"), asked={"coupon": "TWO"})
    assert "No coupon has the code or the id 'TWO'." in [each.text for each in all_shown(ran, parts.Sentence)]


def test_a_notebook_is_a_program_too_and_asks_the_store_that_the_environment_names(
    settings_of: NewSettings, tmp_path: Path
) -> None:
    used = settings_of("five")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(notebook("overview").path)],
        cwd=tmp_path,
        env=environment(EVENTSTORE_URL=used.url, EVENTSTORE_LAKE=str(used.lake)),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")


# --- SQL cells --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_no_sql_cell_puts_a_value_into_its_text(name: str) -> None:
    tree = ast.parse(notebook(name).path.read_text(encoding="utf-8"))
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "sql":
            for text in ast.walk(call.args[0]):
                assert not isinstance(text, ast.FormattedValue), ast.unparse(text)


def test_a_sql_cell_is_answered_with_an_arrow_table_and_can_change_nothing(settings_of: NewSettings) -> None:
    import marimo as mo

    used = settings_of("five")
    with analytics.connect(used.url, lake=used.lake) as db:
        cursor = SqlCells(db).cursor()
        cursor.execute(
            "SELECT type, count(*) AS n FROM facts WHERE coupon_id = ? GROUP BY type ORDER BY n DESC", ["c-1"]
        )
        assert cursor.fetchall()[0] == ("coupon.applied", 3)
        assert isinstance(cursor.fetch_arrow_table(), pa.Table)
        for harm in ("DROP VIEW facts", "INSTALL httpfs", "SELECT * FROM read_text('/etc/passwd')"):
            with pytest.raises(Exception, match=r"only answers questions|[Pp]ermission|disabled"):
                cursor.execute(harm)
        [catalog] = SqlCells(db).adbc_get_objects(depth="tables").read_all().to_pylist()
        [schema] = catalog["catalog_db_schemas"]
        assert {"facts", "coupons", "redemptions"} <= {each["table_name"] for each in schema["db_schema_tables"]}
        assert "times_used" in {each.name for each in SqlCells(db).adbc_get_table_schema("coupon_usage")}
        # marimo takes it for what it is made to look like, and gives the answer as it is.
        from marimo._sql.get_engines import SUPPORTED_ENGINES

        [engine] = [each for each in SUPPORTED_ENGINES if each.is_compatible(SqlCells(db))][:1]
        assert engine.__name__ == "AdbcDBAPIEngine"
    assert mo.__version__


# --- written to a file ------------------------------------------------------------------------------------------------


@needs_chromium
def test_a_page_opens_without_a_network_and_draws_its_charts(settings_of: NewSettings, tmp_path: Path) -> None:
    exporting.export("coupon_story", tmp_path / "five.html", settings=settings_of("five"), asked={"coupon": "ONE"})
    exporting.export("overview", tmp_path / "demo.html", settings=settings_of("demo"))
    with browser(tmp_path) as tab:
        tab.open((tmp_path / "demo.html").as_uri(), dark=True)
        tab.wait("document.readyState === 'complete' && document.querySelectorAll('[data-chart]').length >= 4")
        tab.wait("[...document.querySelectorAll('[data-chart]')].every((each) => each.querySelector('svg'))")
        tab.open((tmp_path / "five.html").as_uri(), width=390)
        tab.wait_text("Uses, added up")
        tab.wait("[...document.querySelectorAll('[data-chart]')].every((each) => each.querySelector('svg'))")
        tab.wait_text(HOSTILE)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert tab.hosts() == set()
        assert tab.complaints == []


@pytest.mark.parametrize("name", NAMES)
def test_a_jupyter_notebook_holds_the_code_and_its_charts_as_pictures(name: str, settings_of: NewSettings) -> None:
    book = json.loads(exporting.jupyter(exporting.run(name, settings=settings_of("demo"))))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert len({each["id"] for each in book["cells"]}) == len(book["cells"])
    code = [each for each in book["cells"] if each["cell_type"] == "code"]
    for each in code:
        ast.parse(each["source"])
        assert each.keys() == {"cell_type", "id", "metadata", "execution_count", "source", "outputs"}
    pictures = re.findall(r"data:image/png;base64,([^\"\\]+)", json.dumps(code))
    assert pictures
    assert all(base64.b64decode(each).startswith(b"\x89PNG") for each in pictures)


def test_a_file_is_replaced_whole_and_only_by_what_it_can_be(settings_of: NewSettings, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    target.write_text("before")
    assert exporting.export("overview", target, settings=settings_of("five")) == 5
    assert target.read_text().startswith("<!doctype html>")
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(InputError, match=r"ends in \.html or \.ipynb"):
        exporting.export("overview", tmp_path / "page.pdf", settings=settings_of("five"))
    with pytest.raises(InputError, match=r"nowhere/page\.html cannot be written"):
        exporting.export("overview", tmp_path / "nowhere" / "page.html", settings=settings_of("five"))


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(settings_of: NewSettings, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line on the store of five events, in an empty folder."""
    used = settings_of("five")
    monkeypatch.setenv("EVENTSTORE_LAKE", str(used.lake))
    return Command(used.url)


def test_the_command_lists_the_notebooks_and_writes_one(command: Command) -> None:
    assert [each["name"] for each in command.json("notebook", "--list")] == NAMES
    assert NAMES[0] == "start_here"
    assert "dashboard" in command("notebook", "--list")
    assert "at position 5" in command("notebook", "coupon-story", "-p", "coupon=ONE", "--export", "one.html")
    assert "ONE" in Path("one.html").read_text(encoding="utf-8")


def test_what_is_wrong_is_said_before_anything_starts(command: Command, tmp_path: Path) -> None:
    line = command.refused("notebook", "overvew", status=3)
    assert "did you mean overview?" in line
    assert "no parameter 'color'" in command.refused("dashboard", "-p", "color=red", status=1)
    assert "NAME=VALUE" in command.run("dashboard", "-p", "red").stderr
    for given in ("x", "2026-02-30", "2026-09-01T00:00:00Z", ""):
        for arguments in (["dashboard"], ["notebook"], ["notebook", "overview", "--export", "x.html"]):
            line = command.refused(*arguments, "-p", f"since={given}", status=1)
            assert f"since takes a day, as in 2026-09-01, not {given!r}" in line
    line = command.refused("dashboard", "-p", "since=2026-09-02", "-p", "until=2026-09-01", status=1)
    assert "since=2026-09-02 is after until=2026-09-01" in line
    away = Command(f"sqlite:///{tmp_path / 'away.db'}")
    assert "away.db" in away.refused("dashboard", status=1)
    assert "away.db" in away.refused("notebook", "--export", "x.html", status=1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = command.refused("dashboard", "--port", port, status=1)
        assert f"the port {port} of 127.0.0.1" in line
        assert "--port 0" in line


@pytest.mark.parametrize("arguments", [("dashboard",), ("notebook",), ("notebook", "overview", "--export", "x.html")])
def test_without_the_extra_each_command_says_how_to_install_it(
    arguments: tuple[str, ...], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As Python takes a module that is not installed.
    monkeypatch.setitem(sys.modules, "marimo", None)
    monkeypatch.setitem(sys.modules, "altair", None)
    line = command.refused(*arguments, status=1)
    assert "notebooks need marimo, altair" in line
    assert "pip install 'coupon-eventstore[notebooks]'" in line
    assert command("notebook", "--list")


# --- as a process -----------------------------------------------------------------------------------------------------


class Outside:
    """A proxy that nothing should ask anything of. `asked`: whoever did, by the first line of the request."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(1000).decode(errors="replace").partition("\r\n")[0])

    def close(self) -> None:
        self._socket.close()


@contextmanager
def running(settings: Settings, folder: Path, *arguments: str) -> Iterator[tuple[str, Program, Outside]]:
    """The command as a process: its address, itself, and the proxy that everything for outside would go through."""
    outside = Outside()
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"), outside.url)
    proxies |= dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")
    here = {
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "XDG_STATE_HOME": str(folder),
        "XDG_CACHE_HOME": str(folder),
    }
    process = Program(
        ["--store", settings.url, *arguments, "--port", "0", "--no-browser"],
        cwd=folder,
        env=environment(EVENTSTORE_LAKE=str(settings.lake), **proxies, **here),
        errors=folder / "stderr.txt",
    )
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    try:
        said = next(line for line in process.lines() if " at http://" in line)
        watchdog.cancel()
        address = said.split(" at ")[1].strip()
        _wait_for(address)
        yield address, process, outside
    finally:
        watchdog.cancel()
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            try:
                process.ended(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.ended(PATIENCE)
        outside.close()


def _wait_for(address: str) -> None:
    import time

    deadline = time.monotonic() + PATIENCE
    root = httpx.URL(address).copy_with(path="/health", query=None)
    while True:
        try:
            httpx.get(root, trust_env=False, timeout=PATIENCE)
        except httpx.HTTPError:
            assert time.monotonic() < deadline, "nothing listens"
            time.sleep(0.1)
        else:
            return


@pytest.fixture(scope="module")
def dashboard(
    settings_of: NewSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, Outside]]:
    """The dashboard of a month of a shop as a process; it complains of nothing, asks nobody outside, and ends when asked to."""
    folder = tmp_path_factory.mktemp("dashboard")
    with running(settings_of("demo"), folder, "dashboard") as (address, process, outside):
        yield address, folder, outside
        process.send_signal(signal.SIGINT)
        status, _ = process.ended(PATIENCE)
    assert status in (0, 130)
    assert (folder / "stderr.txt").read_text(encoding="utf-8") == ""
    assert outside.asked == []


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


CARDS = ("Uses over time", "Coupons used most", "Our count and Wix's", "Findings", "Deliveries")
WIDE, NARROW = 1400, 390


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(WIDE, False), (NARROW, True)], ids=["wide and light", "narrow and dark"])
def test_the_dashboard_shows_itself_in_a_browser(
    dashboard: tuple[str, Path, Outside], tab: Browser, width: int, dark: bool, tmp_path: Path
) -> None:
    address, _, _ = dashboard
    tab.open(address, width=width, height=2400, dark=dark)
    for card in CARDS:
        tab.wait_text(card)
    tab.wait(f"{count('svg.marks')} >= 4")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    text = tab.evaluate(f"getComputedStyle({found('svg.marks text')}).fill")
    assert _lightness(ground) < 100 if dark else _lightness(ground) > 200, ground
    assert _lightness(text) > 150 if dark else _lightness(text) < 100, text
    tab.screenshot(tmp_path / "dashboard.png")
    assert (tmp_path / "dashboard.png").read_bytes().startswith(b"\x89PNG")
    assert tab.hosts() == {"127.0.0.1"}
    assert tab.complaints == []


def _lightness(color: str) -> float:
    """The mean of the parts of `rgb(…)`, 0 to 255, as the browser tells it."""
    parts_of = [float(each) for each in re.findall(r"[0-9.]+", color)[:3]]
    return sum(parts_of) / 3 * (255 if "color(" in color else 1)


@needs_chromium
def test_the_dashboard_answers_to_its_filters(
    dashboard: tuple[str, Path, Outside], tab: Browser, settings_of: NewSettings
) -> None:
    address, _, _ = dashboard
    used = settings_of("demo")

    def uses(**asked: str) -> str:
        return tiles(exporting.run("overview", settings=used, asked=asked))["Uses"]

    everything = uses(since="2000-01-01", until="2100-01-01")
    tab.open(address, width=WIDE, height=2400)
    tab.wait(f"{count('svg.marks')} >= 4")
    span = found("select", 1)
    assert tab.evaluate(f"{span}.selectedOptions[0].text") == "Last 30 days"
    for _ in range(2):
        tab.press(span, "ArrowUp")
    tab.wait(f"{span}.selectedOptions[0].text === 'All days'")
    tab.wait_text(f" {everything} ")
    # The month alone is of one site; the documented examples are of years before.
    assert uses() != everything
    tab.click(f"{found('marimo-refresh')}.shadowRoot.querySelector('button, svg')")
    tab.wait_text(f" {everything} ")
    assert tab.complaints == []


@needs_chromium
def test_another_coupon_s_story_is_shown_when_its_code_is_typed(
    settings_of: NewSettings, tab: Browser, tmp_path: Path
) -> None:
    with running(settings_of("demo"), tmp_path, "dashboard", "coupon_story", "-p", "coupon=WELCOME10") as (
        address,
        _,
        outside,
    ):
        tab.open(address, width=WIDE, height=2000)
        tab.wait_text("Welcome 10 %")
        tab.click(found("input"))
        tab.type("SummerSale")
        tab.wait_text("after deletion")
        tab.click(f"{found('marimo-switch')}.shadowRoot.querySelector('button')")
        tab.wait_text("order 6758b1bc-539f-430c-a0ea-889130ef3351")
        assert tab.hosts() == {"127.0.0.1"}
        assert outside.asked == []


def test_a_dashboard_that_other_machines_reach_shows_nothing_without_its_secret(
    settings_of: NewSettings, tmp_path: Path
) -> None:
    with running(settings_of("five"), tmp_path, "dashboard", "--host", "0.0.0.0") as (address, _, _):  # noqa: S104
        local = httpx.URL(address).copy_with(host="127.0.0.1")
        assert len(local.params["access_token"]) >= 32
        _refuses_strangers(local)


def _refuses_strangers(address: httpx.URL) -> None:
    with httpx.Client(trust_env=False, timeout=PATIENCE, follow_redirects=True) as known:
        answer = known.get(address)
        assert answer.status_code == 200
        assert "marimo-filename" in answer.text
    with httpx.Client(trust_env=False, timeout=PATIENCE) as stranger:
        for refused in (
            stranger.get(address.copy_with(query=None)),
            stranger.get(address.copy_with(query=b"access_token=guess")),
        ):
            assert refused.status_code in (303, 307, 401, 403)
            assert "marimo-filename" not in refused.text


@needs_chromium
def test_a_notebook_opens_as_a_copy_to_edit_asks_nobody_outside_and_keeps_one_s_work(
    settings_of: NewSettings, tab: Browser, tmp_path: Path
) -> None:
    installed = {each.name: each.read_bytes() for each in FOLDER.iterdir() if each.is_file()}
    with running(settings_of("five"), tmp_path, "notebook", "start_here") as (address, _, outside):
        copy = tmp_path / "notebooks" / "start_here.py"
        assert copy.read_bytes() == installed["start_here.py"]
        _refuses_strangers(httpx.URL(address))
        tab.open(address, width=WIDE, height=1400)
        tab.wait_text("What there is")
        tab.wait_text("redemptions")
        assert tab.hosts() == {"127.0.0.1"}
        assert outside.asked == []
    copy.write_text(copy.read_text(encoding="utf-8").replace("Start here", "Mine"), encoding="utf-8")
    mine = copy.read_bytes()
    with running(settings_of("five"), tmp_path, "notebook", "start_here"):
        assert copy.read_bytes() == mine
    assert {each.name: each.read_bytes() for each in FOLDER.iterdir() if each.is_file()} == installed
    assert (tmp_path / "stderr.txt").is_file()  # where marimo says what it finds of the machine
