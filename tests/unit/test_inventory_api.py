"""The HTTP doors translate bodies to commands and receipts to status codes."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from libs.runtime.api import Page, Receipt, command_door, view_door
from services.inventory.api import router
from services.inventory.domain.command import (
    AdjustStock,
    DisableNode,
    EnableNode,
    ReceiptLine,
    ReceiveStock,
    RegisterLocation,
)
from services.inventory.views import AvailabilityView, ReservationView

VIEWS = {
    "availability": AvailabilityView(sku="X", on_hand=3, reserved=1, atp=2),
    "reservation_view": ReservationView(reservation_id="O1-r1", order_id="O1", status="HELD"),
}


class Doors:
    """Stands in for the machine: notes what it is told, answers with the events it was given."""

    def __init__(self, *events: str) -> None:
        self.events = list(events)
        self.told: list[Any] = []

    async def handle(self, command: Any, *, key: str | None = None) -> Receipt:
        self.told.append(command)
        return Receipt(stream_id="stock-X", stream_version=1, events=self.events, token="stock-X:1")

    async def get(self, projection: Any, key: str) -> Any:
        self.told.append((projection.name, key))
        return VIEWS[projection.name]

    async def page(self, projection: Any, where: Mapping[str, str]) -> Page[Any]:
        self.told.append((projection.name, dict(where)))
        return Page(items=[])


def call(doors: Doors, method: str, path: str, body: Any = None) -> httpx.Response:
    app = FastAPI()
    app.include_router(router)
    app.dependency_overrides = {command_door: lambda: doors, view_door: lambda: doors}

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://inventory") as client:
            return await client.request(method, path, json=body)

    return asyncio.run(send())


LOCATION = {"location": "HAM", "name": "Hamburg", "country": "DE", "lat": 53.5, "lon": 10}
RECEIPT = {"receipt_id": "PO-1", "lines": [{"sku": "X", "location": "HAM", "qty": 2}]}
ADJUSTMENT = {"sku": "X", "location": "HAM", "delta": -1, "reason": "count", "by": "ann"}
SWITCH = {"by": "ann", "reason": "flood"}
WRITES = [
    ("/locations", LOCATION, RegisterLocation("HAM", "Hamburg", "DE", 53.5, 10.0)),
    ("/locations/HAM/disabled", SWITCH, DisableNode("HAM", "ann", "flood")),
    ("/locations/HAM/enabled", SWITCH, EnableNode("HAM", "ann", "flood")),
    ("/stock/receipts", RECEIPT, ReceiveStock("PO-1", (ReceiptLine("X", "HAM", 2),))),
    ("/stock/adjustments", ADJUSTMENT, AdjustStock("X", "HAM", -1, "count", "ann")),
]


@pytest.mark.parametrize(("path", "body", "command"), WRITES, ids=lambda value: value if isinstance(value, str) else "")
def test_write_is_201_when_something_happened_and_200_when_it_was_already_so(
    path: str, body: Any, command: Any
) -> None:
    doors = Doors("Happened")
    assert call(doors, "POST", path, body).status_code == 201
    assert doors.told == [command]
    assert call(Doors(), "POST", path, body).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/locations", {**LOCATION, "lat": 91}),
        ("/locations", {**LOCATION, "country": "Germany"}),
        ("/locations", {**LOCATION, "more": 1}),
        ("/locations/a%20b/disabled", SWITCH),
        ("/locations/HAM/disabled", {**SWITCH, "by": ""}),
        ("/stock/receipts", {**RECEIPT, "lines": []}),
        ("/stock/receipts", {**RECEIPT, "lines": RECEIPT["lines"] * 501}),  # type: ignore[operator]
        ("/stock/receipts", {**RECEIPT, "lines": [{"sku": "X", "location": "HAM", "qty": 0}]}),
        ("/stock/receipts", {**RECEIPT, "lines": [{"sku": "X", "location": "HAM", "qty": "2"}]}),
        ("/stock/adjustments", {**ADJUSTMENT, "delta": 0}),
        ("/stock/adjustments", {**ADJUSTMENT, "delta": 10**9}),
    ],
)
def test_malformed_write_is_422_and_reaches_no_domain(path: str, body: Any) -> None:
    doors = Doors("Happened")
    assert call(doors, "POST", path, body).status_code == 422
    assert doors.told == []


def test_reads_ask_for_their_view() -> None:
    doors = Doors()
    assert call(doors, "GET", "/availability/X").json()["atp"] == 2
    assert call(doors, "GET", "/reservations/O1-r1").json()["status"] == "HELD"
    assert call(doors, "GET", "/locations").status_code == 200
    assert call(doors, "GET", "/locations?status=DISABLED").status_code == 200
    assert call(doors, "GET", "/reservations?order_id=O1&status=HELD").status_code == 200
    assert doors.told == [
        ("availability", "X"),
        ("reservation_view", "O1-r1"),
        ("locations", {}),
        ("locations", {"status": "DISABLED"}),
        ("reservation_view", {"order_id": "O1", "status": "HELD"}),
    ]


@pytest.mark.parametrize("path", ["/availability/a%20b", "/reservations/a%20b", "/locations?status=OPEN"])
def test_malformed_read_is_422(path: str) -> None:
    assert call(Doors(), "GET", path).status_code == 422
