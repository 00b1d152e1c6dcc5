"""Records that come again, come out of order, or are not what they should be."""

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncpg
import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.admin import DeleteGroupsRequest

from tests.faults.driver import abandon
from tests.faults.kinds.kind import Kind, Make, NeverHit, Scene
from tests.faults.oracle.history import CHANNEL_TOPIC, OWN_TOPICS

WORD = ("--by", "campaign", "--reason", "a fault campaign", "--yes")
WHOLE = ("oms.inventory.events", "oms.payment.events", "oms.fulfillment.events")
"""Topics that the campaign spoils nothing on: what is made anew there is only what its owner wrote."""
ORDER_TOPIC = "oms.order.events"
SUBSCRIBED = {
    "order": (CHANNEL_TOPIC, "oms.inventory.events", "oms.payment.events", "oms.fulfillment.events"),
    "inventory": (ORDER_TOPIC,),
    "payment": (ORDER_TOPIC,),
    "fulfillment": (ORDER_TOPIC,),
}
Headers = list[tuple[str, bytes]]
T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    topic: str
    value: bytes | None
    key: bytes | None
    headers: Headers
    partition: int | None = None


async def send(scene: Scene, records: Sequence[Record], *, injected: bool = True) -> None:
    """Straight to the broker; what is not a copy is noted in the journal, so that the oracle knows whose it is."""
    left = list(records)
    await patiently(lambda: _send(scene, left, injected=injected))


async def patiently(work: Callable[[], Awaitable[T]], seconds: float = 60.0) -> T:
    """Another strike may have taken Kafka or PostgreSQL away."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await work()
        except (KafkaError, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(1)


async def _send(scene: Scene, left: list[Record], *, injected: bool) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=scene.arena.places.kafka, acks="all", max_request_size=2**20)
    try:
        await asyncio.wait_for(producer.start(), 20)
        while left:
            record = left[0]
            place = await asyncio.wait_for(
                producer.send_and_wait(
                    record.topic, record.value, key=record.key, headers=record.headers, partition=record.partition
                ),
                20,
            )
            if injected:
                scene.journal.note("injected", topic=place.topic, partition=place.partition, offset=place.offset)
            left.pop(0)
    finally:
        await abandon(producer)


async def records_of(scene: Scene, place: TopicPartition, count: int, *, first: bool) -> list[Record]:
    """The first or the last records of a partition."""
    return await patiently(lambda: _records_of(scene, place, count, first=first))


async def _records_of(scene: Scene, place: TopicPartition, count: int, *, first: bool) -> list[Record]:
    consumer = AIOKafkaConsumer(bootstrap_servers=scene.arena.places.kafka, group_id=None, enable_auto_commit=False)
    await asyncio.wait_for(consumer.start(), 20)
    found: list[Record] = []
    try:
        consumer.assign([place])
        end = (await consumer.end_offsets([place]))[place]
        start = 0 if first else max(0, end - count)
        end = min(end, start + count)
        consumer.seek(place, start)
        deadline = time.monotonic() + 20
        while start + len(found) < end and time.monotonic() < deadline:
            for items in (await consumer.getmany(timeout_ms=300)).values():
                found += [
                    Record(i.topic, i.value, i.key, list(i.headers), i.partition) for i in items if i.offset < end
                ]
    finally:
        await asyncio.wait_for(consumer.stop(), 10)
    return found


# --- again ------------------------------------------------------------------------------------------------------------


@dataclass
class Repeat(Kind):
    """The same records once more, byte for byte: what a relay does that died before it deleted its pointers.

    Only of keys that the campaign did not spoil: a spoilt record that comes again would be a fault of its own.
    """

    count: int = 1
    times: int = 10

    async def strike(self, scene: Scene) -> None:
        place = TopicPartition(self.target, scene.random.randrange(6))
        found = [r for r in await records_of(scene, place, self.count, first=False) if not _is_spoilt(r)]
        await send(scene, [record for record in found for _ in range(self.times)], injected=False)
        self.notes.append(f"{len(found)} records {self.times} times")


@dataclass
class Replayed(Kind):
    """A whole topic once more, from offset 0; late in a long run, of each partition what a minute has time for."""

    count: int = 2_500

    async def strike(self, scene: Scene) -> None:
        sent = 0
        for number in range(6):
            records = await records_of(scene, TopicPartition(self.target, number), self.count, first=True)
            found = [record for record in records if not _is_spoilt(record)]
            await send(scene, found, injected=False)
            sent += len(found)
        self.notes.append(f"{sent} records")


def _is_spoilt(record: Record) -> bool:
    return b"campaign" in (record.key or b"") or any(b"campaign" in value for _, value in record.headers)


@dataclass
class GroupReset(Kind):
    """Kafka believes that the group has read nothing, and a second member joins: positions are not Kafka's to say."""

    async def strike(self, scene: Scene) -> None:
        arena = scene.arena
        command = arena.commands[self.target]
        await arena.stop(self.target)
        try:
            await patiently(lambda: self._forget(scene))
        finally:
            arena.cluster.supervisor.start(command)
        member = arena.second(self.target)
        await asyncio.sleep(4)
        await arena.stop(member)

    async def _forget(self, scene: Scene) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=scene.arena.places.kafka, group_id=f"oms.{self.target}.policy", enable_auto_commit=False
        )
        await asyncio.wait_for(consumer.start(), 20)
        try:
            places = [TopicPartition(topic, number) for topic in SUBSCRIBED[self.target] for number in range(6)]
            consumer.assign(places)
            await asyncio.wait_for(consumer.commit(dict.fromkeys(places, 0)), 10)
        finally:
            await asyncio.wait_for(consumer.stop(), 10)


