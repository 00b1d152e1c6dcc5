"""The storage port in memory: the same guarantees by one lock, for tests of whole systems."""

import asyncio
import copy
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from libs.runtime.errors import VersionConflict
from libs.runtime.storage import (
    MOST_VERSIONS,
    Changes,
    DueEffect,
    Head,
    NewEffect,
    NewHead,
    OperatorAction,
    ParkedKey,
    ParkedRecord,
    Partition,
    StoredAnswer,
    StoredEvent,
    ViewRow,
)


@dataclass
class Tables:
    events: list[StoredEvent] = field(default_factory=list)
    heads: dict[str, tuple[Head, datetime | None]] = field(default_factory=dict)
    outbox: dict[int, None] = field(default_factory=dict)
    positions: dict[tuple[str, Partition], int] = field(default_factory=dict)
    counts: dict[tuple[str, Partition], dict[str, int]] = field(default_factory=dict)
    seen: dict[tuple[str, str], int] = field(default_factory=dict)
    parked_keys: dict[tuple[str, str, bytes], str] = field(default_factory=dict)
    parked_at: dict[tuple[str, str, bytes], datetime] = field(default_factory=dict)
    parked: dict[tuple[str, Partition, int], ParkedRecord] = field(default_factory=dict)
    answers: dict[str, StoredAnswer] = field(default_factory=dict)
    answered_at: dict[str, datetime] = field(default_factory=dict)
    effects: dict[str, NewEffect] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    effect_leases: dict[str, datetime] = field(default_factory=dict)
    leases: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    views: dict[str, dict[str, ViewRow]] = field(default_factory=dict)
    actions: list[tuple[datetime, OperatorAction]] = field(default_factory=list)

    def copied(self) -> "Tables":
        """Deep enough: rows are immutable, so only the containers are copied."""
        return Tables(**{name: copy.copy(value) for name, value in vars(self).items()})


