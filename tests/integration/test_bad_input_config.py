"""Settings and surroundings under which the promises cannot hold: the process says so and does not start, unless it is
allowed to by name. On servers of its own, because it makes them unsafe."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from libs.events.topics import CHANNEL_ORDERS, ORDER_EVENTS
from libs.testing.deadline import eventually
from oms.cluster import kafka
from oms.cluster.cluster import LocalCluster
from oms.cluster.databases import wait_ready
from oms.cluster.process import Command
from oms.cluster.startup import ClusterSpec
from oms.cluster.state import pick_ports
from tests.cluster import started

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        os.environ.get("OMS_TEST_CLUSTER") == "docker", reason="stops servers: OMS_TEST_CLUSTER=local runs it"
    ),
]

SECONDS = 30.0
APP = "oms_order_app"


@dataclass
class Place:
    """A cluster without services, and the command of the one that is going to be started."""

    cluster: LocalCluster
    command: Command
    scratch: Path

    @asynccontextmanager
    async def started(self, **env: str | None) -> AsyncIterator["Started"]:
        """The order service under its usual settings but these; None takes one away."""
        port = pick_ports(["http"])["http"]
        changed = {**self.command.env, "OMS_HTTP_PORT": str(port), **env}
        process = await asyncio.create_subprocess_exec(
            *self.command.argv,
            env={name: value for name, value in changed.items() if value is not None},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        running = Started(process, f"http://127.0.0.1:{port}")
        try:
            yield running
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await running.reading

    async def sql(self, statement: str) -> None:
        admin = await asyncpg.connect(self.cluster.state.postgres_admin_dsn, timeout=10)
        try:
            await admin.execute(statement)
        finally:
            await admin.close()

    async def without(self, server: str) -> Command:
        command = self.cluster.supervisor.child(server).command
        await asyncio.to_thread(self.cluster.supervisor.stop, [server])
        return command

    async def again(self, command: Command) -> None:
        self.cluster.supervisor.start(command)
        if command.name == "kafka":
            await kafka.wait_ready(self.cluster.kafka_bootstrap, lambda: None)
        else:
            await wait_ready(self.cluster.state.postgres_admin_dsn, lambda: None)


class Started:
    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process, self.url, self.said = process, url, ""
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said += line.decode(errors="replace")

    async def refused(self) -> str:
        """All it said, once it has ended with the exit code of a refusal."""
        code = await asyncio.wait_for(self.process.wait(), SECONDS)
        await self.reading
        assert code == 2, self.said
        assert "order does not start:" in self.said
        assert "Traceback" not in self.said
        return self.said

    async def says(self, what: str) -> None:
        async def said() -> bool:
            assert self.process.returncode is None, self.said
            return what in self.said

        await eventually(said, f"it says {what}", SECONDS)

    async def unsafe(self) -> set[str]:
        """The findings that its metrics show it runs under."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            text = (await client.get("/metrics")).text
        lines = [line for line in text.splitlines() if line.startswith("oms_unsafe{")]
        return {line.split('finding="')[1].partition('"')[0] for line in lines if line.endswith(" 1.0")}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with started(ClusterSpec(services=("order",), simulators=())) as cluster:
        command = cluster.supervisor.child("order").command
        cluster.supervisor.stop(["order"])
        yield Place(cluster, command, tmp_path_factory.mktemp("config"))


# --- what can be allowed ---------------------------------------------------------------------------------------------

