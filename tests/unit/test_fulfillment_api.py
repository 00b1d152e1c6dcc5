"""The routes: bodies to commands, decisions to answers."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError

from libs.events.base import Event
from libs.events.fulfillment import ShippingLabelPurchased
from libs.runtime.api import (
    CommandDoor,
    Page,
    Problem,
    Receipt,
    SignedCallback,
    ViewDoor,
    command_door,
    signed_callback,
    view_door,
)
from libs.runtime.decider import CommandRejected
from libs.runtime.projection import Projection
from libs.testing.fulfillment_gateway import release_created, shipment_created
from libs.testing.scenario import projected, scenario
from services.fulfillment.api import router
from services.fulfillment.domain.decider import DECIDER
from services.fulfillment.views import RELEASE_VIEW, SHIPMENT_VIEW, ReleaseView, ShipmentView

V = TypeVar("V", bound=BaseModel)
M = TypeVar("M", bound=BaseModel)

RELEASE, SHIPMENT = "o1-berlin-1", "o1-berlin-1-1"
LINES = [{"line_id": "1", "sku": "SKU-1", "qty": 2}, {"line_id": "2", "sku": "SKU-2", "qty": 1}]
ABOUT = {"id": "wh_1", "release_id": RELEASE, "order_id": "o1"}
PICKED = {**ABOUT, "type": "release.picked", "lines": LINES}
PACKED = {**ABOUT, "type": "release.packed", "packages": [{"package_id": "p1", "weight": 500, "lines": LINES}]}
PICKED_UP = {
    "id": "car_1",
    "type": "tracking.updated",
    "tracking_number": "T1",
    "shipment_id": SHIPMENT,
    "package_id": "p1",
    "order_id": "o1",
    "status": "picked_up",
    "occurred_at": "2026-01-06T08:00:00.123Z",
}
LABEL = ShippingLabelPurchased(
    shipment_id=SHIPMENT, order_id="o1", package_id="p1", carrier="SIMEX", tracking_number="T1", cost=1, currency="EUR"
)
RELEASE_ROW = projected(RELEASE_VIEW, release_created())
SHIPMENT_ROW = projected(SHIPMENT_VIEW, shipment_created())
assert isinstance(RELEASE_ROW, ReleaseView)
assert isinstance(SHIPMENT_ROW, ShipmentView)
ROWS: Mapping[str, BaseModel] = {RELEASE: RELEASE_ROW, SHIPMENT: SHIPMENT_ROW}


@dataclass
class Commands(CommandDoor):
    """Decides over a history in memory, without any store."""

    events: list[Event] = field(default_factory=list)

    async def handle(self, command: Any, *, key: str | None = None) -> Receipt:
        assert key == "", "a stored 409 would answer the repeat that it asks for"
        decided = scenario(DECIDER).given(*self.events).when(command).decide()
        self.events += decided
        return Receipt(stream_id="s", stream_version=1, events=[type(event).__name__ for event in decided], token="t")


@dataclass
class Views(ViewDoor):
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    async def get(self, projection: Projection[V], key: str) -> V:
        row = ROWS.get(key)
        if not isinstance(row, projection.view):
            raise Problem(404, "not_found")
        return row

    async def page(self, projection: Projection[V], where: Mapping[str, str]) -> Page[V]:
        self.asked.append((projection.name, dict(where)))
        return Page(items=[row for row in ROWS.values() if isinstance(row, projection.view)])


@dataclass
class Signed(SignedCallback):
    body: bytes
    id: str = "wh_1"

    def read(self, model: type[M]) -> M:
        try:
            return model.model_validate_json(self.body)
        except ValidationError:
            raise Problem(422, "invalid") from None


class Api:
    def __init__(self) -> None:
        self.commands, self.views = Commands(), Views()
        app = FastAPI()
        app.include_router(router)
        app.add_exception_handler(Problem, _problem)
        app.add_exception_handler(CommandRejected, _problem)
        app.dependency_overrides = {
            command_door: lambda: self.commands,
            view_door: lambda: self.views,
            signed_callback: _signed,
        }
        self.openapi = app.openapi
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api")

    async def told(self, by: str, body: dict[str, Any], **changed: Any) -> tuple[int, Any]:
        response = await self.client.post(f"/callbacks/{by}", json={**body, **changed})
        return response.status_code, response.json()

    async def get(self, path: str) -> tuple[int, Any]:
        response = await self.client.get(path)
        return response.status_code, response.json()


async def _signed(request: Request) -> Signed:
    return Signed(await request.body())


async def _problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem | CommandRejected)
    return JSONResponse({"code": error.code}, error.status if isinstance(error, Problem) else 409)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    api = Api()
    async with api.client:
        yield api


def recorded(*events: str) -> dict[str, Any]:
    return {"outcome": "recorded", "events": list(events), "code": None}


def ignored(code: str) -> dict[str, Any]:
    return {"outcome": "ignored", "events": [], "code": code}


REPEATED: dict[str, Any] = {"outcome": "repeated", "events": [], "code": None}


async def test_warehouse_callbacks_are_recorded_and_their_repeats_change_nothing(api: Api) -> None:
    api.commands.events.append(release_created())
    assert await api.told("warehouse", PICKED) == (201, recorded("FulfillmentAccepted", "FulfillmentPicked"))
    assert await api.told("warehouse", PICKED) == (200, REPEATED)
    assert await api.told("warehouse", PACKED) == (201, recorded("FulfillmentPacked", "ShipmentCreated"))
    assert await api.told("warehouse", PACKED) == (200, REPEATED)


async def test_carrier_callback_is_recorded_and_its_repeat_changes_nothing(api: Api) -> None:
    api.commands.events += [shipment_created(), LABEL]
    assert await api.told("carrier", PICKED_UP) == (201, recorded("ShipmentDispatched"))
    assert await api.told("carrier", PICKED_UP) == (200, REPEATED)
    assert await api.told("carrier", PICKED_UP, status="delivery_failed") == (200, REPEATED)


async def test_tracking_that_overtakes_its_label_is_asked_for_again(api: Api) -> None:
    api.commands.events.append(shipment_created())
    assert await api.told("carrier", PICKED_UP) == (409, {"code": "label_unknown"})
    api.commands.events.append(LABEL)
    assert await api.told("carrier", PICKED_UP) == (201, recorded("ShipmentDispatched"))


async def test_news_that_cannot_be_used_is_ignored_with_its_code(api: Api) -> None:
    assert await api.told("warehouse", PICKED) == (202, ignored("release_unknown"))
    assert await api.told("carrier", PICKED_UP) == (202, ignored("shipment_unknown"))
    api.commands.events += [release_created(), shipment_created(), LABEL]
    assert await api.told("warehouse", PICKED, lines=LINES[:1]) == (202, ignored("quantity_mismatch"))
    assert await api.told("carrier", PICKED_UP, package_id="p9") == (202, ignored("package_unknown"))
    assert await api.told("carrier", PICKED_UP, tracking_number="T9") == (202, ignored("tracking_number_mismatch"))
    assert len(api.commands.events) == 3


async def test_news_of_a_kind_not_known_here_is_ignored(api: Api) -> None:
    assert await api.told("warehouse", PICKED, type="release.counted") == (202, ignored("type_unknown"))
    assert await api.told("carrier", PICKED_UP, type="label.printed") == (202, ignored("type_unknown"))
    assert await api.told("carrier", PICKED_UP, status="on_hold") == (202, ignored("status_unknown"))


async def test_field_that_a_partner_added_is_no_fault(api: Api) -> None:
    api.commands.events.append(release_created())
    status, _ = await api.told("warehouse", PICKED, picker="Bo")
    assert status == 201


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": None},
        {"release_id": "a b"},
        {"release_id": ""},
        {"lines": []},
        {"lines": [{**LINES[0], "qty": 0}]},
        {"lines": [{**LINES[0], "qty": -2}]},
        {"lines": [{**LINES[0], "qty": "2"}]},
        {"lines": [{**LINES[0], "qty": 2.0}]},
        {"lines": [LINES[0]] * 501},
        {"lines": None},
    ],
)
async def test_malformed_picking_is_refused(api: Api, wrong: dict[str, Any]) -> None:
    assert await api.told("warehouse", PICKED, **wrong) == (422, {"code": "invalid"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"packages": []},
        {"packages": [{"package_id": "p/1", "weight": 1, "lines": LINES}]},
        {"packages": [{"package_id": "p1", "weight": -1, "lines": LINES}]},
        {"packages": [{"package_id": "p1", "weight": 1, "lines": []}]},
    ],
)
async def test_malformed_packing_is_refused(api: Api, wrong: dict[str, Any]) -> None:
    assert await api.told("warehouse", PACKED, **wrong) == (422, {"code": "invalid"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"occurred_at": "2026-01-06T08:00:00"},
        {"occurred_at": "1970-01-01T00:00:00Z"},
        {"occurred_at": "soon"},
        {"status": 4},
        {"tracking_number": ""},
        {"id": None},
        {"shipment_id": "\u0000"},
    ],
)
async def test_malformed_tracking_is_refused(api: Api, wrong: dict[str, Any]) -> None:
    assert await api.told("carrier", PICKED_UP, **wrong) == (422, {"code": "invalid"})


async def test_release_and_shipment_are_shown(api: Api) -> None:
    status, release = await api.get(f"/releases/{RELEASE}")
    assert (status, release["status"], release["lines"]) == (200, "REQUESTED", LINES)
    status, shipment = await api.get(f"/shipments/{SHIPMENT}")
    assert (status, shipment["status"], shipment["packages"][0]["package_id"]) == (200, "CREATED", "p1")


@pytest.mark.parametrize("path", ["/releases/unknown", "/shipments/unknown"])
async def test_what_does_not_exist_is_not_found(api: Api, path: str) -> None:
    assert await api.get(path) == (404, {"code": "not_found"})


@pytest.mark.parametrize(
    "path",
    ["/releases/a%20b", "/shipments/a%20b", "/releases?status=LOST", "/shipments?status=lost", "/releases?node="],
)
async def test_malformed_question_is_refused(api: Api, path: str) -> None:
    status, _ = await api.get(path)
    assert status == 422


async def test_lists_are_filtered_by_what_is_asked_and_nothing_else(api: Api) -> None:
    for path in (
        "/releases",
        "/releases?status=PICKED&node=berlin",
        "/shipments?status=LOST",
        "/shipments?order_id=o1",
    ):
        status, page = await api.get(path)
        assert status == 200
        assert len(page["items"]) == 1
    assert api.views.asked == [
        ("release_view", {}),
        ("release_view", {"status": "PICKED", "node": "berlin"}),
        ("shipment_view", {"status": "LOST"}),
        ("shipment_view", {"order_id": "o1"}),
    ]


async def test_every_answer_is_documented(api: Api) -> None:
    paths = json.loads(json.dumps(api.openapi()))["paths"]
    assert {"200", "201", "202", "401", "422"} <= paths["/callbacks/warehouse"]["post"]["responses"].keys()
    assert "409" in paths["/callbacks/carrier"]["post"]["responses"]
    assert "404" in paths["/releases/{release_id}"]["get"]["responses"]
