"""The hop from one service to the next on real Kafka and PostgreSQL: relay, topic, consumer, handler, in this process.

The order's outbox is filled by hand, the tally counts what arrives. Each test has databases of its own; the topics are
shared, so every consumer starts at the end that its test found.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import KafkaConnectionError

from libs.events.codec import encode
from libs.events.order import OrderDuplicateDetected
from libs.events.topics import ORDER_EVENTS
from libs.runtime.consumer import Consumer, ConsumerStuck
from libs.runtime.event_store import PostgresStorage
from libs.runtime.handler import Handled, Handler
from libs.runtime.identity import new_id
from libs.runtime.intake import recorded_of
from libs.runtime.kafka import new_consumer, partition_of
from libs.runtime.relay import KafkaPublisher, Publisher, Relay
from libs.runtime.settings import Settings
from libs.runtime.storage import Changes, Partition, StoredEvent
from libs.testing.database import database, emptied, in_database, storage_on
from libs.testing.deadline import eventually
from libs.testing.tally import AT, envelope, tally_service
from oms.cluster.cluster import LocalCluster

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

PARTITIONS = [Partition(ORDER_EVENTS.name, number) for number in range(ORDER_EVENTS.partitions)]


class RecordingHandler(Handler):
    """Also keeps what became of each batch."""

    def __init__(self, storage: PostgresStorage, consumer: str) -> None:
        super().__init__(tally_service(), storage, consumer=consumer)
        self.handled = Handled()

    async def handle_records(self, *arguments: Any, **options: Any) -> Handled:
        handled = await super().handle_records(*arguments, **options)
        self.handled.add(handled)
        return handled


@dataclass
class Hop:
    """From the order's outbox to the tally, under a consumer name of its own."""

    order: PostgresStorage
    tally: PostgresStorage
    settings: Settings
    name: str = field(default_factory=lambda: f"test.{new_id()}")
    written: int = 0

    async def write(self, *facts: tuple[str, int, str]) -> None:
        """One transaction of the order service: (order, version, what the tally shall do) each."""
        events = [order_event(*fact) for fact in facts]
        async with self.order.transaction() as tx:
            await tx.write(Changes(now=AT, events=events))
        self.written += len(events)

    def relay(self, publisher: Publisher | None = None, **settings: Any) -> Relay:
        changed = self.settings.model_copy(update=settings)
        return Relay("order", self.order, publisher or KafkaPublisher(changed), changed)

    @asynccontextmanager
    async def relaying(self, **settings: Any) -> AsyncIterator[Relay]:
        relay = self.relay(**settings)
        async with running(lambda stop: relay.run(asyncio.Event(), stop)):
            yield relay

    @asynccontextmanager
    async def consuming(self, handler: RecordingHandler | None = None) -> AsyncIterator[RecordingHandler]:
        handler = handler or RecordingHandler(self.tally, self.name)
        consumer = Consumer(handler, self.settings)
        async with running(consumer.run):
            handler.halted = consumer.halted  # type: ignore[attr-defined]
            yield handler

    async def start_at_end(self) -> None:
        """What other tests have left in the topics is none of this one's."""
        await self.tally.ensure_positions(self.name, await ends(self.settings))

    async def sold(self, sku: str) -> list[int]:
        stored = await self.tally.read_streams([f"stock-{sku}"])
        return [recorded.event.qty for item in stored if (recorded := recorded_of(item)) is not None]

    async def arrived(self, sku: str, quantities: Sequence[int]) -> None:
        async def all_there() -> bool:
            return len(await self.sold(sku)) >= len(quantities)

        await eventually(all_there, f"{len(quantities)} events of {sku}", 30)
        assert await self.sold(sku) == list(quantities)

    async def published(self) -> None:
        async def empty() -> bool:
            return (await self.order.figures())["outbox_pending"] == 0

        await eventually(empty, "the outbox is empty", 60)

    async def caught_up(self) -> None:
        async def at_end() -> bool:
            return await self.tally.ensure_positions(self.name, {}) == await ends(self.settings)

        await eventually(at_end, "the consumer is at the end of the log", 30)


