"""The API page: every route with what it may answer, shown without any other host."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from tests.serving import PROBLEM_JSON, Serving, serving

ROUTES = {
    ("post", "/v1/velo/{handler}"): {"400", "401", "403", "404", "413", "422", "503"},
    ("post", "/v1/webhooks/wix"): {"400", "401", "403", "413", "429", "503"},
    ("post", "/v1/sdk/events"): {"400", "401", "403", "413", "503"},
    ("post", "/v1/events"): {"400", "401", "403", "404", "413", "415", "422", "503"},
    ("get", "/v1/events/stream"): {"400", "401", "403", "422", "503"},
    ("get", "/v1/coupons"): {"400", "401", "403", "422", "503"},
    ("get", "/v1/coupons/{coupon_id}"): {"400", "401", "403", "404", "422", "503"},
    ("get", "/v1/coupons/{coupon_id}/history"): {"400", "401", "403", "404", "422", "503"},
    ("get", "/v1/usage"): {"400", "401", "403", "422", "503"},
    ("get", "/v1/reports"): {"401", "403"},
    ("get", "/v1/reports/{name}"): {"400", "401", "403", "404", "422", "503"},
    ("get", "/healthz"): set(),
    ("get", "/readyz"): {"503"},
    ("get", "/metrics"): {"503"},
}
OPEN = ("/healthz", "/readyz", "/metrics", "/v1/webhooks/wix")
"""What needs no token."""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ADDRESS = re.compile(r"""(?:https?:)?//[^\s"'<>)]+""")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("page")) as running:
        yield running


@pytest.fixture(scope="module")
def stranger(server: Serving) -> Iterator[httpx.Client]:
    """Someone without a token."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def schema(stranger: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = stranger.get("/openapi.json").json()
    return found


def operations(schema: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(method, path): told for path, methods in schema["paths"].items() for method, told in methods.items()}


def test_every_route_is_documented_and_no_other(schema: dict[str, Any]) -> None:
    assert operations(schema).keys() == ROUTES.keys()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: " ".join(route))
def test_a_route_says_what_it_is_for_and_how_it_refuses(schema: dict[str, Any], route: tuple[str, str]) -> None:
    told = operations(schema)[route]
    assert told["summary"]
    assert told["description"]
    refusals = {status: answer for status, answer in told["responses"].items() if status[0] in "45"}
    assert refusals.keys() >= ROUTES[route]
    for answer in refusals.values():
        assert answer["description"]
        assert answer["content"].keys() == {PROBLEM_JSON}
        assert set(answer["content"][PROBLEM_JSON]["schema"]["required"]) == {"type", "title", "status", "detail"}
    # A webhook's own signature says whose it is.
    assert bool(told.get("security")) == (route[1] not in OPEN)
    if route[0] == "post":
        assert told["requestBody"]["required"]
    for parameter in told.get("parameters", []):
        assert parameter["description"], parameter["name"]


def test_a_batch_is_documented_as_lines_in_and_lines_out(schema: dict[str, Any]) -> None:
    told = operations(schema)["post", "/v1/events"]
    assert told["requestBody"]["content"].keys() == {"application/x-ndjson"}
    assert told["responses"]["200"]["content"].keys() == {"application/x-ndjson"}


def test_the_page_loads_nothing_from_another_host(stranger: httpx.Client, server: Serving) -> None:
    page = stranger.get("/docs")
    assert page.status_code == 200
    assert [address for address in ADDRESS.findall(page.text) if urlsplit(address).hostname] == []
    loaded = re.findall(r"""<(?:script|link|img)[^>]+(?:src|href)=["']([^"']+)""", page.text)
    assert any(name.endswith(".js") for name in loaded)
    assert any(name.endswith(".css") for name in loaded)
    for name in loaded:
        address = urljoin(f"{server.url}/docs", name)
        assert urlsplit(address).netloc == urlsplit(server.url).netloc
        assert stranger.get(address).status_code == 200, name
    # Nor do the page's styles.
    for name in loaded:
        if name.endswith(".css"):
            assert re.findall(r"""(?:@import|url\()\s*["']?(?:https?:)?//""", stranger.get(name).text) == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: the page cannot be opened in a browser")
def test_a_browser_shows_every_route(server: Serving, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    options += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=8000", "--dump-dom"]
    done = subprocess.run(
        [CHROMIUM, *options, f"{server.url}/docs"], capture_output=True, timeout=120, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    # The page breaks long paths with zero-width spaces.
    shown = re.sub(r"<[^>]+>", "", done.stdout).replace("\u200b", "")
    for _, path in ROUTES:
        assert path in shown
