"""The one road of writing: consumer batches, API commands, wakes, effect answers and released keys all pass here.

One batch is one transaction, always in the same order: fence, parked keys and answers, heads, effects, events,
decide, views, writes (design, section 4). Nothing is dropped: every record ends processed, known duplicate, parked,
or skipped with a reason, and is counted.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeVar

import orjson
import structlog

from libs.runtime import telemetry
from libs.runtime.batch import Batch, ColdStreams
from libs.runtime.decider import CommandRejected, Wake
from libs.runtime.errors import DataFault, NewerRelease, PartitionHalted, VersionConflict
from libs.runtime.failpoint import failpoint
from libs.runtime.identity import Cause
from libs.runtime.intake import Heard, Intake, Record
from libs.runtime.park import ParkCount, ParkLimit
from libs.runtime.service import Service
from libs.runtime.state_cache import StateCache, ViewCache
from libs.runtime.storage import Changes, ParkedRecord, Partition, Storage, StoredAnswer, Transaction

log = structlog.get_logger()
T = TypeVar("T")

SLICE_SECONDS = 0.05
"""How long decisions may hold the event loop: the consumer's heartbeats run on the same loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One command that somebody or something waits for.

    `key` and `body_hash` make it idempotent; `effect_id` is the effect that it answers; `expected_version` is what
    the caller believes its stream to be at (None: it does not say).
    """

    command: Any
    cause: Cause
    key: str = ""
    body_hash: bytes = b""
    effect_id: str = ""
    expected_version: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request: `code` is empty when it was accepted."""

    stream_id: str
    stream_version: int
    events: tuple[str, ...] = ()
    code: str = ""
    detail: str = ""

    def to_json(self) -> bytes:
        return orjson.dumps(self)

    @staticmethod
    def from_json(data: bytes) -> "Answer":
        """Also what a newer release has stored, with fields that this one does not know."""
        fields = {name: value for name, value in orjson.loads(data).items() if name in Answer.__slots__}
        return Answer(**{**fields, "events": tuple(fields["events"])})


MISMATCH = "idempotency_mismatch"
STALE = "stale_version"
DROPPED = "effect_answered_already"
BROKEN = "internal_error"


@dataclass(slots=True)
class Handled:
    """What became of a batch of records.

    `positions` is where each partition goes on. `refused` ones were not read from there: seek to the offset named;
    `halted` ones must not go on, for the reason named; `healed` parked keys may have got the version that they missed.
    """

    counts: Counter[str] = field(default_factory=Counter)
    positions: dict[Partition, int] = field(default_factory=dict)
    refused: dict[Partition, int] = field(default_factory=dict)
    halted: dict[Partition, str] = field(default_factory=dict)
    healed: set[tuple[str, bytes]] = field(default_factory=set)
    park_counts: dict[Partition, ParkCount] = field(default_factory=dict)

    def add(self, other: "Handled") -> None:
        self.counts += other.counts
        self.positions |= other.positions
        self.refused |= other.refused
        self.halted |= other.halted
        self.healed |= other.healed


@dataclass(frozen=True, slots=True)
class Release:
    """What a release of a parked key writes. `stopped` says why the record after the last one that leaves stays."""

    batch: Batch
    changes: Changes
    stopped: str