@dataclass
class GroupDeleted(GroupReset):
    """Kafka knows nothing of the group any more."""

    async def _forget(self, scene: Scene) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=scene.arena.places.kafka)
        try:
            await asyncio.wait_for(admin.start(), 20)
            answer = await asyncio.wait_for(admin._send_request(DeleteGroupsRequest([f"oms.{self.target}.policy"])), 10)
            for _, code in answer.results:
                if code:  # it still has a member: tried again
                    raise for_code(code)
        finally:
            await admin.close()


# --- bad --------------------------------------------------------------------------------------------------------------


def headers(stream: str, version: int, type_: str = "oms.order.OrderHoldReleased", **changes: bytes | None) -> Headers:
    """Those of an event, with some changed and some (None) left out."""
    moment = b"2026-01-05T10:00:00+00:00"
    whole: dict[str, bytes | None] = {
        "content-type": b"application/json",
        "ce_specversion": b"1.0",
        "ce_id": str(uuid.uuid4()).encode(),
        "ce_type": type_.encode(),
        "ce_source": b"/campaign",
        "ce_subject": stream.encode(),
        "ce_time": moment,
        "ce_recordedtime": moment,
        "ce_dataschemaversion": b"1",
        "ce_aggregateversion": str(version).encode(),
        "ce_correlationid": b"campaign",
        "ce_causationid": b"campaign",
        "ce_tenantid": b"main",
        **changes,
    }
    return [(name, value) for name, value in whole.items() if value is not None]


def fresh() -> tuple[str, bytes]:
    """A stream that nobody has, and its key."""
    order_id = f"campaign-{uuid.uuid4()}"
    return f"order-{order_id}", order_id.encode()


def good(stream: str, key: bytes, version: int) -> Record:
    """An event that everybody can read and nobody acts upon."""
    value = {"order_id": key.decode(), "hold_id": "campaign", "reason": "campaign"}
    return Record(ORDER_TOPIC, json.dumps(value).encode(), key, headers(stream, version))


