"""What operators change by hand: parked keys, the positions in a topic that was made anew, publishing once more.

Each change is one transaction that also writes its row of `operator_action` and the answer to its Idempotency-Key.
"""

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

import orjson
from pydantic import BaseModel

from libs.events.codec import NewerSchema, UndecodableEvent, UnknownEvent, decode, partition_key
from libs.events.envelope import from_headers, headers_of
from libs.events.topics import CATEGORIES, TOPIC_BY_NAME, TOPICS
from libs.runtime.errors import DataFault, PartitionHalted
from libs.runtime.handler import Handler, Release, record_of
from libs.runtime.identity import new_id
from libs.runtime.intake import Heard
from libs.runtime.relay import lease_of, quiet_seconds
from libs.runtime.storage import (
    Changes,
    OperatorAction,
    ParkedKey,
    ParkedRecord,
    StoredAnswer,
    Transaction,
)

RELEASE_RECORDS = 500
REDACTED = "[redacted]"
"""Shown in place of a `pii` block; given back in a corrected record, it stands for what was there."""

_HOLDER = "operator."


class OperationRefused(Exception):
    """Not done, and why: a stable code and words for the operator. `missing`: what was named is not there."""

    def __init__(self, code: str, detail: str, *, missing: bool = False) -> None:
        super().__init__(detail)
        self.code, self.missing = code, missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """On whose word something is done, and why; `key` and `body_hash` make it idempotent."""

    operator: str
    reason: str
    key: str
    body_hash: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Where a parked record lay in its topic: the change is refused when another has become the first meanwhile."""

    partition: int
    offset: int


class FirstChanged(BaseModel):
    """The first record under a parked key was changed or dropped; so many records wait under the key now."""

    partition: int
    offset: int
    stream_id: str
    stream_version: int
    waiting: int


class Released(BaseModel):
    """So many records were handled and left; so many stay, because of `stopped` (empty: ask again for the rest)."""

    released: int
    waiting: int
    stopped: str


class PositionsReset(BaseModel):
    """The consumer reads these positions from 0 again; so many parked records were dropped, for they come again."""

    consumer: str
    topic: str
    positions: int
    parked_records: int


class RelayPaused(BaseModel):
    """The relay sends nothing for so long, and nothing that it had begun is under way after `quiet_after_seconds`."""

    holder: str
    seconds: float
    quiet_after_seconds: float


class RelayResumed(BaseModel):
    """The relay goes on before its pause would have ended."""

    service: str


class PublishedAgain(BaseModel):
    """So many events were put back into the outbox; the relay goes on."""

    topic: str
    events: int


class Wiring(BaseModel):
    """What a service reads and writes on Kafka, and the name that it reads under."""

    service: str
    consumer: str
    subscribes: list[str]
    publishes: list[str]


A = TypeVar("A", bound=BaseModel)
Done: TypeAlias = tuple[A, Changes, OperatorAction] | A
"""An answer with what is to be written, or an answer alone where nothing is to be changed."""


class Operations:
    def __init__(self, handler: Handler, lease_seconds: float = 5.0) -> None:
        self._handler = handler
        self._quiet_seconds = quiet_seconds(lease_seconds)
        self._storage = handler.storage
        self._service = handler.service
        self.consumer = handler.consumer

    # --- what there is -------------------------------------------------------------------------------------------

    def wiring(self) -> Wiring:
        service = self._service
        owned = [topic.name for topic in TOPICS if topic.owner == service.name and service.decider is not None]
        subscribes = [topic.name for topic in service.subscribes]
        return Wiring(service=service.name, consumer=self.consumer, subscribes=subscribes, publishes=owned)

    async def parked(self, after: tuple[str, bytes], limit: int) -> Sequence[ParkedKey]:
        async with self._storage.transaction() as tx:
            return await tx.list_parked(self.consumer, after, limit)

    async def parked_records(self, topic: str, key: bytes, limit: int) -> tuple[Sequence[ParkedRecord], int]:
        """The first records that wait under a key, in the order in which they will be handled, and how many wait."""
        async with self._storage.transaction() as tx:
            records = await tx.parked_records(self.consumer, topic, key, limit)
            if not records:
                raise _not_parked()
            return records, await tx.count_parked(self.consumer, topic, key)

    async def actions(self, limit: int) -> Sequence[tuple[datetime, OperatorAction]]:
        async with self._storage.transaction() as tx:
            return await tx.actions(limit)

    # --- parked keys ---------------------------------------------------------------------------------------------

    async def fix(
        self,
        word: Word,
        topic: str,
        key: bytes,
        place: Place,
        value: bytes | None,
        headers: Mapping[str, str | None],
    ) -> FirstChanged:
        """Corrects the first record under a key; `headers` are set, or removed where None. Kept as it was: the rest.

        Nothing is handled yet: that is what a release does.
        """

        async def change(tx: Transaction) -> Done[FirstChanged]:
            first = await self._first(tx, topic, key, place)
            heard = self._sound(corrected(first, value, headers))
            fixed = replace(
                corrected(first, value, headers),
                stream_id=heard.stream_id,
                stream_version=heard.stream_version,
                reason=f"fixed, waits for a release; was {first.reason}"[:1000],
            )
            await tx.replace_parked(self.consumer, fixed)
            waiting = await tx.count_parked(self.consumer, topic, key)
            changes = Changes(now=await tx.now(), consumer=self.consumer)
            return _changed(fixed, waiting), changes, self._action("park.fix", word, topic, key, _kept(first))

        return await self._do(word, FirstChanged, change)

    async def skip(self, word: Word, topic: str, key: bytes, place: Place) -> FirstChanged:
        """Drops the first record under a key: it counts as heard. What waits behind it may then be released."""

        async def change(tx: Transaction) -> Done[FirstChanged]:
            first = await self._first(tx, topic, key, place)
            changes = Changes(now=await tx.now(), consumer=self.consumer, unparked=[first])
            if first.stream_id:
                changes.seen = {first.stream_id: first.stream_version}
            waiting = await tx.count_parked(self.consumer, topic, key) - 1
            return _changed(first, waiting), changes, self._action("park.skip", word, topic, key, _kept(first))

        return await self._do(word, FirstChanged, change)

    async def release(self, word: Word, topic: str, key: bytes, limit: int = RELEASE_RECORDS) -> Released:
        """Handles what waits first under a key, in order, as far as it is sound and in one transaction."""
        while True:
            try:
                return await self._release(word, topic, key, limit)
            except (DataFault, PartitionHalted) as fault:
                if limit == 1:
                    async with self._storage.transaction() as tx:
                        waiting = await tx.count_parked(self.consumer, topic, key)
                    return Released(released=0, waiting=waiting, stopped=str(fault))
                limit //= 2  # what fails is somewhere among them: those before it may leave

    async def _release(self, word: Word, topic: str, key: bytes, limit: int) -> Released:
        releases: list[Release] = []

        async def change(tx: Transaction) -> Done[Released]:
            records = await tx.parked_records(self.consumer, topic, key, limit)
            if not records:
                raise _not_parked()
            waiting = await tx.count_parked(self.consumer, topic, key)
            release = await self._handler.prepare_release(tx, records)
            left = len(release.changes.unparked)
            answer = Released(released=left, waiting=waiting - left, stopped=release.stopped)
            releases[:] = [release]
            if not left:
                return answer
            return answer, release.changes, self._action("park.release", word, topic, key, {"released": left})

        answer = await self._do(word, Released, change)
        for release in releases:
            self._handler.released(release)
        return answer

    async def _first(self, tx: Transaction, topic: str, key: bytes, place: Place) -> ParkedRecord:
        records = await tx.parked_records(self.consumer, topic, key, 1)
        if not records:
            raise _not_parked()
        first = records[0]
        if (first.partition.number, first.offset) != (place.partition, place.offset):
            where = f"partition {first.partition.number}, offset {first.offset}"
            raise OperationRefused("another_is_first", f"the first record of this key is now that of {where}")
        return first

    def _sound(self, parked: ParkedRecord) -> Heard:
        try:
            heard = self._handler.read_parked(parked)
            if heard.fault:
                raise OperationRefused("still_bad", heard.fault)
            if TOPIC_BY_NAME[parked.partition.topic].versioned:
                _check_event(parked, heard.stream_id)
        except (PartitionHalted, NewerSchema) as newer:
            raise OperationRefused("newer_schema", str(newer)) from None
        return heard

    # --- a topic that was lost -----------------------------------------------------------------------------------

    async def reset_positions(self, word: Word, topic: str) -> PositionsReset:
        """For a topic that was made anew and whose events all come again: what had been heard is known by version."""
        if topic not in self.wiring().subscribes:
            raise OperationRefused("not_subscribed", f"{self._service.name} does not read {topic}", missing=True)
        if not TOPIC_BY_NAME[topic].versioned:
            raise OperationRefused("not_ours", f"nobody here can send again what was in {topic}")

        async def change(tx: Transaction) -> Done[PositionsReset]:
            positions, records = await tx.forget_topic(self.consumer, topic)
            answer = PositionsReset(consumer=self.consumer, topic=topic, positions=positions, parked_records=records)
            details = {"positions": positions, "parked_records": records}
            changes = Changes(now=await tx.now(), consumer=self.consumer)
            return answer, changes, self._action("positions.reset", word, topic, None, details)

        return await self._do(word, PositionsReset, change)

    async def pause_relay(self, word: Word, topic: str, seconds: float) -> RelayPaused:
        """Takes the relay's lease away for so long. Nothing else stops: what is written waits in the outbox."""
        self._must_own(topic)
        holder = f"{_HOLDER}{new_id()}"

        async def change(tx: Transaction) -> Done[RelayPaused]:
            if not await tx.take_lease(lease_of(self._service.name), holder, seconds, _HOLDER):
                raise OperationRefused("relay_paused", "another operator has paused this relay; it goes on by itself")
            answer = RelayPaused(holder=holder, seconds=seconds, quiet_after_seconds=self._quiet_seconds)
            changes = Changes(now=await tx.now(), consumer=self.consumer)
            return answer, changes, self._action("relay.pause", word, topic, None, {"seconds": seconds})

        return await self._do(word, RelayPaused, change)

    async def resume_relay(self, word: Word, topic: str, holder: str) -> RelayResumed:
        """Ends a pause whose work could not be finished: only this topic waits for it, and the relay has others."""
        self._must_own(topic)

        async def change(tx: Transaction) -> Done[RelayResumed]:
            await self._end_pause(tx, holder)
            changes = Changes(now=await tx.now(), consumer=self.consumer)
            action = self._action("relay.resume", word, topic, None, {})
            return RelayResumed(service=self._service.name), changes, action

        return await self._do(word, RelayResumed, change)

    async def publish_again(self, word: Word, topic: str, holder: str) -> PublishedAgain:
        """Puts every event of a topic back into the outbox, and lets the paused relay go on."""
        self._must_own(topic)
        categories = sorted(name for name, category in CATEGORIES.items() if category.topic.name == topic)

        async def change(tx: Transaction) -> Done[PublishedAgain]:
            await self._end_pause(tx, holder)
            events = await tx.publish_again(categories)
            changes = Changes(now=await tx.now(), consumer=self.consumer)
            action = self._action("topic.republish", word, topic, None, {"events": events})
            return PublishedAgain(topic=topic, events=events), changes, action

        return await self._do(word, PublishedAgain, change)

    async def _end_pause(self, tx: Transaction, holder: str) -> None:
        if not await tx.end_lease(lease_of(self._service.name), holder):
            raise OperationRefused("relay_not_paused", "the pause is over; begin again")

    def _must_own(self, topic: str) -> None:
        if topic not in self.wiring().publishes:
            raise OperationRefused("not_owner", f"{self._service.name} does not write {topic}", missing=True)

    # --- one change ----------------------------------------------------------------------------------------------

    async def _do(self, word: Word, model: type[A], change: Callable[[Transaction], Awaitable[Done[A]]]) -> A:
        return await self._handler.repeated(lambda: self._once(word, model, change))

    async def _once(self, word: Word, model: type[A], change: Callable[[Transaction], Awaitable[Done[A]]]) -> A:
        async with self._storage.transaction() as tx:
            if (known := await _known(tx, word, model)) is not None:
                return known
            try:
                done = await change(tx)
            except OperationRefused:
                # This may be a repeat, and its twin may have committed while this one waited for the lock.
                if (known := await _known(tx, word, model)) is not None:
                    return known
                raise
            if not isinstance(done, tuple):
                return done
            answer, changes, action = done
            changes.answers[word.key] = StoredAnswer(word.body_hash, answer.model_dump_json().encode())
            await tx.write(changes)
            await tx.write_action(action)
        return answer

    def _action(
        self, action: str, word: Word, topic: str, key: bytes | None, details: Mapping[str, Any]
    ) -> OperatorAction:
        return OperatorAction(
            action=action,
            operator=word.operator,
            reason=word.reason,
            consumer=self.consumer,
            topic=topic,
            key=key,
            details=orjson.dumps(details),
        )


