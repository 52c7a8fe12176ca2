"""`eventstore forward`: every event reaches a receiver, signed, in order per coupon, whatever the receiver answers meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from eventstore.demo import examples
from eventstore.errors import InputError
from eventstore.event import Event
from eventstore.handlers import Handlers
from eventstore.handlers.forward import Forward, forwarding, message_id, new_secret, read_secrets, set_name
from eventstore.store import EventStore
from tests.commands import run
from tests.handling import PATIENCE, fill, in_order, run_once, running, told, until
from tests.processes import Program, command_line
from tests.serving import environment

Answer = tuple[int, dict[str, str]]
Taken = tuple[dict[str, str], bytes]
OK: Answer = (200, {})


class Receiver:
    """A real HTTP server that keeps what it is sent; `answer` says what it answers to the body of a message."""

    def __init__(self, answer: Callable[[dict[str, Any]], Answer] = lambda _body: OK) -> None:
        self.taken: list[Taken] = []
        self.refused: list[Taken] = []
        self.answer = answer
        lock = threading.Lock()
        receiver = self

        class Handling(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                message = {name.lower(): value for name, value in self.headers.items()}, body
                status, headers = receiver.answer(json.loads(body))
                with lock:
                    (receiver.taken if 200 <= status < 300 else receiver.refused).append(message)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "5")
                self.end_headers()
                self.wfile.write(b"sorry")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handling)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hooks"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def positions(self) -> list[tuple[int, str]]:
        """Positions and coupons in the order that they were taken in."""
        bodies = [json.loads(body)["data"] for _, body in self.taken]
        return [(each["store"]["position"], each["metadata"]["entityId"]) for each in bodies]


@contextmanager
def forwarded(store: EventStore, receiver: Receiver, *keys: str, **options: Any) -> Iterator[str]:
    """Everything is forwarded meanwhile; gives the secret."""
    secret = new_secret()
    with closing(Forward(receiver.url, keys or (secret,))) as target:
        handlers: Any = forwarding(target, **options)
        with running(store, handlers, name="out"):
            yield secret


def test_every_event_is_posted_once_signed_and_in_order(store: EventStore) -> None:
    fill(store, 120, coupons=6)
    with closing(Receiver()) as receiver:
        with forwarded(store, receiver) as secret:
            store.append(told(121, "c1"))
            until(lambda: len(receiver.taken) == 121)
        assert sorted(position for position, _ in receiver.positions) == list(range(1, 122))
        assert in_order(receiver.positions)
        for headers, body in receiver.taken:
            verified = Webhook(secret).verify(body, headers)
            assert (verified["type"], headers["content-type"]) == ("coupon.updated", "application/json")
        ids = [headers["webhook-id"] for headers, _ in receiver.taken]
        assert len(set(ids)) == 121
        with pytest.raises(WebhookVerificationError):
            Webhook(new_secret()).verify(receiver.taken[0][1], receiver.taken[0][0])


def test_the_body_tells_wix_s_facts_and_another_store_takes_it_as_the_same_event(store: EventStore) -> None:
    store.ingest((number, each.line()) for number, each in enumerate(examples(), 1))
    events = [each.event for each in store.stream()]
    with closing(Receiver()) as receiver:
        with forwarded(store, receiver):
            until(lambda: len(receiver.taken) == len(events))
        bodies = {each["data"]["store"]["position"]: each for each in (json.loads(body) for _, body in receiver.taken)}
    for position, event in enumerate(events, 1):
        assert bodies[position]["type"] == event.type
        assert bodies[position]["data"]["metadata"]["entityId"] == event.entity_id
        assert datetime.fromisoformat(bodies[position]["timestamp"]) == event.event_time


def test_while_a_secret_is_replaced_both_verify(store: EventStore) -> None:
    fill(store, 1, coupons=1)
    old, new = new_secret(), new_secret()
    with closing(Receiver()) as receiver:
        with forwarded(store, receiver, new, old):
            until(lambda: len(receiver.taken) == 1)
        [(headers, body)] = receiver.taken
    for key in (old, new):
        assert Webhook(key).verify(body, headers)


def test_only_the_types_and_sites_that_are_asked_for_are_posted(store: EventStore) -> None:
    for number in range(1, 9):
        event: Event = told(number, "c", "coupon.deleted" if number % 2 else "coupon.updated")
        store.append(event.model_copy(update={"site_id": "other" if number > 4 else "shop"}))
    with closing(Receiver()) as receiver:
        with forwarded(store, receiver, types=["coupon.deleted"], sites=["other"]):
            until(lambda: len(receiver.taken) == 2)
            until(lambda: store.handlers.status()[0].behind == 0)
        assert [position for position, _ in receiver.positions] == [5, 7]
    with pytest.raises(InputError, match=r"coupon\.deleted"):
        forwarding(Forward("http://127.0.0.1:1/", [new_secret()]), types=["coupon.delted"])


def test_a_receiver_that_is_away_is_waited_for_and_nothing_is_parked(store: EventStore) -> None:
    fill(store, 30, coupons=30)
    soon = {"retry-after": "0"}
    later = {"retry-after": format_datetime(datetime.now(UTC) - timedelta(seconds=5), usegmt=True)}
    answers = iter([(503, soon), (429, later), (502, soon), (504, soon)])
    with closing(Receiver(lambda _body: next(answers, OK))) as receiver:
        with forwarded(store, receiver):
            until(lambda: len(receiver.taken) == 30)
        assert len(receiver.refused) == 4
        assert not store.handlers.dead_letters(resolved=True)


def test_a_receiver_that_cannot_be_reached_is_waited_for(store: EventStore) -> None:
    fill(store, 5, coupons=5)
    receiver = Receiver()
    url, port = receiver.url, receiver.port
    receiver.close()
    with closing(Forward(url, [new_secret()])) as target:
        handlers: Any = forwarding(target)
        with running(store, handlers, name="out"):
            until(lambda: "cannot be reached" in (store.handlers.status()[0].paused or ""))
            assert f"127.0.0.1:{port}" in (store.handlers.status()[0].paused or "")
    assert not store.handlers.dead_letters()


def test_what_a_receiver_refuses_holds_up_its_coupon_alone_and_follows_in_order(store: EventStore) -> None:
    fill(store, 40, coupons=4)
    taking = threading.Event()

    def answer(body: dict[str, Any]) -> Answer:
        refused = body["data"]["metadata"]["entityId"] == "c2" and not taking.is_set()
        return (400, {}) if refused else OK

    with closing(Receiver(answer)) as receiver:
        with forwarded(store, receiver):
            until(lambda: len(receiver.taken) == 30)
            until(lambda: len(store.handlers.dead_letters()) == 1)
            [letter] = store.handlers.dead_letters()
            assert (letter.subject_id, letter.position) == ("c2", 2)
            assert "answered 400: sorry" in letter.reason
            taking.set()
            store.handlers.retry()
            until(lambda: len(receiver.taken) == 40)
        assert in_order(receiver.positions)
        first, again = (
            receiver.refused[0][0],
            next(headers for headers, body in receiver.taken if json.loads(body)["data"]["store"]["position"] == 2),
        )
        assert first["webhook-id"] == again["webhook-id"]


def test_a_receiver_that_is_gone_is_not_asked_again_soon(store: EventStore) -> None:
    fill(store, 10, coupons=10)
    with closing(Receiver(lambda _body: (410, {}))) as receiver, forwarded(store, receiver):
        until(lambda: "is gone (410)" in (store.handlers.status()[0].paused or ""))
        asked = len(receiver.refused)
        time.sleep(0.3)
        assert len(receiver.refused) == asked <= 8


def test_the_command_forwards_and_goes_on_where_it_was(store: EventStore, store_url: str, tmp_path: Path) -> None:
    secret = run("forward", "--new-secret").stdout
    (tmp_path / "secret").write_text(secret)
    fill(store, 6, coupons=2)
    given = ["--store", store_url, "forward", "--secret-file", "secret"]
    with closing(Receiver()) as receiver:
        for expected in (6, 8):
            program = Program(
                [*given, "--to", receiver.url, "--once", "--from", "beginning"],
                cwd=tmp_path,
                env=environment(),
                errors=tmp_path / "errors",
                call=command_line,
            )
            assert program.ended(PATIENCE)[0] == 0, (tmp_path / "errors").read_text()
            assert len(receiver.taken) == expected
            fill(store, 2, coupons=2, first=7)
        for headers, body in receiver.taken:
            assert Webhook(secret.strip()).verify(body, headers)
        [status] = store.handlers.status()
        assert (status.name, status.handler) == (set_name(receiver.url), "forward")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "say where --to"),
        (("--to", "ftp://x/", "--secret-file", "secret"), "no address to post to"),
        (("--to", "https://", "--secret-file", "secret"), "no address to post to"),
        (("--to", "http://x:99999/", "--secret-file", "secret"), "no address to post to"),
        (("--to", "http://user:hunter2@:0/?key=hunter2", "--secret-file", "secret"), "no address"),
        (("--to", "http://127.0.0.1:1/"), "no secret to sign with"),
        (("--to", "http://127.0.0.1:1/", "--secret-file", "nothing"), "cannot be read"),
        (("--to", "http://127.0.0.1:1/", "--secret-file", "wrong"), "a secret begins with whsec_"),
        (("--to", "http://127.0.0.1:1/", "--secret-file", "short"), "a secret is whsec_ and base64"),
        (("--to", "http://127.0.0.1:1/", "--secret-file", "secret", "--type", "coupon.aplied"), "coupon.applied"),
    ],
    ids=["nowhere", "ftp", "no host", "port", "secrets", "no secret", "no file", "hunter2", "whsec_", "type"],
)
def test_what_is_wrong_is_told_and_no_secret_is(
    store: EventStore, store_url: str, tmp_path: Path, arguments: tuple[str, ...], word: str
) -> None:
    for name, content in (("secret", new_secret()), ("wrong", "hunter2"), ("short", "whsec_")):
        (tmp_path / name).write_text(content)
    given = [
        str(tmp_path / each) if before == "--secret-file" else each
        for before, each in zip(("", *arguments), arguments, strict=False)
    ]
    done = run("--store", store_url, "forward", *given)
    assert done.returncode in (1, 2)
    assert word in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr
    assert store.handlers.status() == []


def test_an_event_s_message_has_the_same_id_wherever_it_is_sent(store: EventStore) -> None:
    seen: list[str] = []
    fill(store, 1, coupons=1)
    for name in ("one", "two"):
        handlers = Handlers()
        handlers.add(lambda event: seen.append(message_id(event)), "*", name="note")
        assert run_once(store, handlers, name=name)
    assert len(seen) == 2
    assert seen[0] == seen[1]


def test_a_file_of_secrets_must_hold_one(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n \n")
    with pytest.raises(InputError, match="holds no secret"):
        read_secrets(tmp_path / "empty")