def poisons() -> Mapping[str, Record]:
    """One of each kind, each on a stream of its own."""
    wanted = "oms.order.StockReservationRequested"

    def bad(name: str, value: bytes | None, type_: str = wanted, **changes: bytes | None) -> Record:
        stream, key = fresh()
        del name
        return Record(ORDER_TOPIC, value, key, headers(stream, 1, type_, **changes))

    stream, key = fresh()
    repeated = Record(ORDER_TOPIC, b"{}", key, [*headers(stream, 1, wanted), ("ce_subject", stream.encode())])
    return {
        "null_value": bad("null_value", None),
        "empty": bad("empty", b""),
        "no_json": bad("no_json", b"<html>"),
        "truncated": bad("truncated", b'{"order_id": "x", "li'),
        "wrong_shape": bad("wrong_shape", b'{"order_id": 7}'),
        "no_headers": Record(ORDER_TOPIC, b"{}", fresh()[1], []),
        "repeated_header": repeated,
        "huge_header": bad("huge_header", b"{}", ce_source=b"x" * 9000),
        "bad_version": bad("bad_version", b"{}", ce_aggregateversion=b"0"),
        "no_key": Record(ORDER_TOPIC, b"{}", None, headers(fresh()[0], 1, wanted)),
    }


@dataclass
class PoisonOwn(Kind):
    """A bad record, and good ones behind it of the same key (they wait) and of another (they pass)."""

    async def strike(self, scene: Scene) -> None:
        name, bad = scene.random.choice([*poisons().items()])
        records = [bad]
        if bad.key is not None:
            stream = next((value.decode() for header, value in bad.headers if header == "ce_subject"), "")
            records += [good(stream or fresh()[0], bad.key, 2)]
        other, key = fresh()
        records += [good(other, key, 1)]
        await send(scene, records)
        self.notes.append(name)


@dataclass
class PoisonChannel(Kind):
    """What no channel should send, before good orders of the same key."""

    async def strike(self, scene: Scene) -> None:
        values: tuple[bytes | None, ...] = (None, b"", b"\xff\xfe", b"[1,2]", b'{"channel": 5}', b'{"channel":"web-0"')
        value = scene.random.choice(values)
        order = scene.driver.order()
        key = f"{order['channel']}:{order['external_order_id']}".encode()
        await send(scene, [Record(CHANNEL_TOPIC, value, key, [("x-campaign", b"campaign")])])
        await scene.driver.place_kafka(order)
        self.notes.append(repr(value))


# --- gaps -------------------------------------------------------------------------------------------------------------


@dataclass
class Gap:
    stream: str
    key: bytes
    partition: int = 0
    records: list[Record] = field(default_factory=list)


async def open_gap(scene: Scene) -> Gap:
    """Versions 2 and 3 of a stream without its first: the key is parked until it comes."""
    stream, key = fresh()
    gap = Gap(stream, key)
    await send(scene, [good(stream, key, 2), good(stream, key, 3)])
    await _parked(scene, gap, 2)
    return gap


async def heal_gap(scene: Scene, gap: Gap) -> None:
    await send(scene, [good(gap.stream, gap.key, 1)])


async def _parked(scene: Scene, gap: Gap, wanted: int, seconds: float = 40) -> None:
    """Until as many of its records are parked by inventory."""
    deadline = time.monotonic() + seconds
    found: Any = None
    while time.monotonic() < deadline:
        try:
            connection = await asyncpg.connect(scene.arena.places.dsns["inventory"], timeout=3)
            try:
                found = await connection.fetchval("SELECT count(*) FROM parked_record WHERE key = $1", gap.key)
            finally:
                await connection.close()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pass
        if found == wanted:
            return
        await asyncio.sleep(0.2)
    raise NeverHit(f"{found} records of {gap.stream} are parked, {wanted} expected")


@dataclass
class LateVersion(Kind):
    """The missing version comes after those behind it; the key releases itself."""

    async def strike(self, scene: Scene) -> None:
        gap = await open_gap(scene)
        await heal_gap(scene, gap)
        await _parked(scene, gap, 0)


