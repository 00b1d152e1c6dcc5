"""The people around the system: who brings the stock in, and the customer who names another card when asked."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg
import httpx

from oms.demo.chance import share
from oms.demo.plan import Plan, Received

RECEIPT_LINES = 500
AT_ONCE = 8
ANSWERING = 0.5  # of the customers who are asked for another payment method
ANSWER_SECONDS = 1.0
ANOTHER_TOKEN = "tok_another_card"

ASKED = "SELECT DISTINCT stream_id FROM events WHERE event_type = 'oms.order.PaymentMethodUpdateRequested'"


async def prepare(plan: Plan, inventory_url: str) -> None:
    """Register the stores and receive the day's stock."""
    async with httpx.AsyncClient(base_url=inventory_url, timeout=60.0) as http:
        places = [
            {"location": one.location, "name": one.location, "country": "US", "lat": one.lat, "lon": one.lon}
            for one in plan.stores
        ]
        await _post_all(http, [("/locations", f"demo-{place['location']}", place) for place in places])
        receipts = [plan.stock[first : first + RECEIPT_LINES] for first in range(0, len(plan.stock), RECEIPT_LINES)]
        await _post_all(http, [_receipt(number, lines) for number, lines in enumerate(receipts, start=1)])


def _receipt(number: int, lines: Sequence[Received]) -> tuple[str, str, dict[str, Any]]:
    body = {
        "receipt_id": f"demo-{number}",
        "lines": [{"sku": line.sku, "location": line.location, "qty": line.qty} for line in lines],
    }
    return "/stock/receipts", f"demo-receipt-{number}", body


async def _post_all(http: httpx.AsyncClient, requests: Iterable[tuple[str, str, dict[str, Any]]]) -> None:
    free = asyncio.Semaphore(AT_ONCE)

    async def post(path: str, key: str, body: dict[str, Any]) -> None:
        async with free:
            answer = await http.post(path, json=body, headers={"idempotency-key": key})
            answer.raise_for_status()

    async with asyncio.TaskGroup() as posting:
        for request in requests:
            posting.create_task(post(*request))


async def answer_payment_requests(dsn: str, order_url: str, seed: int) -> None:
    """Until cancelled: half of the customers whose card was declined for good name another one."""
    asked: set[str] = set()
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        async with httpx.AsyncClient(base_url=order_url, timeout=30.0) as http:
            while True:
                found = {row["stream_id"].removeprefix("order-") for row in await connection.fetch(ASKED)}
                for order_id in sorted(found - asked):
                    asked.add(order_id)
                    if share(seed, "another card", order_id) < ANSWERING:
                        await _name_another(http, order_id)
                await asyncio.sleep(ANSWER_SECONDS)
    finally:
        await connection.close()


async def _name_another(http: httpx.AsyncClient, order_id: str) -> None:
    answer = await http.post(
        f"/orders/{order_id}/payment-method",
        json={"token": ANOTHER_TOKEN},
        headers={"idempotency-key": f"demo-card-{order_id}"},
    )
    if answer.status_code != httpx.codes.CONFLICT:  # too late: the order has been cancelled meanwhile
        answer.raise_for_status()
