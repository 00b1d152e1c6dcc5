"""The event stores against the topics: what is stored is what was published, whole, in order and byte by byte."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from libs.events.envelope import MalformedHeaders, from_headers, headers_of
from libs.events.topics import CATEGORIES, Topic
from libs.runtime.link import link_to
from oms.audit.finding import Finding, finding

CHUNK = 10_000
STALLED_SECONDS = 30.0
ORDER_ID = 36
"""Characters of an order's id, with which the ids of all of an order's streams begin."""

Place = tuple[str, int]  # stream and version
Progress = Callable[[int], None]


@dataclass(slots=True)
class Log:
    """A topic's events in the store at one moment: a digest for each version of each stream, from 1 on."""

    streams: dict[str, list[bytes]] = field(default_factory=dict)
    unpublished: set[Place] = field(default_factory=set)
    offenders: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Heard:
    """A topic as it is read: the last version of each stream in sequence, and what is wrong with it."""

    log: Log
    trimmed: frozenset[int] = frozenset()
    last: dict[str, int] = field(default_factory=dict)
    newer: dict[Place, bytes] = field(default_factory=dict)
    records: int = 0
    offenders: list[str] = field(default_factory=list)

    def take(self, partition: int, offset: int, headers: Iterable[tuple[str, bytes]], value: bytes | None) -> None:
        self.records += 1
        try:
            envelope = from_headers(headers_of(headers))
        except MalformedHeaders as error:
            self.offenders.append(f"partition {partition}, offset {offset}: {error}")
            return
        stream, version = envelope.stream_id, envelope.stream_version
        self._compare(stream, version, digest(value or b""))
        last = self.last.get(stream, 0)
        if version == last + 1 or (not last and partition in self.trimmed):
            self.last[stream] = version
        elif version > last:
            self.offenders.append(f"{named(stream)} version {version} is published after version {last}")
            self.last[stream] = version

    def _compare(self, stream: str, version: int, seen: bytes) -> None:
        stored = self.log.streams.get(stream, [])
        if version > len(stored):
            self.newer.setdefault((stream, version), seen)
        elif stored[version - 1] != seen:
            self.offenders.append(f"{named(stream)} version {version} is published with other bytes than stored")

    def missing(self) -> Iterator[str]:
        """What the store holds, no outbox waits to publish, and the topic does not have."""
        for stream, stored in self.log.streams.items():
            last = self.last.get(stream, 0)
            if not last and self.trimmed:
                continue  # its records may have been where the topic is trimmed
            for version in range(last + 1, len(stored) + 1):
                if (stream, version) not in self.log.unpublished:
                    yield f"{named(stream)} version {version} is stored and was never published"


def digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()


def named(stream_id: str) -> str:
    """A stream with the order that it belongs to."""
    category, _, rest = stream_id.partition("-")
    topic = CATEGORIES.get(category)
    return f"order {rest[:ORDER_ID]}: {stream_id}" if topic and topic.key_field == "order_id" else stream_id


async def log_is_published(dsn: str, topic: Topic, bootstrap: str, progress: Progress) -> Finding:
    categories = sorted(name for name, category in CATEGORIES.items() if category.topic.name == topic.name)
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        log = await _stored(connection, categories)
        heard = await _heard(topic, bootstrap, log, progress)
        offenders = [*log.offenders, *heard.offenders, *heard.missing()]
        offenders += await _unknown(connection, heard.newer)
    finally:
        await connection.close()
    events = sum(len(versions) for versions in log.streams.values())
    figures = f"{events:,} events of {len(log.streams):,} streams, {heard.records:,} records"
    waiting = f", {len(log.unpublished):,} not published yet" if log.unpublished else ""
    trimmed = ", its beginning is trimmed" if heard.trimmed else ""
    return finding(f"{topic.name} = {topic.owner}'s store", figures + waiting + trimmed, offenders)


async def _stored(connection: Any, categories: list[str]) -> Log:
    """Of one moment, and before the topic is read: whatever is in no outbox now has been acknowledged by Kafka."""
    log = Log()
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        waiting = {row["global_position"] for row in await connection.fetch("SELECT global_position FROM outbox")}
        last = 0
        while rows := await connection.fetch(
            "SELECT global_position, stream_id, stream_version, data FROM events WHERE global_position > $1"
            " ORDER BY global_position LIMIT $2",
            last,
            CHUNK,
        ):
            last = rows[-1]["global_position"]
            for row in rows:
                if row["stream_id"].partition("-")[0] in categories:
                    _add(log, row, row["global_position"] in waiting)
    return log


def _add(log: Log, row: Mapping[str, Any], waiting: bool) -> None:
    stream, version = row["stream_id"], row["stream_version"]
    stored = log.streams.setdefault(stream, [])
    if version != len(stored) + 1:
        log.offenders.append(f"{named(stream)}: version {version} is stored after version {len(stored)}")
        stored += [b""] * (version - len(stored) - 1)
    stored[version - 1 :] = [digest(row["data"])]
    if waiting:
        log.unpublished.add((stream, version))


async def _heard(topic: Topic, bootstrap: str, log: Log, progress: Progress) -> Heard:
    consumer = AIOKafkaConsumer(**link_to(bootstrap), enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        if topic.name not in await consumer.topics():
            heard = Heard(log)
            heard.offenders.append(f"{topic.name} does not exist: 'oms republish {topic.name}' makes it anew")
            return heard
        partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        consumer.assign(partitions)
        beginnings, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        heard = Heard(log, frozenset(tp.partition for tp in partitions if beginnings[tp] > 0))
        await _read(consumer, heard, beginnings, ends, progress)
        return heard
    finally:
        await consumer.stop()


async def _read(
    consumer: AIOKafkaConsumer,
    heard: Heard,
    beginnings: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
    progress: Progress,
) -> None:
    loop = asyncio.get_running_loop()
    at = dict(beginnings)
    moved_at = loop.time()
    for tp, offset in beginnings.items():
        consumer.seek(tp, offset)
    while unread := [tp for tp, end in ends.items() if at[tp] < end]:
        for tp, records in (await consumer.getmany(*unread, timeout_ms=500)).items():
            for record in records:
                if record.offset < ends[tp]:
                    heard.take(tp.partition, record.offset, record.headers, record.value)
            at[tp] = records[-1].offset + 1 if records else at[tp]
            moved_at = loop.time()
        progress(heard.records)
        if loop.time() - moved_at > STALLED_SECONDS:
            heard.offenders.append(f"{unread[0].topic}: no record comes after offset {at[unread[0]]}")
            return


async def _unknown(connection: Any, newer: Mapping[Place, bytes]) -> list[str]:
    """What was on the topic and not in the store when that was read: it must be there by now, with these bytes."""
    places = list(newer)
    offenders = []
    for start in range(0, len(places), CHUNK):
        some = places[start : start + CHUNK]
        rows = await connection.fetch(
            """SELECT stream_id, stream_version, data FROM events
               WHERE (stream_id, stream_version) IN (SELECT * FROM unnest($1::text[], $2::int[]))""",
            [stream for stream, _ in some],
            [version for _, version in some],
        )
        stored = {(row["stream_id"], row["stream_version"]): digest(row["data"]) for row in rows}
        offenders += [
            f"{named(stream)} version {version} is published and not stored so"
            for stream, version in some
            if stored.get((stream, version)) != newer[stream, version]
        ]
    return offenders
