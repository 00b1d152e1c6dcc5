from itertools import permutations
from typing import Any

import pytest

from libs.events.base import ReleaseLine
from libs.events.order import OrderCompleted, OrderHoldPlaced, OrderHoldReleased, PaymentCaptureRequested
from libs.testing import order_story as story
from libs.testing.order_story import (
    BERLIN_LINES,
    BERLIN_PARCEL,
    HAMBURG_LINES,
    HAMBURG_PARCEL,
    ORDER,
    captured,
    delivered,
    release_line,
)
from libs.testing.scenario import scenario
from services.order.domain.command import PlaceHold, RecordCapture, RecordDelivery, RecordDispatch
from services.order.domain.decider import decider
from services.order.domain.timers import OrderTimers

DECIDER = decider(OrderTimers())
CAPTURE = f"cap:{ORDER}:{BERLIN_PARCEL}"
EARLY = [(), story.ACCEPTED, story.PAYING, story.AWAITING_METHOD, story.UNRELEASED]


def dispatched(
    shipment_id: str = BERLIN_PARCEL, release_id: str = story.BERLIN, lines: tuple[ReleaseLine, ...] = BERLIN_LINES
) -> RecordDispatch:
    return RecordDispatch(ORDER, shipment_id, release_id, lines)


HAMBURG_DISPATCHED = dispatched(HAMBURG_PARCEL, story.HAMBURG, HAMBURG_LINES)
BERLIN_DELIVERED = RecordDelivery(ORDER, BERLIN_PARCEL, BERLIN_LINES)
BERLIN_CAPTURED = RecordCapture(ORDER, BERLIN_PARCEL, CAPTURE, story.BERLIN_AMOUNT)


def unexpected(shipment_id: str, status: str) -> OrderHoldPlaced:
    return OrderHoldPlaced(
        order_id=ORDER,
        hold_id=f"dispatch:{shipment_id}",
        type="MANUAL",
        reason=f"shipment {shipment_id} left that the {status} order does not expect",
    )


def test_first_shipment_is_told_to_inventory_and_captured_with_the_shipping_fee() -> None:
    when = scenario(DECIDER).given(*story.RELEASED).when(dispatched())
    when.then(*story.BERLIN_SHIPPED)
    when.then_nothing_when_repeated()


def test_last_shipment_takes_the_rest_of_the_total() -> None:
    when = scenario(DECIDER).given(*story.PARTLY_SHIPPED).when(HAMBURG_DISPATCHED)
    when.then(*story.HAMBURG_SHIPPED)
    when.then_nothing_when_repeated()
    assert story.BERLIN_AMOUNT + story.HAMBURG_AMOUNT == story.TOTAL


@pytest.mark.parametrize("nodes", sorted(set(permutations(["berlin", "berlin", "hamburg"]))))
def test_units_shipped_one_by_one_are_captured_to_the_cent(nodes: tuple[str, ...]) -> None:
    given = scenario(DECIDER).given(*story.RELEASED)
    amounts = []
    parcels = [*((node, "SKU-1", 1) for node in nodes), ("hamburg", "SKU-2", 2)]
    for number, (node, sku, qty) in enumerate(parcels):
        command = dispatched(f"parcel-{number}", f"{ORDER}-{node}-1", (release_line(sku, qty),))
        events = given.when(command).decide()
        given = given.given(*events)
        amounts += [event.amount for event in events if isinstance(event, PaymentCaptureRequested)]
    assert amounts == [366 + 495, 367, 367, 500]


@pytest.mark.parametrize(
    "command",
    [
        dispatched("p-9", story.BERLIN, (release_line("SKU-1", 3),)),
        dispatched("p-9", story.BERLIN, (release_line("SKU-1", 2), release_line("SKU-1", 1))),
        dispatched("p-9", story.BERLIN, (release_line("SKU-2", 1),)),
        dispatched("p-9", f"{ORDER}-munich-1"),
    ],
)
def test_shipment_of_more_than_is_reserved_there_moves_nothing_and_is_held(command: RecordDispatch) -> None:
    when = scenario(DECIDER).given(*story.RELEASED).when(command)
    when.then(unexpected("p-9", "released"))
    when.then_nothing_when_repeated()


@pytest.mark.parametrize(("past", "status"), [(story.CANCELLED, "cancelled"), (story.COMPLETED, "completed")])
def test_shipment_of_an_ended_order_is_held(past: story.Story, status: str) -> None:
    when = scenario(DECIDER).given(*past).when(dispatched("p-9"))
    when.then(unexpected("p-9", status))
    when.then_nothing_when_repeated()


