from datetime import UTC, datetime

import pytest

from libs.events.base import Event
from libs.events.fulfillment import (
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentLost,
    ShipmentReturnedToSender,
    ShipmentTrackingUpdated,
    ShippingLabelPurchased,
    TrackingStatus,
)
from libs.testing.fulfillment_gateway import LINES, package, shipment_created
from libs.testing.scenario import scenario
from services.fulfillment.domain.command import CarrierStatus, RecordLabel, RecordTracking
from services.fulfillment.domain.decider import DECIDER
from services.fulfillment.domain.shipment import RANK

ID = "o1-berlin-1-1"
IDS = {"shipment_id": ID, "order_id": "o1"}
AT = datetime(2026, 1, 6, 8, 0, tzinfo=UTC)

CREATED = shipment_created()
TWO_PACKAGES = shipment_created(package("p1", LINES[0]), package("p2", LINES[1]))


def labelled(package_id: str = "p1") -> ShippingLabelPurchased:
    return ShippingLabelPurchased(
        **IDS, package_id=package_id, carrier="SIMEX", tracking_number=f"T-{package_id}", cost=495, currency="EUR"
    )


def label(package_id: str = "p1") -> RecordLabel:
    return RecordLabel(ID, package_id, "SIMEX", f"T-{package_id}", 495, "EUR")


def told(status: CarrierStatus, package_id: str = "p1", number: str = "") -> RecordTracking:
    return RecordTracking(ID, package_id, number or f"T-{package_id}", status, f"{package_id}-{status}", AT)


def moved(status: TrackingStatus, news: CarrierStatus, package_id: str = "p1") -> ShipmentTrackingUpdated:
    return ShipmentTrackingUpdated(
        **IDS,
        package_id=package_id,
        status=status,
        rank=RANK[status],
        carrier_event_id=f"{package_id}-{news}",
        carrier_time=AT,
    )


def dispatched(*package_ids: str) -> ShipmentDispatched:
    return ShipmentDispatched(
        **IDS,
        release_id="o1-berlin-1",
        node="berlin",
        package_ids=package_ids,
        carrier="SIMEX",
        tracking_numbers=tuple(f"T-{package_id}" for package_id in package_ids),
        lines=LINES,
    )


DELIVERED = ShipmentDelivered(**IDS, release_id="o1-berlin-1", lines=LINES)
LOST = ShipmentLost(**IDS, release_id="o1-berlin-1", package_id="p1")
RETURNED = ShipmentReturnedToSender(**IDS, release_id="o1-berlin-1", package_id="p1")
DISPATCHED = dispatched("p1")
IN_TRANSIT = moved("IN_TRANSIT", "in_transit")

one = scenario(DECIDER).given(CREATED, labelled())
two = scenario(DECIDER).given(TWO_PACKAGES, labelled("p1"), labelled("p2"))


def test_bought_label_is_recorded_once() -> None:
    scenario(DECIDER).given(CREATED).when(label()).then(labelled())
    scenario(DECIDER).given(CREATED).when(label()).then_nothing_when_repeated()


def test_label_of_something_unknown_is_rejected() -> None:
    scenario(DECIDER).when(label()).then_rejected("shipment_unknown")
    scenario(DECIDER).given(CREATED).when(label("p9")).then_rejected("package_unknown")


def test_picked_up_package_dispatches_the_shipment() -> None:
    one.when(told("picked_up")).then(DISPATCHED)
    one.when(told("picked_up")).then_nothing_when_repeated()


def test_package_on_its_way_is_tracked_forward() -> None:
    way = one.given(DISPATCHED)
    way.when(told("in_transit")).then(IN_TRANSIT)
    way.when(told("in_transit")).then_nothing_when_repeated()
    out = moved("OUT_FOR_DELIVERY", "out_for_delivery")
    way.given(IN_TRANSIT).when(told("out_for_delivery")).then(out)
    way.given(IN_TRANSIT).when(told("out_for_delivery")).then_nothing_when_repeated()
    way.given(out).when(told("in_transit")).then_nothing()


def test_delivered_package_delivers_the_shipment() -> None:
    one.given(DISPATCHED, IN_TRANSIT).when(told("delivered")).then(DELIVERED)
    one.given(DISPATCHED, IN_TRANSIT).when(told("delivered")).then_nothing_when_repeated()


def test_delivered_that_overtakes_picked_up_dispatches_first() -> None:
    one.when(told("delivered")).then(DISPATCHED, DELIVERED)
    one.when(told("delivered")).then_nothing_when_repeated()