class Handler:
    """Handles batches for one service and consumer name against the storage port."""

    def __init__(
        self,
        service: Service[Any],
        storage: Storage,
        *,
        consumer: str = "",
        snapshot_every: int = 100,
        cached_states: int = 5_000,
        park_limit: ParkLimit = ParkLimit(),  # noqa: B008  a frozen value
    ) -> None:
        self.service = service
        self.storage = storage
        self.consumer = consumer or service.consumer
        self.committed = asyncio.Event()
        self.effects_added = asyncio.Event()
        self._intake = Intake(service)
        self._snapshot_every = snapshot_every
        self._cache = StateCache(cached_states)
        self._view_cache = ViewCache(cached_states)
        self._park_limit = park_limit
        self._park_counts: dict[Partition, ParkCount] = {}

    # --- records -------------------------------------------------------------------------------------------------

    async def handle_records(self, records: Sequence[Record], trimmed: frozenset[Partition] = frozenset()) -> Handled:
        """Handles records of any partitions, those of one partition in order of offset.

        `trimmed` partitions have lost their beginning: a stream never seen may begin late there.
        Raises Unavailable: nothing was handled, wait and repeat.
        """
        heard, halted = self._read(records)
        handled = await self._handle_heard(heard, trimmed)
        handled.halted |= halted
        return handled

    def _read(self, records: Sequence[Record]) -> tuple[list[Heard], dict[Partition, str]]:
        heard: list[Heard] = []
        halted: dict[Partition, str] = {}
        for record in records:
            if record.partition not in halted:
                try:
                    heard.append(self._intake.read(record))
                except PartitionHalted as reason:
                    halted[record.partition] = str(reason)
        return heard, halted

    async def _handle_heard(self, heard: Sequence[Heard], trimmed: frozenset[Partition]) -> Handled:
        try:
            return await self.repeated(lambda: self._records_once(heard, trimmed))
        except NewerRelease as reason:
            if len(heard) == 1:
                return Handled(halted={heard[0].record.partition: str(reason)})
        except DataFault as fault:
            if len(heard) == 1:
                return await self._park_alone(heard[0].with_fault(str(fault)), trimmed)
        # Something in the batch is bad. One at a time, the bad one fails alone and is parked, or halts its partition.
        total = Handled()
        for item in heard:
            if item.record.partition not in total.halted and item.record.partition not in total.refused:
                total.add(await self._handle_heard([item], trimmed))
        return total

    async def _park_alone(self, bad: Heard, trimmed: frozenset[Partition]) -> Handled:
        try:
            return await self.repeated(lambda: self._records_once([bad], trimmed))
        except DataFault as fault:
            # It cannot even be parked, and nothing may be dropped: someone has to look.
            return Handled(halted={bad.record.partition: f"cannot be parked: {fault}"})

    async def _records_once(self, heard: Sequence[Heard], trimmed: frozenset[Partition]) -> Handled:
        handled = Handled(park_counts=dict(self._park_counts))
        async with self.storage.transaction() as tx:
            admitted = await self._fence(tx, heard, handled)
            if not admitted:
                return handled
            batch = self._batch(await tx.now())
            keys = sorted({(item.record.partition.topic, item.park_key) for item in admitted})
            parked = await tx.parked_keys(self.consumer, keys)
            seen = dict(await tx.seen(self.consumer, sorted({item.stream_id for item in admitted if item.stream_id})))
            verdicts = [
                (item, verdict)
                for item in admitted
                if (verdict := self._judge(item, parked, seen, trimmed, handled)) != "halted"
            ]
            accepted = [item for item, verdict in verdicts if verdict == "accepted"]
            outcomes = await self._decide_all(tx, batch, accepted)
            changes = batch.changes()
            changes.seen = {
                item.stream_id: seen[item.stream_id]
                for item, verdict in verdicts
                if verdict in _SEEN and item.stream_id
            }
            for item, verdict in verdicts:
                partition = item.record.partition
                outcome = outcomes[id(item)] if verdict == "accepted" else verdict.partition(":")[0]
                handled.counts[outcome] += 1
                if telemetry.at_debug:
                    telemetry.handled(item.cause, item.stream_id, item.stream_version, outcome)
                changes.positions[partition] = item.record.offset + 1
                counts = changes.counts.setdefault(partition, {})
                counts[outcome] = counts.get(outcome, 0) + 1
                if verdict.startswith("parked"):
                    changes.parked.append(parked_record(item, verdict.partition(":")[2]))
            await tx.write(changes)
            failpoint("handler.before_commit")
        handled.positions = dict(changes.positions)
        self._park_counts = handled.park_counts
        self._after_commit(batch)
        for outcome, number in handled.counts.items():
            telemetry.count("oms.records", number, outcome=outcome)
        return handled

    async def _fence(self, tx: Transaction, heard: Sequence[Heard], handled: Handled) -> list[Heard]:
        """Keeps, per partition, the run of records that begins at the stored position; the rest is refused."""
        ordered = sorted(heard, key=_place)
        partitions = [partition for partition, _ in groupby(ordered, key=lambda item: item.record.partition)]
        positions = await tx.fence(self.consumer, partitions)
        admitted: list[Heard] = []
        for partition, items in groupby(ordered, key=lambda item: item.record.partition):
            expected = positions[partition]
            for item in items:
                if item.record.offset != expected:
                    handled.refused[partition] = expected
                    break
                admitted.append(item)
                expected += 1
        return admitted

    def _judge(
        self,
        item: Heard,
        parked: set[tuple[str, bytes]],
        seen: dict[str, int],
        trimmed: frozenset[Partition],
        handled: Handled,
    ) -> str:
        """accepted, duplicate, skipped, halted, or `parked:` and the reason."""
        partition = item.record.partition
        key = (partition.topic, item.park_key)
        last = seen.get(item.stream_id, 0)
        if partition in handled.halted:
            return "halted"
        if item.stream_id and 0 < item.stream_version <= last:
            return "duplicate"
        if key in parked:
            if item.stream_version == last + 1:
                handled.healed.add(key)
            return "parked:behind"
        counted = handled.park_counts.get(partition, ParkCount())
        if fault := item.fault or _gap(item, last, trimmed):
            if counted.exceeds(self._park_limit):
                handled.halted[partition] = f"park limit reached; next would be: {fault}"
                return "halted"
            handled.park_counts[partition] = counted.bad(item.park_key)
            parked.add(key)
            log.error("record.parked", reason=fault, **_where(item.record))
            return f"parked:{fault}"
        handled.park_counts[partition] = counted.sound()
        if item.stream_id:
            seen[item.stream_id] = item.stream_version
        return "skipped" if item.skip else "accepted"

    async def _decide_all(self, tx: Transaction, batch: Batch, accepted: Sequence[Heard]) -> dict[int, str]:
        await batch.load(tx, (command for item in accepted for command in item.commands))
        outcomes: dict[int, str] = {}
        breath = time.monotonic()
        for item in accepted:
            rejections = 0
            if item.stored is not None:
                with telemetry.span("keep", item.stored.envelope.traceparent, stream_id=item.stream_id):
                    batch.keep(item.stored, item.recorded)
            for command in item.commands:
                try:
                    assert item.cause is not None
                    batch.decide(command, item.cause)
                except CommandRejected as rejection:
                    rejections += 1
                    telemetry.count("oms.commands.rejected", code=rejection.code)
            outcomes[id(item)] = "skipped" if item.commands and rejections == len(item.commands) else "processed"
            if time.monotonic() - breath > SLICE_SECONDS:
                await asyncio.sleep(0)
                breath = time.monotonic()
        await batch.fold_views(tx)
        return outcomes

    # --- parked keys ---------------------------------------------------------------------------------------------

    async def release_healed(self) -> int:
        """Releases every key parked for a gap whose missing version has come; says how many records left."""
        return sum([await self.release(topic, key) for topic, key in await self.storage.healed_keys(self.consumer)])

    async def release(self, topic: str, key: bytes, limit: int = 500) -> int:
        """Handles what waits under a parked key, in order, as far as it is sound; says how many records left."""
        left = 0
        while batch := await self.repeated(lambda: self._release_once(topic, key, limit)):
            left += batch
        return left

    async def _release_once(self, topic: str, key: bytes, limit: int) -> int:
        try:
            return await self._release_batch(topic, key, limit)
        except (DataFault, PartitionHalted) as fault:
            if limit > 1:
                return await self._release_once(topic, key, 1)
            log.error("park.release_stopped", topic=topic, reason=str(fault))
            return 0

    async def _release_batch(self, topic: str, key: bytes, limit: int) -> int:
        async with self.storage.transaction() as tx:
            waiting = await tx.parked_records(self.consumer, topic, key, limit)
            if not waiting:
                return 0
            release = await self.prepare_release(tx, waiting)
            await tx.write(release.changes)
            failpoint("park.releasing")
        self.released(release)
        return len(release.changes.unparked)

    async def prepare_release(self, tx: Transaction, waiting: Sequence[ParkedRecord]) -> "Release":
        """Decides what waits first under a parked key, as far as it is sound. Raises DataFault, PartitionHalted."""
        batch = self._batch(await tx.now())
        heard = [self._intake.read(record_of(parked)) for parked in waiting]
        seen = dict(await tx.seen(self.consumer, sorted({item.stream_id for item in heard if item.stream_id})))
        accepted, leaving = _in_sequence(heard, waiting, seen)
        await self._decide_all(tx, batch, accepted)
        changes = batch.changes()
        changes.seen = {parked.stream_id: seen[parked.stream_id] for parked in leaving if parked.stream_id}
        changes.unparked = leaving
        next_one = heard[len(leaving)] if len(leaving) < len(heard) else None
        stopped = (next_one.fault or _gap(next_one, seen.get(next_one.stream_id, 0), frozenset())) if next_one else ""
        return Release(batch, changes, stopped)

    def released(self, release: "Release") -> None:
        """To be called after the release's transaction has committed."""
        self._after_commit(release.batch)

    def read_parked(self, parked: ParkedRecord) -> Heard:
        """A parked record as it would be read now. Raises PartitionHalted."""
        return self._intake.read(record_of(parked))

    # --- requests ------------------------------------------------------------------------------------------------

    async def handle_requests(self, requests: Sequence[Request]) -> list[Answer]:
        """Decides requests in order, in one transaction; each gets its own answer, whatever the others get."""
        try:
            return await self.repeated(lambda: self._requests_once(requests))
        except (DataFault, NewerRelease) as fault:
            if len(requests) == 1:
                return [await self._broken(requests[0], fault)]
        return [answer for request in requests for answer in await self.handle_requests([request])]

    async def _requests_once(self, requests: Sequence[Request]) -> list[Answer]:
        async with self.storage.transaction() as tx:
            batch = self._batch(await tx.now())
            keys = {request.key for request in requests if request.key}
            known = dict(await tx.answers(sorted(keys))) if keys else {}
            fresh = [request for request in requests if request.key not in known]
            await batch.load(tx, (request.command for request in fresh))
            effect_ids = [request.effect_id for request in fresh if request.effect_id]
            taken = set(await tx.take_effects(sorted(effect_ids))) if effect_ids else set()
            answers, new = [], {}
            for request in requests:
                stored = known.get(request.key) if request.key else None
                if stored is not None:
                    answers.append(_stored_answer(request, stored))
                    continue
                if request.effect_id and request.effect_id not in taken:
                    answers.append(Answer("", 0, code=DROPPED))
                    continue
                taken.discard(request.effect_id)
                answer = self._answer(batch, request)
                answers.append(answer)
                if request.key:
                    new[request.key] = known[request.key] = StoredAnswer(request.body_hash, answer.to_json())
            await batch.fold_views(tx)
            changes = batch.changes()
            changes.answers = new
            await tx.write(changes)
        self._after_commit(batch)
        return answers

    def _answer(self, batch: Batch, request: Request) -> Answer:
        stream_id = self._stream_of(request.command)
        if request.expected_version not in (None, batch.version_of(stream_id)):
            return Answer(stream_id, batch.version_of(stream_id), code=STALE)
        try:
            recorded = batch.decide(request.command, request.cause)
        except CommandRejected as rejection:
            telemetry.count("oms.commands.rejected", code=rejection.code)
            return Answer(stream_id, batch.version_of(stream_id), code=rejection.code, detail=str(rejection))
        events = tuple(type(item.event).__name__ for item in recorded)
        return Answer(stream_id, batch.version_of(stream_id), events)

    def _stream_of(self, command: Any) -> str:
        if isinstance(command, Wake):
            return command.stream_id
        assert self.service.decider is not None
        return self.service.decider.streams(command)[0].stream_id

    async def _broken(self, request: Request, fault: DataFault | NewerRelease) -> Answer:
        """A request that fails alone. A wake's deadline is cleared, so that it does not spin; both raise an alarm.

        What only a newer release can decide is left to that one: a deadline, too, stays for it.
        """
        if isinstance(fault, NewerRelease):
            log.warning("request.left", command=type(request.command).__name__, reason=str(fault))
            return Answer("", 0, code=BROKEN)
        telemetry.alarm("request_failed", command=type(request.command).__name__, reason=str(fault))
        if isinstance(request.command, Wake):
            await self.storage.clear_due(request.command.stream_id)
        return Answer("", 0, code=BROKEN)

    # --- both ----------------------------------------------------------------------------------------------------

    def _batch(self, now: Any) -> Batch:
        return Batch(self.service, self.consumer, now, self._snapshot_every, self._cache, self._view_cache)

    def _after_commit(self, batch: Batch) -> None:
        failpoint("handler.after_commit")
        batch.remember()
        if batch.recorded and self.service.decider is not None:
            telemetry.appended(batch.recorded)
            self.committed.set()
        if batch.effects_added:
            self.effects_added.set()

    async def repeated(self, once: Callable[[], Awaitable[T]], limit: int = 20) -> T:
        """Repeats from fresh state while others write first; the database makes losers wait, so no back-off."""
        for _ in range(limit):
            try:
                return await once()
            except VersionConflict:
                telemetry.count("oms.retries", why="conflict")
            except ColdStreams as cold:
                await self._batch(None).warm(self.storage, cold.streams)
        raise VersionConflict(f"lost the race {limit} times")


