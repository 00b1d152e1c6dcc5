"""Moves committed events from the outbox to Kafka, in order per stream.

Version n+1 of a stream is only ever inserted after version n has committed, so the pointers that are visible, read in
order of position, keep the order of every stream, and none can be skipped. One relay of a service is active: it holds
a lease by the database's clock. A zombie's late send is a repeat, which consumers drop by version.
"""

import asyncio
import math
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from libs.events.envelope import to_headers
from libs.events.topics import CATEGORIES
from libs.runtime import telemetry
from libs.runtime.errors import Unavailable
from libs.runtime.failpoint import failpoint
from libs.runtime.identity import new_id
from libs.runtime.kafka import new_producer, partition_of
from libs.runtime.settings import Settings
from libs.runtime.storage import Partition, Storage, StoredEvent
from libs.runtime.waiting import until

log = structlog.get_logger()

_SEND_SECONDS = 15.0
_STOP_SECONDS = 5.0
_RENEWED_AFTER = 1 / 3
"""The share of its lease after which a relay asks whether it still has it."""


def quiet_seconds(lease_seconds: float) -> float:
    """So long after its lease was taken away, nothing that a relay began can reach Kafka any more."""
    return lease_seconds * _RENEWED_AFTER + _SEND_SECONDS + _STOP_SECONDS + 1


def lease_of(service: str) -> str:
    return f"relay.{service}"


@dataclass(slots=True)
class Outgoing:
    """The records of one partition, in order, and the outbox positions that they stand for."""

    records: list[StoredEvent] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)


def by_partition(pointers: Sequence[tuple[int, StoredEvent]]) -> dict[Partition, Outgoing]:
    out: dict[Partition, Outgoing] = {}
    for position, event in pointers:
        topic = CATEGORIES[event.envelope.stream_id.partition("-")[0]].topic
        partition = Partition(topic.name, partition_of(event.key.encode(), topic.partitions))
        outgoing = out.setdefault(partition, Outgoing())
        outgoing.records.append(event)
        outgoing.positions.append(position)
    return out


class Publisher(Protocol):
    """Where the relay sends: `send` returns how many records, from the first on, were acknowledged."""

    async def start(self) -> None: ...

    async def send(self, partition: Partition, records: Sequence[StoredEvent]) -> int: ...

    async def close(self) -> None: ...


class KafkaPublisher:
    """One record batch a partition and call, acknowledged by all in-sync replicas."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        if self._producer is None:
            producer = new_producer(self._settings)
            self._producer = producer
            await producer.start()

    async def send(self, partition: Partition, records: Sequence[StoredEvent]) -> int:
        assert self._producer is not None
        batch = self._producer.create_batch()
        count = 0
        for record in records:
            appended = batch.append(
                key=record.key.encode(),
                value=record.data,
                timestamp=int(record.envelope.recorded_at.timestamp() * 1000),
                headers=to_headers(record.envelope),
            )
            if appended is None:
                break  # full: the rest goes with the next round
            count += 1
        batch.close()
        sent = await self._producer.send_batch(batch, partition.topic, partition=partition.number)
        await sent
        return count

    async def close(self) -> None:
        """Drops the producer; bounded, because a producer whose broker is gone never stops by itself."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            await asyncio.wait_for(producer.stop(), _STOP_SECONDS)
        except (TimeoutError, KafkaError):
            log.warning("relay.producer_abandoned")
            # Left alone, its sender would try for ever, and send again what its successor has sent long before.
            await producer._sender.close()  # noqa: SLF001
            await producer.client.close()


class Relay:
    def __init__(self, service: str, storage: Storage, publisher: Publisher, settings: Settings) -> None:
        self._name = lease_of(service)
        self._holder = new_id()
        self._storage = storage
        self._publisher = publisher
        self._settings = settings
        self._renewed_at = -math.inf

    async def run(self, wake: asyncio.Event, stop: asyncio.Event) -> None:
        """Publishes until asked to stop; then once more what is left."""
        try:
            while not stop.is_set():
                published = await self._safely()
                if published == 0:
                    await until(wake, stop, self._settings.poll_ms / 1000)
            await self._safely()
        finally:
            await self._publisher.close()
            with suppress(Unavailable):  # then it ends by itself
                await self._storage.drop_lease(self._name, self._holder)

    async def _safely(self) -> int:
        try:
            return await self.publish()
        except Unavailable as error:
            log.warning("relay.waiting", reason=str(error))
        except (KafkaError, TimeoutError) as error:
            # After any send error the producer's state is not to be trusted: make a new one and go on from the first
            # row that is still there.
            log.warning("relay.send_failed", reason=f"{type(error).__name__}: {error}")
            telemetry.count("oms.retries", why="kafka_away")
            await self._publisher.close()
        await asyncio.sleep(0.2 + random.random() * 0.3)
        return 0

    async def _holds_lease(self) -> bool:
        """Renews the lease in its last two thirds only: a renewal is a commit, and most rounds find nothing to do."""
        now = time.monotonic()
        if now - self._renewed_at < self._settings.lease_seconds * _RENEWED_AFTER:
            return True
        held = await self._storage.hold_lease(self._name, self._holder, self._settings.lease_seconds)
        self._renewed_at = now if held else -math.inf
        return held

    async def publish(self) -> int:
        """One round; says how many events were published. 0 while another relay holds the lease."""
        if not await self._holds_lease():
            return 0
        pointers = await self._storage.read_outbox(self._settings.relay_pointers)
        if not pointers:
            return 0
        await self._publisher.start()
        outgoing = by_partition(pointers)
        async with asyncio.timeout(_SEND_SECONDS):
            counts = await asyncio.gather(
                *(self._publisher.send(partition, out.records) for partition, out in outgoing.items()),
                return_exceptions=True,
            )
        acknowledged = [
            position
            for out, sent in zip(outgoing.values(), counts, strict=True)
            if isinstance(sent, int)
            for position in out.positions[:sent]
        ]
        failpoint("relay.acknowledged")
        if acknowledged:
            await self._storage.delete_outbox(acknowledged)
            telemetry.count("oms.events.published", len(acknowledged))
        for sent in counts:
            if isinstance(sent, BaseException):
                raise sent
        return len(acknowledged)
