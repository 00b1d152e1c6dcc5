"""The open loop: orders placed at a given pace, whatever the system does, and how long each takes to be confirmed.

Latency runs from the moment at which an order was to be placed, not from when it was: that is what corrects for
coordinated omission. It ends when tracking shows the order as confirmed.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hdrh.histogram import HdrHistogram

from bench.closed import channel_and_tracking, drained
from bench.fleet import Fleet
from bench.orders import Channel

_TICK_SECONDS = 0.005
_LOOK_SECONDS = 0.01
_LOOKED_AT = 500
_GRACE_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds. `late` orders were not confirmed by the end: they count with what they had waited by then."""

    rate: float
    orders: int
    late: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


async def pace(fleet: Fleet, bodies: Sequence[bytes], rate: float, seconds: float, patience: float = 180) -> Latency:
    async with channel_and_tracking(fleet.rig, bodies) as (channel, tracking):
        await channel.place(20)  # the first ones open connections and plan statements
        await drained(fleet, channel, tracking, patience)
        first, count = channel.sent, int(rate * seconds)
        began = time.monotonic() + 0.1
        waiting = {channel.order_id(first + n): began + n / rate for n in range(count)}
        placing = asyncio.create_task(_place(channel, began, rate, count))
        histogram = HdrHistogram(1, 600_000_000, 3)  # microseconds
        deadline = began + seconds + _GRACE_SECONDS
        while waiting and time.monotonic() < deadline:
            due = _due(waiting)
            shown = await tracking.confirmed(due) if due else set()
            now = time.monotonic()
            for order_id in shown:
                histogram.record_value(int((now - waiting.pop(order_id)) * 1e6))
            await asyncio.sleep(_LOOK_SECONDS)
        late, now = len(waiting), time.monotonic()
        for at in waiting.values():
            histogram.record_value(int((now - at) * 1e6))
        await placing
        await drained(fleet, channel, tracking, patience)
    return Latency(
        rate=rate,
        orders=count,
        late=late,
        p50_ms=histogram.get_value_at_percentile(50) / 1e3,
        p90_ms=histogram.get_value_at_percentile(90) / 1e3,
        p99_ms=histogram.get_value_at_percentile(99) / 1e3,
        max_ms=histogram.get_max_value() / 1e3,
    )


def _due(waiting: dict[str, float]) -> list[str]:
    """The orders to ask for: those that should have been placed by now, the oldest first, not too many at once."""
    now = time.monotonic()
    due: list[str] = []
    for order_id, at in waiting.items():
        if at > now or len(due) == _LOOKED_AT:
            break
        due.append(order_id)
    return due


async def _place(channel: Channel, began: float, rate: float, count: int) -> None:
    placed = 0
    while placed < count:
        should = min(count, int((time.monotonic() - began) * rate) + 1)
        if should > placed:
            await channel.place(should - placed)
            placed = should
        await asyncio.sleep(_TICK_SECONDS)
