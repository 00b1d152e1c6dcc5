"""One batch in memory: the states it loaded, the events it decided, the view rows they change."""

import asyncio
import hashlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from libs.events.codec import describe, encode, event_type, partition_key
from libs.events.envelope import Recorded
from libs.runtime import telemetry
from libs.runtime.decider import Aggregate, CommandRejected, States, Stream, Wake
from libs.runtime.errors import DataFault, NewerRelease
from libs.runtime.identity import Cause, event_ids
from libs.runtime.intake import recorded_of
from libs.runtime.projection import Projection
from libs.runtime.service import Service
from libs.runtime.state_cache import Folded, FoldedView, StateCache, ViewCache
from libs.runtime.storage import (
    Changes,
    Head,
    NewEffect,
    NewHead,
    Storage,
    StoredEvent,
    Transaction,
    ViewChange,
    ViewRow,
)


class blamed_on_data:  # noqa: N801  reads as what it does; no generator, which costs more than a short `evolve`
    """Whatever the domain's own code raises is the fault of what it was given."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, CommandRejected | DataFault):
            return
        if isinstance(error, ValidationError):
            raise DataFault(f"{self._what}: {describe(error)}") from None  # its own words repeat the input
        raise DataFault(f"{self._what}: {type(error).__name__}: {error}") from error


@cache
def state_adapter(aggregate: Aggregate[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(type(aggregate.initial_state()))


@cache
def fingerprint(aggregate: Aggregate[Any]) -> str:
    """Names the code that made a state and the state's shape; a snapshot of any other is refolded."""
    module = inspect.getmodule(aggregate.evolve)
    source = inspect.getsource(module) if module is not None else repr(aggregate.evolve)
    shape = state_adapter(aggregate).json_schema(mode="serialization")
    return hashlib.sha256(f"{source}{shape}".encode()).hexdigest()[:16]


MOST_UNDER_LOCK = 10_000
"""Events that a batch reads and folds while it holds its locks: more would outlast the database's patience."""
PIECE = 2_000
"""Events that are folded before the event loop gets its turn."""


class ColdStreams(Exception):
    """Too many events stand between what is kept of these streams and their heads: `Batch.warm` them, then repeat."""

    def __init__(self, streams: Mapping[str, Stream[Any]]) -> None:
        super().__init__(f"{len(streams)} streams")
        self.streams = streams


@dataclass(slots=True)
class _Names:
    command: Any
    written: Sequence[Stream[Any]]
    read: Sequence[Stream[Any]]


@dataclass(slots=True)
class _Loaded:
    """A stream as this batch sees it: `version` moves on with what the batch decides.

    `touched` asks for its head to be written: it was woken or has new events. `restless` means that its wake left it
    due, which is a defect: it must not be woken again and again. `traceparent` is that of
    its last event: a wake or a callback brings no trace of its own and goes on in the stream's.
    """

    aggregate: Aggregate[Any]
    head: Head | None
    state: Any
    version: int
    snapshot_version: int
    touched: bool = False
    restless: bool = False
    traceparent: str = ""


