"""Rebuilds a view from the log, blue/green: a shadow table is filled beside the view, then takes its place.

Reads never stop. The log is read in order of position, but position proves nothing: an event may commit after a later
position has been read. So the shadow follows versions: a stream whose next version is missing is set aside, positions
that were not there are remembered, and both are read again at the end, under a lock that keeps writers out for the
moment of the last round, the comparison and the swap.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson

from libs.runtime.batch import fold, written_row
from libs.runtime.event_store import EVENT_COLUMNS, event_of
from libs.runtime.intake import recorded_of
from libs.runtime.link import owner_dsn
from libs.runtime.migrate import grant, make_view_table, reporting_view
from libs.runtime.projection import Projection
from libs.runtime.service import Service
from libs.runtime.settings import Settings
from libs.runtime.state_cache import FoldedView
from libs.runtime.storage import StoredEvent, ViewRow
from libs.runtime.view_store import view_row, write_rows

CHUNK = 5_000
_COLUMNS = f"global_position, {EVENT_COLUMNS}"
Progress = Callable[[int, int], None]
"""Called with events folded and events in the log."""


class RebuildRefused(Exception):
    """It cannot be rebuilt now; the message says why."""


@dataclass(slots=True)
class Rebuilt:
    """`differing` rows of the old view were not as the log says."""

    events: int = 0
    rows: int = 0
    differing: int = 0


@dataclass(slots=True)
class Compared:
    """`differing` rows by key, each with what is different, without moving anything."""

    events: int
    rows: int
    differing: list[tuple[str, str]]


@dataclass(slots=True)
class _Shadow:
    """The view as far as the log has been read. `read` is the last version of each stream that was folded."""

    projection: Projection[Any]
    rows: dict[str, FoldedView] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    read: dict[str, int] = field(default_factory=dict)
    behind: set[str] = field(default_factory=set)
    events: int = 0

    def fold(self, events: Iterable[StoredEvent]) -> None:
        by_key: dict[str, list[Any]] = {}
        for stored in events:
            envelope = stored.envelope
            last = self.read.get(envelope.stream_id, 0)
            if envelope.stream_version <= last:
                continue
            if envelope.stream_version > last + 1:
                self.behind.add(envelope.stream_id)
                continue
            self.read[envelope.stream_id] = envelope.stream_version
            self.events += 1
            recorded = recorded_of(stored)
            if recorded is not None and (key := self.projection.key(recorded)) is not None:
                by_key.setdefault(key, []).append(recorded)
        for key, items in by_key.items():
            before = self.rows.get(key)
            after = fold(self.projection, before, items)
            if after is before:
                continue
            self.changed.add(key)
            if after is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = after


async def differences(dsn: str, source: str, projection: Projection[Any], progress: Progress) -> Compared:
    """A view against its log, both as they stand at one moment. Only reads, and any role that may read will do."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            shadow = _Shadow(projection)
            await _read_log(connection, shadow, source, progress)
            differing = [(stream, "the log lacks a version of this stream") for stream in sorted(shadow.behind)]
            differing += [one async for one in _differing(connection, shadow)]
    finally:
        await connection.close()
    return Compared(shadow.events, len(shadow.rows), differing)


async def _differing(connection: Any, shadow: _Shadow) -> AsyncIterator[tuple[str, str]]:
    projection, expected = shadow.projection, shadow.rows
    missing = set(expected)
    columns = ", ".join(["key", "data", "versions", *projection.indexed])
    async for row in connection.cursor(f"SELECT {columns} FROM view_{projection.name} ORDER BY key", prefetch=CHUNK):
        key = row["key"]
        missing.discard(key)
        if key not in expected:
            yield key, "is in the view, and no event says so"
        elif words := _difference(view_row(row), expected[key]):
            yield key, words
        elif wrong := [n for n, right in projection.columns(expected[key].view).items() if row[n] != right]:
            yield key, f"its columns {', '.join(wrong)} are not as its document"
    for key in sorted(missing):
        yield key, "is missing in the view"


def _difference(shown: ViewRow, expected: FoldedView) -> str:
    ours, right = orjson.loads(shown.data), expected.view.model_dump(mode="json")
    wrong = [
        f"{name} is {_short(ours.get(name))} in the view, {_short(right.get(name))} by the log"
        for name in sorted(ours.keys() | right.keys())
        if ours.get(name) != right.get(name)
    ]
    if dict(shown.versions) != dict(expected.versions):
        wrong.append("it was not made of the versions that the log has")
    return "; ".join(wrong)


