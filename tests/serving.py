"""A real `eventstore serve` to test against: a process of its own over a store on either engine, always ended; and the CLI."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx

from tests.commands import Done, run
from tests.processes import Program
from tests.rows import rows

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data" / "wix"
PROJECTIONS = DATA.parent / "projections"
"""Folders with examples of what the owner of a store may add."""
INDEX: dict[str, Any] = json.loads((DATA / "INDEX.json").read_text(encoding="utf-8"))
SITE: str = INDEX["site_id"]
PROBLEM_JSON = "application/problem+json"
CREATED = "wixMarketing_onCouponCreated"
APPLIED = "wixMarketing_onCouponApplied"
DELETED = "wixMarketing_onCouponDeleted"

PATIENCE = 60.0
"""Seconds after which a process that neither starts nor ends is killed, so that a fault shows as a failure and not as a hang."""


_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Nothing here speaks TLS; reading the system's certificates would be most of the time that a client takes to make."""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "eventstore", *arguments]


def environment(**settings: str) -> dict[str, str]:
    """This process's environment, with no settings of the store but those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTSTORE_")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **settings}


def cli(*arguments: str, cwd: Path, given: bytes | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run one `eventstore` command in `cwd` with `given` as its standard input."""
    done = subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(**settings),
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def _is_usual(line: str) -> bool:
    try:
        return bool(json.loads(line)["level"] in ("DEBUG", "INFO"))
    except (ValueError, KeyError, TypeError):
        return False


