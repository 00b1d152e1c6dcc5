"""What a CloudNativePG cluster is given first makes a database that a service can be migrated into and run on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from deploy.k8s.generate import first_sql
from libs.runtime.migrate import migrate
from libs.runtime.settings import Settings
from libs.testing.database import in_database
from oms.cluster.cluster import LocalCluster
from oms.cluster.databases import LIMITS
from services.order.service import service as order

pytestmark = pytest.mark.integration

DATABASE = "oms_drill"
ROLES = ("owner", "app", "read")


@pytest.fixture
async def dsns(servers: LocalCluster) -> AsyncIterator[dict[str, str]]:
    """By role, of a database as CloudNativePG leaves it before the first migration."""
    async with _session(servers.admin_dsn) as admin:
        await _drop(admin)
        await admin.execute(f"CREATE ROLE {DATABASE}_owner LOGIN PASSWORD 'drill'")
        await admin.execute(f"CREATE DATABASE {DATABASE} OWNER {DATABASE}_owner")
        async with _session(in_database(servers.admin_dsn, DATABASE)) as inside:
            for statement in first_sql("drill"):
                await inside.execute(statement)
        await admin.execute(f"ALTER ROLE {DATABASE}_app PASSWORD 'drill'; ALTER ROLE {DATABASE}_read PASSWORD 'drill'")
        place = urlsplit(servers.admin_dsn)
        at = f"{place.hostname}:{place.port}/{DATABASE}"
        yield {role: f"postgresql://{DATABASE}_{role}:drill@{at}?sslmode=prefer" for role in ROLES}
        await _drop(admin)


async def _drop(admin: Any) -> None:
    await admin.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    for role in ROLES:
        await admin.execute(f"DROP ROLE IF EXISTS {DATABASE}_{role}")


@asynccontextmanager
async def _session(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def test_service_is_migrated_and_its_roles_may_what_they_must(dsns: dict[str, str]) -> None:
    settings = Settings(postgres_dsn=dsns["app"], postgres_owner_dsn=dsns["owner"], postgres_read_dsn=dsns["read"])
    for _ in range(2):  # a repeat changes nothing
        await migrate(order(), settings)
    async with _session(dsns["app"]) as app:
        assert await app.fetchval("SELECT count(*) FROM events") == 0
        for statement in ("DELETE FROM events", "CREATE TABLE mine ()", "DROP TABLE events"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await app.execute(statement)
        assert await app.fetchval("SHOW statement_timeout") == LIMITS["app"]["statement_timeout"]
    async with _session(dsns["read"]) as read:
        assert await read.fetchval("SELECT count(*) FROM reporting.order_view") == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await read.fetchval("SELECT count(*) FROM events")
    async with _session(dsns["owner"]) as owner:
        kept = await owner.fetch(
            "SELECT rolname, setconfig FROM pg_db_role_setting JOIN pg_roles ON pg_roles.oid = setrole"
        )
        told = {row["rolname"]: set(row["setconfig"]) for row in kept}
        for role, limits in LIMITS.items():
            assert told[f"{DATABASE}_{role}"] == {f"{name}={value}" for name, value in limits.items()}
        assert await owner.fetchval("SHOW lock_timeout") == "10s"
