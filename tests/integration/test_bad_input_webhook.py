"""Callbacks from whoever may send them: what is not signed is refused, what makes no sense changes nothing."""

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.testing.outside import Outside, outside
from oms.cluster.cluster import LocalCluster

pytestmark = pytest.mark.integration

DOORS = {"payment": "/callbacks/psp", "fulfillment": "/callbacks/carrier"}
OTHER_SECRET = "whsec_" + base64.b64encode(b"of another tenant, of course: 32").decode()


@pytest.fixture(scope="module")
async def doors(system: LocalCluster) -> AsyncIterator[Outside]:
    async with outside(system, system.directory.callback_secret().read_text().strip()) as opened:
        await opened.stock("SKU-HOOK")
        yield opened


@pytest.fixture(scope="module")
async def shipped(doors: Outside) -> dict[str, Any]:
    """The tracking row of an order that has gone its whole way."""
    placed = await doors.place(doors.order("SKU-HOOK"))
    return await doors.tracked(placed.order_id, "COMPLETED")


def about_payment(order_id: str, operation: str = "authorize", key: str = "", **body: Any) -> dict[str, Any]:
    """What the PSP would tell of an order's payment."""
    return {
        "id": "evt_forged",
        "type": "operation.completed",
        "idempotency_key": key or f"auth:{order_id}:1:1",
        "operation": operation,
        "reference": f"{order_id}-p",
        "status_code": 201,
        "body": {
            "id": "auth_forged",
            "status": "authorized",
            "amount": 4493,
            "currency": "EUR",
            "expires_at": "2027-01-01T00:00:00Z",
            **body,
        },
    }


def about_package(package: dict[str, Any], status: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"trk_{uuid.uuid4().hex}",
        "type": "tracking.updated",
        "tracking_number": package["tracking_number"],
        "shipment_id": package["shipment_id"],
        "package_id": package["package_id"],
        "status": status,
        "occurred_at": datetime.now(UTC).isoformat(),
        **fields,
    }


async def answers_to(doors: Outside, service: str, callback_id: str) -> int:
    return len(await doors.sql(service, "SELECT FROM idempotency WHERE key = $1", callback_id))


UNSIGNED = (
    "no headers",
    "no signature",
    "no id",
    "no time",
    "empty signature",
    "signature of another version",
    "signature in another alphabet",
    "another secret",
    "body altered by one byte",
    "another id",
    "six minutes old",
    "six minutes ahead",
    "time is no number",
    "odd id",
)


def spoilt(doors: Outside, how: str, body: dict[str, Any]) -> dict[str, Any]:
    now = datetime.now(UTC)
    at = {"six minutes old": now - timedelta(minutes=6), "six minutes ahead": now + timedelta(minutes=6)}.get(how)
    sent = doors.signed(
        body, "evt with spaces" if how == "odd id" else "", OTHER_SECRET if how == "another secret" else "", at
    )
    headers = sent["headers"]
    changes: dict[str, dict[str, str | None]] = {
        "no headers": {"webhook-id": None, "webhook-timestamp": None, "webhook-signature": None},
        "no signature": {"webhook-signature": None},
        "no id": {"webhook-id": None},
        "no time": {"webhook-timestamp": None},
        "empty signature": {"webhook-signature": ""},
        "signature of another version": {"webhook-signature": headers["webhook-signature"].replace("v1,", "v0,")},
        "signature in another alphabet": {"webhook-signature": "v1,###"},
        "another id": {"webhook-id": "evt_another"},
        "time is no number": {"webhook-timestamp": "yesterday"},
    }
    kept = {**headers, **changes.get(how, {})}
    sent["headers"] = {name: value for name, value in kept.items() if value is not None}
    if how == "body altered by one byte":
        sent["content"] = sent["content"].replace(b"4493", b"4494").replace(b"delivered", b"Delivered")
    return sent


