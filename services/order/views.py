"""The order as people see it: no personal data, and no payment token."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from libs.events.base import ReleaseLine, ReservedLine
from libs.events.channel import Fault
from libs.events.envelope import Recorded
from libs.events.order import (
    FulfillmentRequested,
    HoldType,
    OrderAccepted,
    OrderCancellationRefused,
    OrderCancellationStarted,
    OrderCancelled,
    OrderCompleted,
    OrderConfirmed,
    OrderDuplicateDetected,
    OrderEvent,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderManuallyResolved,
    OrderPaymentCaptured,
    OrderReceived,
    OrderRejected,
    OrderShipmentDelivered,
    OrderStuckDetected,
    PaymentAuthorizationRequested,
    PaymentCaptureRequested,
    PaymentMethodUpdateRequested,
    PaymentVoidRequested,
    RefundRequested,
    ReservationReleaseRequested,
)
from libs.runtime.projection import Projection

OrderStatus = Literal[
    "RECEIVED", "ACCEPTED", "CONFIRMED", "IN_FULFILLMENT", "COMPLETED", "REJECTED", "CANCEL_PENDING", "CANCELLED"
]
PaymentStatus = Literal["NONE", "PENDING", "DECLINED", "AUTHORIZED", "PARTIALLY_CAPTURED", "CAPTURED", "VOIDED"]
FulfillmentStatus = Literal[
    "UNFULFILLED", "ALLOCATED", "RELEASED", "PARTIALLY_SHIPPED", "SHIPPED", "PARTIALLY_DELIVERED", "DELIVERED"
]
Stuck = Literal["no", "STOCK", "PAYMENT", "FULFILLMENT"]
Bucket = Literal["open", "reserved", "released", "shipped", "delivered", "cancelled"]


class View(BaseModel):
    model_config = ConfigDict(frozen=True)


class LineView(View):
    """Where the ordered units are: the buckets always add up to `ordered`. Amounts are totals of the line."""

    line_id: str
    sku: str
    ordered: int
    amount: int
    tax: int
    discount: int
    open: int
    reserved: int = 0
    released: int = 0
    shipped: int = 0
    delivered: int = 0
    cancelled: int = 0


class HoldView(View):
    hold_id: str
    type: HoldType
    reason: str
    since: datetime


class ShipmentView(View):
    shipment_id: str
    amount: int
    captured: bool = False
    delivered: bool = False


class ResolutionView(View):
    """What an operator settled by hand."""

    resolution: Literal["CANCEL", "COMPLETE", "RELEASE_HOLD"]
    by: str
    reason: str
    at: datetime


class OrderView(View):
    """An order with its three axes. Money is in minor units of `currency`; `reason` says why it ended or was refused.

    `stuck` names the answer that is overdue; `has_hold` is "yes" while somebody must look at it.
    """

    order_id: str
    channel: str = ""
    external_order_id: str = ""
    external_revision: int = 0
    status: OrderStatus
    payment_status: PaymentStatus = "NONE"
    fulfillment_status: FulfillmentStatus = "UNFULFILLED"
    has_hold: Literal["yes", "no"] = "no"
    stuck: Stuck = "no"
    reason: str = ""
    rejections: tuple[Fault, ...] = ()
    placed_at: datetime | None = None
    payment_method_by: datetime | None = None
    release_at: datetime | None = None
    currency: str = ""
    total: int = 0
    authorized: int = 0
    captured: int = 0
    refund_requested: int = 0
    cancellation_refused: bool = False
    duplicates: int = 0
    lines: tuple[LineView, ...] = ()
    shipments: tuple[ShipmentView, ...] = ()
    holds: tuple[HoldView, ...] = ()
    resolutions: tuple[ResolutionView, ...] = ()
    updated_at: datetime


def key(recorded: Recorded[Any]) -> str | None:
    return recorded.event.order_id if isinstance(recorded.event, OrderEvent) else None


def evolve(view: OrderView | None, recorded: Recorded[Any]) -> OrderView:
    at = recorded.occurred_at
    match recorded.event:
        case OrderReceived() as event:
            return _received(event, at)
        case OrderRejected() as event:
            return _rejected(event, at)
        case OrderCancellationStarted() as event:
            return _cancelled_ahead(event, at)
        case event:
            view = view or OrderView(order_id=event.order_id, status="RECEIVED", updated_at=at)
            return view.model_copy(update={"updated_at": at, **_changes(view, event, at)})


def _received(event: OrderReceived, at: datetime) -> OrderView:
    return OrderView(
        order_id=event.order_id,
        channel=event.channel,
        external_order_id=event.external_order_id,
        external_revision=event.external_revision,
        status="RECEIVED",
        placed_at=event.placed_at,
        currency=event.currency,
        total=event.total,
        lines=tuple(
            LineView(
                line_id=line.line_id,
                sku=line.sku,
                ordered=line.qty,
                amount=line.amount,
                tax=line.tax,
                discount=line.discount,
                open=line.qty,
            )
            for line in event.lines
        ),
        updated_at=at,
    )


def _rejected(event: OrderRejected, at: datetime) -> OrderView:
    return OrderView(
        order_id=event.order_id,
        channel=event.channel,
        external_order_id=event.external_order_id,
        external_revision=event.external_revision,
        status="REJECTED",
        rejections=event.reasons,
        updated_at=at,
    )


def _cancelled_ahead(event: OrderCancellationStarted, at: datetime) -> OrderView:
    return OrderView(
        order_id=event.order_id,
        channel=event.channel,
        external_order_id=event.external_order_id,
        status="CANCEL_PENDING",
        reason=event.reason,
        updated_at=at,
    )


def _changes(view: OrderView, event: OrderEvent, at: datetime) -> Mapping[str, object]:
    match event:
        case OrderAccepted():
            return {"status": "ACCEPTED"}
        case OrderCompleted():
            return {"status": "COMPLETED", "stuck": "no"}
        case OrderCancelled():
            lines = tuple(_moved(line, line.ordered, "open", "reserved", "released") for line in view.lines)
            declined = {"payment_status": "DECLINED"} if event.reason == "PAYMENT_DECLINED" else {}
            ended = {"reason": event.reason, "stuck": "no", "fulfillment_status": fulfillment_status(lines)}
            return {"status": "CANCELLED", "lines": lines, **ended, **declined}
        case OrderCancellationRefused():
            return {"cancellation_refused": True}
        case OrderDuplicateDetected():
            return {"duplicates": view.duplicates + 1}
        case OrderStuckDetected():
            return {"stuck": event.waiting_for}
        case OrderManuallyResolved():
            resolution = ResolutionView(resolution=event.resolution, by=event.by, reason=event.reason, at=at)
            return {"resolutions": (*view.resolutions, resolution)}
        case OrderHoldPlaced():
            hold = HoldView(hold_id=event.hold_id, type=event.type, reason=event.reason, since=at)
            return _held((*view.holds, hold))
        case OrderHoldReleased():
            return _held(tuple(hold for hold in view.holds if hold.hold_id != event.hold_id))
        case _:
            return _payment_changes(view, event) or _fulfillment_changes(view, event)


def _payment_changes(view: OrderView, event: OrderEvent) -> Mapping[str, object]:
    match event:
        case PaymentAuthorizationRequested():
            reserved = _stocked(view, event.reserved, "reserved", "open")
            return {"payment_status": "PENDING", "payment_method_by": None, "stuck": "no", **reserved}
        case PaymentMethodUpdateRequested():
            return {"payment_status": "DECLINED", "payment_method_by": event.expires_at, "stuck": "no"}
        case OrderConfirmed():
            confirmed = {"authorized": event.amount, "release_at": event.release_at, "payment_method_by": None}
            return {"status": "CONFIRMED", "payment_status": "AUTHORIZED", "stuck": "no", **confirmed}
        case PaymentVoidRequested() if view.status == "CANCELLED" or event.reason != "LATE":
            return {"payment_status": "VOIDED"}
        case OrderPaymentCaptured():
            captured = view.captured + event.amount
            status = "CAPTURED" if captured >= view.total else "PARTIALLY_CAPTURED"
            shipments = _marked(view.shipments, event.shipment_id, "captured")
            return {"payment_status": status, "captured": captured, "shipments": shipments}
        case RefundRequested():
            return {"refund_requested": view.refund_requested + event.amount}
        case _:
            return {}


def _fulfillment_changes(view: OrderView, event: OrderEvent) -> Mapping[str, object]:
    match event:
        case FulfillmentRequested():
            return {"stuck": "no", **_stocked(view, event.lines, "released", "reserved")}
        case PaymentCaptureRequested():
            shipment = ShipmentView(shipment_id=event.shipment_id, amount=event.amount)
            shipped = _stocked(view, event.lines, "shipped", "released")
            return {"status": "IN_FULFILLMENT", "shipments": (*view.shipments, shipment), **shipped}
        case OrderShipmentDelivered():
            shipments = _marked(view.shipments, event.shipment_id, "delivered")
            return {"shipments": shipments, **_stocked(view, event.lines, "delivered", "shipped")}
        case ReservationReleaseRequested() if event.reason != "LATE":
            return _stocked(view, event.lines, "cancelled", "released", "reserved")
        case _:
            return {}


def _held(holds: tuple[HoldView, ...]) -> Mapping[str, object]:
    return {"holds": holds, "has_hold": "yes" if holds else "no"}


def _marked(
    shipments: tuple[ShipmentView, ...], shipment_id: str, mark: Literal["captured", "delivered"]
) -> tuple[ShipmentView, ...]:
    return tuple(
        shipment.model_copy(update={mark: True}) if shipment.shipment_id == shipment_id else shipment
        for shipment in shipments
    )


def _stocked(
    view: OrderView, moved: Sequence[ReleaseLine | ReservedLine], target: Bucket, *sources: Bucket
) -> Mapping[str, object]:
    """The lines after these units went to the target, and the axis that follows from them."""
    quantities: dict[str, int] = {}
    for line in moved:
        quantities[line.line_id] = quantities.get(line.line_id, 0) + line.qty
    lines = tuple(_moved(line, quantities.get(line.line_id, 0), *sources, target=target) for line in view.lines)
    return {"lines": lines, "fulfillment_status": fulfillment_status(lines)}


def _moved(line: LineView, qty: int, *sources: Bucket, target: Bucket = "cancelled") -> LineView:
    changes: dict[str, int] = {}
    for source in sources:
        taken = min(qty, getattr(line, source))
        changes[source] = getattr(line, source) - taken
        qty -= taken
    moved = sum(getattr(line, source) - left for source, left in changes.items())
    return line.model_copy(update={**changes, target: getattr(line, target) + moved}) if moved else line


def fulfillment_status(lines: Sequence[LineView]) -> FulfillmentStatus:
    """The furthest that any unit is; partial while another unit that still counts is not as far."""
    behind_shipped = any(line.open or line.reserved or line.released for line in lines)
    if any(line.delivered for line in lines):
        return "PARTIALLY_DELIVERED" if behind_shipped or any(line.shipped for line in lines) else "DELIVERED"
    if any(line.shipped for line in lines):
        return "PARTIALLY_SHIPPED" if behind_shipped else "SHIPPED"
    if any(line.released for line in lines):
        return "RELEASED"
    return "ALLOCATED" if any(line.reserved for line in lines) else "UNFULFILLED"


ORDER_VIEW = Projection(
    name="order_view",
    view=OrderView,
    key=key,
    evolve=evolve,
    indexed=("status", "channel", "external_order_id", "has_hold", "stuck"),
)
