"""`oms doctor` on the real local cluster: sound as it is, and each thing that is broken is found with what to do."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from typer.testing import CliRunner, Result

from libs.events.topics import DAY_MS, PAYMENT_EVENTS
from libs.runtime import surroundings
from oms.cli import app
from oms.cluster.cluster import LocalCluster

pytestmark = pytest.mark.integration

SERVICE, DATABASE, ROLE = "payment", "oms_payment", "oms_payment_app"
ALLOWED = {"OMS_ALLOW_UNSAFE": "single_replica"}


async def doctor(cluster: LocalCluster, *arguments: str) -> Result:
    """As an operator gives it, with one service's database unless others are named."""
    named = [] if "--dsn" in arguments else ["--dsn", f"{SERVICE}={cluster.dsn(SERVICE)}"]
    kafka = [] if "--kafka" in arguments else ["--kafka", cluster.kafka_bootstrap]
    command = ["doctor", *kafka, *named, "--no-access", *arguments]
    return await asyncio.to_thread(CliRunner().invoke, app, command, env=ALLOWED)


async def findings(cluster: LocalCluster, *arguments: str) -> Sequence[dict[str, Any]]:
    """What counts, of the JSON; the exit code says the same."""
    result = await doctor(cluster, *arguments, "--json")
    told = json.loads(result.stdout)
    counting = [one for one in told["findings"] if one["counts"]]
    assert (result.exit_code, told["sound"]) == ((1, False) if counting else (0, True)), result.output
    return counting


async def sql(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_cluster_as_it_is_made_is_sound_for_every_service(system: LocalCluster) -> None:
    dsns = [part for name in system.state.services for part in ("--dsn", f"{name}={system.dsn(name)}")]
    assert await findings(system, *dsns) == []
    told = await doctor(system, *dsns)
    assert "All is as it should be." in told.output
    assert "single_replica" not in told.output
    assert "has 1 replica: it is lost with its broker (allowed)" in told.output


Broken = Callable[[LocalCluster], AbstractAsyncContextManager[Any]]


def by_owner(broken: str, mended: str) -> Broken:
    @asynccontextmanager
    async def changed(cluster: LocalCluster) -> AsyncIterator[None]:
        await sql(cluster.dsn(SERVICE, "owner"), broken)
        try:
            yield
        finally:
            await sql(cluster.dsn(SERVICE, "owner"), mended)

    return changed


def by_admin(broken: str, mended: str) -> Broken:
    @asynccontextmanager
    async def changed(cluster: LocalCluster) -> AsyncIterator[None]:
        await sql(cluster.admin_dsn, broken)
        try:
            yield
        finally:
            await sql(cluster.admin_dsn, mended)

    return changed


def topic(**configs: str) -> Broken:
    """Replaces all that is configured of a topic; the cluster's own configuration of it afterwards."""

    @asynccontextmanager
    async def changed(cluster: LocalCluster) -> AsyncIterator[None]:
        usual = {"cleanup.policy": "delete", "retention.ms": str(7 * DAY_MS), "min.insync.replicas": "1"}
        await configured(cluster, usual | {name.replace("_", "."): value for name, value in configs.items()})
        try:
            yield
        finally:
            await configured(cluster, usual)

    return changed


async def configured(cluster: LocalCluster, configs: dict[str, str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.kafka_bootstrap)
    await admin.start()
    try:
        resource = ConfigResource(ConfigResourceType.TOPIC, PAYMENT_EVENTS.name, configs)
        (answer,) = await admin.alter_configs([resource])
        assert [code for code, *_ in answer.resources] == [0], answer
    finally:
        await admin.close()


BROKEN: dict[str, tuple[Broken, str, str]] = {
    "history may be rewritten": (
        by_owner(f"GRANT UPDATE ON events TO {ROLE}", f"REVOKE UPDATE ON events FROM {ROLE}"),
        f"{ROLE} may UPDATE events",
        f"REVOKE UPDATE ON events FROM {ROLE}",
    ),
    "a right is missing": (
        by_owner(f"REVOKE INSERT ON operator_action FROM {ROLE}", f"GRANT INSERT ON operator_action TO {ROLE}"),
        f"{ROLE} may not INSERT operator_action",
        "migrate",
    ),
    "a migration is missing": (
        by_owner(
            "DELETE FROM schema_migrations WHERE version = '0002'", "INSERT INTO schema_migrations VALUES ('0002')"
        ),
        "lacks migration 0002",
        "python -m services.<name> migrate",
    ),
    "a role without limits": (
        by_admin(f"ALTER ROLE {ROLE} SET lock_timeout = 0", f"ALTER ROLE {ROLE} SET lock_timeout = '2s'"),
        f"{ROLE} has no lock_timeout",
        f"ALTER ROLE {ROLE} SET",
    ),
    "a database for everybody": (
        by_admin(
            f"GRANT CONNECT ON DATABASE {DATABASE} TO PUBLIC",
            f"REVOKE CONNECT ON DATABASE {DATABASE} FROM PUBLIC",
        ),
        "Every role of the server may connect",
        "REVOKE ALL ON DATABASE",
    ),
    "commits that do not wait": (
        by_admin(f"ALTER ROLE {ROLE} SET synchronous_commit = off", f"ALTER ROLE {ROLE} RESET synchronous_commit"),
        "synchronous_commit is off",
        "Set it to on",
    ),
    "records that vanish early": (topic(retention_ms=str(6 * DAY_MS)), "keeps records for", f"={7 * DAY_MS}"),
    "a compacted topic": (topic(cleanup_policy="compact,delete"), "cleanup.policy=", "Set cleanup.policy=delete"),
    "more in sync than there are": (topic(min_insync_replicas="2"), "asks for 2 replicas in sync", "lower min.insync"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_broken_is_found_with_what_to_do(system: LocalCluster, name: str) -> None:
    broken, what, remedy = BROKEN[name]
    async with broken(system):
        (found,) = await findings(system)
    assert what in found["what"]
    assert remedy in found["remedy"]


async def test_clock_that_is_off_is_found(system: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr(surroundings.time, "time", lambda: real() + 60)
    (found,) = await findings(system)
    assert found["name"] == "clock_skew"


async def test_servers_that_do_not_answer_or_refuse_are_found_one_by_one(system: LocalCluster) -> None:
    wrong = system.dsn(SERVICE).replace(ROLE, "oms_order_app")
    found = await findings(
        system,
        *("--kafka", "127.0.0.1:1"),
        *("--dsn", f"{SERVICE}={wrong}", "--dsn", "order=postgresql://app@127.0.0.1:1/oms_order"),
    )
    told = {one["where"]: one["what"] for one in found}
    assert "Kafka at 127.0.0.1:1 does not answer" in told["kafka"]
    assert "PostgreSQL refuses the login" in told[SERVICE]
    assert "PostgreSQL does not answer" in told["order"]


async def test_owner_is_no_role_for_a_service(system: LocalCluster) -> None:
    found = await findings(system, "--dsn", f"{SERVICE}={system.dsn(SERVICE, 'owner')}")
    assert any("owns" in one["what"] and "may change history" in one["what"] for one in found)


async def test_service_that_there_is_not_is_refused(system: LocalCluster) -> None:
    result = await doctor(system, "--dsn", f"returns={system.dsn(SERVICE)}")
    assert result.exit_code == 1
    assert "There is no service returns" in result.output
