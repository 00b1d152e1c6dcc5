"""The closed loop: as many orders under way as saturate the system, and the rate at which they are completed."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from bench.cpu import between, spent
from bench.fleet import Fleet, settled
from bench.orders import Channel
from bench.rig import Rig
from bench.tracking import Tracking, events_since, last_positions
from libs.runtime.kafka import new_producer

_LOOK_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Load:
    """`in_flight` orders are kept under way. Measured for `seconds`, or until `orders` have been placed."""

    bodies: Sequence[bytes]
    in_flight: int = 1_000
    seconds: float = 10.0
    orders: int = 0
    patience: float = 180.0


@dataclass(frozen=True, kw_only=True)
class Rate:
    orders_per_s: float
    events_per_order: float
    cpu_us: Mapping[str, float]
    orders: int

    @property
    def events_per_s(self) -> float:
        return self.orders_per_s * self.events_per_order


@asynccontextmanager
async def channel_and_tracking(rig: Rig, bodies: Sequence[bytes]) -> AsyncIterator[tuple[Channel, Tracking]]:
    producer = new_producer(rig.settings("order"))
    await producer.start()
    try:
        async with asyncpg.create_pool(rig.cluster.dsn("tracking"), min_size=1, max_size=2) as pool:
            tracking = Tracking(pool)
            await tracking.completed()
            yield Channel(producer, bodies), tracking
    finally:
        await producer.stop()


async def saturate(fleet: Fleet, load: Load) -> Rate:
    """The rate over the steady window: from when half of the first fill has been completed until placing ends."""
    rig = fleet.rig
    async with channel_and_tracking(rig, load.bodies) as (channel, tracking):
        positions = await last_positions(rig)
        began = time.monotonic()
        window: _Window | None = None
        while True:
            done = await tracking.completed()
            if window is None and done >= load.in_flight // 2:
                window = _Window(time.monotonic(), done, spent(rig, fleet.pids()))
            if window is not None and _over(load, window, channel.sent):
                break
            if time.monotonic() - began > load.patience:
                fleet.check()
                break
            room = load.in_flight - (channel.sent - done)
            if load.orders:
                room = min(room, load.orders - channel.sent)
            if room > 0:
                await channel.place(room)
            await asyncio.sleep(_LOOK_SECONDS)
        window = window or _Window(began, 0, spent(rig, fleet.pids()))
        orders, seconds = done - window.done, time.monotonic() - window.at
        cpu = between(window.cpu, spent(rig, fleet.pids()), max(orders, 1))
        await drained(fleet, channel, tracking, load.patience)
        events = await events_since(rig, positions)
    return Rate(
        orders_per_s=orders / seconds, events_per_order=events / max(channel.sent, 1), cpu_us=cpu, orders=orders
    )


@dataclass(frozen=True)
class _Window:
    at: float
    done: int
    cpu: Mapping[str, float]


def _over(load: Load, window: _Window, sent: int) -> bool:
    if load.orders:
        return sent >= load.orders
    return time.monotonic() - window.at >= load.seconds


async def drained(fleet: Fleet, channel: Channel, tracking: Tracking, patience: float) -> None:
    """Every order placed is completed: a benchmark that lost one has measured nothing."""

    async def all_completed() -> bool:
        return await tracking.completed() >= channel.sent

    await settled(fleet, patience, f"{channel.sent} orders completed", all_completed)
    assert await tracking.shown_as_completed(channel) == channel.sent, "tracking shows something else than it has heard"
