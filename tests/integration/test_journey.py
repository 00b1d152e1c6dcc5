"""Orders on the running system, by Kafka and HTTP: the whole way, and every way out of it."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from libs.events.channel import OrderCancellationRequested
from libs.testing.builders import placed_line
from libs.testing.deadline import eventually
from libs.testing.outside import SERVICES, Outside
from oms.cluster.cluster import LocalCluster

pytestmark = pytest.mark.integration

OPERATOR = {"by": "ada", "reason": "asked by telephone"}


async def stock_of(shop: Outside, sku: str) -> tuple[int, int]:
    row = (await shop.get("inventory", f"/availability/{sku}")).json()
    return row["on_hand"], row["reserved"]


async def balance_of(shop: Outside, order_id: str) -> dict[str, int]:
    """What the PSP itself has on its books for an order."""
    answer = await shop.simulators["psp"].get("/ledger/balances", params={"reference": f"{order_id}-p"})
    rows = answer.json()["rows"]
    return {name: sum(row[name] for row in rows) for name in ("authorised", "captured", "refunded", "voided")}


# --- the whole way ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, b"\xff\x00 odd"], ids=["no key", "odd key"])
@pytest.mark.parametrize("form", ["bare", "structured", "binary"])
async def test_ten_lines_of_any_kafka_client_place_an_order_that_is_completed_seconds_later(
    shop: Outside, sku: str, form: str, key: bytes | None
) -> None:
    order = shop.order(sku)
    body = order.model_dump(mode="json")
    attributes = {"specversion": "1.0", "id": "1", "source": "/channel/web", "type": "oms.channel.OrderPlaced"}
    headers = {f"ce_{name}": value.encode() for name, value in attributes.items()} if form == "binary" else {}
    value = {**attributes, "datacontenttype": "application/json", "data": body} if form == "structured" else body
    async with AIOKafkaProducer(bootstrap_servers=shop.cluster.kafka_bootstrap) as client:
        await client.send_and_wait("oms.channel.orders", json.dumps(value).encode(), key, headers=list(headers.items()))

    row = await shop.tracked(order.order_id, "COMPLETED", seconds=20)
    assert row["payment_status"] == "CAPTURED"
    assert row["fulfillment_status"] == "DELIVERED"
    assert row["amounts"] == {"total": 4493, "authorized": 4493, "captured": 4493, "refunded": 0}
    assert row["exception"] is False
    assert await stock_of(shop, sku) == (8, 0)
    assert await balance_of(shop, order.order_id) == {"authorised": 4493, "captured": 4493, "refunded": 0, "voided": 0}


async def test_order_of_two_nodes_is_captured_to_the_cent(shop: Outside) -> None:
    first, second = (f"SKU-{uuid.uuid4().hex[:8]}" for _ in range(2))
    home = shop.node
    await shop.stock(first)
    shop.node = f"{home}-b"
    await shop.stock(second)
    shop.node = home
    lines = (placed_line(first, qty=3, amount=1000, tax=190), placed_line(second, qty=1, amount=333, discount=33))
    order = await shop.place(shop.order(first, lines=lines))
    row = await shop.tracked(order.order_id, "COMPLETED")
    assert len(row["packages"]) == 2
    assert row["amounts"]["captured"] == 1000 + 190 + 333 - 33 + 495
    told = await shop.events("order", order.order_id)
    assert told.count("FulfillmentRequested") == told.count("PaymentCaptureRequested") == 2


@pytest.mark.parametrize("published", ["kafka", "http"])
async def test_one_trace_runs_through_all_services(shop: Outside, sku: str, published: str) -> None:
    trace_id = uuid.uuid4().hex
    traceparent = f"00-{trace_id}-00f067aa0ba902b7-01"
    order = shop.order(sku)
    if published == "kafka":
        await shop.place(order, traceparent=traceparent)
    else:
        await shop.post("order", "/orders", order.model_dump(mode="json"), traceparent=traceparent)
    await shop.tracked(order.order_id, "COMPLETED")
    for service in SERVICES:
        rows = await shop.sql(
            service,
            "SELECT event_type, convert_from(metadata, 'UTF8')::jsonb->>'traceparent' AS traceparent FROM events"
            " WHERE convert_from(metadata, 'UTF8')::jsonb->>'correlation_id' = $1",
            order.order_id,
        )
        assert rows
        lost = [row["event_type"] for row in rows if trace_id not in (row["traceparent"] or "")]
        assert lost == [], service


# --- the ways out ----------------------------------------------------------------------------------------------------


async def test_invalid_order_is_rejected_and_a_higher_revision_makes_it_good(shop: Outside, sku: str) -> None:
    order = shop.order(sku)
    await shop.place(order.model_copy(update={"currency": "EUX"}))
    row = await shop.tracked(order.order_id, "REJECTED")
    assert [reason["code"] for reason in row["rejections"]] == ["unknown_currency"]
    assert await stock_of(shop, sku) == (10, 0)
    await shop.place(order.model_copy(update={"external_revision": 2}))
    await shop.tracked(order.order_id, "COMPLETED")


async def test_order_beyond_the_stock_is_cancelled_and_nothing_is_charged(shop: Outside, sku: str) -> None:
    order = await shop.place(shop.order(sku, lines=(placed_line(sku, qty=11, amount=11),)))
    row = await shop.tracked(order.order_id, "CANCELLED")
    assert row["cancel_reason"] == "OUT_OF_STOCK"
    assert await stock_of(shop, sku) == (10, 0)
    assert await shop.events("payment", order.order_id) == []


async def test_order_declined_for_good_is_cancelled_and_its_stock_is_free(shop: Outside, sku: str) -> None:
    order = await shop.place(shop.order(sku, token="tok_decline"))
    path = f"/orders/{order.order_id}"
    for _ in range(2):
        await shop.seen_by("order", path, payment_status="DECLINED", status="ACCEPTED")
        answer = await shop.post("order", f"{path}/payment-method", {"token": "tok_decline"})
        assert answer.status_code == 201, answer.text
        await shop.seen_by("order", path, payment_status="DECLINED")
    row = await shop.tracked(order.order_id, "CANCELLED")
    assert row["cancel_reason"] == "PAYMENT_DECLINED"
    await shop.seen_by("inventory", f"/availability/{sku}", on_hand=10, reserved=0)
    assert (await balance_of(shop, order.order_id))["authorised"] == 0


async def test_declined_order_goes_on_with_another_payment_method(shop: Outside, sku: str) -> None:
    order = await shop.place(shop.order(sku, token="tok_decline"))
    await shop.seen_by("order", f"/orders/{order.order_id}", payment_status="DECLINED")
    answer = await shop.post("order", f"/orders/{order.order_id}/payment-method", {"token": "tok_visa"})
    assert answer.status_code == 201
    row = await shop.tracked(order.order_id, "COMPLETED")
    assert row["attempt"]["number"] == 2


async def test_retryable_decline_is_tried_again_by_itself(shop: Outside, sku: str) -> None:
    order = await shop.place(shop.order(sku, token="tok_decline_once"))
    row = await shop.tracked(order.order_id, "COMPLETED")
    assert row["attempt"]["number"] == 2


async def test_order_declined_at_every_attempt_is_cancelled(shop: Outside, sku: str) -> None:
    order = await shop.place(shop.order(sku, token="tok_decline_retryable"))
    row = await shop.tracked(order.order_id, "CANCELLED")
    assert row["cancel_reason"] == "PAYMENT_DECLINED"
    assert (await shop.events("payment", order.order_id)).count("PaymentDeclined") == 3
    await shop.seen_by("inventory", f"/availability/{sku}", on_hand=10, reserved=0)


@pytest.mark.parametrize("told", ["kafka", "http"])
async def test_cancellation_that_overtakes_its_order_is_kept_for_it(shop: Outside, sku: str, told: str) -> None:
    order = shop.order(sku)
    asked = OrderCancellationRequested(channel=order.channel, external_order_id=order.external_order_id)
    if told == "kafka":
        headers = [("ce_type", b"oms.channel.OrderCancellationRequested")]
        await shop.publish(asked.model_dump_json().encode(), headers=headers)
    else:
        assert (await shop.post("order", "/cancellations", asked.model_dump(mode="json"))).status_code == 201
    await shop.seen_by("order", f"/orders/{order.order_id}", status="CANCEL_PENDING")
    await shop.place(order)
    row = await shop.tracked(order.order_id, "CANCELLED")
    assert row["cancel_reason"] == "CUSTOMER"
    assert await shop.events("order", order.order_id) == [
        "OrderCancellationStarted",
        "OrderReceived",
        "OrderCancelled",
    ]
    assert await shop.events("inventory", order.order_id) == []


async def test_cancellation_while_a_payment_method_is_awaited_frees_the_stock(shop: Outside, sku: str) -> None:
    order = await shop.place(shop.order(sku, token="tok_decline"))
    await shop.seen_by("order", f"/orders/{order.order_id}", payment_status="DECLINED")
    answer = await shop.post("order", f"/orders/{order.order_id}/cancellation", {})
    assert answer.status_code == 201, answer.text
    again = await shop.post("order", f"/orders/{order.order_id}/cancellation", {})
    assert again.status_code == 200, again.text
    await shop.tracked(order.order_id, "CANCELLED", cancel_reason="CUSTOMER")
    await shop.seen_by("inventory", f"/availability/{sku}", on_hand=10, reserved=0)


async def test_cancellation_after_release_is_refused(shop: Outside, sku: str) -> None:
    order = await shop.place(shop.order(sku))
    await shop.tracked(order.order_id, "COMPLETED")
    for _ in range(2):
        answer = await shop.post("order", f"/orders/{order.order_id}/cancellation", {})
        assert (answer.status_code, answer.json()["code"]) == (409, "order_released")
    told = await shop.events("order", order.order_id)
    assert told.count("OrderCancellationRefused") == 1
    assert "OrderCancelled" not in told


async def test_same_order_by_another_door_is_the_same_order(shop: Outside, sku: str) -> None:
    order = await shop.place(shop.order(sku))
    await shop.tracked(order.order_id, "COMPLETED")
    body = order.model_dump(mode="json")
    same = await shop.post("order", "/orders", body)
    assert (same.status_code, same.json()["events"]) == (200, [])
    await shop.place(order)
    other = body | {"pii": {"customer_id": "somebody else"}}
    for _ in range(2):
        answer = await shop.post("order", "/orders", other)
        assert (answer.status_code, answer.json()["code"]) == (409, "order_exists")
    told = await shop.events("order", order.order_id)
    assert told.count("OrderReceived") == 1
    assert told.count("OrderDuplicateDetected") == 1
    assert await stock_of(shop, sku) == (8, 0)


async def test_operator_gives_money_back_but_never_more_than_was_taken(shop: Outside, sku: str) -> None:
    order = await shop.place(shop.order(sku))
    await shop.tracked(order.order_id, "COMPLETED")
    path = f"/orders/{order.order_id}/refunds"
    part = {"refund_id": "r-1", "amount": 1000, **OPERATOR}
    assert (await shop.post("order", path, part)).status_code == 201
    assert (await shop.post("order", path, part)).status_code == 200
    too_much = await shop.post("order", path, {"refund_id": "r-2", "amount": 3494, **OPERATOR})
    assert (too_much.status_code, too_much.json()["code"]) == (409, "refund_exceeds_captured")
    await shop.tracked(order.order_id, payment_status="PARTIALLY_REFUNDED")
    assert (await shop.post("order", path, {"refund_id": "r-3", "amount": 3493, **OPERATOR})).status_code == 201
    await shop.tracked(order.order_id, payment_status="REFUNDED")
    assert (await balance_of(shop, order.order_id))["refunded"] == 4493


async def test_lost_answer_of_the_psp_is_looked_up(shop: Outside, sku: str) -> None:
    psp = shop.simulators["psp"]
    await psp.put("/behaviour", json={"timeout_hold_s": 0, "callback_delay_ms": 3_600_000})
    try:
        order = await shop.place(shop.order(sku, token="tok_timeout_after"))
        await shop.tracked(order.order_id, "COMPLETED")
    finally:
        await psp.put("/behaviour", json={"timeout_hold_s": 30, "callback_delay_ms": 500})
    told = await shop.events("payment", order.order_id)
    assert {"PaymentOutcomeUnknown", "PaymentOutcomeResolved"} <= set(told)
    assert told.count("PaymentAuthorized") == 1
    assert (await balance_of(shop, order.order_id))["authorised"] == 4493


async def test_unknown_payment_is_settled_by_hand(shop: Outside, sku: str) -> None:
    psp = shop.simulators["psp"]
    await psp.put("/behaviour", json={"away": True})
    try:
        order = await shop.place(shop.order(sku))
        path = f"/payments/{order.order_id}-p"
        payment = await shop.seen_by("payment", path, outcome="UNKNOWN")
        await shop.tracked(order.order_id, exception=True)
        settled = {"idempotency_key": payment["unknown"][0]["id"], "outcome": "FAILED", **OPERATOR}
        assert (await shop.post("payment", f"{path}/settlements", settled)).status_code == 201
        again = await shop.post("payment", f"{path}/settlements", settled)
        assert (again.status_code, again.json()["code"]) == (409, "outcome_known")
        await shop.seen_by("order", f"/orders/{order.order_id}", payment_status="DECLINED", has_hold="no")
    finally:
        await psp.put("/behaviour", json={"away": False})
    await shop.post("order", f"/orders/{order.order_id}/payment-method", {"token": "tok_visa"})
    await shop.tracked(order.order_id, "COMPLETED", exception=False)
    assert (await balance_of(shop, order.order_id))["captured"] == 4493


# --- deadlines, on an order service with short ones ------------------------------------------------------------------


@asynccontextmanager
async def restarted(system: LocalCluster, name: str, **environment: str) -> AsyncIterator[None]:
    """One service under other settings, for as long as the block runs."""
    usual = system.supervisor.child(name).command
    await _start(system, name, replace(usual, env={**usual.env, **environment}))
    try:
        yield
    finally:
        await _start(system, name, usual)


async def _start(system: LocalCluster, name: str, command: Any) -> None:
    await asyncio.to_thread(system.supervisor.stop, [name])
    system.supervisor.start(command)
    await _ready(system, name)


async def _ready(system: LocalCluster, name: str) -> None:
    async with httpx.AsyncClient(base_url=system.url(name), trust_env=False) as client:

        async def ready() -> bool:
            try:
                return (await client.get("/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(ready, f"{name} is ready", 40)


async def test_cancellation_within_the_remorse_window_frees_stock_and_voids_the_authorisation(
    shop: Outside, system: LocalCluster, sku: str
) -> None:
    async with restarted(system, "order", OMS_ORDER_REMORSE="PT1H"):
        order = await shop.place(shop.order(sku))
        await shop.tracked(order.order_id, "CONFIRMED", payment_status="AUTHORIZED")
        answer = await shop.post("order", f"/orders/{order.order_id}/cancellation", {})
        assert answer.status_code == 201, answer.text
        await shop.tracked(order.order_id, "CANCELLED", cancel_reason="CUSTOMER", payment_status="VOIDED")
    await shop.seen_by("inventory", f"/availability/{sku}", on_hand=10, reserved=0)
    assert await balance_of(shop, order.order_id) == {"authorised": 4493, "captured": 0, "refunded": 0, "voided": 4493}
    assert await shop.events("fulfillment", order.order_id) == []


async def test_reservation_that_expires_while_the_psp_is_down_ends_the_order_and_a_late_answer_is_void(
    shop: Outside, system: LocalCluster, sku: str
) -> None:
    psp = system.supervisor.child("psp").command
    async with restarted(system, "order", OMS_ORDER_RESERVATION="PT1S", OMS_ORDER_PAYMENT_ANSWER="PT1S"):
        await asyncio.to_thread(system.supervisor.stop, ["psp"])
        try:
            order = await shop.place(shop.order(sku))
            row = await shop.tracked(order.order_id, "CANCELLED")
            assert row["cancel_reason"] == "EXPIRED"
            await shop.seen_by("inventory", f"/availability/{sku}", on_hand=10, reserved=0)
        finally:
            await _start(system, "psp", psp)
    await shop.tracked(order.order_id, "CANCELLED", payment_status="VOIDED", seconds=60)
    assert await balance_of(shop, order.order_id) == {"authorised": 4493, "captured": 0, "refunded": 0, "voided": 4493}
