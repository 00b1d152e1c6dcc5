"""The floor's rate: the recorded journey replayed by bench/floor_service.py, in the shape of the headline."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import asyncpg
from aiokafka import AIOKafkaProducer

from bench.closed import Rate
from bench.cpu import between, spent
from bench.fleet import SHAPES, settled
from bench.floor_process import FloorPlan
from bench.journey import Journey
from bench.rig import Rig
from libs.runtime.kafka import new_producer
from libs.testing.database import database, in_database
from oms.cluster import apps
from oms.cluster.process import ClusterError, Command
from oms.cluster.state import write_private

_TABLES = """CREATE TABLE floor_view (
    view text COLLATE "C", key text COLLATE "C", data bytea NOT NULL, PRIMARY KEY (view, key)
) WITH (fillfactor = 80);
CREATE TABLE floor_completed (number integer PRIMARY KEY)"""

_PATIENCE = 60.0
_LOOK_SECONDS = 0.2


@asynccontextmanager
async def floor_databases(rig: Rig) -> AsyncIterator[dict[str, str]]:
    """The services' tables in databases of the floor's own, with one table of bytes for all views."""
    admin = rig.cluster.admin_dsn
    async with AsyncExitStack() as stack:
        for name, service in rig.services.items():
            await stack.enter_async_context(database(service, admin, admin, f"floor_{name}"))
            connection = await asyncpg.connect(in_database(admin, f"floor_{name}"))
            await connection.execute(_TABLES)
            await connection.close()
        yield {name: in_database(admin, f"floor_{name}") for name in rig.services}


class Floor:
    def __init__(self, rig: Rig, dsns: dict[str, str], journey: Journey, shape: str) -> None:
        self._rig = rig
        self._plans = [
            FloorPlan(
                bootstrap=rig.cluster.kafka_bootstrap,
                dsns={name: dsns[name] for name in names},
                topics={
                    name: [topic.name.replace("oms.", "floor.") for topic in rig.services[name].subscribes]
                    for name in names
                },
                journey=journey,
            )
            for names in SHAPES[shape]
        ]
        self._tracking = dsns["tracking"]
        self._events = len(journey.steps)
        self._next = self._all_before = 0
        self._placed = b"x" * 700  # an order as channels place it

    async def __aenter__(self) -> Self:
        for number, plan in enumerate(self._plans):
            path = self._rig.folder / f"floor-{number}.json"  # too long for an environment
            write_private(path, plan.model_dump_json())
            command = Command(
                name=f"floor-{number}",
                argv=(sys.executable, "-m", "bench.floor_process", str(path)),
                env=apps.base_environment(),
                grace_seconds=2,
            )
            self._rig.cluster.supervisor.start(command)
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._rig.cluster.supervisor.stop([f"floor-{number}" for number in range(len(self._plans))])

    def check(self) -> None:
        supervisor = self._rig.cluster.supervisor
        for child in supervisor.children:
            if child.name.startswith("floor-") and child.failures:
                raise supervisor.failure(child.name, f"{child.name} ended while it was measured")

    async def saturate(self, in_flight: int, seconds: float) -> Rate:
        """As closed.saturate, on the floor."""
        pids = [self._rig.cluster.supervisor.child(f"floor-{n}").pid for n in range(len(self._plans))]
        producer = new_producer(self._rig.settings("order"))
        async with producer, asyncpg.create_pool(self._tracking, min_size=1, max_size=1) as pool:
            first, window = self._next, None
            done, began = 0, time.monotonic()
            while window is None or time.monotonic() - window[0] < seconds:
                done = await self._completed(pool) - first
                if window is None and done >= in_flight // 2:
                    window = time.monotonic(), done, spent(self._rig, pids)
                if room := in_flight - (self._next - first - done):
                    await self._place(producer, room)
                self.check()
                if window is None and time.monotonic() - began > _PATIENCE:
                    raise ClusterError(f"the floor does not flow: {done} of {self._next - first} orders")
                await asyncio.sleep(_LOOK_SECONDS)
            orders, took = done - window[1], time.monotonic() - window[0]
            cpu = between(window[2], spent(self._rig, pids), max(orders, 1))

            async def drained() -> bool:
                return await self._completed(pool) >= self._next

            await settled(self, 60, "the floor drained", drained)
        return Rate(orders_per_s=orders / took, events_per_order=self._events, cpu_us=cpu, orders=orders)

    async def _completed(self, pool: asyncpg.Pool) -> int:
        """All before `_all_before` are completed and are not counted again."""
        rows = await pool.fetchval("SELECT count(*) FROM floor_completed WHERE number >= $1", self._all_before)
        done = self._all_before + int(rows)
        if done == self._next:
            self._all_before = done
        return done

    async def _place(self, producer: AIOKafkaProducer, count: int) -> None:
        numbers: Sequence[int] = range(self._next, self._next + count)
        self._next += count
        sent: list[Any] = []
        for partition in range(6):
            batch = producer.create_batch()
            for number in numbers:
                if number % 6 == partition:
                    batch.append(key=None, value=self._placed, timestamp=None, headers=[("floor", b"%d:-1" % number)])
            batch.close()
            if batch.record_count():
                sent.append(await producer.send_batch(batch, "floor.channel.orders", partition=partition))
        await asyncio.gather(*sent)
