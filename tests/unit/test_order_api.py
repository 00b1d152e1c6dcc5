"""The routes over the real decisions and the real view, with nothing but memory beneath."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from libs.events.base import Event
from libs.events.codec import event_type
from libs.events.order import OrderHoldPlaced
from libs.runtime.api import CommandDoor, Page, Problem, Receipt, ViewDoor, command_door, view_door
from libs.runtime.decider import CommandRejected
from libs.runtime.projection import Projection, V
from libs.testing import order_story as story
from libs.testing.builders import order_placed
from libs.testing.order_story import ORDER, PLACED
from libs.testing.scenario import projected, scenario
from services.order.service import service

SERVICE = service()


class Memory(CommandDoor, ViewDoor):
    """Both doors on a list of events: all those of one order."""

    def __init__(self, *past: Event) -> None:
        self.past = list(past)
        self.asked: Mapping[str, str] = {}

    async def handle(self, command: Any, *, key: str | None = None) -> Receipt:
        assert SERVICE.decider is not None
        events = scenario(SERVICE.decider).given(*self.past).when(command).decide()
        self.past += events
        stream_id, version = f"order-{command.order_id}", len(self.past)
        names = [event_type(type(event)) for event in events]
        return Receipt(stream_id=stream_id, stream_version=version, events=names, token=f"{stream_id}@{version}")

    async def get(self, projection: Projection[V], key: str) -> V:
        row = projected(projection, *self.past)
        if row is None or key != ORDER:
            raise Problem(404, "not_found")
        return row

    async def page(self, projection: Projection[V], where: Mapping[str, str]) -> Page[V]:
        self.asked = where
        assert set(where) <= set(projection.indexed)
        row = projected(projection, *self.past)
        return Page(items=[row] if row else [])


def app_on(memory: Memory) -> FastAPI:
    async def problem(_request: Request, error: Exception) -> JSONResponse:
        problem = cast(Problem, error)
        return JSONResponse({"code": problem.code, "errors": list(problem.errors)}, problem.status)

    async def rejected(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"code": cast(CommandRejected, error).code}, 409)

    app = FastAPI(exception_handlers={Problem: problem, CommandRejected: rejected})
    assert SERVICE.router is not None
    app.include_router(SERVICE.router)
    app.dependency_overrides = {command_door: lambda: memory, view_door: lambda: memory}
    return app


def call(memory: Memory, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app=app_on(memory))
        async with httpx.AsyncClient(transport=transport, base_url="http://order") as client:
            return await client.request(method, path, json=body)

    response = asyncio.run(request())
    return response.status_code, response.json()


def post(memory: Memory, path: str, **body: Any) -> tuple[int, str]:
    status, answer = call(memory, "POST", path, body)
    return status, answer.get("code", "")


def place(memory: Memory, **changes: Any) -> tuple[int, Any]:
    return call(memory, "POST", "/orders", {**PLACED.model_dump(mode="json"), **changes})


def test_placed_order_is_created_and_the_same_again_is_the_same_order() -> None:
    memory = Memory()
    status, receipt = place(memory)
    assert (status, receipt["stream_id"], receipt["stream_version"]) == (201, f"order-{ORDER}", 3)
    assert place(memory) == (200, {**receipt, "events": []})
    assert tuple(memory.past) == story.ACCEPTED


def test_other_content_conflicts_however_often_it_is_sent() -> None:
    memory = Memory(*story.ACCEPTED)
    assert place(memory, external_revision=2)[0] == 409
    status, answer = place(memory, external_revision=2)
    assert (status, answer["code"], len(memory.past)) == (409, "order_exists", 4)


def test_faults_are_unprocessable_with_their_codes_and_store_nothing() -> None:
    memory = Memory()
    status, answer = place(memory, currency="EUX", pii={"email": "4111 1111 1111 1111"})
    assert (status, answer["code"]) == (422, "unknown_currency")
    assert [(fault["code"], fault["field"]) for fault in answer["errors"]] == [
        ("unknown_currency", "currency"),
        ("pan_detected", "pii.email"),
    ]
    assert "4111" not in str(answer)
    assert memory.past == []


@pytest.mark.parametrize("changes", [{"status": "PAID"}, {"lines": []}, {"external_revision": "1"}, {"placed_at": 5}])
def test_malformed_order_is_unprocessable(changes: dict[str, Any]) -> None:
    assert place(Memory(), **changes)[0] == 422


def test_order_is_read_by_its_id_and_by_its_reference() -> None:
    memory = Memory(*story.COMPLETED)
    status, row = call(memory, "GET", f"/orders/{ORDER}")
    assert (status, row["status"], row["captured"]) == (200, "COMPLETED", story.TOTAL)
    assert call(memory, "GET", "/orders/by-reference/web/W-1") == (200, row)


def test_unknown_order_is_not_found() -> None:
    for path in ("/orders/nope", "/orders/by-reference/web/nope"):
        assert call(Memory(), "GET", path)[0] == 404


def test_malformed_id_is_unprocessable() -> None:
    for path in ("/orders/a%20b", "/orders/by-reference/web/ä", "/orders?has_hold=maybe", "/orders?status=LOST"):
        assert call(Memory(), "GET", path)[0] == 422


def test_orders_are_listed_by_what_is_indexed() -> None:
    memory = Memory(*story.ACCEPTED)
    query = "status=ACCEPTED&channel=web&external_order_id=W-1&has_hold=no&stuck=no"
    status, page = call(memory, "GET", f"/orders?{query}")
    assert (status, [row["order_id"] for row in page["items"]]) == (200, [ORDER])
    assert memory.asked == dict(pair.split("=") for pair in query.split("&"))
    call(memory, "GET", "/orders")
    assert memory.asked == {}


def test_order_is_cancelled_once() -> None:
    memory = Memory(*story.ACCEPTED)
    assert post(memory, f"/orders/{ORDER}/cancellation", reason="late") == (201, "")
    assert post(memory, f"/orders/{ORDER}/cancellation") == (200, "")


@pytest.mark.parametrize(
    ("path", "body"),
    [(f"/orders/{ORDER}/cancellation", {}), ("/cancellations", {"channel": "web", "external_order_id": "W-1"})],
)
def test_released_order_cannot_be_cancelled_however_often_one_asks(path: str, body: dict[str, Any]) -> None:
    memory = Memory(*story.RELEASED)
    assert post(memory, path, **body) == (409, "order_released")
    assert post(memory, path, **body) == (409, "order_released")
    assert len(memory.past) == len(story.RELEASED) + 1


def test_cancellation_by_reference_may_come_first() -> None:
    memory = Memory()
    body = {"channel": "web", "external_order_id": "W-1"}
    assert post(memory, "/cancellations", **body) == (201, "")
    assert post(memory, "/cancellations", **body) == (200, "")
    place(memory)
    assert call(memory, "GET", f"/orders/{ORDER}")[1]["status"] == "CANCELLED"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("cancellation", {}),
        ("payment-method", {"token": "t"}),
        ("resolution", {"resolution": "CANCEL", "by": "ada", "reason": "asked"}),
        ("refunds", {"refund_id": "f1", "amount": 1, "by": "ada", "reason": "broken"}),
    ],
)
def test_nothing_can_be_done_to_an_unknown_order(path: str, body: dict[str, Any]) -> None:
    assert post(Memory(), f"/orders/{ORDER}/{path}", **body) == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("cancellation", {"reason": "4111111111111111"}),
        ("payment-method", {"token": "4111111111111111"}),
        ("resolution", {"resolution": "CANCEL", "by": "4111111111111111", "reason": "asked"}),
        ("refunds", {"refund_id": "f1", "amount": 1, "by": "ada", "reason": "4111111111111111"}),
    ],
)
def test_card_number_in_any_text_is_unprocessable(path: str, body: dict[str, Any]) -> None:
    assert post(Memory(*story.ACCEPTED), f"/orders/{ORDER}/{path}", **body) == (422, "pan_detected")


def test_cancellation_with_a_card_number_is_unprocessable_by_reference_too() -> None:
    body = {"channel": "web", "external_order_id": "W-1", "reason": "4111111111111111"}
    assert post(Memory(), "/cancellations", **body) == (422, "pan_detected")


def test_another_payment_method_is_taken_only_when_awaited() -> None:
    memory, path = Memory(*story.AWAITING_METHOD), f"/orders/{ORDER}/payment-method"
    assert post(memory, path, token="tok_new") == (201, "")
    assert post(memory, path, token="tok_new") == (200, "")
    assert post(memory, path, token="tok_other") == (409, "payment_method_not_awaited")


def test_operator_needs_a_name_and_a_reason() -> None:
    memory, path = Memory(*story.ACCEPTED), f"/orders/{ORDER}/resolution"
    assert post(memory, path, resolution="CANCEL", by="", reason="x")[0] == 422
    assert post(memory, path, resolution="CANCEL", by="ada")[0] == 422
    assert post(memory, path, resolution="CANCEL", by="ada", reason="asked for") == (201, "")
    assert post(memory, path, resolution="CANCEL", by="ada", reason="asked for") == (200, "")


def test_hold_is_released_by_hand() -> None:
    hold = OrderHoldPlaced(order_id=ORDER, hold_id="lost:1", type="MANUAL", reason="lost")
    memory, path = Memory(*story.SHIPPED, hold), f"/orders/{ORDER}/resolution"
    assert call(memory, "GET", f"/orders/{ORDER}")[1]["has_hold"] == "yes"
    assert post(memory, path, resolution="RELEASE_HOLD", by="ada", reason="found") == (201, "")
    assert post(memory, path, resolution="RELEASE_HOLD", by="ada", reason="found") == (409, "no_open_hold")


def test_refund_is_asked_for_once() -> None:
    memory, path = Memory(*story.COMPLETED), f"/orders/{ORDER}/refunds"
    body = {"refund_id": "f1", "amount": story.TOTAL, "by": "ada", "reason": "broken"}
    assert post(memory, path, **body) == (201, "")
    assert post(memory, path, **body) == (200, "")
    assert post(memory, path, **{**body, "refund_id": "f2", "amount": 1}) == (409, "refund_exceeds_captured")
    assert post(memory, path, **{**body, "amount": 0})[0] == 422


def test_every_route_is_documented() -> None:
    operations = [it for path in app_on(Memory()).openapi()["paths"].values() for it in path.values()]
    assert len(operations) == 9
    assert all(it["summary"] and it["tags"] and {"200", "422"} <= set(it["responses"]) for it in operations)


def test_free_order_is_taken_like_any_other() -> None:
    free = order_placed("W-1", story.PLACED.lines[0].model_copy(update={"discount": 1190}))
    assert call(Memory(), "POST", "/orders", free.model_dump(mode="json"))[0] == 201
