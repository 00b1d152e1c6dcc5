"""The real cluster: Kafka and PostgreSQL as processes. One start is shared, one more is for the detached supervisor."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic import SecretStr

from libs.events.topics import TOPICS
from oms.cluster import control
from oms.cluster.cluster import INFRASTRUCTURE, LocalCluster
from oms.cluster.guard import same_process
from oms.cluster.health import cluster_status
from oms.cluster.process import ClusterError
from oms.cluster.settings import ClusterSettings
from oms.cluster.state import ClusterState, StateDirectory, temporary_folder

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

TOPIC = TOPICS[0].name


@pytest.fixture(scope="module")
def state_dir() -> Iterator[Path]:
    with temporary_folder("test") as path:
        yield path


@pytest.fixture(scope="module")
def cluster(state_dir: Path) -> Iterator[LocalCluster]:
    with LocalCluster(ClusterSettings(state_dir=state_dir / "shared"), INFRASTRUCTURE) as cluster:
        yield cluster


def eventually(done: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.05)


async def send(bootstrap: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
        await producer.send_and_wait(TOPIC, value, key=b"key", partition=0)


async def received(bootstrap: str, wanted: bytes) -> bool:
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    async with consumer:
        async with asyncio.timeout(20):
            async for record in consumer:
                if record.value == wanted:
                    return True
    return False


async def fetch(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def kill(cluster: LocalCluster, name: str) -> None:
    child = cluster.supervisor.child(name)
    restarts = child.restarts
    os.kill(child.pid, signal.SIGKILL)
    eventually(lambda: child.restarts > restarts)
    eventually(lambda: asyncio.run(cluster_status(cluster.state))[name]["health"] == "ready")


def test_sent_record_is_received(cluster: LocalCluster) -> None:
    asyncio.run(send(cluster.kafka_bootstrap, b"hello"))
    assert asyncio.run(received(cluster.kafka_bootstrap, b"hello"))


@pytest.mark.parametrize("role", ["owner", "app", "read"])
def test_role_connects_to_its_own_database(cluster: LocalCluster, role: str) -> None:
    assert asyncio.run(fetch(cluster.dsn("order", role), "SELECT current_database()")) == "oms_order"


@pytest.mark.parametrize("database", ["oms_payment", "postgres", "template1"])
@pytest.mark.parametrize("role", ["app", "read", "owner"])
def test_role_is_refused_by_other_databases(cluster: LocalCluster, role: str, database: str) -> None:
    dsn = cluster.dsn("order", role).replace("/oms_order?", f"/{database}?")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        asyncio.run(fetch(dsn, "SELECT 1"))


def test_wrong_password_is_refused(cluster: LocalCluster) -> None:
    head, _, tail = cluster.dsn("order").partition("@")
    with pytest.raises(asyncpg.InvalidPasswordError):
        asyncio.run(fetch(f"{head}x@{tail}", "SELECT 1"))


def test_only_the_owner_makes_tables(cluster: LocalCluster) -> None:
    create = "CREATE TABLE made_by_a_test (id int)"
    for role in ("app", "read"):
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)):
            asyncio.run(fetch(cluster.dsn("inventory", role), create))
    asyncio.run(fetch(cluster.dsn("inventory", "owner"), create))


def test_app_has_time_limits_and_the_server_is_durable(cluster: LocalCluster) -> None:
    limits = {
        "statement_timeout": "5s",
        "lock_timeout": "2s",
        "idle_in_transaction_session_timeout": "5s",
        "client_connection_check_interval": "5s",
        "tcp_user_timeout": "20000",
    }
    for limit, value in limits.items():
        assert asyncio.run(fetch(cluster.dsn("order"), f"SHOW {limit}")) == value
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        assert asyncio.run(fetch(cluster.dsn("order"), f"SHOW {setting}")) == "on"


def test_migrations_have_no_time_limit(cluster: LocalCluster) -> None:
    for limit in ("statement_timeout", "lock_timeout"):
        assert asyncio.run(fetch(cluster.dsn("order", "owner"), f"SHOW {limit}")) == "0"


def test_second_start_finds_the_first(cluster: LocalCluster) -> None:
    found = control.find(cluster.directory, INFRASTRUCTURE)
    assert found is not None
    assert found.kafka_bootstrap == cluster.kafka_bootstrap
    with pytest.raises(ClusterError, match="A cluster runs"):
        LocalCluster(cluster.settings, INFRASTRUCTURE).start()


def test_killed_kafka_comes_back_with_its_records(cluster: LocalCluster) -> None:
    asyncio.run(send(cluster.kafka_bootstrap, b"before the kill"))
    kill(cluster, "kafka")
    assert asyncio.run(received(cluster.kafka_bootstrap, b"before the kill"))


def test_killed_postgres_comes_back_with_its_rows(cluster: LocalCluster) -> None:
    owner = cluster.dsn("order", "owner")
    asyncio.run(fetch(owner, "CREATE TABLE kept (id int)"))
    asyncio.run(fetch(owner, "INSERT INTO kept VALUES (7)"))
    kill(cluster, "postgres")
    assert asyncio.run(fetch(owner, "SELECT id FROM kept")) == 7


def test_outside_servers_are_used_instead(cluster: LocalCluster, state_dir: Path) -> None:
    host, _, port = cluster.state.postgres_address.rpartition(":")
    settings = ClusterSettings(
        state_dir=state_dir / "guest",
        kafka_bootstrap=cluster.kafka_bootstrap,
        postgres_host=host,
        postgres_port=int(port),
        postgres_password=SecretStr(cluster.admin_dsn.partition("@")[0].rpartition(":")[2]),
        postgres_sslmode="disable",
    )
    passwords = cluster.directory.passwords([])
    StateDirectory(settings.state_dir).create()
    (settings.state_dir / "secrets.json").write_text(json.dumps(dict(passwords)))
    with LocalCluster(settings, INFRASTRUCTURE) as guest:
        assert guest.kafka_bootstrap == cluster.kafka_bootstrap
        assert not guest.supervisor.children
        assert asyncio.run(fetch(guest.dsn("order"), "SELECT current_user")) == "oms_order_app"
    assert asyncio.run(fetch(cluster.dsn("order"), "SELECT current_user")) == "oms_order_app"


def oms(state_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMS_STATE_DIR": str(state_dir)}
    command = [sys.executable, "-m", "oms.cli", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def test_killed_supervisor_takes_everything_with_it(state_dir: Path) -> None:
    place = state_dir / "detached"
    started = oms(place, "up", "--infra", "--detach")
    assert started.returncode == 0, started.stdout + started.stderr
    state = StateDirectory(place).read()
    assert state is not None
    try:
        told = oms(place, "status", "--json")
        assert told.returncode == 0
        parts = json.loads(told.stdout)
        assert (parts["kafka"]["health"], parts["postgres"]["health"]) == ("ready", "ready")
        assert parts["kafka"]["address"] == state.kafka_bootstrap

        again = oms(place, "up", "--infra", "--detach")
        assert again.returncode == 0
        assert f"pid {state.supervisor.pid}" in again.stdout

        os.kill(state.supervisor.pid, signal.SIGKILL)
        eventually(lambda: not any_alive(state), seconds=10)
        assert oms(place, "status").returncode == 1
    finally:
        stopped = oms(place, "down", "--purge")
    assert stopped.returncode == 0
    assert not any_alive(state)
    assert [path.name for path in place.iterdir()] == ["lock"]


def any_alive(state: ClusterState) -> bool:
    return any(same_process(child.pid, child.started) for child in [state.supervisor, *state.children])