@pytest.mark.parametrize("service", DOORS)
@pytest.mark.parametrize("how", UNSIGNED)
async def test_callback_not_signed_by_the_partner_is_refused_and_leaves_nothing(
    doors: Outside, shipped: dict[str, Any], service: str, how: str
) -> None:
    package = shipped["packages"][0]
    body = about_payment(shipped["order_id"]) if service == "payment" else about_package(package, "delivered")
    before = await doors.events(service, shipped["order_id"])
    counted = await doors.counted(service, "oms_callbacks_refused_total")
    sent = spoilt(doors, how, body)
    answer = await doors.doors[service].post(DOORS[service], **sent)
    assert (answer.status_code, answer.json()["code"]) == (401, "signature_invalid"), answer.text
    assert await doors.events(service, shipped["order_id"]) == before
    assert await doors.counted(service, "oms_callbacks_refused_total") == counted + 1
    assert await answers_to(doors, service, sent["headers"].get("webhook-id", "")) == 0


BODIES: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "json_invalid"),
    "not JSON": (b"hello", 400, "json_invalid"),
    "NaN": (b'{"type":NaN}', 400, "json_invalid"),
    "duplicate key": (b'{"type":"a","type":"b"}', 400, "duplicate_key"),
    "NUL": (b'{"type":"\\u0000"}', 422, "text_invalid"),
    "depth": (b"[" * 100_000, 400, "json_invalid"),
    "a list": (b"[]", 422, "invalid"),
    "of no shape": (b'{"hello":"world"}', 422, "invalid"),
}


@pytest.mark.parametrize("service", DOORS)
@pytest.mark.parametrize("name", BODIES)
async def test_signed_callback_that_is_malformed_is_refused(doors: Outside, service: str, name: str) -> None:
    content, status, code = BODIES[name]
    answer = await doors.call_back(service, DOORS[service], content)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


