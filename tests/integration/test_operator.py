"""An operator at a running system, by the `oms` command alone, while orders flow.

On a system of its own: `oms verify` must find nothing but what a test has broken.
"""

import asyncio
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from libs.events.topics import PAYMENT_EVENTS
from libs.testing.deadline import eventually
from libs.testing.outside import Outside, outside
from oms.cluster.cluster import LocalCluster
from tests.cluster import quick_system

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

TOPIC = PAYMENT_EVENTS.name
WORD = ("--by", "ann", "--reason", "ticket 7")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with quick_system() as started:
        yield started


@pytest.fixture(scope="module")
async def shop(cluster: LocalCluster) -> AsyncIterator[Outside]:
    async with outside(cluster, cluster.directory.callback_secret().read_text().strip()) as opened:
        yield opened


class Oms:
    """The command as an operator gives it, against the test's own cluster."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._env = {**os.environ, "OMS_STATE_DIR": str(cluster.directory.path), "COLUMNS": "200"}

    async def __call__(self, *arguments: str, fails: bool = False, stdin: bytes = b"") -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "oms.cli",
            *arguments,
            env=self._env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(stdin)
        assert process.returncode == int(fails), (arguments, process.returncode, out.decode(), err.decode())
        return out.decode() + (err.decode() if fails and "--json" not in arguments else "")

    async def json(self, *arguments: str, fails: bool = False) -> Any:
        text = await self(*arguments, "--json", fails=fails)
        return json.loads(text)


@pytest.fixture(scope="module")
def oms(cluster: LocalCluster) -> Oms:
    return Oms(cluster)


@asynccontextmanager
async def flowing(shop: Outside) -> AsyncIterator[list[str]]:
    """Orders all the while; every one of them must be completed at the end."""
    sku = f"SKU-{uuid.uuid4().hex[:8]}"
    await shop.stock(sku, qty=100_000)
    placed: list[str] = []
    stop = asyncio.Event()

    async def place() -> None:
        while not stop.is_set():
            placed.append((await shop.place(shop.order(sku))).order_id)
            await asyncio.sleep(0.3)

    async def flow() -> bool:
        return len(placed) >= 3

    placing = asyncio.create_task(place())
    try:
        await eventually(flow, "orders flow")
        yield placed
    finally:
        stop.set()
        await placing
    for order_id in placed:
        await shop.tracked(order_id, "COMPLETED", seconds=60)


async def test_poisoned_key_is_shown_fixed_and_released_in_order_while_orders_flow(shop: Outside, oms: Oms) -> None:
    sku = f"SKU-{uuid.uuid4().hex[:8]}"
    await shop.stock(sku)
    async with flowing(shop):
        order = shop.order(sku)
        key = order.order_id
        await shop.publish(b'{"pii": {"email": "a@b.example"}, "payment_id": 7}', key.encode(), topic=TOPIC)
        await parked(oms, key, {"order", "tracking"})
        await shop.place(order)

        async def four_wait() -> bool:
            detail = await oms.json("park", "show", "order", TOPIC, key, "--limit", "50")
            return len(detail["records"]) >= 3  # the poison, and what payment has said since

        await eventually(four_wait, "the payment's events wait behind the poison", 60)
        first = await shop.sql(
            "payment", f"SELECT data FROM events WHERE stream_id = 'payment-{key}-p' AND stream_version = 1"
        )
        assert (await shop.events("order", key)).count("OrderConfirmed") == 0, "the key waits"

        shown = await oms("park", "show", "order", TOPIC, key)
        assert "[redacted]" in shown
        assert "a@b.example" not in shown
        refused = await oms("park", "fix", "order", TOPIC, key, "--value", "-", *WORD, fails=True, stdin=b"{}")
        assert "still_bad" in refused
        real = (await oms.json("park", "show", "order", TOPIC, key, "--limit", "50"))["records"][1]
        assert real["stream_version"] == 1
        headers = [word for name, text in real["headers"].items() for word in ("--header", f"{name}={text}")]
        for service in ("order", "tracking"):
            await oms("park", "fix", service, TOPIC, key, "--value", "-", *headers, *WORD, stdin=first[0]["data"])
            await oms("park", "release", service, TOPIC, key, *WORD)
        await shop.tracked(key, "COMPLETED", seconds=60)
    assert [row for row in await oms.json("park", "list") if row["key"] == key] == []
    versions = await shop.sql(
        "tracking", f"SELECT stream_version FROM events WHERE stream_id = 'payment-{key}-p' ORDER BY global_position"
    )
    assert [row["stream_version"] for row in versions] == list(range(1, len(versions) + 1))
    told = await shop.events("order", key)
    assert told.count("OrderConfirmed") == told.count("OrderCompleted") == 1
    history = [one for one in await oms.json("park", "history") if one["key"] == key]
    assert {(one["service"], one["action"]) for one in history} == {
        (service, action) for service in ("order", "tracking") for action in ("park.fix", "park.release")
    }
    assert {(one["by"], one["reason"]) for one in history} == {("ann", "ticket 7")}


async def parked(oms: Oms, key: str, services: set[str]) -> None:
    async def there() -> bool:
        return {row["service"] for row in await oms.json("park", "list") if row["key"] == key} == services

    await eventually(there, f"{key} is parked by {services}", 60)


async def test_lost_topic_is_republished_while_orders_flow_and_nothing_happens_twice(
    shop: Outside, oms: Oms, cluster: LocalCluster
) -> None:
    async with flowing(shop) as placed:
        for order_id in list(placed):
            await shop.tracked(order_id, "COMPLETED", seconds=60)
        await delete(cluster, TOPIC)
        dry = await oms("republish", TOPIC, *WORD, "--dry-run")
        assert dry == ""
        done = await oms.json("republish", TOPIC, *WORD, "--yes")
        assert (done["owner"], sorted(done["readers"])) == ("payment", ["order", "tracking"])
        assert done["events"] > 0
    told = await oms.json("verify", "--wait", "60")
    assert told["sound"], [one for one in told["findings"] if not one["sound"]]
    for order_id in placed:
        assert (await shop.events("order", order_id)).count("OrderConfirmed") == 1
        assert (await shop.events("tracking", order_id)).count("PaymentCaptured") == 1


async def delete(cluster: LocalCluster, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.kafka_bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([topic])
    finally:
        await admin.close()


async def test_topic_that_no_store_can_fill_is_not_touched(oms: Oms) -> None:
    assert "no store here" in await oms("republish", "oms.channel.orders", *WORD, "--yes", fails=True)
    assert "There is no topic" in await oms("republish", "oms.nothing", *WORD, "--yes", fails=True)


async def test_verify_names_the_order_of_a_row_that_was_falsified(
    shop: Outside, oms: Oms, cluster: LocalCluster
) -> None:
    order_id = await completed(shop)
    before = await offenders(oms)
    owner = await asyncpg.connect(cluster.dsn("order", "owner"))
    try:
        shown = "convert_from(data, 'UTF8')::jsonb"
        falsified = f"convert_to(jsonb_set({shown}, '{{status}}', $2::text::jsonb)::text, 'UTF8')"
        statement = f"UPDATE view_order_view SET data = {falsified} WHERE key = $1"
        right = await owner.fetchval("SELECT status FROM view_order_view WHERE key = $1", order_id)
        assert await owner.execute(statement, order_id, '"LOST"') == "UPDATE 1"
        found = (await offenders(oms)) - before
        assert any(order_id in one and f'status is "LOST" in the view, "{right}" by the log' in one for one in found)
        await owner.execute(statement, order_id, f'"{right}"')
        assert await offenders(oms) == before
    finally:
        await owner.close()


async def test_verify_names_the_order_of_an_event_that_was_changed_after_it_was_published(
    shop: Outside, oms: Oms, cluster: LocalCluster
) -> None:
    order_id = await completed(shop)
    before = await offenders(oms)
    statement = """UPDATE events SET data = convert_to(replace(convert_from(data, 'UTF8'), $2, $3), 'UTF8')
                   WHERE stream_id = $1 AND event_type = 'oms.payment.PaymentCaptured'"""
    owner = await asyncpg.connect(cluster.dsn("payment", "owner"))
    try:
        stream = f"payment-{order_id}-p"
        assert await owner.execute(statement, stream, '"amount":4493', '"amount":4492') == "UPDATE 1"
        found = (await offenders(oms)) - before
        assert any(f"order {order_id}: {stream} version" in one and "other bytes than stored" in one for one in found)
        assert any(one == f"order {order_id}: captured 4492, shipped goods worth 4493" for one in found)
        await owner.execute(statement, stream, '"amount":4492', '"amount":4493')
        assert await offenders(oms) == before
    finally:
        await owner.close()


async def completed(shop: Outside) -> str:
    sku = f"SKU-{uuid.uuid4().hex[:8]}"
    await shop.stock(sku)
    order = await shop.place(shop.order(sku))
    await shop.tracked(order.order_id, "COMPLETED", seconds=60)
    return order.order_id


async def offenders(oms: Oms) -> set[str]:
    """All that `oms verify` finds; it exits with 1 exactly where there is something."""
    try:
        told = await oms.json("verify", "--wait", "60")
    except AssertionError:
        told = await oms.json("verify", "--wait", "60", fails=True)
    return {offender for one in told["findings"] for offender in one["offenders"]}