def _short(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 60 else f"{text[:60]}…"


async def rebuild(service: Service[Any], settings: Settings, view: str, progress: Progress) -> Rebuilt:
    """Rebuilds one view of a service as the owner role. Raises RebuildRefused."""
    projection = next((projection for projection in service.projections if projection.name == view), None)
    if projection is None:
        names = ", ".join(projection.name for projection in service.projections)
        raise RebuildRefused(f"{service.name} has no view {view}; it has {names}")
    connection = await asyncpg.connect(owner_dsn(settings))
    try:
        if not await connection.fetchval("SELECT pg_try_advisory_lock(hashtext($1))", f"orderloom.rebuild.{view}"):
            raise RebuildRefused(f"{view} is being rebuilt already")
        return await _rebuild(connection, service, settings, projection, progress)
    finally:
        await connection.close()


async def _rebuild(
    connection: Any, service: Service[Any], settings: Settings, projection: Projection[Any], progress: Progress
) -> Rebuilt:
    table, shadow_table = f"view_{projection.name}", f"view_{projection.name}_shadow"
    await connection.execute(f"DROP TABLE IF EXISTS {shadow_table}")
    await make_view_table(connection, shadow_table, projection.indexed)
    shadow = _Shadow(projection)
    source = f"/{service.name}-service"
    last, missing = await _read_log(connection, shadow, source, progress)
    await _write_rows(connection, shadow_table, shadow)
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '10s'")
        await connection.execute("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE")
        await _catch_up(connection, shadow, source, last, missing)
        await _write_rows(connection, shadow_table, shadow)
        differing = await connection.fetchval(
            f"""SELECT count(*) FROM {table} o FULL JOIN {shadow_table} n USING (key)
                WHERE o.data IS DISTINCT FROM n.data
                  AND convert_from(o.data, 'UTF8')::jsonb IS DISTINCT FROM convert_from(n.data, 'UTF8')::jsonb"""
        )
        await _swap(connection, projection)
        await grant(connection, service, settings)
    return Rebuilt(shadow.events, len(shadow.rows), differing)


async def _read_log(connection: Any, shadow: _Shadow, source: str, progress: Progress) -> tuple[int, list[int]]:
    """Folds the log once; says up to which position, and which positions before it were not there."""
    total = await connection.fetchval("SELECT COALESCE(max(global_position), 0) FROM events")
    last = 0
    missing: list[int] = []
    while rows := await connection.fetch(
        f"SELECT {_COLUMNS} FROM events WHERE global_position > $1 ORDER BY global_position LIMIT $2", last, CHUNK
    ):
        for row in rows:
            missing += range(last + 1, row["global_position"])
            last = row["global_position"]
        shadow.fold(event_of(row, source) for row in rows)
        progress(last, max(total, last))
    return last, missing


async def _catch_up(connection: Any, shadow: _Shadow, source: str, last: int, missing: Sequence[int]) -> None:
    """Under the lock: whatever came late or was set aside, by stream and version."""
    late = await connection.fetch(
        "SELECT DISTINCT stream_id FROM events WHERE global_position > $1 OR global_position = ANY($2)", last, missing
    )
    streams = {row["stream_id"] for row in late} | shadow.behind
    rows = await connection.fetch(
        f"""SELECT {_COLUMNS} FROM events WHERE stream_id = ANY($1) ORDER BY stream_id, stream_version""", list(streams)
    )
    shadow.behind.clear()
    shadow.fold(event_of(row, source) for row in rows)
    if shadow.behind:
        raise RebuildRefused(f"the log lacks versions of {sorted(shadow.behind)[:3]}")


async def _write_rows(connection: Any, table: str, shadow: _Shadow) -> None:
    changed = sorted(shadow.changed)
    shadow.changed.clear()
    for start in range(0, len(changed), CHUNK):
        keys = changed[start : start + CHUNK]
        kept = [written_row(shadow.projection, key, shadow.rows.get(key), existed=False) for key in keys]
        await connection.execute(f"DELETE FROM {table} WHERE key = ANY($1)", keys)
        await write_rows(connection, table, kept, update=False)


async def _swap(connection: Any, projection: Projection[Any]) -> None:
    table = f"view_{projection.name}"
    await connection.execute(f"DROP VIEW IF EXISTS reporting.{projection.name}")
    await connection.execute(f"DROP TABLE {table}")
    await connection.execute(f"ALTER TABLE {table}_shadow RENAME TO {table}")
    for name in ("pkey", *projection.indexed):
        await connection.execute(f"ALTER INDEX {table}_shadow_{name} RENAME TO {table}_{name}")
    await reporting_view(connection, projection)
