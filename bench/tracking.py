"""What tracking shows: the only place where the benchmark counts an order."""

from collections.abc import Collection

import asyncpg

from bench.orders import Channel
from bench.rig import Rig

CONFIRMED = ("CONFIRMED", "IN_FULFILLMENT", "COMPLETED")


class Tracking:
    """Counts orders as they are completed, from tracking's copy of the log, not from its view.

    A view's row changes in the transaction that keeps the event, and counting the rows, five times a second, took a
    tenth of PostgreSQL's time.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._position: int | None = None
        self._completed = 0

    async def completed(self) -> int:
        """Since the first call, which must come before the first order."""
        if self._position is None:
            self._position = await self._pool.fetchval("SELECT COALESCE(max(global_position), 0) FROM events")
        count, self._position = await self._pool.fetchrow(
            """SELECT count(*) FILTER (WHERE event_type = 'oms.order.OrderCompleted'),
                      COALESCE(max(global_position), $1) FROM events WHERE global_position > $1""",
            self._position,
        )
        self._completed += count
        return self._completed

    async def shown_as_completed(self, channel: Channel) -> int:
        """What the view itself says."""
        return int(
            await self._pool.fetchval(
                "SELECT count(*) FROM view_order_tracking WHERE channel = $1 AND status = 'COMPLETED'", channel.name
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
