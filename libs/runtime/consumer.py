"""Moves records of other services' topics into the handler: once in effect, in order per stream.

The position is in PostgreSQL and its fence decides what may be handled (design, section 6), so nothing here listens to
rebalances: aiokafka's listener is no barrier. What Kafka thinks the position is only feeds lag tools.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    RequestTimedOutError,
)

from libs.runtime import telemetry
from libs.runtime.errors import Unavailable
from libs.runtime.failpoint import failpoint
from libs.runtime.handler import Handled, Handler
from libs.runtime.intake import Record
from libs.runtime.kafka import new_consumer
from libs.runtime.lag import Lag
from libs.runtime.settings import Settings
from libs.runtime.storage import Partition
from libs.runtime.waiting import pause

log = structlog.get_logger()

_BROKER_AWAY = (KafkaConnectionError, NodeNotReadyError, RequestTimedOutError, TimeoutError)
_ANSWER_SECONDS = 5.0
"""What aiokafka asks a broker may wait for ever, for a coordinator that it no longer finds, and this loop with it: its
watch, too."""
_COMMIT_EVERY_SECONDS = 2.0
_LOOK_EVERY_SECONDS = 1.0
_REFUSALS = 20
_AS_USUAL = {"processed", "skipped"}
"""Outcomes of records of which metrics tell enough: a line for every small batch would be gigabytes a day."""
_STUCK_SECONDS = 10.0


class ConsumerStuck(Exception):
    """The supervisor must start the process anew."""


class _Unanswered(Exception):
    """The client must be made anew."""


class Consumer:
    """One member of the service's consumer group. `halted` partitions wait for an operator, with the reason."""

    def __init__(self, handler: Handler, settings: Settings) -> None:
        self._handler = handler
        self._settings = settings
        self._consumer: AIOKafkaConsumer | None = None
        self._positions: dict[Partition, int] = {}
        self._trimmed: frozenset[Partition] = frozenset()
        self._committed_at = 0.0
        self._looked_at = 0.0
        self._fetched_at = 0.0
        self._suspicions = 0
        self._refusals: dict[Partition, tuple[int, int]] = {}
        self._lag = Lag()
        self.halted: dict[Partition, str] = {}
        self.assigned = False
        self._maybe_healed = True  # a key may have healed just before the process before this one ended

    async def run(self, stop: asyncio.Event) -> None:
        while (consumer := await self._started(stop)) is not None:
            self._consumer = consumer
            self._positions.clear()
            self.halted.clear()
            self._fetched_at, self._suspicions = time.monotonic(), 0
            try:
                while not stop.is_set():
                    await self._round(stop)
            except _Unanswered:
                log.warning("consumer.renewed")
                telemetry.count("oms.retries", why="kafka_away")
            finally:
                # Who asks for the lag meanwhile hears that Kafka is away, not what a stopped client says.
                self._consumer, self.assigned = None, False
                await _stopped(consumer)

    async def _started(self, stop: asyncio.Event) -> AIOKafkaConsumer | None:
        while not stop.is_set():
            consumer = new_consumer(self._settings, self._handler.consumer)
            consumer.subscribe([topic.name for topic in self._handler.service.subscribes])
            try:
                await consumer.start()
                return consumer
            except KafkaError as error:
                log.warning("consumer.waiting", reason=str(error))
                telemetry.count("oms.retries", why="kafka_away")
                await _stopped(consumer)
                await pause()
        return None

    async def _round(self, stop: asyncio.Event) -> None:
        consumer = self._consumer
        assert consumer is not None
        try:
            fetched = await consumer.getmany(
                timeout_ms=self._settings.poll_ms, max_records=self._settings.batch_records
            )
            new = await self._take_new_partitions()
        except _BROKER_AWAY as error:
            log.warning("consumer.waiting", reason=str(error))
            await pause()
            return
        records = [
            _record(partition, item)
            for tp, items in fetched.items()
            for partition in (Partition(tp.topic, tp.partition),)
            for item in items
        ]
        records = [record for record in records if record.partition not in self.halted and record.partition not in new]
        if records:
            began = self._fetched_at = time.monotonic()
            self._suspicions = 0
            handled = await self._handled(records, stop)
            if handled is not None:
                self._follow_up(handled, records)
                self._tell(handled, records, time.monotonic() - began)
        await self._release_healed()
        await self._commit_for_lag_tools()
        await self._readmit()
        await self._watch()

    def _tell(self, handled: Handled, records: Sequence[Record], seconds: float) -> None:
        self._lag.handled(record for record in records if record.partition in handled.positions)
        telemetry.observe("oms.batch.size", len(records), source="records")
        telemetry.observe("oms.batch.duration", seconds, source="records")
        quiet = not handled.refused and not handled.halted and handled.counts.keys() <= _AS_USUAL
        if quiet and not telemetry.at_debug:
            return
        (log.debug if quiet else log.info)(
            "batch.handled",
            records=len(records),
            duration_ms=round(seconds * 1000, 1),
            next_offsets={f"{partition.topic}/{partition.number}": at for partition, at in handled.positions.items()},
            **handled.counts,
        )

    async def _watch(self) -> None:
        """A consumer may be alive and get nothing, after a rebalance or a broker's restart: then the process ends.

        One that gets no answer either is made anew: its broker is away, or its client no longer finds it.
        """
        if time.monotonic() - self._fetched_at < _STUCK_SECONDS:
            return
        behind = await self._is_behind()
        # Looked at twice, with time between: a process that was frozen has only just begun to fetch again.
        self._fetched_at = time.monotonic()
        self._suspicions = 0 if behind is False else self._suspicions + 1
        if self._suspicions < 2:
            return
        if behind is None:
            raise _Unanswered
        telemetry.alarm("consumer_stuck", consumer=self._handler.consumer)
        raise ConsumerStuck(f"{self._handler.consumer}: records are there and none are fetched")

    async def _is_behind(self) -> bool | None:
        """Whether records are there to be fetched, asked once in a while; None where nobody answers."""
        assert self._consumer is not None
        owned = [p for p in self._positions if p not in self.halted]
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                ends = await self._consumer.end_offsets([TopicPartition(p.topic, p.number) for p in owned])
        except (KafkaError, TimeoutError):
            return None
        return any(ends.get(TopicPartition(p.topic, p.number), 0) > self._positions[p] for p in owned)

    async def _release_healed(self) -> None:
        if not self._maybe_healed:
            return
        try:
            await self._handler.release_healed()
            self._maybe_healed = False
        except Unavailable as error:
            log.warning("consumer.waiting", reason=str(error))

    async def _handled(self, records: Sequence[Record], stop: asyncio.Event) -> Handled | None:
        """Repeats the batch while the database is away; None when asked to stop meanwhile."""
        delay = 0.1
        while not stop.is_set():
            try:
                return await self._handler.handle_records(records, self._trimmed)
            except Unavailable as error:
                log.warning("consumer.waiting", reason=str(error))
                telemetry.count("oms.retries", why="postgres_away")
                await pause(delay)
                delay = min(delay * 2, 2.0)
        return None

    def _follow_up(self, handled: Handled, records: Sequence[Record]) -> None:
        self._positions |= handled.positions
        self._maybe_healed |= bool(handled.healed)
        for partition, expected in handled.refused.items():
            first = min(record.offset for record in records if record.partition == partition)
            self._refuse(partition, expected, first)
        for partition, reason in handled.halted.items():
            self._halt(partition, reason)

    def _refuse(self, partition: Partition, expected: int, first: int) -> None:
        """The fence said no: go on where it says.

        A rebalance starts us at an older offset, harmlessly. The log beginning later again and again has a hole.
        """
        before, times = self._refusals.get(partition, (-1, 0))
        self._refusals[partition] = (expected, (times if before == expected else 0) + (first > expected))
        if self._refusals[partition][1] > _REFUSALS:
            self._halt(partition, f"the log gives {first} where the stored offset is {expected}")
            return
        telemetry.count("oms.retries", why="fence")
        place = {"topic": partition.topic, "partition": partition.number}
        log.info("consumer.refused", **place, expected=expected, first=first)
        self._seek(partition, expected)

    def _seek(self, partition: Partition, offset: int) -> None:
        assert self._consumer is not None
        with suppress(IllegalStateError):  # no longer ours: its new owner goes on from the same position
            self._consumer.seek(TopicPartition(partition.topic, partition.number), offset)
        self._positions[partition] = offset

    def _halt(self, partition: Partition, reason: str) -> None:
        assert self._consumer is not None
        self.halted[partition] = reason
        telemetry.alarm("partition_halted", topic=partition.topic, partition=partition.number, reason=reason)
        try:
            self._consumer.pause(TopicPartition(partition.topic, partition.number))
        except IllegalStateError:
            self.halted.pop(partition)

    async def _readmit(self) -> None:
        """A halted partition is taken anew when its stored position has been moved: that is an operator's word."""
        if not self.halted or time.monotonic() - self._looked_at < _LOOK_EVERY_SECONDS:
            return
        assert self._consumer is not None
        self._looked_at = time.monotonic()
        try:
            stored = await self._handler.storage.ensure_positions(self._handler.consumer, {})
        except Unavailable:
            return
        for partition in [one for one in self.halted if stored.get(one) != self._positions.get(one)]:
            with suppress(IllegalStateError):
                self._consumer.resume(TopicPartition(partition.topic, partition.number))
            del self.halted[partition]
            self._positions.pop(partition, None)
            self._refusals.pop(partition, None)
            log.info("consumer.readmitted", topic=partition.topic, partition=partition.number)

    async def _take_new_partitions(self) -> set[Partition]:
        """Holds the stored position of a newly assigned partition against its log, and goes on from there."""
        consumer = self._consumer
        assert consumer is not None
        assigned = {Partition(tp.topic, tp.partition): tp for tp in consumer.assignment()}
        self.assigned = bool(assigned)
        for partition in self._positions.keys() - assigned.keys():
            self._positions.pop(partition)
            self.halted.pop(partition, None)
        new = {partition: tp for partition, tp in assigned.items() if partition not in self._positions}
        if not new:
            return set()
        failpoint("consumer.assigned")
        async with asyncio.timeout(_ANSWER_SECONDS):
            beginnings = await consumer.beginning_offsets(list(new.values()))
            ends = await consumer.end_offsets(list(new.values()))
        stored = await self._stored_positions({partition: beginnings[tp] for partition, tp in new.items()})
        self._trimmed |= {partition for partition, tp in new.items() if beginnings[tp] > 0}
        for partition, tp in new.items():
            position = stored[partition]
            self._seek(partition, position)
            if not beginnings[tp] <= position <= ends[tp]:
                self._halt(
                    partition,
                    f"stored offset {position} is outside the log, {beginnings[tp]} to {ends[tp]}",
                )
        return set(new)

    async def _stored_positions(self, beginnings: dict[Partition, int]) -> dict[Partition, int]:
        while True:
            try:
                return dict(await self._handler.storage.ensure_positions(self._handler.consumer, beginnings))
            except Unavailable as error:
                log.warning("consumer.waiting", reason=str(error))
                await pause()

    async def _commit_for_lag_tools(self) -> None:
        if not self._positions or time.monotonic() - self._committed_at < _COMMIT_EVERY_SECONDS:
            return
        assert self._consumer is not None
        self._committed_at = time.monotonic()
        assigned = self._consumer.assignment()
        offsets = {
            tp: offset
            for partition, offset in self._positions.items()
            if (tp := TopicPartition(partition.topic, partition.number)) in assigned
        }
        try:
            if offsets:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await self._consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError, KafkaError, TimeoutError):
            telemetry.count("oms.retries", why="kafka_commit")  # advisory: the position is in PostgreSQL

    async def lag(self) -> dict[str, int]:
        """Records behind the end of the log, by topic, of this member's partitions; empty while Kafka is away."""
        lags: dict[str, int] = {}
        for partition, records in (await self.behind() or {}).items():
            lags[partition.topic] = lags.get(partition.topic, 0) + records
        return lags

    async def behind(self) -> Mapping[Partition, int] | None:
        """Records to the end of the log, of this member's partitions; None while Kafka is away."""
        owned = {p: TopicPartition(p.topic, p.number) for p in self._positions}
        if self._consumer is None:
            return None
        try:
            ends = await asyncio.wait_for(self._consumer.end_offsets(list(owned.values())), 2) if owned else {}
        except (KafkaError, TimeoutError):
            return None
        return {partition: ends[tp] - self._positions.get(partition, ends[tp]) for partition, tp in owned.items()}

    def late(self, behind: Mapping[Partition, int]) -> Mapping[Partition, float]:
        """How old the oldest record that is not handled yet is at most, in seconds."""
        return self._lag.seconds(behind)


async def _stopped(consumer: AIOKafkaConsumer) -> None:
    # Not wait_for: that waits for what it has cancelled, and a stop that swallows the cancellation never ends.
    stopping = asyncio.ensure_future(consumer.stop())
    done, _ = await asyncio.wait({stopping}, timeout=5)
    if not done:
        stopping.cancel()
    if not done or (not stopping.cancelled() and stopping.exception() is not None):
        log.warning("consumer.abandoned")


_LATEST_MS = 4_102_444_800_000  # the year 2100: a writer of records may claim any time, and datetime ends at 9999


def _record(partition: Partition, item: Any) -> Record:
    return Record(
        partition,
        item.offset,
        item.key,
        item.headers,
        item.value,
        datetime.fromtimestamp(min(max(item.timestamp, 0), _LATEST_MS) / 1000, UTC),
    )
