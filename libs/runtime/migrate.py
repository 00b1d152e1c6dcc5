"""Brings a service's database to this release: numbered SQL by dbmate, then the tables of its views, then grants.

Runs as the owner role. The application's role may not change or delete events.
"""

import asyncio
import os
import subprocess
import sys
import sysconfig
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import structlog

from libs.runtime.link import owner_dsn
from libs.runtime.projection import Projection
from libs.runtime.service import Service
from libs.runtime.settings import Settings
from libs.runtime.waiting import pause

log = structlog.get_logger()

_APP_MAY = {
    "events": "SELECT, INSERT",
    "event_log": "SELECT",
    "stream_head": "SELECT, INSERT, UPDATE",
    "outbox": "SELECT, INSERT, DELETE",
    "consumer_position": "SELECT, INSERT, UPDATE",
    "seen": "SELECT, INSERT, UPDATE",
    "parked_key": "SELECT, INSERT, UPDATE, DELETE",
    "parked_record": "SELECT, INSERT, UPDATE, DELETE",
    "idempotency": "SELECT, INSERT, DELETE",
    "effect": "SELECT, INSERT, UPDATE, DELETE",
    "lease": "SELECT, INSERT, UPDATE, DELETE",
    "operator_action": "SELECT, INSERT",
    "schema_migrations": "SELECT",
}

LOCK_SECONDS = 1
"""How long a change may queue for its lock. All who come after it queue behind it, and a service gives up after 2 s."""
TRIES = 60
PIECE = 1_000
"""Rows of a view that are filled in one transaction."""


class MigrationFailed(Exception):
    """The database could not be brought to this release; the message is the tool's own."""


class _LockTimeout(Exception):
    """Something else holds the lock that a change needs."""


async def migrate(service: Service[Any], settings: Settings) -> None:
    """May run while the services write: it waits for no lock for long, and takes none that they would notice.

    Raises MigrationFailed.
    """
    dsn = _impatient(owner_dsn(settings))
    await _repeated(lambda: asyncio.to_thread(_run_numbered, dsn))
    connection = await asyncpg.connect(dsn)
    try:
        # Asked for again and again: who waits for it in the database is waited for by an index that is being built.
        while not await connection.fetchval("SELECT pg_try_advisory_lock(hashtext('orderloom.views'))"):
            await pause()
        await _repeated(lambda: _make_views(connection, service, settings))
    finally:
        await connection.close()
    log.info("database.migrated", views=[projection.name for projection in service.projections])


def _impatient(dsn: str) -> str:
    return f"{dsn}{'&' if '?' in dsn else '?'}lock_timeout={LOCK_SECONDS}s"