def test_repeated_dispatch_of_a_completed_order_changes_nothing() -> None:
    scenario(DECIDER).given(*story.COMPLETED).when(dispatched()).then_nothing()


@pytest.mark.parametrize("past", EARLY)
def test_shipment_of_an_order_that_is_not_released_is_refused(past: story.Story) -> None:
    scenario(DECIDER).given(*past).when(dispatched()).then_rejected("order_not_released")


def test_delivery_is_recorded() -> None:
    when = scenario(DECIDER).given(*story.PARTLY_SHIPPED).when(BERLIN_DELIVERED)
    when.then(delivered(BERLIN_PARCEL, *BERLIN_LINES))
    when.then_nothing_when_repeated()


def test_capture_is_recorded() -> None:
    when = scenario(DECIDER).given(*story.PARTLY_SHIPPED).when(BERLIN_CAPTURED)
    when.then(captured(BERLIN_PARCEL, story.BERLIN_AMOUNT))
    when.then_nothing_when_repeated()


def test_last_delivery_completes_a_paid_order() -> None:
    past = (*story.PAID, delivered(HAMBURG_PARCEL, *HAMBURG_LINES))
    when = scenario(DECIDER).given(*past).when(BERLIN_DELIVERED)
    when.then(delivered(BERLIN_PARCEL, *BERLIN_LINES), OrderCompleted(order_id=ORDER))
    when.then_nothing_when_repeated()


def test_last_capture_completes_a_delivered_order() -> None:
    past = (*story.DELIVERED, captured(HAMBURG_PARCEL, story.HAMBURG_AMOUNT))
    when = scenario(DECIDER).given(*past).when(BERLIN_CAPTURED)
    when.then(captured(BERLIN_PARCEL, story.BERLIN_AMOUNT), OrderCompleted(order_id=ORDER))
    when.then_nothing_when_repeated()


def test_order_is_not_complete_before_it_is_both_delivered_and_paid() -> None:
    unpaid = (*story.SHIPPED, delivered(HAMBURG_PARCEL, *HAMBURG_LINES))
    scenario(DECIDER).given(*unpaid).when(BERLIN_DELIVERED).then(delivered(BERLIN_PARCEL, *BERLIN_LINES))
    underway = (*story.SHIPPED, captured(HAMBURG_PARCEL, story.HAMBURG_AMOUNT))
    scenario(DECIDER).given(*underway).when(BERLIN_CAPTURED).then(captured(BERLIN_PARCEL, story.BERLIN_AMOUNT))


def test_order_completed_by_hand_is_not_completed_again() -> None:
    past = (*story.PAID, delivered(HAMBURG_PARCEL, *HAMBURG_LINES), OrderCompleted(order_id=ORDER))
    scenario(DECIDER).given(*past).when(BERLIN_DELIVERED).then(delivered(BERLIN_PARCEL, *BERLIN_LINES))


def test_order_with_units_still_to_ship_is_not_complete() -> None:
    past = (*story.PARTLY_SHIPPED, captured(BERLIN_PARCEL, story.BERLIN_AMOUNT))
    scenario(DECIDER).given(*past).when(BERLIN_DELIVERED).then(delivered(BERLIN_PARCEL, *BERLIN_LINES))


@pytest.mark.parametrize("past", [*EARLY, story.RELEASED, story.CANCELLED])
@pytest.mark.parametrize(
    ("command", "code"), [(BERLIN_DELIVERED, "shipment_unknown"), (BERLIN_CAPTURED, "capture_unknown")]
)
def test_news_of_a_shipment_that_never_left_is_refused(past: story.Story, command: Any, code: str) -> None:
    scenario(DECIDER).given(*past).when(command).then_rejected(code)


def test_news_of_another_shipment_is_refused() -> None:
    given = scenario(DECIDER).given(*story.PARTLY_SHIPPED)
    given.when(RecordDelivery(ORDER, HAMBURG_PARCEL, HAMBURG_LINES)).then_rejected("shipment_unknown")
    given.when(RecordCapture(ORDER, HAMBURG_PARCEL, "c", 1)).then_rejected("capture_unknown")


def test_capture_that_failed_first_lifts_its_hold() -> None:
    failed = PlaceHold(ORDER, f"capture:{CAPTURE}", "PAYMENT", "capture failed: expired")
    given = scenario(DECIDER).given(*story.PARTLY_SHIPPED)
    when = given.given(*given.when(failed).decide()).when(BERLIN_CAPTURED)
    when.then(
        OrderHoldReleased(order_id=ORDER, hold_id=f"capture:{CAPTURE}", reason="captured after all"),
        captured(BERLIN_PARCEL, story.BERLIN_AMOUNT),
    )
    when.then_nothing_when_repeated()
