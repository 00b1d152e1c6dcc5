"""Writing a view's rows: as bytes with their columns beside, and as jsonb from which PostgreSQL derives the columns."""

import time
from collections.abc import Sequence
from typing import Any

import asyncpg
import orjson

from bench.parts.bed import Bed
from libs.runtime.storage import ViewChange, ViewRow
from libs.runtime.view_store import write_rows
from services.tracking.views.order import ORDER_TRACKING

ROWS = 500
COLUMNS = ORDER_TRACKING.indexed


async def view_rows_rates(bed: Bed, seconds: float) -> tuple[float, float]:
    """Rows updated a second by 500: as bytes, as jsonb. In turns, a table each, with the same indexes."""
    connection = await asyncpg.connect(bed.settings.postgres_owner_dsn)
    try:
        for table, kind, derived in (
            ("bytes", "bytea", ""),
            ("json", "jsonb", "GENERATED ALWAYS AS (data->>'{}') STORED"),
        ):
            columns = ", ".join(f"{name} text {derived.format(name)}" for name in COLUMNS)
            await connection.execute(
                f"""CREATE TABLE rows_{table} (key text COLLATE "C" PRIMARY KEY, data {kind} NOT NULL,
                    versions {kind} NOT NULL, {columns}) WITH (fillfactor = 80)"""
            )
            for name in COLUMNS:
                await connection.execute(f"CREATE INDEX ON rows_{table} ({name}, key)")
        spent = [0.0, 0.0]
        rounds = 0
        while sum(spent) < seconds * 2 or rounds < 2:
            changes = _changes(bed, rounds)
            for place, write in enumerate((_as_bytes, _as_jsonb)):
                began = time.monotonic()
                await write(connection, changes, update=rounds > 0)
                spent[place] += time.monotonic() - began
            rounds += 1
        await connection.execute("DROP TABLE rows_bytes, rows_json")
    finally:
        await connection.close()
    return rounds * ROWS / spent[0], rounds * ROWS / spent[1]


def _changes(bed: Bed, turn: int) -> Sequence[ViewChange]:
    _, data, versions = bed.rows.views[ORDER_TRACKING.name][0]
    document = orjson.loads(data) | {"status": ("ACCEPTED", "CONFIRMED", "COMPLETED")[turn % 3]}
    row = ViewRow(orjson.dumps(document), orjson.loads(versions))
    columns = {name: document[name] for name in COLUMNS}
    return [ViewChange(ORDER_TRACKING.name, f"order-{number}", row, turn > 0, columns) for number in range(ROWS)]


async def _as_bytes(connection: Any, changes: Sequence[ViewChange], *, update: bool) -> None:
    await write_rows(connection, "rows_bytes", changes, update=update)


async def _as_jsonb(connection: Any, changes: Sequence[ViewChange], *, update: bool) -> None:
    rows = "unnest($1::text[], $2::text[], $3::text[]) AS r(key, data, versions)"
    statement = (
        f"UPDATE rows_json v SET data = r.data::jsonb, versions = r.versions::jsonb FROM {rows} WHERE v.key = r.key"
        if update
        else f"INSERT INTO rows_json (key, data, versions) SELECT key, data::jsonb, versions::jsonb FROM {rows}"
    )
    await connection.execute(
        statement,
        [change.key for change in changes],
        [change.row.data.decode() for change in changes if change.row],
        [orjson.dumps(dict(change.row.versions)).decode() for change in changes if change.row],
    )
