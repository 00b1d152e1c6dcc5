"""Many callers at once, each waiting for its answer before it asks again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hdrh.histogram import HdrHistogram

from libs.runtime.handler import Answer

Ask = Callable[[int], Awaitable[Answer]]


@dataclass(frozen=True)
class Answered:
    """`accepted` of all `answers` were a yes."""

    per_s: float
    p99_ms: float
    answers: int
    accepted: int


async def asked(callers: int, seconds: float, ask: Ask) -> Answered:
    """`ask(number)` makes the number-th request."""
    began = time.monotonic()
    numbers = iter(range(10**9))
    histogram = HdrHistogram(1, 600_000_000, 3)
    accepted = 0

    async def call() -> None:
        nonlocal accepted
        while time.monotonic() - began < seconds:
            at = time.monotonic()
            answer = await ask(next(numbers))
            histogram.record_value(int((time.monotonic() - at) * 1e6))
            accepted += not answer.code and bool(answer.events)

    await asyncio.gather(*(call() for _ in range(callers)))
    answers = histogram.get_total_count()
    return Answered(
        answers / (time.monotonic() - began), histogram.get_value_at_percentile(99) / 1e3, answers, accepted
    )