def _check_event(parked: ParkedRecord, stream_id: str) -> None:
    """Also a type that this service does not want must be what its headers say: others may want it later."""
    category = CATEGORIES.get(stream_id.partition("-")[0])
    if category is None or category.topic.name != parked.partition.topic:
        raise OperationRefused("another_stream", f"{stream_id} is no stream of this topic")
    envelope = from_headers(headers_of(record_of(parked).headers))
    try:
        event = decode(envelope.event_type, envelope.schema_version, parked.value or b"")
    except UnknownEvent:
        return
    except UndecodableEvent as error:
        raise OperationRefused("still_bad", f"value: {error}") from None
    if (event.stream_id, partition_key(event).encode()) != (stream_id, parked.key):
        raise OperationRefused("another_stream", "the value is of another stream than the headers or the key")


async def _known(tx: Transaction, word: Word, model: type[A]) -> A | None:
    stored = (await tx.answers([word.key])).get(word.key)
    if stored is None:
        return None
    if stored.body_hash != word.body_hash:
        raise OperationRefused("idempotency_mismatch", "this Idempotency-Key was used with another body")
    return model.model_validate_json(stored.answer)


def corrected(parked: ParkedRecord, value: bytes | None, headers: Mapping[str, str | None]) -> ParkedRecord:
    """The record with these headers set (None: removed) and this value; None keeps the value."""
    kept = [[name, text] for name, text in orjson.loads(parked.headers) if name not in headers]
    given = [[name, text.encode().hex()] for name, text in headers.items() if text is not None]
    if value is not None:
        value = _with_pii_of(parked.value, value)
    return replace(parked, headers=orjson.dumps(kept + given), value=parked.value if value is None else value)


