"""Whenever a channel or another service says something, this is what the order is told to do."""

from collections.abc import Sequence
from typing import Any

from libs.events.channel import OrderCancellationRequested, OrderPlaced, UnreadableOrder
from libs.events.envelope import Recorded
from libs.events.fulfillment import (
    FulfillmentRejected,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentLost,
    ShipmentReturnedToSender,
)
from libs.events.inventory import StockReservationRejected, StockReserved
from libs.events.payment import (
    PaymentAuthorized,
    PaymentCaptured,
    PaymentCaptureFailed,
    PaymentDeclined,
    PaymentOutcomeResolved,
    PaymentOutcomeUnknown,
    PaymentVoidFailed,
    RefundFailed,
)
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

WANTS: frozenset[type] = frozenset(
    {
        OrderPlaced,
        UnreadableOrder,
        OrderCancellationRequested,
        StockReserved,
        StockReservationRejected,
        PaymentAuthorized,
        PaymentDeclined,
        PaymentOutcomeUnknown,
        PaymentOutcomeResolved,
        PaymentCaptured,
        PaymentCaptureFailed,
        PaymentVoidFailed,
        RefundFailed,
        FulfillmentRejected,
        ShipmentDispatched,
        ShipmentDelivered,
        ShipmentLost,
        ShipmentReturnedToSender,
    }
)


def react(recorded: Recorded[Any]) -> Sequence[Command]:
    match recorded.event:
        case OrderPlaced() as event:
            return [RegisterOrder(event.order_id, event)]
        case UnreadableOrder() as event:
            return [RejectUnreadable(event.order_id, event)]
        case OrderCancellationRequested() as event:
            return [CancelOrder(event.order_id, event.reason, event.channel, event.external_order_id)]
        case StockReserved() as event:
            return [RecordReservation(event.order_id, event.reservation_id, event.lines)]
        case StockReservationRejected() as event:
            return [RecordShortage(event.order_id)]
        case PaymentAuthorized() as event:
            return [ConfirmOrder(event.order_id, event.payment_id, event.auth_id, event.amount)]
        case PaymentDeclined() as event:
            return [DeclinePayment(event.order_id, event.attempt, event.code, event.retryable)]
        case PaymentOutcomeUnknown(operation="AUTHORIZE") as event:
            return [SuspendPayment(event.order_id, event.idempotency_key)]
        case PaymentOutcomeResolved(operation="AUTHORIZE") as event:
            return [ResumePayment(event.order_id)]
        case PaymentCaptured() as event:
            return [RecordCapture(event.order_id, event.shipment_id, event.capture_id, event.amount)]
        case ShipmentDispatched() as event:
            return [RecordDispatch(event.order_id, event.shipment_id, event.release_id, event.lines)]
        case ShipmentDelivered() as event:
            return [RecordDelivery(event.order_id, event.shipment_id, event.lines)]
        case _:
            return _trouble(recorded.event)


def _trouble(event: Any) -> Sequence[Command]:
    """What only a person can settle."""
    match event:
        case PaymentCaptureFailed(order_id=order_id, capture_id=capture_id, code=code):
            return [PlaceHold(order_id, f"capture:{capture_id}", "PAYMENT", f"capture failed: {code}")]
        case PaymentVoidFailed(order_id=order_id, auth_id=auth_id, code=code):
            return [PlaceHold(order_id, f"void:{auth_id}", "MANUAL", f"void of {auth_id} failed: {code}")]
        case RefundFailed(order_id=order_id, refund_id=refund_id, code=code):
            return [PlaceHold(order_id, f"refund:{refund_id}", "MANUAL", f"refund {refund_id} failed: {code}")]
        case FulfillmentRejected(order_id=order_id, release_id=release_id, node=node, reason=reason):
            return [PlaceHold(order_id, f"release:{release_id}", "MANUAL", f"{node} will not ship: {reason}")]
        case ShipmentLost(order_id=order_id, shipment_id=shipment_id, package_id=package_id):
            return [PlaceHold(order_id, f"lost:{shipment_id}:{package_id}", "MANUAL", f"{package_id} is lost")]
        case ShipmentReturnedToSender(order_id=order_id, shipment_id=shipment_id, package_id=package_id):
            reason = f"{package_id} goes back to its sender"
            return [PlaceHold(order_id, f"returned:{shipment_id}:{package_id}", "MANUAL", reason)]
        case _:
            return []