@pytest.mark.parametrize("service", DOORS)
async def test_callback_over_the_limit_is_refused(doors: Outside, service: str) -> None:
    answer = await doors.call_back(service, DOORS[service], b" " * (256 * 1024 + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


async def test_what_the_psp_tells_that_cannot_be_is_thanked_for_and_changes_nothing(
    doors: Outside, shipped: dict[str, Any]
) -> None:
    order_id, nobody = shipped["order_id"], str(uuid.uuid4())
    before = await doors.events("payment", order_id)
    for told, why in (
        (about_payment(nobody), "unknown_operation"),
        (about_payment(nobody, "capture", f"cap:{nobody}:s", status="captured"), "unknown_operation"),
        (about_payment(order_id, id="auth_another"), "already_resolved"),
        (about_payment(order_id, status="declined"), "unreadable_outcome"),
        (about_payment(order_id, key=f"auth:{order_id}:1:2"), "unknown_operation"),
        ({**about_payment(order_id), "type": "operation.invented"}, "unknown_type"),
        ({**about_payment(order_id, key="void:auth_1"), "reference": None}, "unknown_reference"),
    ):
        answer = await doors.call_back("payment", "/callbacks/psp", told)
        assert (answer.status_code, answer.json()["ignored"]) == (202, why), answer.text
    assert await doors.events("payment", order_id) == before


async def test_answer_over_another_amount_is_not_believed(doors: Outside) -> None:
    """While the PSP is away nobody knows what became of the call: the callback would be the first to say."""
    psp = doors.simulators["psp"]
    await psp.put("/behaviour", json={"away": True})
    try:
        placed = await doors.place(doors.order("SKU-HOOK"))
        await doors.seen_by("payment", f"/payments/{placed.order_id}-p")
        for wrong in ({"amount": 4492}, {"amount": 4494}, {"currency": "USD"}):
            told = about_payment(placed.order_id, **wrong)
            answer = await doors.call_back("payment", "/callbacks/psp", told)
            assert (answer.status_code, answer.json()["ignored"]) == (202, "answer_mismatch"), answer.text
        assert "PaymentAuthorized" not in await doors.events("payment", placed.order_id)
    finally:
        await psp.put("/behaviour", json={"away": False})
    await doors.tracked(placed.order_id, "COMPLETED")
    assert (await doors.events("payment", placed.order_id)).count("PaymentAuthorized") == 1


async def test_news_of_a_package_that_cannot_be_is_taken_and_changes_nothing(
    doors: Outside, shipped: dict[str, Any]
) -> None:
    package = shipped["packages"][0]
    before = await doors.events("fulfillment", shipped["order_id"])
    for told, status in (
        (about_package({**package, "shipment_id": "nobody-1"}, "delivered"), 202),
        (about_package({**package, "package_id": "nobody-1"}, "delivered"), 202),
        (about_package({**package, "tracking_number": "0000"}, "delivered"), 202),
        (about_package(package, "teleported"), 202),
        (about_package(package, "lost"), 202),
        (about_package(package, "in_transit"), 200),
        (about_package(package, "delivered", occurred_at="0001-01-01T00:00:00Z"), 422),
        (about_package(package, "delivered", occurred_at="infinity"), 422),
        (about_package(package, "delivered", shipment_id="a b"), 422),
        ({**about_package(package, "delivered"), "type": "package.eaten"}, 202),
    ):
        answer = await doors.call_back("fulfillment", "/callbacks/carrier", told)
        assert answer.status_code == status, answer.text
    assert await doors.events("fulfillment", shipped["order_id"]) == before


async def test_release_nobody_knows_is_taken_and_changes_nothing(doors: Outside) -> None:
    told = {
        "type": "release.picked",
        "release_id": f"{uuid.uuid4()}-n-1",
        "lines": [{"line_id": "1", "sku": "S", "qty": 1}],
    }
    answer = await doors.call_back("fulfillment", "/callbacks/warehouse", told)
    assert (answer.status_code, answer.json()["outcome"]) == (202, "ignored"), answer.text
    assert (await doors.get("fulfillment", f"/releases/{told['release_id']}")).status_code == 404


@pytest.mark.parametrize("qty", [0, -1, "1", 1.0, True, 10**9])
async def test_odd_quantity_from_the_warehouse_is_refused(doors: Outside, qty: Any) -> None:
    told = {"type": "release.picked", "release_id": "r", "lines": [{"line_id": "1", "sku": "S", "qty": qty}]}
    answer = await doors.call_back("fulfillment", "/callbacks/warehouse", told)
    assert answer.status_code == 422, answer.text


async def test_callback_repeated_fifty_times_at_once_has_one_effect(doors: Outside) -> None:
    psp = doors.simulators["psp"]
    await psp.put("/behaviour", json={"away": True})
    try:
        placed = await doors.place(doors.order("SKU-HOOK"))
        await doors.seen_by("payment", f"/payments/{placed.order_id}-p")
        declined = about_payment(placed.order_id)
        declined |= {"status_code": 402, "body": {"status": "declined", "code": "card_declined", "retryable": False}}
        sent = doors.signed(declined, f"evt_{uuid.uuid4().hex}")
        door = doors.doors["payment"]
        answers = await asyncio.gather(*(door.post("/callbacks/psp", **sent) for _ in range(50)))
        assert {answer.status_code for answer in answers} == {200}, answers[0].text
        assert len({answer.content for answer in answers}) == 1
        again = await doors.call_back("payment", "/callbacks/psp", declined)
        assert (again.status_code, again.json()["events"]) == (200, [])
        assert (await doors.events("payment", placed.order_id)).count("PaymentDeclined") == 1
    finally:
        await psp.put("/behaviour", json={"away": False})
    await doors.post("order", f"/orders/{placed.order_id}/cancellation", {})
    await doors.tracked(placed.order_id, "CANCELLED")


async def test_same_callback_id_with_another_body_is_refused(doors: Outside) -> None:
    told, id_ = about_payment(str(uuid.uuid4())), f"evt_{uuid.uuid4().hex}"
    assert (await doors.call_back("payment", "/callbacks/psp", told, id_)).status_code == 202
    other = json.loads(json.dumps(told).replace("4493", "4494"))
    answer = await doors.call_back("payment", "/callbacks/psp", other, id_)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
