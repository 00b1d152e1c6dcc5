"""`oms topics` and `oms databases` on real servers."""

import asyncio
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from typer.testing import CliRunner

from libs.events.topics import ORDER_EVENTS, TOPICS
from oms.cli import app
from oms.cluster import kafka as brokers
from oms.cluster.apps import SERVICES
from oms.cluster.cluster import LocalCluster
from oms.cluster.postgres import roles_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


async def test_missing_topic_is_made_as_the_table_says_and_others_stay(servers: LocalCluster) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers.kafka_bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([ORDER_EVENTS.name])
        async with asyncio.timeout(30):
            while ORDER_EVENTS.name in await admin.list_topics():
                await asyncio.sleep(0.05)
        done = await asyncio.to_thread(CliRunner().invoke, app, ["topics", "--kafka", servers.kafka_bootstrap])
        assert done.exit_code == 0, done.output
        told = dict(line.strip().split(": ") for line in done.output.splitlines())
        assert told == {topic.name: "made" if topic is ORDER_EVENTS else "was there" for topic in TOPICS}
        async with asyncio.timeout(30):
            while not (found := await _partitions(admin, ORDER_EVENTS.name)):
                await asyncio.sleep(0.05)
        assert found == ORDER_EVENTS.partitions
    finally:
        await admin.close()
        await brokers.create_topics(servers.kafka_bootstrap, TOPICS)


async def _partitions(admin: AIOKafkaAdminClient, name: str) -> int:
    return sum(len(row["partitions"]) for row in await admin.describe_topics() if row["topic"] == name)


@pytest.fixture
def passwords(servers: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The roles' own passwords in files, and the environment of an administrator whose password is in one, too."""
    dsns = {role: servers.dsn(service, role.rpartition("_")[2]) for service in SERVICES for role in roles_of(service)}
    for name, dsn in {**dsns, "administrator": servers.admin_dsn}.items():
        (tmp_path / name).write_text(unquote(urlsplit(dsn).password or "") + "\n")
    admin = urlsplit(servers.admin_dsn)
    monkeypatch.setenv("OMS_POSTGRES_HOST", admin.hostname or "")
    monkeypatch.setenv("OMS_POSTGRES_PORT", str(admin.port))
    monkeypatch.setenv("OMS_POSTGRES_PASSWORD_FILE", str(tmp_path / "administrator"))
    return tmp_path


async def test_changed_password_counts_after_the_next_run_whatever_is_in_it(
    servers: LocalCluster, passwords: Path
) -> None:
    role = "oms_tracking_read"
    dsn, before = servers.dsn("tracking", "read"), (passwords / role).read_text()
    strange = "it's \\a 'new' %s \"one\""
    (passwords / role).write_text(strange)
    try:
        await _make(passwords)
        old = urlsplit(dsn)
        assert old.password
        connection = await asyncpg.connect(dsn.replace(old.password, quote(strange, safe="")))
        await connection.close()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(dsn)
    finally:
        (passwords / role).write_text(before)
        await _make(passwords)
    await (await asyncpg.connect(dsn)).close()


async def _make(passwords: Path) -> None:
    done = await asyncio.to_thread(CliRunner().invoke, app, ["databases", "--passwords", str(passwords)])
    assert done.exit_code == 0, done.output
    assert [line.strip() for line in done.output.splitlines()] == [f"oms_{name}: ready" for name in SERVICES]
