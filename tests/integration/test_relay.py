"""The relay that a Wix site runs: every handler forwards its event, patiently, and never tells the token."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="Node.js is not on the PATH: the relay's JavaScript cannot run")
pytestmark = needs_node

URL = "https://store.example"
TOKEN = "est_do-not-print-me"
HANDLERS = (
    "wixMarketing_onCouponCreated",
    "wixMarketing_onCouponUpdated",
    "wixMarketing_onCouponDeleted",
    "wixMarketing_onCouponApplied",
    "wixLoyalty_onCouponCreated",
    "wixLoyalty_onCouponDeleted",
)
EVENT = {
    "metadata": {"id": "c4ea2c0a-0952-48ad-9b15-39e660448663", "eventTime": "2021-01-17T11:40:56.795047Z"},
    "entity": {"name": "Été 10 % – “sale”"},
}

WIX_AUTH = """
export const elevate = (method) => (...given) => method.call({ elevated: true }, ...given);
"""
WIX_SECRETS = """
import { readFileSync } from "node:fs";
const kept = JSON.parse(readFileSync(new URL("../../secrets.json", import.meta.url)));
export const secrets = {
  async getSecretValue(name) {
    if (!this || !this.elevated) throw new Error("PERMISSION_DENIED");
    if (!(name in kept)) throw new Error("SECRET_NOT_FOUND");
    return { value: kept[name] };
  },
};
"""
REAL_FETCH = """
export const fetch = globalThis.fetch;
"""
SCRIPTED_FETCH = """
import { appendFileSync, readFileSync } from "node:fs";
const here = (name) => new URL(`../../${name}`, import.meta.url);
const answers = JSON.parse(readFileSync(here("answers.json")));
export async function fetch(url, request) {
  appendFileSync(here("requests.ndjson"), JSON.stringify({ url, ...request, at: Date.now() }) + "\\n");
  const answer = answers.length > 1 ? answers.shift() : answers[0];
  if (answer === "hang") return new Promise(() => {});
  if (answer === "unreachable") throw new Error("ECONNREFUSED");
  return new Response(answer.text, { status: answer.status, headers: answer.headers });
}
"""
# Time runs ten times as fast, for the pauses and for the clock alike.
FAST_TIME = """
const [start, now, later] = [Date.now(), Date.now, globalThis.setTimeout];
Date.now = () => start + (now() - start) * 10;
globalThis.setTimeout = (run, milliseconds) => later(run, milliseconds / 10);
"""
DRIVER = """
import { readFileSync } from "node:fs";
const calls = JSON.parse(readFileSync(new URL("calls.json", import.meta.url)));
const handlers = await import("./events.mjs");
for (const [name, event] of calls) {
  await handlers[name](event).catch(() => { process.exitCode = 1; });
}
// A request that never answers must not keep the process alive.
setTimeout(() => process.exit(), 1);
"""


def node_relay(
    tmp_path: Path,
    calls: list[tuple[str, dict[str, Any]]],
    url: str,
    token: str,
    *,
    fetch: str = REAL_FETCH,
    before: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run the relay's handlers one after another under Node, with Node's own fetch for `wix-fetch`.

    The exit code is 1 if a handler threw; `stdout` and `stderr` are what it logged.
    """
    site = tmp_path / "site"
    modules = {"wix-auth": WIX_AUTH, "wix-secrets-backend.v2": WIX_SECRETS, "wix-fetch": fetch}
    for name, text in modules.items():
        module = site / "node_modules" / name
        module.mkdir(parents=True, exist_ok=True)
        (module / "package.json").write_text('{"type": "module", "exports": "./index.js"}')
        (module / "index.js").write_text(text)
    relay = resources.files("eventstore.relay").joinpath("events.js").read_text(encoding="utf-8")
    (site / "events.mjs").write_text(relay, encoding="utf-8")
    (site / "secrets.json").write_text(json.dumps({"EVENTSTORE_URL": url, "EVENTSTORE_TOKEN": token}))
    (site / "calls.json").write_text(json.dumps(calls))
    (site / "driver.mjs").write_text(before + DRIVER)
    assert NODE is not None
    return subprocess.run(
        [NODE, "driver.mjs"], cwd=site, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False
    )


def answer(status: int, body: object = None, **headers: str) -> dict[str, Any]:
    return {
        "status": status,
        "text": json.dumps(body or {}),
        "headers": {k.replace("_", "-"): v for k, v in headers.items()},
    }


