"""What has become of the orders so far, by one query on tracking's reporting view; and the end of all movement."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import asyncpg
import orjson

from oms.audit.evidence import Sources, pending

Connection: TypeAlias = Any  # asyncpg's, which is generic in its stubs only

POLL_SECONDS = 0.25
REST_POLLS = 4

COUNTS = """
SELECT count(*) AS heard,
       count(*) FILTER (WHERE data->'milestones'->>'confirmed_at' IS NOT NULL) AS confirmed,
       count(*) FILTER (WHERE status = 'COMPLETED') AS completed,
       count(*) FILTER (WHERE status IN ('COMPLETED', 'CANCELLED', 'REJECTED')) AS ended
FROM reporting.order_tracking
"""


class Stalled(Exception):
    """Nothing has moved for too long, and orders are still open: says which."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    heard: int = 0
    confirmed: int = 0
    completed: int = 0
    ended: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One order as tracking tells it at the end."""

    order_id: str
    status: str
    reason: str
    channel: str
    external_order_id: str
    confirmed_at: datetime | None
    completed_at: datetime | None
    attempts: int
    parcels: int
    lines: int


async def until_ended(
    dsn: str, wanted: int, patience: float, published: Callable[[], bool], show: Callable[[Counts], None]
) -> None:
    """Until `wanted` orders have ended. Raises Stalled when no count changes for `patience` seconds."""
    loop = asyncio.get_running_loop()
    connection: Connection = await asyncpg.connect(dsn, timeout=10)
    try:
        before, moved_at = Counts(), loop.time()
        while True:
            counts = await _counts(connection)
            show(counts)
            if counts.ended >= wanted:
                return
            if counts != before or not published():
                before, moved_at = counts, loop.time()
            if loop.time() - moved_at > patience:
                raise Stalled(await _still_open(connection, wanted, counts, patience))
            await asyncio.sleep(POLL_SECONDS)
    finally:
        await connection.close()


async def _counts(connection: Connection) -> Counts:
    row = await connection.fetchrow(COUNTS)
    return Counts(**dict(row))


async def _still_open(connection: Connection, wanted: int, counts: Counts, patience: float) -> str:
    rows = await connection.fetch(
        "SELECT key, status, channel, external_order_id FROM reporting.order_tracking"
        " WHERE status NOT IN ('COMPLETED', 'CANCELLED', 'REJECTED') ORDER BY key"
    )
    told = [f"  {row['key']} {row['status']} ({row['channel']} {row['external_order_id']})" for row in rows]
    unheard = wanted - counts.heard
    return "\n".join(
        [
            f"{wanted - counts.ended} of {wanted} orders have not ended, and nothing has moved for {patience:.0f} s:",
            *told,
            *([f"  {unheard} were never heard of"] if unheard > 0 else []),
        ]
    )


async def until_rest(sources: Sources, seconds: float) -> bool:
    """Until every service has published and called what it had to, and has written nothing for a while."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    before: Mapping[str, Mapping[str, int]] = {}
    quiet = 0
    while loop.time() < deadline:
        now = await pending(sources)
        idle = all(not counts["outbox"] and not counts["effects"] for counts in now.values())
        quiet = quiet + 1 if idle and now == before else 0
        if quiet >= REST_POLLS:
            return True
        before = now
        await asyncio.sleep(POLL_SECONDS)
    return False


async def outcomes(dsn: str) -> list[Outcome]:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        rows = await connection.fetch("SELECT data::text AS data FROM reporting.order_tracking ORDER BY key")
    finally:
        await connection.close()
    return [_outcome(orjson.loads(row["data"])) for row in rows]


def _outcome(view: Mapping[str, Any]) -> Outcome:
    rejected = sorted({fault["code"] for fault in view["rejections"]})
    return Outcome(
        order_id=view["order_id"],
        status=view["status"],
        reason=view["cancel_reason"] or ", ".join(rejected),
        channel=view["channel"],
        external_order_id=view["external_order_id"],
        confirmed_at=_moment(view["milestones"]["confirmed_at"]),
        completed_at=_moment(view["milestones"]["completed_at"]),
        attempts=view["attempt"]["number"],
        parcels=len(view["packages"]),
        lines=len(view["lines"]),
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
