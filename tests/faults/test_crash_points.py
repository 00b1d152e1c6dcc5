"""Workers killed in the middle of everything: every order ends all the same, is paid once, and the stock adds up.

Where a kill strikes is left to chance (before a commit, after it, after a send, before the outbox row is deleted, in a
call to the PSP); what must hold afterwards does not depend on it.
"""

import asyncio
import os
import signal
import uuid
from collections import Counter
from typing import Any

import pytest

from libs.testing.deadline import eventually
from libs.testing.outside import Outside
from oms.cluster.apps import SERVICES
from oms.cluster.cluster import LocalCluster

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(180)]

ORDERS = 100
KILLS = ("order", "payment", "inventory", "fulfillment", "order", "payment", "tracking", "order")


async def kill(cluster: LocalCluster, name: str) -> None:
    """kill -9, and back when its supervisor has started it anew."""
    child = cluster.supervisor.child(name)
    restarts = child.restarts
    os.kill(child.pid, signal.SIGKILL)

    async def restarted() -> bool:
        return child.restarts > restarts and child.alive

    await eventually(restarted, f"{name} is started anew", 20)


async def statuses(shop: Outside, order_ids: list[str]) -> Counter[str]:
    rows = await shop.sql("order", "SELECT status FROM view_order_view WHERE key = ANY($1)", order_ids)
    return Counter(row["status"] for row in rows)


async def operations(shop: Outside, order_id: str) -> list[dict[str, Any]]:
    answer = await shop.simulators["psp"].get("/ledger", params={"reference": f"{order_id}-p"})
    return [row for row in answer.json()["rows"] if row["status_code"] < 300]


async def parked(shop: Outside) -> dict[str, int]:
    rows = {name: await shop.sql(name, "SELECT count(*) AS parked FROM parked_record") for name in SERVICES}
    return {name: row["parked"] for name, [row] in rows.items()}


async def test_killed_workers_lose_and_double_nothing(shop: Outside, system: LocalCluster) -> None:
    sku = f"SKU-{uuid.uuid4().hex[:8]}"
    parked_before = await parked(shop)  # by other tests, on the same system
    await shop.stock(sku, qty=2 * ORDERS - 20)
    placed = [shop.order(sku) for _ in range(ORDERS)]  # of two units each: ten orders get nothing
    order_ids = [order.order_id for order in placed]

    async def placing() -> None:
        for order in placed:
            await shop.place(order)
            await asyncio.sleep(0.05)  # not a wait: the pace at which customers come

    async def killing() -> None:
        for name in KILLS:
            await kill(system, name)

    async with asyncio.TaskGroup() as group:
        group.create_task(placing())
        group.create_task(killing())

    async def ended() -> bool:
        found = await statuses(shop, order_ids)
        return found["COMPLETED"] + found["CANCELLED"] == ORDERS

    try:
        await eventually(ended, "every order ends", 60)
    except AssertionError as late:
        raise AssertionError(f"{late}: {await statuses(shop, order_ids)}") from None
    assert await statuses(shop, order_ids) == {"COMPLETED": ORDERS - 10, "CANCELLED": 10}

    captures = 0
    for order in placed:
        events = Counter(await shop.events("fulfillment", order.order_id))
        money = Counter(row["operation"] for row in await operations(shop, order.order_id))
        assert money["capture"] == events["ShipmentDispatched"], f"{order.order_id}: {money} {events}"
        assert money["capture"] == money["authorize"] <= 1, f"{order.order_id}: {money}"
        captures += money["capture"]
        captured = sum(row["amount"] for row in await operations(shop, order.order_id) if row["operation"] == "capture")
        assert captured in (0, order.totals.grand)
    assert captures == ORDERS - 10

    [row] = await shop.sql(
        "inventory",
        """SELECT coalesce(sum((data->>'qty')::int) FILTER (WHERE event_type LIKE '%.StockReceived'), 0) AS received,
                  coalesce(sum((data->>'qty')::int) FILTER (WHERE event_type LIKE '%.StockHeld'), 0) AS held,
                  coalesce(sum((data->>'qty')::int) FILTER (WHERE event_type LIKE '%.StockShipped'), 0) AS shipped
           FROM event_log WHERE stream_id = $1""",
        f"stock-{sku}",
    )
    assert dict(row) == {"received": 180, "held": 180, "shipped": 180}
    assert await parked(shop) == parked_before
    for service in SERVICES:
        await versions_are_gapless(shop, service)


async def versions_are_gapless(shop: Outside, service: str) -> None:
    broken = await shop.sql(
        service,
        """SELECT stream_id FROM events GROUP BY stream_id
           HAVING count(*) <> max(stream_version) OR min(stream_version) <> 1""",
    )
    assert broken == [], service
