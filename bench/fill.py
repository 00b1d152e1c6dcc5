"""Fills stores in bulk with the rows that one real order left in them, again and again under other ids.

The database multiplies a template on its own side, in one statement a table: the fastest way in that goes through the
same tables. Indexes are dropped before and built anew after, as for any bulk load; so ids are as random as real ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from bench.rig import Rig

CHUNK = 20_000
Told = Callable[[str], None]


@dataclass
class Rows:
    """What one order left in one service's database. All ids of it contain the order's."""

    order_id: str
    events: list[tuple[str, int, str, int, str, str]] = field(default_factory=list)
    heads: list[tuple[str, int]] = field(default_factory=list)
    seen: list[tuple[str, str, int]] = field(default_factory=list)
    views: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    indexed: dict[str, Sequence[str]] = field(default_factory=dict)


async def rows_of(rig: Rig, name: str, order_id: str) -> Rows:
    rows = Rows(order_id)
    like = f"%{order_id}%"
    connection = await asyncpg.connect(rig.cluster.dsn(name, "owner"))
    try:
        versions: dict[str, int] = {}
        for event in await connection.fetch(
            """SELECT stream_id, event_type, schema_version, data::text AS data, metadata::text AS metadata
               FROM event_log WHERE metadata->>'correlation_id' = $1 ORDER BY global_position""",
            order_id,
        ):
            # a stock stream is shared by many orders: in the filling, each order has one of its own
            stream = event["stream_id"] if order_id in event["stream_id"] else f"stock-{order_id}"
            versions[stream] = versions.get(stream, 0) + 1
            rows.events.append((stream, versions[stream], *tuple(event)[1:]))
        rows.heads = list(versions.items()) if name != "tracking" else []
        found = await connection.fetch(
            "SELECT consumer, stream_id, stream_version FROM seen WHERE stream_id LIKE $1", like
        )
        rows.seen = [tuple(row) for row in found]
        for projection in rig.services[name].projections:
            found = await connection.fetch(
                f"""SELECT key, convert_from(data, 'UTF8'), convert_from(versions, 'UTF8')
                    FROM view_{projection.name} WHERE key LIKE $1""",
                like,
            )
            rows.views[projection.name] = [tuple(row) for row in found]
            rows.indexed[projection.name] = projection.indexed
    finally:
        await connection.close()
    return rows


async def fill(dsn: str, rows: Rows, first: int, orders: int, told: Told = lambda _: None) -> None:
    """Adds the orders numbered from `first` on; `dsn` is a superuser's."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("SET synchronous_commit = off")  # the filling is not what is measured
        await _templates(connection, rows)
        tables = ["events", "stream_head", "seen", *(f"view_{view}" for view in rows.views)]
        indexes = [index for table in tables for index in await _dropped_indexes(connection, table)]
        for start in range(first, first + orders, CHUNK):
            end = min(start + CHUNK, first + orders)
            for statement in _statements(rows):
                await connection.execute(statement, rows.order_id, start, end - 1)
            told(f"filling: {end - first:,} of {orders:,} orders")
        for statement in indexes:
            await connection.execute(statement)
        await connection.execute("VACUUM (ANALYZE, FREEZE)")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def _templates(connection: Any, rows: Rows) -> None:
    await connection.execute(
        """CREATE TEMP TABLE t_events (place serial, stream_id text, stream_version int, event_type text,
               schema_version smallint, data text, metadata text);
           CREATE TEMP TABLE t_head (stream_id text, stream_version int);
           CREATE TEMP TABLE t_seen (consumer text, stream_id text, stream_version int);
           CREATE TEMP TABLE t_view (view text, key text, data text, versions text)"""
    )
    columns = ["stream_id", "stream_version", "event_type", "schema_version", "data", "metadata"]
    await connection.copy_records_to_table("t_events", records=rows.events, columns=columns)
    await connection.copy_records_to_table("t_head", records=rows.heads)
    await connection.copy_records_to_table("t_seen", records=rows.seen)
    views = [(view, *row) for view, found in rows.views.items() for row in found]
    await connection.copy_records_to_table("t_view", records=views)


_ORDERS = "(SELECT n, md5('fill' || n)::uuid::text AS id FROM generate_series($2::int, $3::int) AS n) AS o"


def _columns(indexed: Sequence[str]) -> list[str]:
    return [f"replace(data, $1, o.id)::jsonb->>'{name}'" for name in indexed]


def _statements(rows: Rows) -> Sequence[str]:
    """Each takes the template's order id and the first and last number."""
    views = [
        f"""INSERT INTO view_{view} ({", ".join(["key", "data", "versions", *rows.indexed[view]])})
            SELECT replace(key, $1, o.id), convert_to(replace(data, $1, o.id), 'UTF8'),
                {", ".join(["convert_to(replace(versions, $1, o.id), 'UTF8')", *_columns(rows.indexed[view])])}
            FROM {_ORDERS} CROSS JOIN t_view WHERE view = '{view}'"""
        for view, found in rows.views.items()
        if found
    ]
    return [
        f"""INSERT INTO events (stream_id, stream_version, event_id, event_type, schema_version, data, metadata,
                recorded_at)
            SELECT replace(stream_id, $1, o.id), stream_version, gen_random_uuid(), event_type, schema_version,
                convert_to(replace(data, $1, o.id), 'UTF8'), convert_to(replace(metadata, $1, o.id), 'UTF8'), now()
            FROM {_ORDERS} CROSS JOIN t_events ORDER BY n, place""",
        f"""INSERT INTO stream_head (stream_id, stream_version) SELECT replace(stream_id, $1, o.id), stream_version
            FROM {_ORDERS} CROSS JOIN t_head""",
        f"""INSERT INTO seen SELECT consumer, replace(stream_id, $1, o.id), stream_version
            FROM {_ORDERS} CROSS JOIN t_seen""",
        *views,
    ]


async def _dropped_indexes(connection: Any, table: str) -> list[str]:
    """Drops what is indexed; says how to make it again."""
    again = []
    for row in await connection.fetch(
        "SELECT conname, pg_get_constraintdef(oid) AS words FROM pg_constraint WHERE conrelid = $1::regclass AND "
        "contype IN ('p', 'u')",
        table,
    ):
        await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {row['conname']}")
        again.append(f"ALTER TABLE {table} ADD CONSTRAINT {row['conname']} {row['words']}")
    for row in await connection.fetch("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = $1", table):
        await connection.execute(f"DROP INDEX {row['indexname']}")
        again.append(row["indexdef"])
    return again