_SEEN = frozenset({"accepted", "skipped"})


def _place(item: Heard) -> tuple[Partition, int]:
    return item.record.partition, item.record.offset


def _where(record: Record) -> dict[str, Any]:
    return {"topic": record.partition.topic, "partition": record.partition.number, "offset": record.offset}


def _gap(item: Heard, last: int, trimmed: frozenset[Partition]) -> str:
    late = last == 0 and item.record.partition in trimmed
    if item.stream_id and item.stream_version > last + 1 and not late:
        return f"gap: {item.stream_id} at {item.stream_version} after {last}"
    return ""


def parked_record(item: Heard, reason: str) -> ParkedRecord:
    record = item.record
    reason = reason.encode("utf-8", "replace").decode().replace("\x00", "")[:1000]  # what a text column holds
    headers = orjson.dumps([[name, (value or b"").hex()] for name, value in record.headers])
    return ParkedRecord(
        record.partition,
        record.offset,
        item.park_key,
        reason,
        headers,
        record.value,
        record.timestamp,
        item.stream_id,
        item.stream_version,
    )


def record_of(parked: ParkedRecord) -> Record:
    headers = [(name, bytes.fromhex(value)) for name, value in orjson.loads(parked.headers)]
    return Record(parked.partition, parked.offset, parked.key, headers, parked.value, parked.recorded_at)


def _in_sequence(
    heard: Sequence[Heard], waiting: Sequence[ParkedRecord], seen: dict[str, int]
) -> tuple[list[Heard], list[ParkedRecord]]:
    """Of what waits: what may be handled now, and what leaves the park (repeats, too). Stops at a fault or gap."""
    accepted, leaving = [], []
    for item, parked in zip(heard, waiting, strict=True):
        last = seen.get(item.stream_id, 0)
        if item.stream_id and item.stream_version <= last:
            leaving.append(parked)
            continue
        if item.fault or (item.stream_id and item.stream_version > last + 1):
            break
        seen[item.stream_id] = item.stream_version
        leaving.append(parked)
        if not item.skip:
            accepted.append(item)
    return accepted, leaving


def _stored_answer(request: Request, stored: StoredAnswer) -> Answer:
    if stored.body_hash != request.body_hash:
        return Answer("", 0, code=MISMATCH, detail="this Idempotency-Key was used with another body")
    return Answer.from_json(stored.answer)
