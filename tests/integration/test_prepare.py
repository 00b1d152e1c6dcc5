"""`oms databases` on a real server; that it and `oms topics` begin from nothing is in test_image.py."""

import asyncio
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import asyncpg
import pytest
from typer.testing import CliRunner

from oms.cli import app
from oms.cluster.apps import SERVICES
from oms.cluster.cluster import LocalCluster
from oms.cluster.postgres import roles_of

pytestmark = pytest.mark.integration


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