@dataclass
class BadDeploy(Kind):
    """More bad keys in a row than may be parked: the partition must stop; a restart stands for the mended deploy."""

    keys: int = 24

    async def strike(self, scene: Scene) -> None:
        partition = scene.random.randrange(6)
        wanted = "oms.order.StockReservationRequested"
        records = []
        for _ in range(self.keys):
            stream, key = fresh()
            records.append(Record(ORDER_TOPIC, b"<html>", key, headers(stream, 1, wanted), partition))
        await patiently(lambda: self._sent_together(scene, records))
        await self._halted(scene)

    async def _sent_together(self, scene: Scene, records: Sequence[Record]) -> None:
        """In one batch: a good record between two of them would begin the row anew."""
        producer = AIOKafkaProducer(bootstrap_servers=scene.arena.places.kafka, acks="all", max_batch_size=2**20)
        try:
            await asyncio.wait_for(producer.start(), 20)
            batch = producer.create_batch()
            for record in records:
                batch.append(key=record.key, value=record.value, timestamp=None, headers=record.headers)
            batch.close()
            first = await asyncio.wait_for(
                await producer.send_batch(batch, ORDER_TOPIC, partition=records[0].partition), 20
            )
            for place in range(len(records)):
                scene.journal.note(
                    "injected", topic=first.topic, partition=first.partition, offset=first.offset + place
                )
        finally:
            await abandon(producer)

    async def _halted(self, scene: Scene) -> None:
        deadline = time.monotonic() + 40
        async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
            while time.monotonic() < deadline:
                try:
                    if (await client.get(f"{scene.arena.url(self.target)}/status")).json().get("halted"):
                        return
                except (httpx.HTTPError, ValueError):
                    pass
                await asyncio.sleep(0.3)
        raise NeverHit(f"{self.target} parked {self.keys} keys in a row and did not stop")

    async def heal(self, scene: Scene) -> None:
        for name in ("inventory", "payment", "fulfillment", "tracking"):
            await scene.arena.killed(name)


@dataclass
class Republished(Kind):
    """A topic is deleted and made anew from its owner's store; the operator repeats what failed half way."""

    async def strike(self, scene: Scene) -> None:
        done = None
        for _ in range(3):
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", "from oms.cli import app; app()", "republish", self.target, *WORD],
                env={**os.environ, "OMS_STATE_DIR": str(scene.arena.state_dir)},
                capture_output=True,
                text=True,
                timeout=400,
                check=False,
            )
            if done.returncode == 0:
                return
        raise NeverHit(f"republish {self.target}: {done.stdout[-300:]} {done.stderr[-600:]}" if done else "")


def _repeat(name: str, count: int, times: int) -> Make:
    return lambda dice: Repeat(name=name, target=dice.choice(OWN_TOPICS), count=count, times=times)


KINDS: dict[str, Make] = {
    "record_ten_times": _repeat("record_ten_times", 5, 10),
    "topic_replayed": lambda dice: Replayed(name="topic_replayed", target=dice.choice(OWN_TOPICS), bound=30),
    "group_reset": lambda dice: GroupReset(name="group_reset", target=dice.choice(sorted(SUBSCRIBED))),
    "group_deleted": lambda dice: GroupDeleted(name="group_deleted", target=dice.choice(sorted(SUBSCRIBED))),
    "republish": lambda dice: Republished(name="republish", target=dice.choice(WHOLE), bound=90),
    "poison_own_topic": lambda dice: PoisonOwn(name="poison_own_topic", target=ORDER_TOPIC),
    "poison_channel": lambda dice: PoisonChannel(name="poison_channel", target=CHANNEL_TOPIC),
    "late_version": lambda dice: LateVersion(name="late_version", target=ORDER_TOPIC),
    "bad_deploy": lambda dice: BadDeploy(name="bad_deploy", target="inventory", bound=25),
}
