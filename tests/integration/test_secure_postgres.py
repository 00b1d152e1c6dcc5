"""PostgreSQL under verify-full TLS and SCRAM: the right link works, every wrong one says what to do; and two services
with everything on, links and keys, carry orders from HTTP to tracking."""

import asyncio
import hashlib
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import orjson
import pytest

from libs.runtime.configuration import check_links
from libs.runtime.diagnosis import postgres_fault
from libs.runtime.keys import SCOPES, new_key, read_keys, write_keys
from libs.runtime.link import postgres_link
from libs.runtime.settings import Settings
from libs.testing.deadline import eventually
from oms.cluster import apps
from oms.cluster.state import pick_ports
from tests.secure import SecureBroker, SecureDatabases, needs_openssl, needs_postgres, secure_broker, secure_databases

pytestmark = [
    pytest.mark.integration,
    needs_openssl,
    needs_postgres,
    pytest.mark.skipif(
        os.environ.get("OMS_TEST_CLUSTER") == "docker", reason="starts its own servers: OMS_TEST_CLUSTER=local runs it"
    ),
]

LOGIN_MS = 3_000
"""The broker cuts a connection after so long: no client of ours logs in again on a live one."""
ORDER = Path(__file__).parents[2] / "docs" / "examples" / "order.json"


@pytest.fixture(scope="module")
def databases() -> Iterator[SecureDatabases]:
    with secure_databases(("order", "tracking")) as databases:
        yield databases


def settings_of(databases: SecureDatabases, service: str = "order", **fields: Any) -> Settings:
    env = {name.removeprefix("OMS_").lower(): text for name, text in databases.env(service).items()}
    return Settings(**env | fields)


async def connected(settings: Settings) -> bool:
    """Whether the session that the settings give is under TLS. Raises what asyncpg raises."""
    connection = await asyncpg.connect(**postgres_link(settings), timeout=10)
    try:
        return bool(await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))
    finally:
        await connection.close()


