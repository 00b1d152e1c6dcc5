from typing import Any

from libs.events.base import Event
from libs.events.fulfillment import (
    FulfillmentAccepted,
    FulfillmentPacked,
    FulfillmentPicked,
    FulfillmentRejected,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentLost,
    ShipmentReturnedToSender,
    ShipmentTrackingUpdated,
    ShippingLabelPurchased,
)
from libs.runtime.projection import Projection
from libs.testing.fulfillment_gateway import LINES, package, release_created, shipment_created
from libs.testing.scenario import NOW, projected, recorded
from services.fulfillment.views import RELEASE_VIEW, SHIPMENT_VIEW, PackageView, ReleaseView, ShipmentView

RELEASE: dict[str, Any] = {"release_id": "o1-berlin-1", "order_id": "o1"}
SHIPMENT: dict[str, Any] = {"shipment_id": "o1-berlin-1-1", "order_id": "o1"}
ENDED: dict[str, Any] = {**SHIPMENT, "release_id": "o1-berlin-1"}

CREATED = release_created()
ACCEPTED = FulfillmentAccepted(**RELEASE, node="berlin")
PICKED = FulfillmentPicked(**RELEASE, lines=LINES)
PACKED = FulfillmentPacked(**RELEASE, packages=(package("p1"),))
PARCELS = shipment_created(package("p1", LINES[0]), package("p2", LINES[1]))
DISPATCHED = ShipmentDispatched(
    **ENDED, node="berlin", package_ids=("p1", "p2"), carrier="SIMEX", tracking_numbers=("T-p1", "T-p2"), lines=LINES
)


def label(package_id: str) -> ShippingLabelPurchased:
    return ShippingLabelPurchased(
        **SHIPMENT, package_id=package_id, carrier="SIMEX", tracking_number=f"T-{package_id}", cost=495, currency="EUR"
    )


def moved(package_id: str = "p1") -> ShipmentTrackingUpdated:
    return ShipmentTrackingUpdated(
        **SHIPMENT, package_id=package_id, status="IN_TRANSIT", rank=2, carrier_event_id="c1", carrier_time=NOW
    )


def release(*events: Event) -> ReleaseView:
    view = projected(RELEASE_VIEW, CREATED, *events)
    assert view is not None
    return view


def shipment(*events: Event) -> ShipmentView:
    view = projected(SHIPMENT_VIEW, PARCELS, *events)
    assert view is not None
    return view


def statuses(view: ShipmentView) -> tuple[str, ...]:
    return (view.status, *(package.status for package in view.packages))


def test_created_release_is_shown_as_requested() -> None:
    assert release() == ReleaseView(
        release_id="o1-berlin-1",
        order_id="o1",
        node="berlin",
        status="REQUESTED",
        lines=LINES,
        shipping_method="STD",
    )


def test_release_view_follows_the_release() -> None:
    assert release(ACCEPTED).status == "ACCEPTED"
    assert release(ACCEPTED, PICKED).status == "PICKED"
    packed = release(ACCEPTED, PICKED, PACKED)
    assert (packed.status, packed.package_ids) == ("PACKED", ("p1",))


def test_rejected_release_shows_why() -> None:
    view = release(FulfillmentRejected(**RELEASE, node="berlin", reason="node_closed"))
    assert (view.status, view.rejection_reason) == ("REJECTED", "node_closed")


def test_created_shipment_shows_its_packages() -> None:
    assert shipment() == ShipmentView(
        shipment_id="o1-berlin-1-1",
        release_id="o1-berlin-1",
        order_id="o1",
        node="berlin",
        status="CREATED",
        packages=(
            PackageView(package_id="p1", weight=500, lines=(LINES[0],)),
            PackageView(package_id="p2", weight=500, lines=(LINES[1],)),
        ),
    )


def test_shipment_is_labelled_with_its_last_label() -> None:
    assert shipment(label("p1")).status == "CREATED"
    view = shipment(label("p1"), label("p2"))
    assert view.status == "LABELLED"
    assert view.packages[1] == PackageView(
        package_id="p2",
        weight=500,
        lines=(LINES[1],),
        carrier="SIMEX",
        tracking_number="T-p2",
        label_cost=495,
        label_currency="EUR",
    )


def test_shipment_view_follows_each_package() -> None:
    ready = (label("p1"), label("p2"))
    assert statuses(shipment(*ready, moved())) == ("LABELLED", "IN_TRANSIT", "PRE_TRANSIT")
    assert statuses(shipment(*ready, moved(), DISPATCHED)) == ("DISPATCHED", "IN_TRANSIT", "PICKED_UP")
    assert statuses(shipment(*ready, DISPATCHED, moved("p2"))) == ("DISPATCHED", "PICKED_UP", "IN_TRANSIT")


def test_ended_shipment_shows_how() -> None:
    way = (label("p1"), label("p2"), DISPATCHED)
    delivered, lost = ShipmentDelivered(**ENDED, lines=LINES), ShipmentLost(**ENDED, package_id="p2")
    returned = ShipmentReturnedToSender(**ENDED, package_id="p1")
    assert statuses(shipment(*way, delivered)) == ("DELIVERED", "DELIVERED", "DELIVERED")
    assert statuses(shipment(*way, lost)) == ("LOST", "PICKED_UP", "LOST")
    assert statuses(shipment(*way, returned)) == ("RETURNED_TO_SENDER", "RETURN_TO_SENDER", "PICKED_UP")


def test_each_view_is_made_of_its_own_streams() -> None:
    assert RELEASE_VIEW.key(recorded(PACKED)) == "o1-berlin-1"
    assert SHIPMENT_VIEW.key(recorded(moved())) == "o1-berlin-1-1"
    assert RELEASE_VIEW.key(recorded(DISPATCHED)) is None
    assert SHIPMENT_VIEW.key(recorded(PACKED)) is None


def test_views_hold_no_personal_data_and_index_their_fields() -> None:
    for text in (release().model_dump_json(), shipment().model_dump_json()):
        assert "ada@example.org" not in text
        assert "pii" not in text
    projections: tuple[Projection[Any], ...] = (RELEASE_VIEW, SHIPMENT_VIEW)
    for projection in projections:
        assert set(projection.indexed) <= set(projection.view.model_fields)


def test_news_without_a_beginning_makes_no_view() -> None:
    assert projected(RELEASE_VIEW, ACCEPTED) is None
    assert projected(SHIPMENT_VIEW, DISPATCHED) is None
