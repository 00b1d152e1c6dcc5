"""Tracking's routes, over doors that hold a few rows in memory."""

from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from libs.events.channel import order_id_of
from libs.events.envelope import Recorded
from libs.events.order import OrderAccepted, OrderHoldPlaced
from libs.runtime.api import Page, Problem, ViewDoor, view_door
from libs.runtime.projection import Projection, V
from libs.testing.scenario import recorded
from services.tracking.service import service
from services.tracking.views.exception import OPEN_EXCEPTIONS
from services.tracking.views.order import ORDER_TRACKING

ORDER = order_id_of("web", "W-1")


class Rows(ViewDoor):
    def __init__(self, rows: Mapping[tuple[str, str], Any]) -> None:
        self.rows, self.asked = rows, list[tuple[str, Mapping[str, str]]]()

    async def get(self, projection: Projection[V], key: str) -> V:
        if (projection.name, key) not in self.rows:
            raise Problem(404, "not_found")
        row: V = self.rows[projection.name, key]
        return row

    async def page(self, projection: Projection[V], where: Mapping[str, str]) -> Page[V]:
        assert set(where) <= set(projection.indexed)
        self.asked.append((projection.name, where))
        return Page(items=[row for (name, _), row in self.rows.items() if name == projection.name])

    async def story(self, projection: Projection[Any], key: str) -> list[Recorded[Any]]:
        await self.get(projection, key)
        return [recorded(OrderAccepted(order_id=key))]


@pytest.fixture
def rows() -> Rows:
    order = ORDER_TRACKING.evolve(None, recorded(OrderAccepted(order_id=ORDER)))
    placed = OrderHoldPlaced(order_id=ORDER, hold_id="H-1", type="MANUAL", reason="look")
    exception = OPEN_EXCEPTIONS.evolve(None, recorded(placed))
    return Rows({("order_tracking", ORDER): order, ("open_exceptions", ORDER): exception})


@pytest.fixture
def client(rows: Rows) -> httpx.AsyncClient:
    app = FastAPI()
    router = service().router
    assert router is not None
    app.include_router(router)
    app.dependency_overrides = {view_door: lambda: rows}

    @app.exception_handler(Problem)
    async def answer(_request: Request, problem: Problem) -> JSONResponse:
        return JSONResponse({"code": problem.code}, problem.status)

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tracking")


@pytest.mark.parametrize("path", [f"/orders/{ORDER}", "/orders/by-reference/web/W-1"])
async def test_known_order_is_found_by_id_and_by_reference(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["order_id"], answer.json()["status"]) == (200, ORDER, "ACCEPTED")


@pytest.mark.parametrize("path", ["/orders/unheard", "/orders/by-reference/web/W-2", "/orders/unheard/timeline"])
async def test_order_nobody_spoke_of_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()) == (404, {"code": "not_found"})


@pytest.mark.parametrize(
    "path",
    [
        "/orders/no%20id",
        "/orders/%F0%9F%98%80/timeline",
        "/orders/by-reference/web/" + "x" * 129,
        "/orders?status=PAID",
        "/orders?channel=%27",
        "/orders?placed_day=yesterday",
        "/exceptions?type=NONE",
    ],
)
async def test_malformed_question_is_refused(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 422


async def test_orders_are_listed_by_what_is_asked(client: httpx.AsyncClient, rows: Rows) -> None:
    answer = await client.get("/orders?status=ACCEPTED&channel=web&placed_day=2026-01-05")
    assert [row["order_id"] for row in answer.json()["items"]] == [ORDER]
    assert rows.asked == [("order_tracking", {"status": "ACCEPTED", "channel": "web", "placed_day": "2026-01-05"})]


async def test_exceptions_are_listed_by_type(client: httpx.AsyncClient, rows: Rows) -> None:
    assert [row["type"] for row in (await client.get("/exceptions")).json()["items"]] == ["MANUAL"]
    await client.get("/exceptions?type=STUCK")
    assert rows.asked == [("open_exceptions", {}), ("open_exceptions", {"type": "STUCK"})]


async def test_timeline_tells_every_event(client: httpx.AsyncClient) -> None:
    body = (await client.get(f"/orders/{ORDER}/timeline")).json()
    assert body["order_id"] == ORDER
    assert [(entry["service"], entry["summary"]) for entry in body["entries"]] == [("order", "Order accepted")]


def test_tracking_listens_and_says_nothing() -> None:
    tracking = service()
    assert (tracking.decider, tracking.effects, list(tracking.react(recorded(OrderAccepted(order_id=ORDER))))) == (
        None,
        None,
        [],
    )
    assert [topic.name for topic in tracking.subscribes] == [
        "oms.order.events",
        "oms.inventory.events",
        "oms.payment.events",
        "oms.fulfillment.events",
    ]
    for projection in tracking.projections:
        assert set(projection.indexed) <= set(projection.view.model_fields)
