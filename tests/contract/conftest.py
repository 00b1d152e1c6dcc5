"""The storage port twice: its double in memory, and PostgreSQL."""

from collections.abc import AsyncIterator

import pytest

from libs.runtime.event_store import PostgresStorage
from libs.runtime.storage import Storage
from libs.testing.database import database, emptied, in_database, storage_on
from libs.testing.memory import MemoryStorage
from libs.testing.tally import tally_service
from oms.cluster.cluster import LocalCluster

NAME = "test_contract"


@pytest.fixture(scope="session")
async def postgres_storage(servers: LocalCluster) -> AsyncIterator[PostgresStorage]:
    async with (
        database(tally_service(), servers.admin_dsn, servers.dsn("inventory"), NAME) as dsn,
        storage_on(dsn) as storage,
    ):
        yield storage


@pytest.fixture
async def postgres(postgres_storage: PostgresStorage, servers: LocalCluster) -> PostgresStorage:
    await emptied(in_database(servers.admin_dsn, NAME))
    return postgres_storage


@pytest.fixture
def onlooker(postgres: PostgresStorage, servers: LocalCluster) -> str:
    """The DSN of the storage's database, for one who looks at its locks from outside."""
    return in_database(servers.dsn("inventory"), NAME)


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
def storage(request: pytest.FixtureRequest) -> Storage:
    return MemoryStorage() if request.param == "memory" else request.getfixturevalue("postgres")