def _with_pii_of(original: bytes | None, value: bytes) -> bytes:
    try:
        new = orjson.loads(value)
    except orjson.JSONDecodeError:
        return value  # whoever reads it says what is wrong
    try:
        old = orjson.loads(original or b"null")
    except orjson.JSONDecodeError:
        old = None
    return orjson.dumps(new) if _restore(new, old) else value


def _restore(new: Any, old: Any) -> bool:
    """Puts personal data back where the correction only shows that there was some; says whether there was any."""
    restored = False
    if isinstance(new, dict):
        known = old if isinstance(old, dict) else {}
        for name, part in new.items():
            if name == "pii" and part == REDACTED and name in known:
                new[name] = known[name]
                restored = True
            else:
                restored |= _restore(part, known.get(name))
    return restored


def redacted(part: Any) -> Any:
    """JSON without the personal data that stands in its `pii` blocks."""
    if isinstance(part, dict):
        return {name: REDACTED if name == "pii" else redacted(inner) for name, inner in part.items()}
    return [redacted(inner) for inner in part] if isinstance(part, list) else part


def _not_parked() -> OperationRefused:
    return OperationRefused("not_parked", "nothing is parked under this topic and key", missing=True)


def _changed(first: ParkedRecord, waiting: int) -> FirstChanged:
    return FirstChanged(
        partition=first.partition.number,
        offset=first.offset,
        stream_id=first.stream_id,
        stream_version=first.stream_version,
        waiting=waiting,
    )


def _kept(parked: ParkedRecord) -> Mapping[str, Any]:
    """The whole of a record that is about to be changed or dropped."""
    return {
        "partition": parked.partition.number,
        "offset": parked.offset,
        "reason": parked.reason,
        "headers": orjson.loads(parked.headers),
        "value_base64": base64.b64encode(parked.value).decode() if parked.value is not None else None,
    }
