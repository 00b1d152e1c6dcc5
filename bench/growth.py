"""Growth: the rate and the CPU of an order while the stores fill up with the histories of orders long done."""

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg

from bench.closed import Load, Rate, saturate
from bench.fill import Told, fill, rows_of
from bench.fleet import Fleet
from bench.journey import Journey
from bench.plan import Plan
from bench.rig import Rig
from libs.testing.database import in_database

HEADROOM = 1.3


@dataclass(frozen=True)
class Grown:
    """`orders` lie in every store; none is under way."""

    orders: int
    rate: Rate


class TooLittleDisk(Exception):
    """The stores would not fit; the message says how much is needed."""


async def grow(rig: Rig, journey: Journey, plan: Plan, shape: str, load: Load, told: Told) -> AsyncIterator[Grown]:
    templates = {name: await rows_of(rig, name, journey.order_id) for name in rig.services}
    filled = 0
    for orders in plan.growth_orders:
        if orders > filled:
            await _check_disk(rig, filled, orders, told)
            for name, rows in templates.items():
                told(f"growth: filling {name} to {orders:,} orders")
                await fill(in_database(rig.cluster.admin_dsn, f"oms_{name}"), rows, filled, orders - filled, told)
            filled = orders
        told(f"growth: measuring at {orders:,} orders")
        async with Fleet(rig, shape) as fleet:
            yield Grown(orders, await saturate(fleet, load))


async def _check_disk(rig: Rig, filled: int, orders: int, told: Told) -> None:
    """By what the last filling took; before the first one, by a guess from a first measurement: 60 KB an order."""
    free = shutil.disk_usage(rig.folder).free
    each = await _bytes(rig) / filled if filled else 60_000
    needed = int((orders - filled) * each * HEADROOM)
    told(f"growth: {each / 1000:.0f} KB an order, {needed / 1e9:.1f} GB for {orders:,}, {free / 1e9:.1f} GB free")
    if needed > free:
        raise TooLittleDisk(f"{orders:,} orders need {needed / 1e9:.0f} GB and {free / 1e9:.0f} GB are free")


async def _bytes(rig: Rig) -> int:
    connection = await asyncpg.connect(rig.cluster.admin_dsn)
    try:
        return int(
            await connection.fetchval("SELECT sum(pg_database_size(datname)) FROM pg_database WHERE datname ~ '^oms_'")
        )
    finally:
        await connection.close()