def order_event(order_id: str, version: int, does: str) -> StoredEvent:
    event = OrderDuplicateDetected(order_id=order_id, external_revision=version, content_hash=does)
    return StoredEvent(envelope(event.stream_id, version), encode(event), order_id)


async def ends(settings: Settings) -> dict[Partition, int]:
    async with AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap) as consumer:
        found = await consumer.end_offsets([TopicPartition(p.topic, p.number) for p in PARTITIONS])
    return {Partition(tp.topic, tp.partition): offset for tp, offset in found.items()}


@asynccontextmanager
async def running(loop: Any) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(loop(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 20)


@pytest.fixture(scope="module")
async def storages(servers: LocalCluster) -> AsyncIterator[tuple[PostgresStorage, PostgresStorage]]:
    async with AsyncExitStack() as stack:
        made = []
        for name, service in (("test_hop_order", "order"), ("test_hop_tally", "inventory")):
            app = servers.dsn(service)
            dsn = await stack.enter_async_context(database(tally_service(), servers.admin_dsn, app, name))
            made.append(await stack.enter_async_context(storage_on(dsn, f"/{service}-service")))
        yield made[0], made[1]


@pytest.fixture
async def hop(storages: tuple[PostgresStorage, PostgresStorage], servers: LocalCluster) -> Hop:
    for name in ("test_hop_order", "test_hop_tally"):
        await emptied(in_database(servers.admin_dsn, name))
    hop = Hop(*storages, Settings(kafka_bootstrap=servers.kafka_bootstrap, poll_ms=20, lease_seconds=1))
    await hop.start_at_end()
    return hop


async def test_streams_keep_their_order_over_many_rounds_and_writers(hop: Hop) -> None:
    """Four writers of five streams each, a relay that takes seven pointers a round."""
    orders = {writer: [new_id() for _ in range(5)] for writer in range(4)}

    async def writer(number: int) -> None:
        for version in range(1, 16):
            await hop.write(*((order_id, version, f"add:{order_id}") for order_id in orders[number]))

    async with hop.relaying(relay_pointers=7), hop.consuming() as handler:
        await asyncio.gather(*(writer(number) for number in orders))
        for order_id in [order_id for some in orders.values() for order_id in some]:
            await hop.arrived(order_id, range(1, 16))
    assert handler.handled.counts == {"processed": 300}


class DiesAfterSending:
    """The relay's process ends when Kafka has acknowledged, before the outbox rows are deleted."""

    class Died(Exception):
        pass

    def __init__(self, settings: Settings) -> None:
        self._publisher = KafkaPublisher(settings)
        self.start, self.close = self._publisher.start, self._publisher.close

    async def send(self, partition: Partition, records: Sequence[StoredEvent]) -> int:
        await self._publisher.send(partition, records)
        raise self.Died


async def test_relay_killed_between_acknowledgement_and_delete_repeats_without_effect(hop: Hop) -> None:
    order_id = new_id()
    await hop.write(*((order_id, version, f"add:{order_id}") for version in (1, 2, 3)))
    dying = hop.relay(DiesAfterSending(hop.settings))
    with pytest.raises(DiesAfterSending.Died):
        await dying.publish()
    await dying._publisher.close()
    assert (await hop.order.figures())["outbox_pending"] == 3
    async with hop.relaying(), hop.consuming() as handler:
        await hop.published()
        await hop.write((order_id, 4, f"add:{order_id}"))
        await hop.arrived(order_id, [1, 2, 3, 4])
        await hop.caught_up()
    assert handler.handled.counts == {"processed": 4, "duplicate": 3}


async def test_second_relay_waits_until_the_lease_of_the_first_has_ended(hop: Hop) -> None:
    first, second = hop.relay(), hop.relay()
    order_id = new_id()
    await hop.write((order_id, 1, f"add:{order_id}"))
    assert await first.publish() == 1
    await hop.write((order_id, 2, f"add:{order_id}"))
    assert await second.publish() == 0

    async def taken_over() -> bool:
        return await second.publish() == 1

    await eventually(taken_over, "the lease ends", 5)
    await hop.write((order_id, 3, f"add:{order_id}"))
    assert await first.publish() == 0
    assert await second.publish() == 1
    for relay in (first, second):
        await relay._publisher.close()


async def test_two_owners_of_every_partition_handle_each_record_once(hop: Hop) -> None:
    """Two members that both believe to own all partitions: what a rebalance looks like to a process that froze."""
    orders = [new_id() for _ in range(12)]
    handlers = [RecordingHandler(hop.tally, hop.name) for _ in range(2)]

    async def owner(handler: RecordingHandler, stop: asyncio.Event) -> None:
        consumer = Consumer(handler, hop.settings)
        # No group: both are assigned everything, and only the fence stands between them.
        kafka = AIOKafkaConsumer(
            bootstrap_servers=hop.settings.kafka_bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        kafka.assign([TopicPartition(p.topic, p.number) for p in PARTITIONS])
        await kafka.start()
        consumer._consumer, consumer._committed_at = kafka, float("inf")
        try:
            while not stop.is_set():
                await consumer._round(stop)
        finally:
            await kafka.stop()
        assert not consumer.halted

    def owning(handler: RecordingHandler) -> Any:
        return running(lambda stop: owner(handler, stop))

    async with hop.relaying(relay_pointers=10), owning(handlers[0]), owning(handlers[1]):
        for version in range(1, 21):
            await hop.write(*((order_id, version, f"add:{order_id}") for order_id in orders))
        for order_id in orders:
            await hop.arrived(order_id, range(1, 21))
        await hop.caught_up()
    counts = handlers[0].handled.counts + handlers[1].handled.counts
    assert counts == {"processed": 240}
    assert handlers[0].handled.refused or handlers[1].handled.refused, "they never met: the test shows nothing"


async def test_zombie_with_an_old_batch_writes_nothing(hop: Hop) -> None:
    order_id = new_id()
    await hop.write((order_id, 1, f"add:{order_id}"))
    zombie = RecordingHandler(hop.tally, hop.name)
    frozen: list[Any] = []

    class Freezing(RecordingHandler):
        async def handle_records(self, records: Any, *arguments: Any, **options: Any) -> Handled:
            frozen.extend(records)
            return await super().handle_records(records, *arguments, **options)

    async with hop.relaying(), hop.consuming(Freezing(hop.tally, hop.name)):
        await hop.arrived(order_id, [1])
    handled = await zombie.handle_records(frozen)
    assert handled.refused.keys() == {frozen[0].partition}
    assert not handled.counts
    assert await hop.sold(order_id) == [1]


async def test_rewound_group_reads_again_without_a_second_effect(hop: Hop) -> None:
    """Kafka's own position is lost; the one in PostgreSQL counts."""
    order_id = new_id()
    place = Partition(ORDER_EVENTS.name, partition_of(order_id.encode(), ORDER_EVENTS.partitions))
    async with hop.relaying():
        async with hop.consuming():
            await hop.write(*((order_id, version, f"add:{order_id}") for version in (1, 2)))
            await hop.arrived(order_id, [1, 2])
        async with AIOKafkaConsumer(bootstrap_servers=hop.settings.kafka_bootstrap, group_id=hop.name) as kafka:
            kafka.assign([TopicPartition(place.topic, place.number)])
            await kafka.commit({TopicPartition(place.topic, place.number): 0})
        async with hop.consuming() as handler:
            await hop.write((order_id, 3, f"add:{order_id}"))
            await hop.arrived(order_id, [1, 2, 3])
    assert handler.handled.counts == {"processed": 1}


async def test_commit_that_is_never_answered_holds_nothing_up(hop: Hop, monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka waits for a coordinator that it no longer finds, as after a broker was killed."""
    asked = asyncio.Event()

    async def unanswered(*_: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(AIOKafkaConsumer, "commit", unanswered)
    monkeypatch.setattr("libs.runtime.consumer._ANSWER_SECONDS", 0.5)
    order_id = new_id()
    async with hop.relaying(), hop.consuming():
        await hop.write((order_id, 1, f"add:{order_id}"))
        await hop.arrived(order_id, [1])
        async with asyncio.timeout(20):
            await asked.wait()
        await hop.write((order_id, 2, f"add:{order_id}"))
        await hop.arrived(order_id, [1, 2])


async def nothing(*_: Any, **__: Any) -> dict[TopicPartition, list[Any]]:
    """As `getmany` answers while nothing comes."""
    await asyncio.sleep(0.02)
    return {}


async def test_consumer_whose_client_is_never_answered_is_made_anew(hop: Hop, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[AIOKafkaConsumer] = []

    def kept(*arguments: Any) -> AIOKafkaConsumer:
        made.append(new_consumer(*arguments))
        return made[-1]

    async def unanswered(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("libs.runtime.consumer.new_consumer", kept)
    monkeypatch.setattr("libs.runtime.consumer._ANSWER_SECONDS", 0.5)
    monkeypatch.setattr("libs.runtime.consumer._STUCK_SECONDS", 1.0)
    order_id = new_id()
    async with hop.relaying(), hop.consuming():
        await hop.write((order_id, 1, f"add:{order_id}"))
        await hop.arrived(order_id, [1])
        (first,) = made
        monkeypatch.setattr(first, "getmany", nothing)
        monkeypatch.setattr(first, "end_offsets", unanswered)
        await hop.write((order_id, 2, f"add:{order_id}"))
        await hop.arrived(order_id, [1, 2])


async def test_consumer_that_gets_nothing_though_records_are_there_ends_its_process(
    hop: Hop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.runtime.consumer._STUCK_SECONDS", 0.5)
    monkeypatch.setattr(AIOKafkaConsumer, "getmany", nothing)
    consumer = Consumer(RecordingHandler(hop.tally, hop.name), hop.settings)
    async with hop.relaying():
        await hop.write((new_id(), 1, "add:any"))
        with pytest.raises(ConsumerStuck):
            await asyncio.wait_for(consumer.run(asyncio.Event()), 30)


@asynccontextmanager
async def reset(connection: AIOKafkaConnection) -> AsyncIterator[None]:
    """As uvloop leaves a connection that its broker has reset, before the client hears of it."""
    _, closed = await asyncio.open_connection(connection.host, connection.port)
    closed.close()
    await closed.wait_closed()
    kept, connection._writer = connection._writer, closed
    try:
        yield
    finally:
        kept.close()


async def test_client_whose_connections_were_reset_finds_its_broker_again(servers: LocalCluster) -> None:
    """uvloop raises what aiokafka does not catch when a connection is written to that has just been reset."""
    settings = Settings(kafka_bootstrap=servers.kafka_bootstrap)

    async def found_again() -> bool:
        async with new_consumer(settings, f"test.{new_id()}") as consumer:
            await consumer._client.force_metadata_update()
            (connection,) = consumer._client._conns.values()
            async with reset(connection), asyncio.timeout(20):
                while not await consumer._client.force_metadata_update():
                    pass
            return True

    assert await asyncio.to_thread(uvloop.run, found_again())


async def test_login_on_a_connection_that_was_reset_is_a_broken_connection(servers: LocalCluster) -> None:
    host, port = servers.kafka_bootstrap.split(":")

    async def logs_in() -> None:
        connection = await create_conn(host, int(port))
        async with reset(connection):
            connection._send_sasl_token(b"login")

    with pytest.raises(KafkaConnectionError):
        await asyncio.to_thread(uvloop.run, logs_in())


async def test_rewound_position_reads_again_as_duplicates(hop: Hop) -> None:
    """An operator's rewind in PostgreSQL: `seen` drops what it knows."""
    order_id = new_id()
    beginnings = await hop.tally.ensure_positions(hop.name, {})
    async with hop.relaying():
        async with hop.consuming():
            await hop.write(*((order_id, version, f"add:{order_id}") for version in (1, 2)))
            await hop.arrived(order_id, [1, 2])
            await hop.caught_up()
        async with hop.tally.transaction() as tx:
            await tx.write(Changes(now=AT, consumer=hop.name, positions=dict(beginnings)))
        async with hop.consuming() as handler:
            await hop.write((order_id, 3, f"add:{order_id}"))
            await hop.arrived(order_id, [1, 2, 3])
    assert handler.handled.counts == {"duplicate": 2, "processed": 1}


async def test_position_outside_the_log_halts_its_partition_and_no_other(hop: Hop) -> None:
    orders: dict[int, str] = {}
    while len(orders) < 2:
        order_id = new_id()
        orders.setdefault(partition_of(order_id.encode(), ORDER_EVENTS.partitions), order_id)
    lost, sound = orders
    place = Partition(ORDER_EVENTS.name, lost)
    async with hop.tally.transaction() as tx:
        await tx.write(Changes(now=AT, consumer=hop.name, positions={place: 1_000_000}))
    async with hop.relaying(), hop.consuming() as handler:
        await hop.write(*((order_id, 1, f"add:{order_id}") for order_id in orders.values()))
        await hop.arrived(orders[sound], [1])
        halted = handler.halted  # type: ignore[attr-defined]
        assert halted.keys() == {place}
        assert "outside the log" in halted[place]
    assert await hop.sold(orders[lost]) == []
    assert (await hop.tally.ensure_positions(hop.name, {}))[place] == 1_000_000


@pytest.mark.faults
async def test_broker_that_is_killed_delays_and_loses_nothing(hop: Hop, servers: LocalCluster) -> None:
    order_id = new_id()
    child = servers.supervisor.child("kafka")
    async with hop.relaying(), hop.consuming() as handler:
        await hop.write(*((order_id, version, f"add:{order_id}") for version in range(1, 6)))
        await hop.arrived(order_id, range(1, 6))
        restarts = child.restarts
        os.kill(child.pid, signal.SIGKILL)
        for version in range(6, 26):
            await hop.write((order_id, version, f"add:{order_id}"))

        async def restarted() -> bool:
            return child.restarts > restarts

        await eventually(restarted, "Kafka is started anew", 30)
        await hop.published()
        await hop.arrived(order_id, range(1, 26))
    assert handler.handled.counts["processed"] == 25
    assert handler.handled.counts["parked"] == 0


@pytest.mark.faults
async def test_frozen_broker_has_acknowledged_nothing_and_the_outbox_keeps_it(hop: Hop, servers: LocalCluster) -> None:
    child = servers.supervisor.child("kafka")
    relay, order_id = hop.relay(), new_id()
    await hop.write((order_id, 1, "mute"))
    assert await relay.publish() == 1, "the relay has not reached the broker: the test would show nothing"
    await hop.write((order_id, 2, "mute"))
    os.kill(child.pid, signal.SIGSTOP)
    try:
        publishing = asyncio.create_task(relay.publish())
        done, _ = await asyncio.wait([publishing], timeout=1)
        assert not done, "taken for acknowledged by a broker that stands still"
        assert (await hop.order.figures())["outbox_pending"] == 1
    finally:
        os.kill(child.pid, signal.SIGCONT)
    assert await publishing == 1
    await hop.published()
    await relay._publisher.close()