async def test_right_link_is_under_tls_and_its_password_may_be_replaced(
    databases: SecureDatabases, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("secret-of-oms_order_app")
    settings = settings_of(databases, postgres_password_file=tmp_path / "password")
    assert check_links(settings) == []
    assert await connected(settings)
    (tmp_path / "password").write_text("stale")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await connected(settings)


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "wrong password": ({"postgres_password_file": "owner's"}, "refuses the login", "OMS_POSTGRES_PASSWORD_FILE"),
    "wrong authority": ({"postgres_ca_file": "other"}, "not of an authority that we trust", "OMS_POSTGRES_CA_FILE"),
    "wrong host name": ({"postgres_dsn": "127.0.0.1"}, "is of another host", "Connect by a name that is in the"),
    "no TLS": ({"postgres_ca_file": None, "postgres_dsn": "disable"}, "refuses the login", "OMS_POSTGRES_CA_FILE"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_wrong_link_says_what_is_wrong_and_what_to_do(databases: SecureDatabases, name: str) -> None:
    meant = {
        "owner's": databases.passwords["oms_order_owner"],
        "other": databases.certificates.other_authority,
        "127.0.0.1": databases.dsn("order", "app", "127.0.0.1"),
        "disable": f"{databases.dsn('order', 'app')}?sslmode=disable",
        None: None,
    }
    fields, what, remedy = WRONG[name]
    with pytest.raises((OSError, asyncpg.PostgresError)) as caught:
        await connected(settings_of(databases, **{field: meant[value] for field, value in fields.items()}))
    found = postgres_fault(caught.value)
    assert found is not None, caught.value
    assert what in found.what
    assert remedy in found.remedy
    assert "secret" not in str(found)


async def test_server_without_tls_is_refused() -> None:
    async def no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"N")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(no_tls, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionError) as caught:
            await asyncpg.connect(f"postgresql://app@127.0.0.1:{port}/x?sslmode=require", timeout=5)
    found = postgres_fault(caught.value)
    assert found is not None
    assert "speaks no TLS" in found.what


async def test_password_that_is_no_scram_lets_nobody_in(databases: SecureDatabases) -> None:
    role = "oms_tracking_read"
    password = databases.passwords[role].read_text().strip()
    weak = "md5" + hashlib.md5(f"{password}{role}".encode()).hexdigest()
    admin = await asyncpg.connect(databases.admin_dsn)
    try:
        await admin.execute(f"ALTER ROLE {role} PASSWORD '{weak}'")
        read = settings_of(
            databases, postgres_dsn=databases.dsn("tracking", "read"), postgres_password_file=databases.passwords[role]
        )
        with pytest.raises(asyncpg.InvalidPasswordError):
            await connected(read)
        await admin.execute(f"ALTER ROLE {role} PASSWORD '{password}'")
        assert await connected(read)
    finally:
        await admin.close()


async def test_role_of_one_service_enters_no_other_database(databases: SecureDatabases) -> None:
    for role in ("owner", "app", "read"):
        other = databases.dsn("order", role).removesuffix("oms_order") + "oms_tracking"
        file = databases.passwords[f"oms_order_{role}"]
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connected(settings_of(databases, postgres_dsn=other, postgres_password_file=file))


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker() -> Iterator[SecureBroker]:
    with secure_broker(LOGIN_MS) as broker:
        yield broker


def environment(databases: SecureDatabases, broker: SecureBroker, service: str, port: int) -> Mapping[str, str]:
    secret = databases.certificates.folder / "callbacks"
    secret.write_text("whsec_c2VjcmV0")
    return {
        **apps.base_environment(),
        **databases.env(service),
        **broker.env(f"oms-{service}"),
        "OMS_CALLBACK_SECRET_FILE": str(secret),
        "OMS_HTTP_PORT": str(port),
        "OMS_POLL_MS": "50",
        "OMS_ALLOW_UNSAFE": "single_replica",
    }


@asynccontextmanager
async def running(env: Mapping[str, str], service: str, *roles: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"services.{service}", *roles),
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(env: Mapping[str, str], service: str, *roles: str) -> tuple[int | None, str]:
    async with running(env, service, *roles) as process:
        said, _ = await asyncio.wait_for(process.communicate(), 40)
        return process.returncode, said.decode()


@dataclass(frozen=True)
class Shop:
    """The order and the tracking service with everything on, and a key of each scope."""

    urls: Mapping[str, str]
    keys_file: Path
    keys: Mapping[str, Path]
    client: httpx.AsyncClient

    def key(self, scope: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[scope].read_text()}"}


@pytest.fixture(scope="module")
async def migrated(databases: SecureDatabases, broker: SecureBroker) -> None:
    for name in ("order", "tracking"):
        code, said = await ended(environment(databases, broker, name, 0), name, "migrate")
        assert code == 0, said


@pytest.fixture
async def shop(databases: SecureDatabases, broker: SecureBroker, migrated: None, tmp_path: Path) -> AsyncIterator[Shop]:
    made = {scope: new_key(f"{scope}-client", [scope]) for scope in SCOPES}
    write_keys(tmp_path / "keys.json", [key for key, _ in made.values()])
    for scope, (_, text) in made.items():
        (tmp_path / scope).write_text(text)
    ports = pick_ports(["order", "tracking"])
    env = {name: environment(databases, broker, name, ports[name]) for name in ports}
    for name in ports:
        env[name] = {**env[name], "OMS_API_KEYS_FILE": str(tmp_path / "keys.json")}
    async with (
        running(env["order"], "order", "api", "worker"),
        running(env["tracking"], "tracking", "api", "worker"),
        httpx.AsyncClient(timeout=5, trust_env=False) as client,
    ):
        urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        yield Shop(urls, tmp_path / "keys.json", {scope: tmp_path / scope for scope in SCOPES}, client)


async def test_orders_go_from_http_to_tracking_over_secured_links_alone(shop: Shop) -> None:
    for number in range(3):
        order_id = await eventually(lambda n=number: placed(shop, n), "the order is taken", 40)
        await eventually(lambda one=order_id: heard(shop, one), "tracking has heard of it", 40)
        # Each connection to Kafka is cut once at least before the next order.
        cut_at = time.monotonic() + LOGIN_MS / 1000
        await eventually(lambda at=cut_at: passed(at), "its logins have run out")


async def test_keys_are_asked_for_and_a_revoked_one_is_refused_in_seconds(shop: Shop) -> None:
    await eventually(lambda: placed(shop, 0), "the order service is there", 40)
    listing = f"{shop.urls['order']}/orders"

    async def status(**headers: str) -> int:
        return (await shop.client.get(listing, headers=headers)).status_code

    assert [await status(), await status(**shop.key("reader"))] == [401, 200]
    command = [sys.executable, "-c", "from oms.cli import app; app()", "park", "list", "--url", shop.urls["order"]]
    for scope, code, says in (("operator", 0, "Nothing is parked"), ("reader", 1, "OMS_OPERATOR_KEY_FILE")):
        asked = await asyncio.create_subprocess_exec(
            *command,
            env={**apps.base_environment(), "OMS_OPERATOR_KEY_FILE": str(shop.keys[scope])},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said = (await asked.communicate())[0].decode()
        assert asked.returncode == code, said
        assert says in said
    write_keys(shop.keys_file, [key for key in read_keys(shop.keys_file) if key.client != "reader-client"])

    async def refused() -> bool:
        return await status(**shop.key("reader")) == 401

    await eventually(refused, "the revoked key is refused", 5)


async def placed(shop: Shop, number: int) -> str | None:
    order = orjson.loads(ORDER.read_bytes()) | {"external_order_id": f"W-secure-{number}"}
    headers = {"content-type": "application/json", "idempotency-key": f"secure-{number}", **shop.key("channel")}
    try:
        answer = await shop.client.post(f"{shop.urls['order']}/orders", content=orjson.dumps(order), headers=headers)
    except httpx.HTTPError:
        return None
    assert answer.status_code in (200, 201), answer.text
    return str(answer.json()["stream_id"]).removeprefix("order-")


async def heard(shop: Shop, order_id: str) -> bool:
    try:
        place = f"{shop.urls['tracking']}/orders/{order_id}"
        return (await shop.client.get(place, headers=shop.key("channel"))).status_code == 200
    except httpx.HTTPError:
        return False


async def passed(at: float) -> bool:
    return time.monotonic() > at


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("OMS_POSTGRES_CA_FILE", "Let OMS_POSTGRES_CA_FILE name the file of the authority"),
        ("OMS_KAFKA_CA_FILE", "Let OMS_KAFKA_CA_FILE name the file of the authority"),
    ],
)
async def test_process_with_a_wrong_link_does_not_start_and_says_what_to_do(
    databases: SecureDatabases, broker: SecureBroker, migrated: None, setting: str, says: str
) -> None:
    env = dict(environment(databases, broker, "order", pick_ports(["order"])["order"]))
    env[setting] = str(databases.certificates.other_authority)
    code, said = await ended(env, "order", "api", "worker")
    assert code == 2, said
    assert says in said
    assert "Traceback" not in said
    assert "secret-of" not in said
