"""Two worker processes of one service share its partitions: what the second one adds.

Tracking reads the same records again, as if it had heard none of them: once with one worker, once with two, in turns.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import asyncpg

from bench.closed import channel_and_tracking, drained
from bench.fill import Told
from bench.fleet import Fleet, process
from bench.orders import one_line
from bench.rig import Rig
from oms.cluster.health import wait_ready

SERVICE = "tracking"
WORKERS = (1, 2)
_POSITIONS = "SELECT consumer, topic, partition, next_offset FROM consumer_position"
_LOOK_SECONDS = 0.05


async def shared(rig: Rig, orders: int, rounds: int, told: Told) -> dict[int, list[float]]:
    """Records a second by number of workers, a sample a round."""
    connection = await asyncpg.connect(rig.cluster.dsn(SERVICE, "owner"))
    try:
        before = await connection.fetch(_POSITIONS)
        told(f"workers: {orders:,} orders that {SERVICE} will hear again")
        async with Fleet(rig, "two") as fleet, channel_and_tracking(rig, one_line()) as (channel, shown):
            await channel.place(orders)
            await drained(fleet, channel, shown, 600)
        records = await _processed(connection) - sum(row["next_offset"] for row in before)
        rates: dict[int, list[float]] = {count: [] for count in WORKERS}
        for number in range(rounds):
            for count in WORKERS:
                told(f"round {number + 1}: {count} worker{'s' if count > 1 else ''} of {SERVICE}")
                await _forget(connection, before)
                rates[count].append(await _heard_by(rig, connection, count, records))
        return rates
    finally:
        await connection.close()


async def _heard_by(rig: Rig, connection: Any, workers: int, records: int) -> float:
    """The rate from when all workers have partitions until everything is heard."""
    first = await _processed(connection)
    names = [f"worker-{number}" for number in range(1, workers + 1)]
    ports = rig.cluster.directory.ports(names)
    supervisor = rig.cluster.supervisor
    secret = rig.cluster.state.callback_secret_file
    for name in names:
        settings = rig.settings(SERVICE, http_port=ports[name], callback_secret_file=secret)
        supervisor.start(process(name, {SERVICE: settings}, in_process=True))
    try:
        await wait_ready({name: f"http://127.0.0.1:{port}" for name, port in ports.items()}, lambda: None, 60)
        began, heard = time.monotonic(), await _processed(connection)
        assert heard < first + records, "everything was heard before all workers had partitions: place more orders"
        while (now := await _processed(connection)) < first + records:
            await asyncio.sleep(_LOOK_SECONDS)
        return (now - heard) / (time.monotonic() - began)
    finally:
        supervisor.stop(names)


async def _processed(connection: Any) -> int:
    return int(await connection.fetchval("SELECT COALESCE(sum(next_offset), 0) FROM consumer_position"))


async def _forget(connection: Any, positions: Sequence[Any]) -> None:
    """Tracking as it was before these orders, and empty."""
    await connection.execute("TRUNCATE events, seen, view_order_tracking, view_open_exceptions, consumer_position")
    await connection.executemany("INSERT INTO consumer_position VALUES ($1, $2, $3, $4)", [tuple(r) for r in positions])