@dataclass(slots=True)
class Batch:
    """Stages what one transaction will write. Nothing here touches the database but `load` and `fold_views`."""

    service: Service[Any]
    consumer: str
    now: datetime
    snapshot_every: int
    cache: StateCache
    view_cache: ViewCache
    _streams: dict[str, _Loaded] = field(default_factory=dict)
    _recorded: list[Recorded[Any]] = field(default_factory=list)
    _stored: list[StoredEvent] = field(default_factory=list)
    _effects: list[NewEffect] = field(default_factory=list)
    _views: list[ViewChange] = field(default_factory=list)
    _folded_views: dict[tuple[str, str], FoldedView | None] = field(default_factory=dict)
    _names: dict[int, _Names] = field(default_factory=dict)
    _ids: dict[str, Iterator[str]] = field(default_factory=dict)
    _durations: list[tuple[str, float]] = field(default_factory=list)

    def _named(self, command: Any) -> "_Names":
        """The streams that a command may write, and those that it only reads."""
        named = self._names.get(id(command))  # by identity: the batch keeps its commands until it ends
        if named is None or named.command is not command:
            decider = self.service.decider
            assert decider is not None
            if isinstance(command, Wake):
                named = _Names(command, [Stream(decider.aggregate_of(command.stream_id), command.stream_id)], [])
            else:
                with blamed_on_data("streams"):
                    named = _Names(command, decider.streams(command), decider.reads(command))
            self._names[id(command)] = named
        return named

    async def load(self, tx: Transaction, commands: Iterable[Any]) -> None:
        """Locks the heads of all streams that the commands may write, then reads what stands behind them.

        Raises NewerRelease, ColdStreams.
        """
        written: dict[str, Stream[Any]] = {}
        read: dict[str, Stream[Any]] = {}
        for command in commands:
            named = self._named(command)
            for stream in named.written:
                written[stream.stream_id] = stream
            for stream in named.read:
                read[stream.stream_id] = stream
        if not written:
            return
        heads = dict(await tx.lock_heads(sorted(written)))
        only_read = sorted(read.keys() - written.keys())
        if only_read:
            heads |= await tx.read_heads(only_read)
        stale = self._begin(read | written, heads)
        if sum(stale.values()) > MOST_UNDER_LOCK and self.cache.holds(len(self._streams)):
            raise ColdStreams({stream_id: (read | written)[stream_id] for stream_id in stale})
        if stale:
            for stored in await tx.load_events({stream_id: self._streams[stream_id].version for stream_id in stale}):
                self._refold(stored)

    async def warm(self, storage: Storage, streams: Mapping[str, Stream[Any]]) -> None:
        """Folds streams into the cache, without a lock and by the piece: after an upgrade, when no snapshot is used."""
        async with storage.transaction() as tx:
            heads = await tx.read_heads(sorted(streams))
        for piece in _pieces(self._begin(streams, heads)):
            async with storage.transaction() as tx:
                events = await tx.load_events({name: self._streams[name].version for name in piece}, PIECE)
            for stored in events:
                self._refold(stored)
            await asyncio.sleep(0)
        self.remember()

    def _begin(self, streams: Mapping[str, Stream[Any]], heads: Mapping[str, Head]) -> dict[str, int]:
        """Starts with what is kept of each stream; says of which ones how many events are lacking."""
        for stream_id, stream in streams.items():
            self._streams[stream_id] = self._start(stream.aggregate, heads.get(stream_id))
        return {
            stream_id: loaded.head.stream_version - loaded.version
            for stream_id, loaded in self._streams.items()
            if loaded.head is not None and loaded.version < loaded.head.stream_version
        }

    def _start(self, aggregate: Aggregate[Any], head: Head | None) -> _Loaded:
        """What the stream's events are folded onto: the state kept in memory, the snapshot, or nothing yet."""
        initial = aggregate.initial_state()
        if head is None:
            return _Loaded(aggregate, head, initial, 0, 0)
        ours = head.snapshot_fingerprint == fingerprint(aggregate)
        if (kept := self.cache.get(head.stream_id, head.stream_version)) is not None:
            snapshot_version = head.snapshot_version if ours else 0
            return _Loaded(aggregate, head, kept.state, kept.version, snapshot_version, traceparent=kept.traceparent)
        if head.snapshot is None or not ours:
            return _Loaded(aggregate, head, initial, 0, 0)
        try:
            state = state_adapter(aggregate).validate_json(head.snapshot)
        except ValidationError:
            telemetry.alarm("snapshot_unreadable", stream_id=head.stream_id)  # a cache: the events are the truth
            return _Loaded(aggregate, head, initial, 0, 0)
        return _Loaded(aggregate, head, state, head.snapshot_version, head.snapshot_version)

    def _refold(self, stored: StoredEvent) -> None:
        envelope = stored.envelope
        loaded = self._streams[envelope.stream_id]
        recorded = recorded_of(stored)
        if recorded is None:
            where = f"{envelope.stream_id}@{envelope.stream_version}"
            raise NewerRelease(f"{where}: own event {envelope.event_type} is not known to this release")
        with blamed_on_data("evolve"):
            loaded.state = loaded.aggregate.evolve(loaded.state, recorded.event)
        loaded.version = envelope.stream_version
        loaded.traceparent = envelope.traceparent or loaded.traceparent

    def remember(self) -> None:
        """After the commit, and only then: keeps the states for the batches to come."""
        for stream_id, loaded in self._streams.items():
            if loaded.version:
                self.cache.put(stream_id, Folded(loaded.version, loaded.state, loaded.traceparent))
        for place, folded in self._folded_views.items():
            if folded is None:
                self.view_cache.drop(place)
            else:
                self.view_cache.put(place, folded)
        for until, seconds in self._durations:
            telemetry.observe("oms.order.duration", seconds, until=until)

    def version_of(self, stream_id: str) -> int:
        return self._streams[stream_id].version

    def decide(self, command: Any, cause: Cause) -> Sequence[Recorded[Any]]:
        """What the command makes happen, all or none of it. Raises CommandRejected, DataFault."""
        decider = self.service.decider
        assert decider is not None
        named = self._named(command)
        written = named.written
        states = States({s.stream_id: self._streams[s.stream_id].state for s in (*written, *named.read)})
        with (
            telemetry.span(
                f"decide {type(command).__name__}", self._trace(cause, written), stream_id=written[0].stream_id
            ) as traceparent,
            blamed_on_data(type(command).__name__),
        ):
            folded = {stream.stream_id: self._streams[stream.stream_id].state for stream in written}
            try:
                events = decider.decide(command, states, self.now)
            except CommandRejected:
                if isinstance(command, Wake):  # a wake that is refused has not come to rest either
                    self._check_rest(command.stream_id, folded[command.stream_id])
                raise
            for event in events:
                evolve = self._streams[event.stream_id].aggregate.evolve
                folded[event.stream_id] = evolve(folded[event.stream_id], event)
            if isinstance(command, Wake):
                self._check_rest(command.stream_id, folded[command.stream_id])
        for stream_id, state in folded.items():
            self._streams[stream_id].state = state
            self._streams[stream_id].restless &= isinstance(command, Wake) or not events
        with blamed_on_data("record"):
            recorded = [self._record(event, cause, traceparent) for event in events]
        self._recorded += recorded
        return recorded

    def _trace(self, cause: Cause, written: Sequence[Stream[Any]]) -> str:
        traces = (self._streams[stream.stream_id].traceparent for stream in written)
        return cause.traceparent or next(filter(None, traces), "")

    def _check_rest(self, stream_id: str, state: Any) -> None:
        loaded = self._streams[stream_id]
        loaded.touched = True
        due = loaded.aggregate.due(state)
        loaded.restless = due is not None and due <= self.now
        if loaded.restless:
            telemetry.alarm("wake_did_not_rest", stream_id=stream_id)

    def _record(self, event: Any, cause: Cause, traceparent: str) -> Recorded[Any]:
        stream_id = event.stream_id
        loaded = self._streams[stream_id]
        loaded.version += 1
        loaded.touched = True
        loaded.traceparent = traceparent or loaded.traceparent
        ids = self._ids.get(cause.causation_id)
        if ids is None:
            ids = self._ids[cause.causation_id] = event_ids(cause, self.service.name, self.consumer)
        recorded: Recorded[Any] = Recorded.made(
            {
                "event": event,
                "event_id": next(ids),
                "event_type": event_type(type(event)),
                "schema_version": event.schema_version,
                "stream_id": stream_id,
                "stream_version": loaded.version,
                "occurred_at": self.now,
                "recorded_at": self.now,
                "correlation_id": getattr(event, "order_id", "") or cause.correlation_id or stream_id,
                "causation_id": cause.causation_id,
                "source": self.service.source,
                "idempotency_key": cause.idempotency_key or getattr(event, "request_id", ""),
                "channel": cause.channel,
                "actor": cause.actor,
                "traceparent": traceparent,
            }
        )
        self._stored.append(StoredEvent(recorded, encode(event), partition_key(event)))
        self._follow(recorded)
        return recorded

    def _follow(self, recorded: Recorded[Any]) -> None:
        if self.service.effects is None:
            return
        with blamed_on_data("follow"):
            effects = self.service.effects.follow(recorded)
        if not effects:
            return
        cause = Cause(causation_id=recorded.event_id, at=recorded.recorded_at)
        for effect, effect_id in zip(effects, event_ids(cause, self.service.name, "effect"), strict=False):
            due_at = effect.due_at or self.now
            self._effects.append(
                NewEffect(effect_id, effect.kind, effect.key, recorded.stream_id, recorded.stream_version, due_at)
            )

    def keep(self, stored: StoredEvent, recorded: Recorded[Any] | None) -> None:
        """Stores an event that was heard, as it was heard (tracking)."""
        self._stored.append(stored)
        if recorded is not None:
            self._recorded.append(recorded)

    async def fold_views(self, tx: Transaction) -> None:
        for projection in sorted(self.service.projections, key=lambda projection: projection.name):
            by_key: dict[str, list[Recorded[Any]]] = {}
            with blamed_on_data(f"view {projection.name}"):
                for recorded in self._recorded:
                    if (key := projection.key(recorded)) is not None:
                        by_key.setdefault(key, []).append(recorded)
            if by_key:
                rows = await self._lock_rows(tx, projection, sorted(by_key))
                with blamed_on_data(f"view {projection.name}"):
                    for key, items in by_key.items():
                        self._fold_row(projection, key, rows.get(key), items)

    async def _lock_rows(
        self, tx: Transaction, projection: Projection[Any], keys: Sequence[str]
    ) -> Mapping[str, FoldedView]:
        """The rows as they are: from the cache where it has just these, else read."""
        name = projection.name
        # Held here: another batch of this process may push them out of the cache while this one waits for its locks.
        kept = {key: row for key in keys if (row := self.view_cache.find((name, key))) is not None}
        found = await tx.lock_views(name, keys, list(kept))
        rows = {key: kept[key] for key, row in found.items() if key in kept and kept[key].is_of(row)}
        # What is not as this process has left it is locked by now; it is only read.
        outdated = [key for key in found if key in kept and key not in rows]
        read = {**found, **(await tx.lock_views(name, outdated) if outdated else {})}
        with blamed_on_data(f"view {name}"):
            return rows | {key: read_row(projection, row) for key, row in read.items() if key not in rows}

    def _fold_row(
        self, projection: Projection[Any], key: str, before: FoldedView | None, items: Sequence[Recorded[Any]]
    ) -> None:
        after = fold(projection, before, items)
        if after is not before:
            self._folded_views[projection.name, key] = after
            self._views.append(written_row(projection, key, after, existed=before is not None))
            if after is not None:
                self._durations += projection.durations(before.view if before else None, after.view).items()

    def changes(self) -> Changes:
        publish = self.service.decider is not None
        return Changes(
            now=self.now,
            consumer=self.consumer,
            heads=[self._new_head(stream_id) for stream_id, loaded in self._streams.items() if loaded.touched],
            events=self._stored,
            publish=publish,
            views=self._views,
            effects=self._effects,
        )

    def _new_head(self, stream_id: str) -> NewHead:
        loaded = self._streams[stream_id]
        due = None if loaded.restless else loaded.aggregate.due(loaded.state)
        snapshot, snapshot_version = None, 0
        if loaded.version - loaded.snapshot_version >= self.snapshot_every:
            snapshot = state_adapter(loaded.aggregate).dump_json(loaded.state)
            snapshot_version = loaded.version
        return NewHead(
            stream_id,
            loaded.version,
            loaded.head is not None,
            due,
            snapshot,
            snapshot_version,
            fingerprint(loaded.aggregate) if snapshot else "",
        )

    @property
    def recorded(self) -> Sequence[Recorded[Any]]:
        return self._recorded

    @property
    def effects_added(self) -> bool:
        return bool(self._effects)