class MemoryTransaction:
    def __init__(self, tables: Tables, now: datetime) -> None:
        self._tables = tables
        self._now = now

    async def fence(self, consumer: str, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        return {partition: self._tables.positions[consumer, partition] for partition in partitions}

    async def now(self) -> datetime:
        return self._now

    async def parked_keys(self, consumer: str, keys: Sequence[tuple[str, bytes]]) -> set[tuple[str, bytes]]:
        return {key for key in keys if (consumer, *key) in self._tables.parked_keys}

    async def parked_records(self, consumer: str, topic: str, key: bytes, limit: int) -> Sequence[ParkedRecord]:
        records = [
            record
            for (owner, _, _), record in self._tables.parked.items()
            if owner == consumer and record.partition.topic == topic and record.key == key
        ]
        ordered = sorted(records, key=lambda r: (r.stream_id, r.stream_version, r.partition.number, r.offset))
        return ordered[:limit]

    async def seen(self, consumer: str, stream_ids: Sequence[str]) -> Mapping[str, int]:
        found = {stream_id: self._tables.seen.get((consumer, stream_id)) for stream_id in stream_ids}
        return {stream_id: version for stream_id, version in found.items() if version is not None}

    async def answers(self, keys: Sequence[str]) -> Mapping[str, StoredAnswer]:
        return {key: self._tables.answers[key] for key in keys if key in self._tables.answers}

    async def lock_heads(self, stream_ids: Sequence[str]) -> Mapping[str, Head]:
        heads = self._tables.heads
        return {stream_id: heads[stream_id][0] for stream_id in sorted(stream_ids) if stream_id in heads}

    async def read_heads(self, stream_ids: Sequence[str]) -> Mapping[str, Head]:
        return await self.lock_heads(stream_ids)

    async def take_effects(self, ids: Sequence[str]) -> set[str]:
        taken = {effect_id for effect_id in ids if effect_id in self._tables.effects}
        for effect_id in taken:
            del self._tables.effects[effect_id]
        return taken

    async def load_events(self, after: Mapping[str, int], most: int = MOST_VERSIONS) -> Sequence[StoredEvent]:
        found = [
            event
            for event in self._tables.events
            if (last := after.get(event.envelope.stream_id)) is not None
            and last < event.envelope.stream_version <= last + most
        ]
        return sorted(found, key=lambda event: (event.envelope.stream_id, event.envelope.stream_version))

    async def lock_views(self, view: str, keys: Sequence[str], known: Sequence[str] = ()) -> Mapping[str, ViewRow]:
        rows = self._tables.views.get(view, {})
        return {
            key: replace(rows[key], data=b"" if key in known else rows[key].data, table_id=1)
            for key in keys
            if key in rows
        }

    async def write(self, changes: Changes) -> None:
        tables = self._tables
        for partition, offset in changes.positions.items():
            tables.positions[changes.consumer, partition] = offset
            counts = dict(tables.counts.get((changes.consumer, partition), {}))
            for outcome, number in changes.counts.get(partition, {}).items():
                counts[outcome] = counts.get(outcome, 0) + number
            tables.counts[changes.consumer, partition] = counts
        self._write_parked(changes)
        for head in changes.heads:
            self._write_head(head)
        self._write_events(changes)
        for change in changes.views:
            rows = dict(tables.views.get(change.view, {}))
            if not change.existed and change.key in rows:
                raise VersionConflict(change.key)
            if change.row is None:
                rows.pop(change.key, None)
            else:
                rows[change.key] = ViewRow(change.row.data, dict(change.row.versions))
            tables.views[change.view] = rows
        for stream_id, version in changes.seen.items():
            place = changes.consumer, stream_id
            tables.seen[place] = max(tables.seen.get(place, 0), version)
        tables.effects |= {effect.id: effect for effect in changes.effects}
        if changes.answers.keys() & tables.answers.keys():
            raise VersionConflict("idempotency")
        tables.answers |= changes.answers
        tables.answered_at |= dict.fromkeys(changes.answers, changes.now)

    def _write_parked(self, changes: Changes) -> None:
        tables, consumer = self._tables, changes.consumer
        for record in changes.unparked:
            del tables.parked[consumer, record.partition, record.offset]
        for record in changes.parked:
            tables.parked_keys.setdefault((consumer, record.partition.topic, record.key), record.reason)
            tables.parked_at.setdefault((consumer, record.partition.topic, record.key), changes.now)
            tables.parked[consumer, record.partition, record.offset] = record
        for record in changes.unparked:
            place = record.partition.topic, record.key
            if not any((r.partition.topic, r.key) == place for r in tables.parked.values()):
                tables.parked_keys.pop((consumer, *place), None)
                tables.parked_at.pop((consumer, *place), None)

    async def list_parked(self, consumer: str, after: tuple[str, bytes], limit: int) -> Sequence[ParkedKey]:
        tables = self._tables
        return [
            ParkedKey(topic, key, reason, tables.parked_at[place], await self.count_parked(*place))
            for place, reason in sorted(tables.parked_keys.items())
            for owner, topic, key in [place]
            if owner == consumer and (topic, key) > after
        ][:limit]

    async def count_parked(self, consumer: str, topic: str, key: bytes) -> int:
        return len(await self.parked_records(consumer, topic, key, 1 << 30))

    async def replace_parked(self, consumer: str, record: ParkedRecord) -> None:
        self._tables.parked[consumer, record.partition, record.offset] = record

    async def forget_topic(self, consumer: str, topic: str) -> tuple[int, int]:
        tables = self._tables
        positions = [place for place in tables.positions if place[0] == consumer and place[1].topic == topic]
        tables.positions |= dict.fromkeys(positions, 0)
        records = [place for place in tables.parked if place[0] == consumer and place[1].topic == topic]
        tables.parked = {place: record for place, record in tables.parked.items() if place not in records}
        keys = [place for place in tables.parked_keys if place[:2] == (consumer, topic)]
        for place in keys:
            del tables.parked_keys[place], tables.parked_at[place]
        return len(positions), len(records)

    async def take_lease(self, name: str, holder: str, seconds: float, instead_of: str) -> bool:
        current = self._tables.leases.get(name)
        if current is not None and current[0].startswith(instead_of) and current[1] >= self._now:
            return False
        self._tables.leases[name] = (holder, self._now + timedelta(seconds=seconds))
        return True

    async def end_lease(self, name: str, holder: str) -> bool:
        current = self._tables.leases.get(name)
        if current is None or current[0] != holder or current[1] <= self._now:
            return False
        del self._tables.leases[name]
        return True

    async def publish_again(self, categories: Sequence[str]) -> int:
        tables = self._tables
        wanted = [
            position
            for position, event in enumerate(tables.events, start=1)
            if event.envelope.stream_id.partition("-")[0] in categories and position not in tables.outbox
        ]
        tables.outbox |= dict.fromkeys(wanted)
        return len(wanted)

    async def write_action(self, action: OperatorAction) -> None:
        self._tables.actions.append((self._now, action))

    async def actions(self, limit: int) -> Sequence[tuple[datetime, OperatorAction]]:
        return self._tables.actions[::-1][:limit]

    def _write_head(self, new: NewHead) -> None:
        old = self._tables.heads.get(new.stream_id)
        if (old is not None) != new.existed:
            raise VersionConflict(new.stream_id)
        snapshot = (new.snapshot, new.snapshot_version, new.snapshot_fingerprint)
        if new.snapshot is None and old is not None:
            snapshot = (old[0].snapshot, old[0].snapshot_version, old[0].snapshot_fingerprint)
        self._tables.heads[new.stream_id] = (Head(new.stream_id, new.stream_version, *snapshot), new.due_at)

    def _write_events(self, changes: Changes) -> None:
        taken = {(event.envelope.stream_id, event.envelope.stream_version) for event in self._tables.events}
        for event in changes.events:
            if (event.envelope.stream_id, event.envelope.stream_version) in taken:
                raise VersionConflict(event.envelope.stream_id)
            taken.add((event.envelope.stream_id, event.envelope.stream_version))
            self._tables.events.append(event)
            if changes.publish:
                self._tables.outbox[len(self._tables.events)] = None


class MemoryStorage:
    """One lock makes every transaction run alone; a transaction that fails leaves nothing."""

    def __init__(self, clock: Any = lambda: datetime.now(UTC)) -> None:
        self.tables = Tables()
        self.clock = clock
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryTransaction]:
        async with self._lock:
            staged = self.tables.copied()
            yield MemoryTransaction(staged, self.clock())
            self.tables = staged

    async def ensure_positions(self, consumer: str, beginnings: Mapping[Partition, int]) -> Mapping[Partition, int]:
        for partition, offset in beginnings.items():
            self.tables.positions.setdefault((consumer, partition), offset)
        return {partition: at for (owner, partition), at in self.tables.positions.items() if owner == consumer}

    async def healed_keys(self, consumer: str) -> Sequence[tuple[str, bytes]]:
        tables = self.tables
        return sorted(
            {
                (record.partition.topic, record.key)
                for (owner, _, _), record in tables.parked.items()
                if owner == consumer
                and record.stream_version == tables.seen.get((consumer, record.stream_id), 0) + 1
                and tables.parked_keys[consumer, record.partition.topic, record.key].startswith(
                    f"gap: {record.stream_id} "
                )
            }
        )

    async def due_streams(self, limit: int) -> Sequence[str]:
        now = self.clock()
        due = [(due_at, stream_id) for stream_id, (_, due_at) in self.tables.heads.items() if due_at and due_at <= now]
        return [stream_id for _, stream_id in sorted(due)][:limit]

    async def clear_due(self, stream_id: str) -> None:
        self.tables.heads[stream_id] = (self.tables.heads[stream_id][0], None)

    async def lease_effects(self, limit: int, lease_seconds: float) -> Sequence[DueEffect]:
        now, tables = self.clock(), self.tables
        due = [
            effect
            for effect in tables.effects.values()
            if effect.due_at <= now and tables.effect_leases.get(effect.id, now) <= now
        ]
        by_place = {(e.envelope.stream_id, e.envelope.stream_version): e for e in tables.events}
        leased = []
        for effect in sorted(due, key=lambda effect: effect.due_at)[:limit]:
            tables.effect_leases[effect.id] = now + timedelta(seconds=lease_seconds)
            intent = by_place[effect.stream_id, effect.stream_version]
            leased.append(DueEffect(effect.id, effect.kind, effect.key, tables.attempts.get(effect.id, 0), intent))
        return leased

    async def postpone_effect(self, effect_id: str, delay_seconds: float) -> None:
        effect = self.tables.effects.get(effect_id)
        if effect is not None:
            due_at = self.clock() + timedelta(seconds=delay_seconds)
            self.tables.effects[effect_id] = NewEffect(
                effect.id, effect.kind, effect.key, effect.stream_id, effect.stream_version, due_at
            )
            self.tables.attempts[effect_id] = self.tables.attempts.get(effect_id, 0) + 1
            self.tables.effect_leases.pop(effect_id, None)

    async def read_outbox(self, limit: int) -> Sequence[tuple[int, StoredEvent]]:
        return [(position, self.tables.events[position - 1]) for position in sorted(self.tables.outbox)[:limit]]

    async def delete_outbox(self, positions: Sequence[int]) -> None:
        for position in positions:
            self.tables.outbox.pop(position, None)

    async def hold_lease(self, name: str, holder: str, seconds: float) -> bool:
        now = self.clock()
        current = self.tables.leases.get(name)
        if current is not None and current[0] != holder and current[1] >= now:
            return False
        self.tables.leases[name] = (holder, now + timedelta(seconds=seconds))
        return True

    async def forget_answers(self, older_than_seconds: float) -> int:
        limit = self.clock() - timedelta(seconds=older_than_seconds)
        old = [key for key, answered_at in self.tables.answered_at.items() if answered_at < limit]
        for key in old:
            del self.tables.answers[key], self.tables.answered_at[key]
        return len(old)

    async def drop_lease(self, name: str, holder: str) -> None:
        if self.tables.leases.get(name, ("",))[0] == holder:
            del self.tables.leases[name]

    async def read_view(self, view: str, key: str) -> ViewRow | None:
        return self.tables.views.get(view, {}).get(key)

    async def page_view(
        self, view: str, where: Mapping[str, str], after: str, limit: int
    ) -> Sequence[tuple[str, ViewRow]]:
        rows = sorted(self.tables.views.get(view, {}).items())
        return [
            (key, row)
            for key, row in rows
            if key > after and all(str(orjson.loads(row.data).get(name)) == value for name, value in where.items())
        ][:limit]

    async def read_streams(self, stream_ids: Sequence[str]) -> Sequence[StoredEvent]:
        found = [event for event in self.tables.events if event.envelope.stream_id in set(stream_ids)]
        return sorted(found, key=lambda event: (event.envelope.stream_id, event.envelope.stream_version))

    async def figures(self) -> Mapping[str, Any]:
        now = self.clock()
        return {
            "outbox_pending": len(self.tables.outbox),
            "outbox_oldest_age_seconds": 0.0,
            "parked_keys": len(self.tables.parked_keys),
            "parked_records": len(self.tables.parked),
            "effects_open": len(self.tables.effects),
            "effects_due": sum(effect.due_at <= now for effect in self.tables.effects.values()),
            "wakes_due": len(await self.due_streams(1 << 30)),
            "parked_oldest_age_seconds": _late(now, self.tables.parked_at.values()),
            "effects_late_seconds": _late(now, (effect.due_at for effect in self.tables.effects.values())),
            "wakes_late_seconds": _late(now, (due_at for _, due_at in self.tables.heads.values() if due_at)),
        }

    async def count_rows(self, view: str, column: str) -> Mapping[str, int]:
        rows = self.tables.views.get(view, {}).values()
        return Counter(str(orjson.loads(row.data).get(column) or "") for row in rows)


def _late(now: datetime, due: Iterable[datetime]) -> float:
    return max((now - min(due, default=now)).total_seconds(), 0.0)
