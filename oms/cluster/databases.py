"""What each service gets inside PostgreSQL: a database, the roles owner, app and read, and their limits."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import asyncpg

from oms.cluster.postgres import roles_of
from oms.cluster.process import ClusterError
from oms.cluster.settings import ClusterSettings

# A statement that runs long, waits for a lock, or a forgotten transaction must fail before it stops the whole service;
# what a client that has gone away still holds is let go. Migrations run as the owner, who has no limits.
LIMITS = {
    "app": {
        "statement_timeout": "5s",
        "lock_timeout": "2s",
        "idle_in_transaction_session_timeout": "5s",
        "client_connection_check_interval": "5s",
        "tcp_user_timeout": "20s",
    },
    "read": {"statement_timeout": "30s", "lock_timeout": "2s", "default_transaction_read_only": "on"},
}


@dataclass(frozen=True, kw_only=True)
class PostgresAddress:
    host: str
    port: int
    user: str
    password: str
    sslmode: str
    external: bool = False

    def dsn(self, database: str = "postgres", user: str | None = None, password: str | None = None) -> str:
        user, password = (user, password or "") if user else (self.user, self.password)
        login = f"{quote(user, safe='')}:{quote(password, safe='')}" if password else quote(user, safe="")
        return f"postgresql://{login}@{self.host}:{self.port}/{database}?sslmode={self.sslmode}"


def outside(settings: ClusterSettings, host: str) -> PostgresAddress:
    """A server that is not ours to start, as its administrator sees it."""
    return PostgresAddress(
        host=host,
        port=settings.postgres_port,
        user=settings.postgres_user,
        password=settings.admin_password(),
        sslmode=settings.postgres_sslmode,
        external=True,
    )


async def wait_ready(dsn: str, check: Callable[[], None], seconds: float = 30.0) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        check()
        try:
            connection = await asyncpg.connect(dsn, timeout=5)
            await connection.close()
            return
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
            raise ClusterError(f"PostgreSQL refuses the connection: {error}") from None
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if loop.time() > deadline:
                raise ClusterError(f"PostgreSQL does not answer after {seconds:.0f} s: {error}") from None
        await asyncio.sleep(0.05)


async def provision(address: PostgresAddress, services: Iterable[str], passwords: Mapping[str, str]) -> None:
    """Make what is missing and set every password and limit again: the state directory is their source."""
    admin = await asyncpg.connect(address.dsn(), timeout=10)
    try:
        superuser = await admin.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        if not address.external:
            # The server's own databases are nobody's business; of an outside server we touch only ours.
            await admin.execute("REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC")
        for service in services:
            await _make_roles(admin, service, passwords, superuser=bool(superuser))
            await _make_database(admin, service)
            await _make_schema(address, service, passwords)
    finally:
        await admin.close()


# Names are built from the services' own and need no quoting; roles and passwords cannot be parameters of a statement.


async def _make_roles(
    admin: "asyncpg.Connection[asyncpg.Record]", service: str, passwords: Mapping[str, str], *, superuser: bool
) -> None:
    for role in roles_of(service):
        known = await admin.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role)
        verb = "ALTER" if known else "CREATE"
        password = await admin.fetchval("SELECT quote_literal($1::text)", passwords[role])
        await admin.execute(f"{verb} ROLE {role} LOGIN PASSWORD {password}")
        for name, value in LIMITS.get(role.rpartition("_")[2], {}).items():
            await admin.execute(f"ALTER ROLE {role} SET {name} = '{value}'")
    if not superuser:  # giving a database to a role takes membership in it
        await admin.execute(f"GRANT oms_{service}_owner TO CURRENT_USER")


async def _make_database(admin: "asyncpg.Connection[asyncpg.Record]", service: str) -> None:
    database, owner = f"oms_{service}", f"oms_{service}_owner"
    if not await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", database):
        await admin.execute(f"CREATE DATABASE {database} OWNER {owner}")
    await admin.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    await admin.execute(f"GRANT CONNECT ON DATABASE {database} TO oms_{service}_app, oms_{service}_read")


async def _make_schema(address: PostgresAddress, service: str, passwords: Mapping[str, str]) -> None:
    owner = f"oms_{service}_owner"
    connection = await asyncpg.connect(address.dsn(f"oms_{service}", owner, passwords[owner]), timeout=10)
    try:
        await connection.execute(f"ALTER SCHEMA public OWNER TO {owner}")
        await connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        await connection.execute(f"GRANT USAGE ON SCHEMA public TO oms_{service}_app, oms_{service}_read")
    finally:
        await connection.close()