class Serving:
    """One store and the server over it, which may be killed, stopped and started again; its address may then be another."""

    def __init__(self, folder: Path, *options: str, url: str | None = None, **settings: str) -> None:
        self.folder = folder
        self.path = folder / "log.db"
        self.token = ""
        self.url = ""
        self.store = url or str(self.path)
        self.process: Program | None = None
        self.call: Callable[..., None] | None = None
        """What the process calls in place of the command line's entry point."""
        self._options = options
        self._settings = settings
        self._errors = folder / "stderr.txt"

    def start(self, port: str = "0") -> None:
        """Start the server, on a free port unless one is given, and wait until it listens."""
        self.process = Program(
            ["--store", self.store, "serve", "--port", port, *self._options],
            cwd=self.folder,
            env=environment(**self._settings),
            errors=self._errors,
            call=self.call,
        )
        watchdog = threading.Timer(PATIENCE, self.process.kill)
        watchdog.start()
        try:
            self._read_announcement(self.process)
        finally:
            watchdog.cancel()

    def _read_announcement(self, process: Program) -> None:
        for line in process.lines():
            name, _, value = line.strip().partition(" ")
            if name == "listening":
                self.url = value.removeprefix("on ")
            if name == "token":
                self.token = value.strip()
            # The token is told once in the life of a store, behind the address of the API's page.
            if name == "token" or (name == "API" and self.token):
                return
        raise AssertionError(f"the server did not start: {self.stderr}")

    @property
    def stderr(self) -> str:
        """All that the servers over this store have complained about."""
        return self._errors.read_text(encoding="utf-8")

    @property
    def complaints(self) -> list[str]:
        """What the servers have logged as wrong, and anything on standard error that is no line of their logs."""
        return [line for line in self.stderr.splitlines() if not _is_usual(line)]

    def kill(self) -> None:
        """End the server as a power cut would: SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self._gone()

    def stop(self, with_signal: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Ask the server to stop and wait until it has: `(exit status, what it said)`."""
        assert self.process is not None
        self.process.send_signal(with_signal)
        return self._gone()

    def restart(self) -> None:
        """Kill the server if it runs, and start another over the same store."""
        if self.process is not None:
            self.kill()
        self.start()

    def _gone(self) -> tuple[int, str]:
        assert self.process is not None
        try:
            status, said = self.process.ended(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            _, said = self.process.ended(PATIENCE)
            raise AssertionError(f"the server did not end: {said}{self.stderr}") from None
        self.process = None
        return status, said

    def close(self) -> None:
        """End whatever still runs."""
        if self.process is not None:
            self.kill()

    def client(self, token: str | None = None) -> httpx.Client:
        """A client with the bearer header; close it."""
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE, verify=_NO_CERTIFICATES)

    def cli(self, *arguments: str, given: bytes | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command on this store, beside the server, as a process of its own."""
        return cli("--store", self.store, *arguments, cwd=self.folder, given=given)

    def run(self, *arguments: str, given: bytes = b"") -> Done:
        """Run a command on this store in the process of the tests, which is much sooner done."""
        return run("--store", self.store, *arguments, given=given)

    def new_token(self, *options: str) -> str:
        """A token made by `eventstore token create`."""
        made = self.run("token", "create", *options)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """What the store's database holds, read past the store's own code."""
        return rows(self.store, statement, *parameters)

    def original(self, position: int) -> bytes:
        """The exact bytes that the event at this position was delivered as."""
        [(kept,)] = self.rows("SELECT original FROM events WHERE position = ?", position)
        return zlib.decompress(kept)


class NewServer(Protocol):
    """Starts a server over an empty store, and ends both with the block; see `serving` for what it takes."""

    def __call__(self, *options: str, **settings: str) -> AbstractContextManager[Serving]: ...


@contextmanager
def serving(folder: Path, *options: str, url: str | None = None, token: str = "", **settings: str) -> Iterator[Serving]:
    """A running server over a new store in `folder`, or over the one at `url`; `token` is one that this store has already.

    `options` are those of `serve`, `settings` EVENTSTORE_… variables.
    """
    folder.mkdir(exist_ok=True)
    server = Serving(folder, *options, url=url, **settings)
    server.token = token
    try:
        server.start()
        yield server
    finally:
        server.close()


@contextmanager
def interruptible() -> Iterator[None]:
    """A process started in the background of a shell ignores SIGINT, and so would its children."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


# Deliveries


def fixture(file: str) -> bytes:
    """The bytes of one of Wix's documented deliveries."""
    return (DATA / file).read_bytes()


def one_line(body: bytes) -> bytes:
    """A JSON document as one NDJSON line."""
    return json.dumps(json.loads(body)).encode() + b"\n"


def created(event_id: str, coupon_id: str = "c-1", **fields: Any) -> dict[str, Any]:
    """A small Velo delivery of wixMarketing_onCouponCreated."""
    return {
        "metadata": {"id": event_id, "entityId": coupon_id, "eventTime": "2025-03-01T08:00:00Z"},
        "entity": {"_id": coupon_id, "code": "SPRING", "type": "PercentOff", "percentOffRate": 10, **fields},
    }


def applied(event_id: str, order_id: str, coupon_id: str = "c-1", code: str = "SPRING") -> dict[str, Any]:
    """A small Velo delivery of wixMarketing_onCouponApplied."""
    return {
        "metadata": {"id": event_id, "entityId": coupon_id, "eventTime": "2025-03-02T08:00:00Z"},
        "data": {"coupon": {"_id": coupon_id, "code": code, "type": "PercentOff"}, "wixAppOrderId": order_id},
    }


def wrapped(handler: str, body: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A batch's line that says by which handler its body came."""
    return {"route": "velo", "handler": handler, "body": body, **more}


def ndjson(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


# Answers


def answers(response: httpx.Response) -> list[dict[str, Any]]:
    """The answer lines to a batch."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in response.text.splitlines()]


def assert_problem(response: httpx.Response, *statuses: int) -> dict[str, Any]:
    """The problem details that a refusal must be: of one of these statuses, or of any 4xx if none is given."""
    assert response.status_code in (statuses or range(400, 500)), response.text
    assert response.headers["content-type"] == PROBLEM_JSON
    told: dict[str, Any] = response.json()
    assert told["status"] == response.status_code
    for name in ("type", "title", "detail"):
        assert isinstance(told[name], str)
        assert told[name]
    return told


def kept_body(server: Serving, quarantine_id: int) -> tuple[str, bytes]:
    """`(kind, exact bytes)` of an entry of the quarantine."""
    [(kind, body)] = server.rows("SELECT kind, body FROM quarantine WHERE id = ?", quarantine_id)
    return kind, body


def settled(client: httpx.Client, position: int, path: str, **parameters: Any) -> Any:
    """What the server answers once its projections have taken in `position`, however long that takes on this machine."""
    response = client.get(path, params={"wait_for": position, **parameters})
    while response.status_code == 503:
        assert client.get("/healthz").json()["status"] == "ok"
        response = client.get(path, params={"wait_for": position, **parameters})
    assert response.status_code == 200, response.text
    return response.json()


def head(client: httpx.Client) -> int:
    """The position of the last event."""
    found: int = client.get("/healthz").json()["head"]
    return found


def only(items: Sequence[Any]) -> Any:
    [item] = items
    return item