Surroundings = Callable[[Place], AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def commits_that_do_not_wait(place: Place) -> AsyncIterator[None]:
    await place.sql(f"ALTER ROLE {APP} SET synchronous_commit = off")
    try:
        yield
    finally:
        await place.sql(f"ALTER ROLE {APP} RESET synchronous_commit")


@asynccontextmanager
async def no_fsync(place: Place) -> AsyncIterator[None]:
    safe = await place.without("postgres")
    assert "fsync=on" in safe.argv
    await place.again(replace(safe, argv=tuple(part.replace("fsync=on", "fsync=off") for part in safe.argv)))
    try:
        yield
    finally:
        await place.without("postgres")
        await place.again(safe)


@asynccontextmanager
async def standby_nobody_waits_for(place: Place) -> AsyncIterator[None]:
    """pg_receivewal is one as far as the primary is concerned: it streams under a slot."""
    address = urlsplit(place.cluster.state.postgres_admin_dsn)
    program = Path(place.cluster.supervisor.child("postgres").command.argv[0]).with_name("pg_receivewal")
    await place.sql("SELECT pg_create_physical_replication_slot('standby')")
    receiving = await asyncio.create_subprocess_exec(
        *(str(program), "-D", str(place.scratch), "-S", "standby", "-w", "-h", str(address.hostname)),
        *("-p", str(address.port), "-U", str(address.username)),
        env={**os.environ, "PGPASSWORD": address.password or ""},
    )
    try:
        admin = await asyncpg.connect(place.cluster.state.postgres_admin_dsn, timeout=10)
        try:
            attached = "SELECT active FROM pg_replication_slots WHERE slot_name = 'standby'"
            await eventually(lambda: admin.fetchval(attached), "the standby is attached")
        finally:
            await admin.close()
        yield
    finally:
        receiving.kill()
        await receiving.wait()
        await eventually(lambda: dropped(place), "the slot is free and dropped")


async def dropped(place: Place) -> bool:
    try:
        await place.sql("SELECT pg_drop_replication_slot('standby')")
    except asyncpg.ObjectInUseError:
        return False
    return True


@asynccontextmanager
async def kafka_admin(place: Place) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=place.cluster.kafka_bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


@asynccontextmanager
async def more_in_sync_than_there_are(place: Place) -> AsyncIterator[None]:
    async def set_to(number: int) -> None:
        resource = ConfigResource(ConfigResourceType.TOPIC, ORDER_EVENTS.name, {"min.insync.replicas": str(number)})
        async with kafka_admin(place) as admin:
            (answer,) = await admin.alter_configs([resource])
            assert [code for code, *_ in answer.resources] == [0], answer

    await set_to(2)
    try:
        yield
    finally:
        await set_to(1)


def partitions(number: int) -> Surroundings:
    @asynccontextmanager
    async def changed(place: Place) -> AsyncIterator[None]:
        await remade(place, number)
        try:
            yield
        finally:
            await remade(place, CHANNEL_ORDERS.partitions)

    return changed


async def remade(place: Place, number: int) -> None:
    async with kafka_admin(place) as admin:
        await admin.delete_topics([CHANNEL_ORDERS.name])

        async def there(wanted: bool) -> bool:
            return (CHANNEL_ORDERS.name in await admin.list_topics()) is wanted

        await eventually(lambda: there(False), "the topic is deleted")
        await admin.create_topics([NewTopic(CHANNEL_ORDERS.name, number, 1)])
        await eventually(lambda: there(True), "the topic is made anew")


@dataclass(frozen=True)
class Case:
    surroundings: Surroundings = field(default=lambda _place: nullcontext())
    env: Callable[[Place], Mapping[str, str | None]] = field(default=lambda _place: {})
    says: str = ""
    remedy: str = ""


def clock_an_hour_ahead(place: Place) -> Mapping[str, str | None]:
    """As libfaketime would, without needing it."""
    folder = place.scratch / "clock"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text("import time\nreal = time.time\ntime.time = lambda: real() + 3600\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}


CASES: dict[str, Case] = {
    "missing_secret": Case(
        env=lambda _place: {"OMS_CALLBACK_SECRET_FILE": None},
        says="OMS_CALLBACK_SECRET_FILE is not set",
        remedy="Let it name a file",
    ),
    "clock_skew": Case(env=clock_an_hour_ahead, says="s ahead of the database's", remedy="Let NTP"),
    "synchronous_commit": Case(
        surroundings=commits_that_do_not_wait, says="synchronous_commit is off", remedy="Set it to on"
    ),
    "fsync": Case(surroundings=no_fsync, says="fsync=off", remedy="Set fsync=on"),
    "asynchronous_standby": Case(
        surroundings=standby_nobody_waits_for, says="wait for none of them", remedy="synchronous_standby_names"
    ),
    "single_replica": Case(says=f"{ORDER_EVENTS.name} has 1 replica", remedy="3 replicas and min.insync.replicas=2"),
    "in_sync_replicas": Case(
        surroundings=more_in_sync_than_there_are,
        says="asks for 2 replicas in sync and has 1",
        remedy="lower min.insync",
    ),
    "few_partitions": Case(
        surroundings=partitions(5), says=f"{CHANNEL_ORDERS.name} has 5 partitions", remedy="Give it 6 partitions"
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_unsafe_surroundings_are_refused_by_name_and_allowed_by_name(place: Place, name: str) -> None:
    case = CASES[name]
    usual = {"single_replica"} - {name}
    async with case.surroundings(place):
        async with place.started(**case.env(place), OMS_ALLOW_UNSAFE=",".join(usual)) as running:
            said = await running.refused()
        assert case.says in said
        assert case.remedy in said
        assert f"OMS_ALLOW_UNSAFE={name}" in said
        assert "process.started" not in said
        async with place.started(**case.env(place), OMS_ALLOW_UNSAFE=",".join({*usual, name})) as running:
            await running.says("process.started")
            assert await running.unsafe() == {*usual, name, "single_replica"}
            assert "preflight.found" in running.said


async def test_everything_that_is_wrong_is_said_at_once(place: Place) -> None:
    async with (
        commits_that_do_not_wait(place),
        more_in_sync_than_there_are(place),
        place.started(**clock_an_hour_ahead(place), OMS_ALLOW_UNSAFE=None) as running,
    ):
        said = await running.refused()
    for name in ("clock_skew", "synchronous_commit", "single_replica", "in_sync_replicas"):
        assert f"OMS_ALLOW_UNSAFE={name}" in said


async def test_more_partitions_than_configured_are_only_told(place: Place) -> None:
    async with partitions(7)(place), place.started() as running:
        await running.says("process.started")
        assert await running.unsafe() == {"single_replica", "more_partitions"}
        assert "has 7 partitions" in running.said


# --- what cannot -----------------------------------------------------------------------------------------------------


def secret_file(content: str | None) -> Callable[[Place], Mapping[str, str | None]]:
    def made(place: Place) -> Mapping[str, str | None]:
        file = place.scratch / "secret"
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_text(content)
        return {"OMS_CALLBACK_SECRET_FILE": str(file)}

    return made


def wrong_password(place: Place) -> Mapping[str, str | None]:
    address = urlsplit(place.command.env["OMS_POSTGRES_DSN"])
    return {"OMS_POSTGRES_DSN": place.command.env["OMS_POSTGRES_DSN"].replace(f":{address.password}@", ":wr0ng@")}


SETTINGS: dict[str, tuple[Callable[[Place], Mapping[str, str | None]], str]] = {
    "no database": (lambda _place: {"OMS_POSTGRES_DSN": None}, "OMS_POSTGRES_DSN is not set"),
    "wrong password": (wrong_password, "PostgreSQL refuses the login"),
    "secret file absent": (secret_file(None), "OMS_CALLBACK_SECRET_FILE cannot be read"),
    "secret file empty": (secret_file(""), "holds no whsec_"),
    "secret of another kind": (secret_file("c2VjcmV0"), "holds no whsec_"),
    "HTTP for everybody without keys": (lambda _place: {"OMS_HTTP_HOST": "0.0.0.0"}, "OMS_ALLOW_UNSAFE=no_api_keys"),
    "keys file absent": (lambda _place: {"OMS_API_KEYS_FILE": "/absent"}, "OMS_API_KEYS_FILE cannot be used"),
    "Kafka in the clear": (
        lambda _place: {"OMS_KAFKA_BOOTSTRAP": "kafka.example:9092"},
        "OMS_ALLOW_UNSAFE=plaintext_kafka",
    ),
    "a database beyond this machine": (
        lambda _place: {"OMS_POSTGRES_DSN": "postgresql://app:wr0ng@db.example/x"},
        "OMS_ALLOW_UNSAFE=unverified_postgres",
    ),
    "unknown allowance": (lambda _place: {"OMS_ALLOW_UNSAFE": "everything"}, "ALLOW_UNSAFE"),
    "number out of range": (lambda _place: {"OMS_BATCH_RECORDS": "0"}, "BATCH_RECORDS"),
    "a timer that is none": (lambda _place: {"OMS_ORDER_REMORSE": "soon"}, "REMORSE"),
}


@pytest.mark.parametrize("name", SETTINGS)
async def test_setting_that_cannot_work_is_refused(place: Place, name: str) -> None:
    env, says = SETTINGS[name]
    async with place.started(**env(place)) as running:
        said = await running.refused()
    assert says in said
    assert "c2VjcmV0" not in said
    assert "wr0ng" not in said


# --- away is not unsafe ----------------------------------------------------------------------------------------------


async def test_process_waits_for_a_database_that_is_away(place: Place) -> None:
    server = await place.without("postgres")
    async with place.started() as running:
        await running.says("postgres.waiting")
        await place.again(server)
        await running.says("process.started")


async def test_process_serves_while_kafka_is_away_and_judges_it_when_it_comes(place: Place) -> None:
    server = await place.without("kafka")
    async with place.started() as safe, place.started(OMS_ALLOW_UNSAFE=None) as careful:
        await safe.says("process.started")
        await careful.says("process.started")
        await place.again(server)
        assert "OMS_ALLOW_UNSAFE=single_replica" in await careful.refused()
        await safe.says("preflight.found")
        assert await safe.unsafe() == {"single_replica"}