async def _repeated(change: Callable[[], Awaitable[None]]) -> None:
    """Repeats a change that did not get its lock in time: meanwhile those go on who queued behind it."""
    for tries_left in reversed(range(TRIES)):
        try:
            await change()
            return
        except (_LockTimeout, asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if not tries_left:
                raise MigrationFailed(f"a lock was not to be had, {TRIES} times: {error}") from error
            log.warning("migrate.waiting", reason=str(error))
            await pause()


def _run_numbered(dsn: str) -> None:
    tool = Path(sysconfig.get_path("scripts")) / ("dbmate.exe" if sys.platform == "win32" else "dbmate")
    with as_file(files("libs.runtime") / "sql") as folder:
        done = subprocess.run(
            [tool, "--migrations-dir", folder, "--no-dump-schema", "--migration-lock", "migrate"],
            env={**os.environ, "DATABASE_URL": dsn},  # not an argument: those are shown to everybody on the machine
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise (_LockTimeout if "lock timeout" in said else MigrationFailed)(said)


async def _make_views(connection: Any, service: Service[Any], settings: Settings) -> None:
    for projection in service.projections:
        await make_view_table(connection, f"view_{projection.name}", projection.indexed)
    async with connection.transaction():
        for projection in service.projections:
            await connection.execute(f"DROP VIEW IF EXISTS reporting.{projection.name}")
            await reporting_view(connection, projection)
        await grant(connection, service, settings)


async def reporting_view(connection: Any, projection: Projection[Any]) -> None:
    columns = "".join(f", {field}" for field in projection.indexed)
    await connection.execute(
        f"""CREATE VIEW reporting.{projection.name} AS
            SELECT key{columns}, convert_from(data, 'UTF8')::jsonb AS data FROM view_{projection.name}"""
    )


async def make_view_table(connection: Any, table: str, indexed: Sequence[str]) -> None:
    """A table for the view; indexed fields are columns that lists filter by and dashboards read.

    Outside of a transaction: each step is short or holds up nobody. What is as it should be is not touched, because
    even looking whether an index exists by `IF NOT EXISTS` makes all who write wait. A step that was interrupted is
    repeated: a column is filled as long as its index is not complete.
    """
    known = {row["name"] for row in await connection.fetch(_COLUMNS, table)}
    if not known:
        await connection.execute(
            f"""CREATE TABLE {table} (
                key text COLLATE "C" PRIMARY KEY, data bytea NOT NULL, versions bytea NOT NULL
            ) WITH (fillfactor = 80)"""
        )
    if await connection.fetchval(_IS_JSONB, table):
        await _to_bytes(connection, table)
    complete = {row["name"] for row in await connection.fetch(_COMPLETE_INDEXES, table)}
    for field in indexed:
        if field not in known:
            await connection.execute(f"ALTER TABLE {table} ADD COLUMN {field} text")
        if f"{table}_{field}" not in complete:
            await _fill(connection, table, field)
            await _index(connection, table, field)


async def _fill(connection: Any, table: str, field: str) -> None:
    """By the piece, with the rows locked in the order in which batches lock them."""
    last = ""
    while keys := await connection.fetch(
        f"""WITH piece AS (SELECT key FROM {table} WHERE key > $1 ORDER BY key LIMIT {PIECE} FOR UPDATE)
            UPDATE {table} SET {field} = convert_from(data, 'UTF8')::jsonb->>'{field}'
            FROM piece WHERE {table}.key = piece.key RETURNING piece.key""",
        last,
    ):
        last = max(row["key"] for row in keys)


async def _index(connection: Any, table: str, field: str) -> None:
    await connection.execute("SET lock_timeout = 0")  # it waits for transactions that are under way, and nobody for it
    await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {table}_{field}")
    await connection.execute(f"CREATE INDEX CONCURRENTLY {table}_{field} ON {table} ({field}, key)")
    await connection.execute("RESET lock_timeout")


_COLUMNS = """SELECT column_name::text AS name FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name = $1"""
_DERIVED = f"{_COLUMNS} AND is_generated = 'ALWAYS'"
_COMPLETE_INDEXES = """SELECT c.relname::text AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = $1::text::regclass AND i.indisvalid"""
_IS_JSONB = f"SELECT EXISTS ({_COLUMNS} AND column_name = 'data' AND data_type = 'jsonb')"


async def _to_bytes(connection: Any, table: str) -> None:
    """A table as it was before ADR 9: documents as jsonb, and columns that PostgreSQL derived from them."""
    changes = [
        *(f"ALTER COLUMN {row['name']} DROP EXPRESSION" for row in await connection.fetch(_DERIVED, table)),
        *(f"ALTER COLUMN {name} TYPE bytea USING convert_to({name}::text, 'UTF8')" for name in ("data", "versions")),
    ]
    async with connection.transaction():
        await connection.execute(f"DROP VIEW IF EXISTS reporting.{table.removeprefix('view_')}")
        for change in changes:
            await connection.execute(f"ALTER TABLE {table} {change}")


def rights_of(service: Service[Any]) -> Mapping[str, str]:
    """What the application's role may do with each table of its service's database, as GRANT spells it."""
    views = {f"view_{projection.name}": "SELECT, INSERT, UPDATE, DELETE" for projection in service.projections}
    return {**_APP_MAY, **views}


async def grant(connection: Any, service: Service[Any], settings: Settings) -> None:
    if app := urlsplit(settings.postgres_dsn).username:
        for table, rights in rights_of(service).items():
            await connection.execute(f'REVOKE ALL ON {table} FROM "{app}"')
            await connection.execute(f'GRANT {rights} ON {table} TO "{app}"')
    if reader := urlsplit(settings.postgres_read_dsn).username:
        await connection.execute(f'GRANT USAGE ON SCHEMA reporting TO "{reader}"')
        await connection.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA reporting TO "{reader}"')
