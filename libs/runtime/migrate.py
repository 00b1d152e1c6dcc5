"""Brings a service's database to this release: numbered SQL by dbmate, then the tables of its views, then grants.

Runs as the owner role. The application's role may not change or delete events.
"""

import asyncio
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
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


class MigrationFailed(Exception):
    """The database could not be brought to this release; the message is the tool's own."""


async def migrate(service: Service[Any], settings: Settings) -> None:
    dsn = owner_dsn(settings)
    await asyncio.to_thread(_run_numbered, dsn)
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('orderloom.views'))")
            for projection in service.projections:
                await _make_view(connection, projection)
            await grant(connection, service, settings)
    finally:
        await connection.close()
    log.info("database.migrated", views=[projection.name for projection in service.projections])


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
        raise MigrationFailed(done.stderr.strip() or done.stdout.strip())


async def _make_view(connection: Any, projection: Projection[Any]) -> None:
    """A table for the view; indexed fields are columns that lists filter by and dashboards read."""
    await connection.execute(f"DROP VIEW IF EXISTS reporting.{projection.name}")
    await make_view_table(connection, f"view_{projection.name}", projection.indexed)
    await reporting_view(connection, projection)


async def reporting_view(connection: Any, projection: Projection[Any]) -> None:
    columns = "".join(f", {field}" for field in projection.indexed)
    await connection.execute(
        f"""CREATE VIEW reporting.{projection.name} AS
            SELECT key{columns}, convert_from(data, 'UTF8')::jsonb AS data FROM view_{projection.name}"""
    )


async def make_view_table(connection: Any, table: str, indexed: Sequence[str]) -> None:
    await connection.execute(
        f"""CREATE TABLE IF NOT EXISTS {table} (
            key text COLLATE "C" PRIMARY KEY, data bytea NOT NULL, versions bytea NOT NULL
        ) WITH (fillfactor = 80)"""
    )
    if await connection.fetchval(_IS_JSONB, table):
        await _to_bytes(connection, table)
    known = {row["name"] for row in await connection.fetch(_COLUMNS, table)}
    for field in indexed:
        if field not in known:
            await connection.execute(f"ALTER TABLE {table} ADD COLUMN {field} text")
            await connection.execute(f"UPDATE {table} SET {field} = convert_from(data, 'UTF8')::jsonb->>'{field}'")
        await connection.execute(f"CREATE INDEX IF NOT EXISTS {table}_{field} ON {table} ({field}, key)")


_COLUMNS = """SELECT column_name::text AS name FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name = $1"""
_DERIVED = f"{_COLUMNS} AND is_generated = 'ALWAYS'"
_IS_JSONB = f"SELECT EXISTS ({_COLUMNS} AND column_name = 'data' AND data_type = 'jsonb')"


async def _to_bytes(connection: Any, table: str) -> None:
    """A table as it was before ADR 9: documents as jsonb, and columns that PostgreSQL derived from them."""
    for row in await connection.fetch(_DERIVED, table):
        await connection.execute(f"ALTER TABLE {table} ALTER COLUMN {row['name']} DROP EXPRESSION")
    changes = ", ".join(
        f"ALTER COLUMN {name} TYPE bytea USING convert_to({name}::text, 'UTF8')" for name in ("data", "versions")
    )
    await connection.execute(f"ALTER TABLE {table} {changes}")


def rights_of(service: Service[Any]) -> Mapping[str, str]:
    """What the application's role may do with each table of its service's database, as GRANT spells it."""
    views = {f"view_{projection.name}": "SELECT, INSERT, UPDATE, DELETE" for projection in service.projections}
    return {**_APP_MAY, **views}


def migrations() -> Sequence[str]:
    """The numbers of this release's migrations, in order."""
    names = [path.name for path in (files("libs.runtime") / "sql").iterdir()]
    return sorted(name.partition("_")[0] for name in names if name.endswith(".sql"))


async def grant(connection: Any, service: Service[Any], settings: Settings) -> None:
    if app := urlsplit(settings.postgres_dsn).username:
        for table, rights in rights_of(service).items():
            await connection.execute(f'REVOKE ALL ON {table} FROM "{app}"')
            await connection.execute(f'GRANT {rights} ON {table} TO "{app}"')
    if reader := urlsplit(settings.postgres_read_dsn).username:
        await connection.execute(f'GRANT USAGE ON SCHEMA reporting TO "{reader}"')
        await connection.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA reporting TO "{reader}"')
