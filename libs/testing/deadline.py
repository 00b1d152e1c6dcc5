"""Waiting for a condition instead of sleeping: every wait in a test has a deadline and says what it waited for."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(found: Callable[[], Awaitable[T | None]], what: str, seconds: float = 20.0) -> T:
    """The first answer that is neither None nor False. Fails with `what` when the deadline passes."""
    deadline = time.monotonic() + seconds
    while True:
        answer = await found()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.05)
