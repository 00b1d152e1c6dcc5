from dataclasses import replace
from typing import Any

import pytest

from libs.events.channel import Fault, OrderCancellationRequested, OrderPlaced, UnreadableOrder
from libs.events.fulfillment import (
    FulfillmentAccepted,
    FulfillmentRejected,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentLost,
    ShipmentReturnedToSender,
)
from libs.events.inventory import ReservationReleased, ShortLine, StockReservationRejected, StockReserved
from libs.events.payment import (
    PaymentAuthorizationVoided,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentCaptureFailed,
    PaymentDeclined,
    PaymentOutcomeResolved,
    PaymentOutcomeUnknown,
    PaymentVoidFailed,
    RefundFailed,
)
from libs.testing import order_story as story
from libs.testing.order_story import BERLIN, BERLIN_LINES, ORDER, PLACED
from libs.testing.scenario import NOW, recorded
from services.order.domain.command import (
    CancelOrder,
    Command,
    ConfirmOrder,
    DeclinePayment,
    PlaceHold,
    RecordCapture,
    RecordDelivery,
    RecordDispatch,
    RecordReservation,
    RecordShortage,
    RegisterOrder,
    RejectUnreadable,
    ResumePayment,
    SuspendPayment,
)
from services.order.policy import WANTS, react

STOCK: dict[str, Any] = {"reservation_id": story.RESERVATION, "order_id": ORDER, "request_id": "res"}
PAYMENT: dict[str, Any] = {"payment_id": story.PAYMENT, "order_id": ORDER}
MONEY: dict[str, Any] = {**PAYMENT, "amount": 7, "currency": "EUR"}
RELEASE: dict[str, Any] = {"release_id": BERLIN, "order_id": ORDER, "node": "berlin"}
SHIPMENT: dict[str, Any] = {"shipment_id": "s1", "order_id": ORDER, "release_id": BERLIN}
UNREADABLE = UnreadableOrder(channel="web", external_order_id="W-1", reasons=(Fault(code="json_invalid"),))


def unknown(operation: Any) -> PaymentOutcomeUnknown:
    return PaymentOutcomeUnknown(**PAYMENT, operation=operation, idempotency_key="k")


def resolved(operation: Any) -> PaymentOutcomeResolved:
    return PaymentOutcomeResolved(**PAYMENT, operation=operation, idempotency_key="k", source="LOOKUP")


REACTIONS: list[tuple[Any, Command]] = [
    (PLACED, RegisterOrder(ORDER, PLACED)),
    (UNREADABLE, RejectUnreadable(ORDER, UNREADABLE)),
    (
        OrderCancellationRequested(channel="web", external_order_id="W-1", reason="late"),
        CancelOrder(ORDER, "late", "web", "W-1"),
    ),
    (
        StockReserved(**STOCK, lines=story.RESERVED, expires_at=NOW),
        RecordReservation(ORDER, story.RESERVATION, story.RESERVED),
    ),
    (
        StockReservationRejected(**STOCK, short_lines=(ShortLine(line_id="1", sku="S", qty=2, available=1),)),
        RecordShortage(ORDER),
    ),
    (
        PaymentAuthorized(**MONEY, attempt=1, auth_id="au_1", expires_at=NOW),
        ConfirmOrder(ORDER, story.PAYMENT, "au_1", 7),
    ),
    (
        PaymentDeclined(**PAYMENT, attempt=2, code="stolen", retryable=True),
        DeclinePayment(ORDER, 2, "stolen", True),
    ),
    (unknown("AUTHORIZE"), SuspendPayment(ORDER, "k")),
    (resolved("AUTHORIZE"), ResumePayment(ORDER)),
    (
        PaymentCaptured(**MONEY, capture_id="c1", shipment_id="s1", psp_reference="p"),
        RecordCapture(ORDER, "s1", "c1", 7),
    ),
    (
        PaymentCaptureFailed(**MONEY, capture_id="c1", shipment_id="s1", code="expired"),
        PlaceHold(ORDER, "capture:c1", "PAYMENT", "capture failed: expired"),
    ),
    (
        PaymentVoidFailed(**PAYMENT, auth_id="au_1", code="gone"),
        PlaceHold(ORDER, "void:au_1", "MANUAL", "void of au_1 failed: gone"),
    ),
    (
        RefundFailed(**MONEY, refund_id="f1", code="closed"),
        PlaceHold(ORDER, "refund:f1", "MANUAL", "refund f1 failed: closed"),
    ),
    (
        FulfillmentRejected(**RELEASE, reason="flooded"),
        PlaceHold(ORDER, f"release:{BERLIN}", "MANUAL", "berlin will not ship: flooded"),
    ),
    (
        ShipmentDispatched(
            **SHIPMENT, node="berlin", package_ids=("p1",), carrier="dhl", tracking_numbers=("t",), lines=BERLIN_LINES
        ),
        RecordDispatch(ORDER, "s1", BERLIN, BERLIN_LINES),
    ),
    (ShipmentDelivered(**SHIPMENT, lines=BERLIN_LINES), RecordDelivery(ORDER, "s1", BERLIN_LINES)),
    (ShipmentLost(**SHIPMENT, package_id="p1"), PlaceHold(ORDER, "lost:s1:p1", "MANUAL", "p1 is lost")),
    (
        ShipmentReturnedToSender(**SHIPMENT, package_id="p1"),
        PlaceHold(ORDER, "returned:s1:p1", "MANUAL", "p1 goes back to its sender"),
    ),
]


def heard(event: Any) -> Any:
    # an UnreadableOrder is made by the reader of the channel topic: it has no name on the wire
    return replace(recorded(PLACED), event=event)


@pytest.mark.parametrize(("event", "command"), REACTIONS)
def test_event_that_is_wanted_gives_its_command(event: Any, command: Command) -> None:
    assert react(heard(event)) == [command]


def test_everything_wanted_is_reacted_to() -> None:
    assert {type(event) for event, _ in REACTIONS} == WANTS
    assert OrderPlaced in WANTS


@pytest.mark.parametrize(
    "event",
    [
        unknown("CAPTURE"),
        resolved("REFUND"),
        ReservationReleased(**STOCK, lines=(), reason="LATE"),
        PaymentAuthorizationVoided(**PAYMENT, auth_id="au_1"),
        FulfillmentAccepted(**RELEASE),
        story.RECEIVED,
    ],
)
def test_other_events_are_left_alone(event: Any) -> None:
    assert react(heard(event)) == []
