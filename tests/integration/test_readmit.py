"""A consumer that stopped because its stored position lies outside the log goes on when an operator has reset it."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from libs.events.topics import ORDER_EVENTS
from libs.runtime.consumer import Consumer
from libs.runtime.event_store import PostgresStorage
from libs.runtime.handler import Handler
from libs.runtime.identity import new_id
from libs.runtime.operation import Operations, Word
from libs.runtime.park import ParkLimit
from libs.runtime.settings import Settings
from libs.runtime.storage import Partition
from libs.testing.database import database, storage_on
from libs.testing.deadline import eventually
from libs.testing.tally import tally_service
from oms.cluster.cluster import INFRASTRUCTURE, LocalCluster
from tests.cluster import started

pytestmark = pytest.mark.integration

PARTITIONS = [Partition(ORDER_EVENTS.name, number) for number in range(ORDER_EVENTS.partitions)]
BEYOND = 1_000_000


@pytest.fixture(scope="module")
def servers() -> Iterator[LocalCluster]:
    """Servers of its own: other tests trim the topics that they share, and this one reads from offset 0."""
    with started(INFRASTRUCTURE) as cluster:
        yield cluster


@pytest.fixture
async def storage(servers: LocalCluster) -> AsyncIterator[PostgresStorage]:
    app = servers.dsn("inventory")
    async with (
        database(tally_service(), servers.admin_dsn, app, "test_readmit") as dsn,
        storage_on(dsn) as storage,
    ):
        yield storage


async def test_halted_partitions_go_on_from_where_an_operator_has_reset_them(
    storage: PostgresStorage, servers: LocalCluster
) -> None:
    # Other tests' records are in the topic, good and bad: how many are parked is not the question here.
    limit = ParkLimit(ratio=1.0, keys_in_a_row=1 << 30)
    handler = Handler(tally_service(), storage, consumer=f"test.{new_id()}", park_limit=limit)
    await storage.ensure_positions(handler.consumer, dict.fromkeys(PARTITIONS, BEYOND))
    consumer = Consumer(handler, Settings(kafka_bootstrap=servers.kafka_bootstrap, poll_ms=20))
    stop = asyncio.Event()
    running = asyncio.create_task(consumer.run(stop))
    try:
        await eventually(lambda: all_halted(consumer), "every partition is halted", 30)
        assert all("outside the log" in reason for reason in consumer.halted.values())
        word = Word(operator="ann", reason="made anew", key=new_id(), body_hash=b"")
        assert (await Operations(handler).reset_positions(word, ORDER_EVENTS.name)).positions == len(PARTITIONS)
        await eventually(lambda: none_halted(consumer), "no partition is halted any more", 30)
        await eventually(lambda: at_end(consumer), "every record has been read", 30)
    finally:
        stop.set()
        await asyncio.wait_for(running, 20)


async def all_halted(consumer: Consumer) -> bool:
    return consumer.halted.keys() == set(PARTITIONS)


async def none_halted(consumer: Consumer) -> bool:
    return not consumer.halted


async def at_end(consumer: Consumer) -> bool:
    lag = await consumer.lag()
    return lag.get(ORDER_EVENTS.name) == 0
