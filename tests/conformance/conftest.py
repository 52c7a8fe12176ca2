"""The log under test: one of the databases that the project knows, or the one that EVENTSTORE_CONFORMANCE_URL names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from uuid import uuid4

import pytest

from eventstore.store import EventStore
from tests.stores import ENGINES

GIVEN = os.environ.get("EVENTSTORE_CONFORMANCE_URL")


def pytest_xdist_auto_num_workers() -> int | None:
    """With one database for all, its tests must run one after the other."""
    return 1 if GIVEN else None


@pytest.fixture(scope="module", params=["given"] if GIVEN else ENGINES)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A log that the tests of a module share, and that may hold anything already."""
    if GIVEN:
        EventStore.open(GIVEN).close()
        yield GIVEN
        return
    stores = request.getfixturevalue("sqlite_stores" if request.param == "sqlite" else "postgresql_server")
    with stores.new() as made:
        yield made


@pytest.fixture
def log(url: str) -> Iterator[EventStore]:
    """The log, opened for one test."""
    with EventStore.open(url, create=False) as opened:
        yield opened


@pytest.fixture
def site() -> str:
    """A site that no other test has, so that the same event ids can be used again."""
    return f"site-{uuid4()}"
