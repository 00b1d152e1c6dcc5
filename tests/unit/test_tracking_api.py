"""Tracking's routes, over a storage in memory that has heard a little."""

from typing import Any

import httpx
import pytest

from libs.events.base import Event
from libs.events.channel import order_id_of
from libs.events.codec import encode, partition_key
from libs.events.order import OrderAccepted, OrderHoldPlaced
from libs.runtime.api import Ports
from libs.runtime.batch import fold, written_row
from libs.runtime.http import create_app
from libs.runtime.projection import Projection
from libs.runtime.storage import StoredEvent
from libs.testing.memory import MemoryStorage
from libs.testing.scenario import history, recorded
from services.tracking.service import service
from services.tracking.views.exception import OPEN_EXCEPTIONS
from services.tracking.views.order import ORDER_TRACKING

ORDER = order_id_of("web", "W-1")


class AskedStorage(MemoryStorage):
    """Remembers what lists were filtered by."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, dict[str, str]]] = []

    async def page_view(self, view: str, where: Any, after: str, limit: int) -> Any:
        self.asked.append((view, dict(where)))
        return await super().page_view(view, where, after, limit)


def hear(storage: MemoryStorage, projection: Projection[Any], *events: Event) -> None:
    items = history(events)
    folded = fold(projection, None, items)
    row = written_row(projection, ORDER, folded, existed=False).row
    assert row is not None
    storage.tables.views[projection.name] = {ORDER: row}
    storage.tables.events += [StoredEvent(item, encode(item.event), partition_key(item.event)) for item in items]


@pytest.fixture
def storage() -> AskedStorage:
    storage = AskedStorage()
    hear(storage, ORDER_TRACKING, OrderAccepted(order_id=ORDER))
    hear(storage, OPEN_EXCEPTIONS, OrderHoldPlaced(order_id=ORDER, hold_id="H-1", type="MANUAL", reason="look"))
    storage.tables.events.pop()  # of the timeline only the first
    return storage


@pytest.fixture
def client(storage: AskedStorage) -> httpx.AsyncClient:
    async def health() -> dict[str, Any]:
        return {"ready": True}

    app = create_app(service(), Ports(storage, None, ""), health)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tracking")


@pytest.mark.parametrize("path", [f"/orders/{ORDER}", "/orders/by-reference/web/W-1"])
async def test_known_order_is_found_by_id_and_by_reference(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["order_id"], answer.json()["status"]) == (200, ORDER, "ACCEPTED")


@pytest.mark.parametrize("path", ["/orders/unheard", "/orders/by-reference/web/W-2", "/orders/unheard/timeline"])
async def test_order_nobody_spoke_of_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "path",
    [
        "/orders/no%20id",
        "/orders/%F0%9F%98%80/timeline",
        "/orders/by-reference/web/" + "x" * 129,
        "/orders?status=PAID",
        "/orders?channel=%27",
        "/orders?placed_day=yesterday",
        "/orders?placed_day=0",
        "/orders?placed_day=1767607200",
        "/orders?placed_day=2026-01-05T00:00:00Z",
        "/orders?placed_day=2026-02-30",
        "/orders?placed_day=1999-12-31",
        "/exceptions?type=NONE",
    ],
)
async def test_malformed_question_is_refused(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 422


async def test_orders_are_listed_by_what_is_asked(client: httpx.AsyncClient, storage: AskedStorage) -> None:
    answer = await client.get("/orders?status=ACCEPTED")
    assert [row["order_id"] for row in answer.json()["items"]] == [ORDER]
    await client.get("/orders?status=ACCEPTED&channel=web&placed_day=2026-01-05")
    assert storage.asked[-1] == (
        "order_tracking",
        {"status": "ACCEPTED", "channel": "web", "placed_day": "2026-01-05"},
    )


async def test_exceptions_are_listed_by_type(client: httpx.AsyncClient, storage: AskedStorage) -> None:
    assert [row["type"] for row in (await client.get("/exceptions")).json()["items"]] == ["MANUAL"]
    await client.get("/exceptions?type=STUCK")
    assert storage.asked == [("open_exceptions", {}), ("open_exceptions", {"type": "STUCK"})]


async def test_timeline_tells_every_event(client: httpx.AsyncClient) -> None:
    body = (await client.get(f"/orders/{ORDER}/timeline")).json()
    assert [(entry["service"], entry["summary"]) for entry in body] == [("order", "Order accepted")]


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
