"""Waiting in the event loop, and not for ever, for what a request needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from eventstore.log.appender import too_late

Result = TypeVar("Result")


async def in_time(work: Awaitable[Result], seconds: float) -> Result:
    """The result of the work. Raises StoreUnavailable if it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError as error:
        raise too_late() from error