def test_in_transit_that_overtakes_picked_up_dispatches_first() -> None:
    one.when(told("in_transit")).then(DISPATCHED, IN_TRANSIT)


@pytest.mark.parametrize("late", ["picked_up", "in_transit", "out_for_delivery", "delivery_failed"])
@pytest.mark.parametrize("end", [DELIVERED, LOST, RETURNED])
def test_late_news_of_an_ended_shipment_changes_nothing(end: Event, late: CarrierStatus) -> None:
    one.given(DISPATCHED, end).when(told(late)).then_nothing()


def test_failed_attempt_changes_nothing() -> None:
    one.when(told("delivery_failed")).then_nothing()
    one.given(DISPATCHED).when(told("delivery_failed")).then_nothing()


def test_lost_package_ends_the_shipment() -> None:
    one.given(DISPATCHED).when(told("lost")).then(LOST)
    one.given(DISPATCHED).when(told("lost")).then_nothing_when_repeated()
    one.when(told("lost")).then(DISPATCHED, LOST)


def test_returned_package_ends_the_shipment() -> None:
    one.given(DISPATCHED).when(told("return_to_sender")).then(RETURNED)
    one.given(DISPATCHED).when(told("return_to_sender")).then_nothing_when_repeated()
    one.when(told("return_to_sender")).then(DISPATCHED, RETURNED)


@pytest.mark.parametrize(
    ("end", "news"), [(LOST, "delivered"), (RETURNED, "delivered"), (DELIVERED, "lost"), (LOST, "return_to_sender")]
)
def test_package_that_ended_does_not_end_otherwise(end: Event, news: CarrierStatus) -> None:
    one.given(DISPATCHED, end).when(told(news)).then_rejected("package_closed")


def test_tracking_that_overtakes_the_label_is_to_be_told_again() -> None:
    scenario(DECIDER).given(CREATED).when(told("picked_up")).then_rejected("label_unknown")
    scenario(DECIDER).given(TWO_PACKAGES, labelled("p1")).when(told("lost", "p2")).then_rejected("label_unknown")


def test_tracking_of_something_unknown_is_rejected() -> None:
    scenario(DECIDER).when(told("picked_up")).then_rejected("shipment_unknown")
    one.when(told("picked_up", "p9")).then_rejected("package_unknown")
    one.when(told("picked_up", number="T-other")).then_rejected("tracking_number_mismatch")


def test_shipment_is_dispatched_with_its_last_package() -> None:
    first = moved("PICKED_UP", "picked_up")
    two.when(told("picked_up")).then(first)
    two.when(told("picked_up")).then_nothing_when_repeated()
    two.given(first).when(told("picked_up", "p2")).then(dispatched("p1", "p2"))


def test_package_may_run_ahead_before_the_shipment_is_dispatched() -> None:
    two.when(told("in_transit")).then(IN_TRANSIT)
    two.given(IN_TRANSIT).when(told("picked_up", "p2")).then(dispatched("p1", "p2"))
    two.given(IN_TRANSIT, dispatched("p1", "p2")).when(told("in_transit")).then_nothing()


def test_shipment_is_delivered_with_its_last_package() -> None:
    first = moved("DELIVERED", "delivered")
    way = two.given(dispatched("p1", "p2"))
    way.when(told("delivered")).then(first)
    way.given(first).when(told("delivered", "p2")).then(DELIVERED)
    two.given(first).when(told("delivered", "p2")).then(dispatched("p1", "p2"), DELIVERED)


def test_package_lost_before_the_other_is_picked_up_ends_the_shipment_after_its_dispatch() -> None:
    lost = moved("LOST", "lost")
    two.when(told("lost")).then(lost)
    two.when(told("lost")).then_nothing_when_repeated()
    two.given(lost).when(told("delivered")).then_rejected("package_closed")
    two.given(lost).when(told("picked_up", "p2")).then(dispatched("p1", "p2"), LOST)
    two.given(lost).when(told("delivered", "p2")).then(dispatched("p1", "p2"), LOST)


def test_other_package_of_an_ended_shipment_is_not_followed_further() -> None:
    two.given(dispatched("p1", "p2"), LOST).when(told("in_transit", "p2")).then_rejected("shipment_closed")
    two.given(dispatched("p1", "p2"), RETURNED).when(told("lost", "p2")).then_rejected("shipment_closed")
    two.given(dispatched("p1", "p2"), LOST).when(told("picked_up", "p2")).then_nothing()
