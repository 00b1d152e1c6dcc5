"""A database of a test's own on a running PostgreSQL, brought to this release and emptied in no time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from libs.runtime.event_store import PostgresStorage
from libs.runtime.migrate import migrate
from libs.runtime.service import Service
from libs.runtime.settings import Settings


def in_database(dsn: str, name: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


@asynccontextmanager
async def database(service: Service[Any], admin_dsn: str, app_dsn: str, name: str) -> AsyncIterator[str]:
    """The application's DSN of a new database that is dropped at the end."""
    admin = await asyncpg.connect(admin_dsn)
    try:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.execute(f"CREATE DATABASE {name}")
        app = in_database(app_dsn, name)
        await migrate(service, Settings(postgres_owner_dsn=in_database(admin_dsn, name), postgres_dsn=app))
        yield app
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@asynccontextmanager
async def storage_on(dsn: str, source: str = "/test", size: int = 8) -> AsyncIterator[PostgresStorage]:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=size) as pool:
        yield PostgresStorage(pool, source)


async def emptied(owner_dsn: str) -> None:
    """Every table of the machine and every view of its service, without rows."""
    connection = await asyncpg.connect(owner_dsn)
    try:
        # Not TRUNCATE: for a few rows it takes fifty times as long.
        deletes = await connection.fetchval(
            """SELECT string_agg('DELETE FROM ' || quote_ident(tablename), '; ') FROM pg_tables
               WHERE schemaname = 'public' AND tablename <> 'schema_migrations'"""
        )
        await connection.execute(deletes)
    finally:
        await connection.close()