def _pieces(lacking: Mapping[str, int]) -> Iterator[list[str]]:
    """Streams to be read at once, at most PIECE events of each, until none of them lacks any."""
    piece, size = [], 0
    for stream_id, count in lacking.items():
        for done in range(0, count, PIECE):
            piece.append(stream_id)
            size += min(count - done, PIECE)
            if size >= PIECE:
                yield piece
                piece, size = [], 0
    if piece:
        yield piece


_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def read_row(projection: Projection[Any], row: ViewRow) -> FoldedView:
    return FoldedView(projection.view.__pydantic_validator__.validate_json(row.data), row.versions, row.table_id)


def written_row(projection: Projection[Any], key: str, folded: FoldedView | None, *, existed: bool) -> ViewChange:
    if folded is None:
        return ViewChange(projection.name, key, None, existed)
    row = ViewRow(folded.view.__pydantic_serializer__.to_json(folded.view), folded.versions)
    if b"\\u0000" in row.data and _NUL.search(row.data):
        raise DataFault(f"view {projection.name}: a text holds NUL, which no reader of reporting.* bears")
    return ViewChange(projection.name, key, row, existed, projection.columns(folded.view))


def fold(projection: Projection[Any], before: FoldedView | None, items: Sequence[Recorded[Any]]) -> FoldedView | None:
    """A view's row after these events, None where there is none; `before` itself if it has folded them all already."""
    view, versions = (None, {}) if before is None else (before.view, dict(before.versions))
    changed = False
    for recorded in items:
        if recorded.stream_version > versions.get(recorded.stream_id, 0):
            view = projection.evolve(view, recorded)
            versions[recorded.stream_id] = recorded.stream_version
            changed = True
    if not changed:
        return before
    return None if view is None else FoldedView(view, versions, 0 if before is None else before.table_id)
