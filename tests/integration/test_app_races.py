"""Several processes, senders and people at once: an app is registered once, and nobody who waits keeps a webhook waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier

import httpx
import pytest
from sqlalchemy import Engine

from eventstore import apps
from eventstore.apps import add_app, list_apps, sync_apps, version
from eventstore.config import AppSettings
from eventstore.log.engine import make_engine
from eventstore.store import EventStore
from tests.outages import BATCH, WEBHOOKS, assert_come_again, delivery, locked, log_of, use_of_coupon
from tests.serving import APPLIED, SITE, Serving, ndjson, serving, wrapped
from tests.signing import APP, OTHER_APP, public_pem, webhook

REPLICAS = 4
BATCHES = 60
"""More than there are threads for the requests that wait in one."""
PROMPT = 2.5
"""Seconds: twice what a webhook is answered in at the latest, for machines that are busy."""


@pytest.fixture
def server(store_url: str, tmp_path: Path) -> Iterator[Serving]:
    """A running server whose app accepts new instances."""
    with serving(tmp_path, url=store_url) as running:
        engine = make_engine(running.store)
        add_app(engine, name=APP, key=public_pem(), instances=[SITE], accept_new_instances=True)
        engine.dispose()
        yield running


def test_replicas_that_start_together_register_an_app_once(store: EventStore) -> None:
    url = store.engine.url.render_as_string(hide_password=False)
    configured = [AppSettings(name=APP, key=public_pem(), instances=(SITE, "i-2"))]
    rotated = [AppSettings(name=APP, key=public_pem(OTHER_APP), instances=(SITE, "i-3"))]
    barrier = Barrier(REPLICAS)
    with ExitStack() as stack, ThreadPoolExecutor(REPLICAS) as threads:
        engines = [make_engine(url) for _ in range(REPLICAS)]
        for engine in engines:
            stack.callback(engine.dispose)
        for settings in (configured, rotated):

            def start(engine: Engine, settings: list[AppSettings] = settings) -> None:
                barrier.wait()
                sync_apps(engine, settings)

            list(threads.map(start, engines))
    [app] = list_apps(store.engine)
    assert sorted(each.instance_id for each in app.instances) == sorted([SITE, "i-2", "i-3"])
    assert [each.retired_at is None for each in app.keys] == [False, True]


def test_whatever_changes_about_an_app_is_noticed(store: EventStore) -> None:
    engine = store.engine
    seen = [version(engine)]
    changes: list[Callable[[], object]] = [
        lambda: add_app(engine, name="a", key=public_pem()),
        lambda: add_app(engine, name="b", key=public_pem(OTHER_APP), accept_new_instances=True),
        lambda: add_app(engine, name="a", instances=["i-1"]),
        lambda: apps.rotate_key(engine, name="a", key=public_pem("another")),
        lambda: apps.remove_app(engine, name="a"),
    ]
    for change in changes:
        change()
        seen.append(version(engine))
    assert len(set(seen)) == len(seen)
    # Two changes that even out: one app begins to accept new instances as another ceases to.
    add_app(engine, name="c", key=public_pem("a third"))
    before = version(engine)
    add_app(engine, name="b", accept_new_instances=False)
    add_app(engine, name="c", accept_new_instances=True)
    assert version(engine) != before


def taken(client: httpx.Client, token: bytes) -> bool:
    """Whether the store takes a webhook, sent again where it asks for that, as Wix does: the machine may be slow."""
    deadline = time.monotonic() + 60
    while (status := client.post(WEBHOOKS, content=token).status_code) == 503 and time.monotonic() < deadline:
        time.sleep(0.2)
    return status == 200


def test_the_first_webhook_of_a_new_instance_is_answered_in_time_though_the_database_is_locked(server: Serving) -> None:
    token = webhook(use_of_coupon("new-1"), instance="a-new-one")
    with server.client() as client:
        assert taken(client, webhook(use_of_coupon("known-1")))
        with locked(server):
            start = time.perf_counter()
            assert_come_again(client.post(WEBHOOKS, content=token))
            assert time.perf_counter() - start < PROMPT
        assert client.post(WEBHOOKS, content=token).json()["outcome"] in ("appended", "duplicate")
    assert log_of(server).keys() == {"known-1", "new-1"}


def test_batches_that_wait_do_not_keep_a_webhook_waiting(server: Serving) -> None:
    limits = httpx.Limits(max_connections=BATCHES + 10)
    headers = {"Authorization": f"Bearer {server.token}"}
    with (
        httpx.Client(base_url=server.url, headers=headers, timeout=60, limits=limits) as client,
        ThreadPoolExecutor(BATCHES) as threads,
    ):
        assert taken(client, webhook(use_of_coupon("known-1")))
        with locked(server):
            waiting = [
                threads.submit(client.post, BATCH, content=ndjson(wrapped(APPLIED, delivery(f"batch-{number}"))))
                for number in range(BATCHES)
            ]
            time.sleep(0.5)  # until they are all where they can wait
            start = time.perf_counter()
            assert client.get("/healthz").status_code == 200
            assert_come_again(client.post(WEBHOOKS, content=webhook(use_of_coupon("late-1"))))
            assert time.perf_counter() - start < PROMPT
        for each in waiting:
            assert each.result().status_code in (200, 503)
