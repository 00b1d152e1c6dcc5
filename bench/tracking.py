"""What tracking shows: the only place where the benchmark counts an order."""

from collections.abc import Collection

import asyncpg

from bench.orders import SEGMENT, Channel
from bench.rig import Rig

CONFIRMED = ("CONFIRMED", "IN_FULFILLMENT", "COMPLETED")


class Tracking:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._through: set[str] = set()  # channels whose orders are all completed: they are not counted again

    async def completed(self, channel: Channel) -> int:
        done = 0
        for name in channel.segments:
            count = SEGMENT if name in self._through else await self._count(name)
            if count == SEGMENT:
                self._through.add(name)
            done += count
        return done

    async def _count(self, channel: str) -> int:
        return int(
            await self._pool.fetchval(
                "SELECT count(*) FROM view_order_tracking WHERE channel = $1 AND status = 'COMPLETED'", channel
            )
        )

    async def confirmed(self, order_ids: Collection[str]) -> set[str]:
        """Which of these orders are shown as confirmed, or further, by now."""
        rows = await self._pool.fetch(
            "SELECT key FROM view_order_tracking WHERE key = ANY($1) AND status = ANY($2)",
            list(order_ids),
            list(CONFIRMED),
        )
        return {row["key"] for row in rows}


async def last_positions(rig: Rig) -> dict[str, int]:
    """The end of each service's own log; tracking's is a copy of theirs and is not counted."""
    return {name: await _one(rig, name, "SELECT COALESCE(max(global_position), 0) FROM events", 0) for name in _OWN}


async def events_since(rig: Rig, positions: dict[str, int]) -> int:
    counts = [
        await _one(rig, name, "SELECT count(*) FROM events WHERE global_position > $1", position)
        for name, position in positions.items()
    ]
    return sum(counts)


_OWN = ("order", "inventory", "payment", "fulfillment")


async def _one(rig: Rig, name: str, statement: str, position: int) -> int:
    connection = await asyncpg.connect(rig.cluster.dsn(name, "owner"))
    try:
        return int(await connection.fetchval(statement, *([position] if "$1" in statement else [])))
    finally:
        await connection.close()