class Run:
    """One handler's run against scripted answers; the last answer repeats."""

    def __init__(self, tmp_path: Path, *answers: object, handler: str = HANDLERS[0], url: str = URL) -> None:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "answers.json").write_text(json.dumps(answers))
        self.result = node_relay(tmp_path, [(handler, EVENT)], url, TOKEN, fetch=SCRIPTED_FETCH, before=FAST_TIME)
        told = tmp_path / "site" / "requests.ndjson"
        self.requests = [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []
        assert TOKEN not in self.result.stdout + self.result.stderr


@pytest.mark.parametrize("handler", HANDLERS)
def test_each_handler_posts_its_event_unchanged_with_the_bearer_token(tmp_path: Path, handler: str) -> None:
    run = Run(tmp_path, answer(200, {"outcome": "appended"}), handler=handler)
    [request] = run.requests
    assert request["url"] == f"{URL}/v1/velo/{handler}"
    assert request["method"] == "POST"
    assert request["headers"] == {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    assert json.loads(request["body"]) == EVENT
    assert (run.result.returncode, run.result.stdout, run.result.stderr) == (0, "", "")


def test_a_pasted_address_with_a_slash_and_spaces_still_works(tmp_path: Path) -> None:
    run = Run(tmp_path, answer(200), url=f" {URL}/ \n")
    assert run.requests[0]["url"] == f"{URL}/v1/velo/{HANDLERS[0]}"


@pytest.mark.parametrize("trouble", [answer(503), answer(429, Retry_After="1"), answer(500), "unreachable", "hang"])
def test_passing_trouble_is_tried_again(tmp_path: Path, trouble: object) -> None:
    run = Run(tmp_path, trouble, answer(200, {"outcome": "appended"}))
    assert len(run.requests) == 2
    assert run.requests[0]["body"] == run.requests[1]["body"]
    assert (run.result.returncode, run.result.stderr) == (0, "")


def test_retry_after_is_honoured_up_to_two_seconds(tmp_path: Path) -> None:
    run = Run(tmp_path, answer(503, Retry_After="1.5"), answer(503, Retry_After="3600"), answer(200))
    first, second, third = (request["at"] for request in run.requests)
    # A timer may fire a millisecond early, which is ten here.
    assert second - first >= 1450
    assert 1950 <= third - second < 10_000
    assert run.result.returncode == 0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_refusal_is_not_tried_again_and_shows_in_the_log(tmp_path: Path, status: int) -> None:
    run = Run(tmp_path, answer(status, {"detail": "no"}))
    assert len(run.requests) == 1
    assert run.result.returncode == 1
    assert run.result.stderr == (
        f"{HANDLERS[0]} {EVENT['metadata']['id']}: not sent to the event store: HTTP {status} (attempt 1)\n"
    )


@pytest.mark.parametrize("trouble", [answer(503, Retry_After="60"), "unreachable", "hang"])
def test_it_gives_up_within_the_time_that_wix_allows(tmp_path: Path, trouble: object) -> None:
    run = Run(tmp_path, trouble)
    assert 3 <= len(run.requests) <= 4
    assert run.requests[-1]["at"] - run.requests[0]["at"] < 14_000
    assert run.result.returncode == 1
    assert HANDLERS[0] in run.result.stderr


@pytest.mark.parametrize("outcome", ["quarantined", "conflict"])
def test_an_event_kept_aside_is_a_warning(tmp_path: Path, outcome: str) -> None:
    run = Run(tmp_path, answer(200, {"outcome": outcome}))
    assert run.result.returncode == 0
    assert outcome in run.result.stderr
    assert "c4ea2c0a-0952-48ad-9b15-39e660448663" in run.result.stderr


def test_an_answer_that_is_not_json_is_no_failure(tmp_path: Path) -> None:
    run = Run(tmp_path, {"status": 204, "text": None, "headers": {}})
    assert (run.result.returncode, len(run.requests)) == (0, 1)


def test_node_s_own_fetch_reaches_a_server(tmp_path: Path) -> None:
    received = []

    class Store(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, self.headers["Authorization"], json.loads(body)))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args: object) -> None:
            """Keep the test's output clean."""

    with HTTPServer(("127.0.0.1", 0), Store) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        calls: list[tuple[str, dict[str, Any]]] = [(handler, EVENT) for handler in HANDLERS]
        result = node_relay(tmp_path, calls, f"http://127.0.0.1:{server.server_port}", TOKEN)
        server.shutdown()
        thread.join()
    assert (result.returncode, result.stderr) == (0, "")
    assert received == [(f"/v1/velo/{handler}", f"Bearer {TOKEN}", EVENT) for handler in HANDLERS]
