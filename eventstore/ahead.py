"""Making the next while the one before is worked on: what reads a database hands over to what computes."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")


def ahead(items: Iterator[_Item]) -> Generator[_Item, None, None]:
    """The same items, each being made in a thread of its own while the caller works on the one before."""
    with ThreadPoolExecutor(1, thread_name_prefix="eventstore-ahead") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
