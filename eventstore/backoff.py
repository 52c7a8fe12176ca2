"""How long to wait after a failure, and after the next one: the one rule of all that tries again."""

from __future__ import annotations

from collections.abc import Sequence

FULL_QUEUE_SECONDS = 0.02
"""How soon a bulk caller that found the writer's queue full tries again."""


def wait_after(failures: int, waits: Sequence[float]) -> float:
    """Seconds to wait after one more failure when there were `failures` before it in a row: the last wait is repeated."""
    return waits[min(failures, len(waits) - 1)]
