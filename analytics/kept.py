"""Answers that are kept: the ones asked for last, as many as fit."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

from analytics.results import ReportResult

KEPT_ANSWERS = 256
"""How many are kept at most: every report with a handful of sites and spans of time."""
KEPT_BYTES = 128 * 1024 * 1024
"""The memory that they may take: one of 100,000 rows has some 80 MB, most have a few KB."""


class KeptAnswer:
    """A report's answer, and what it has been rendered to already. `version`: the same for the same question and content."""

    def __init__(self, result: ReportResult, version: str) -> None:
        self.result = result
        self.version = version
        self._rendered: dict[str, bytes] = {}
        self._size = sum(sys.getsizeof(row) + sum(map(sys.getsizeof, row)) for row in result.rows)

    def rendered(self, form: str, render: Callable[[ReportResult], bytes]) -> bytes:
        """The answer in a form, which `render` makes of it the first time."""
        found = self._rendered.get(form)
        if found is None:
            found = self._rendered[form] = render(self.result)
        return found

    @property
    def size(self) -> int:
        """About how many bytes it takes: rather more than less, for values that rows share are counted with each."""
        return self._size + sum(map(len, list(self._rendered.values())))


class KeptAnswers:
    """Answers by their keys. From any thread."""

    def __init__(self, *, answers: int = KEPT_ANSWERS, size: int = KEPT_BYTES) -> None:
        self._answers = answers
        self._size = size
        self._kept: OrderedDict[Hashable, KeptAnswer] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> KeptAnswer | None:
        """The answer kept under this key, if it still is."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: Hashable, answer: KeptAnswer) -> None:
        """Keep an answer, and drop those that were asked for longest ago until what is kept fits."""
        with self._lock:
            self._kept[key] = answer
            self._kept.move_to_end(key)
        self.trim()

    def trim(self) -> None:
        """Drop what does not fit any more: answers grow when they are rendered."""
        with self._lock:
            size = self.size
            while self._kept and (size > self._size or len(self._kept) > self._answers):
                _, dropped = self._kept.popitem(last=False)
                size -= dropped.size

    def clear(self) -> None:
        """Drop all."""
        with self._lock:
            self._kept.clear()

    @property
    def size(self) -> int:
        """Bytes of all that is kept."""
        return sum(answer.size for answer in list(self._kept.values()))

    def __len__(self) -> int:
        return len(self._kept)
