"""Events of the order service, on streams `order-{order_id}`. Every `…Requested` asks another service for a fact."""

from datetime import datetime
from typing import ClassVar, Literal

from libs.events.base import Destination, Event, Pii, ReleaseLine, ReservedLine, Value
from libs.events.channel import Fault

CancelReason = Literal["OUT_OF_STOCK", "PAYMENT_DECLINED", "EXPIRED", "CUSTOMER", "MANUAL"]
HoldType = Literal["PAYMENT", "MANUAL"]


class OrderLine(Value):
    """`amount`, `tax`, `discount` are line totals in minor units; the line is worth amount + tax - discount."""

    line_id: str
    sku: str
    qty: int
    amount: int
    tax: int
    discount: int
    node: str | None = None


class RequestedLine(Value):
    line_id: str
    sku: str
    qty: int
    node: str | None = None


class OrderEvent(Event):
    category: ClassVar[str] = "order"
    stream_field: ClassVar[str] = "order_id"
    order_id: str


class OrderReceived(OrderEvent):
    """The order as the channel placed it. `content_hash` tells a repeat from a changed order."""

    channel: str
    external_order_id: str
    external_revision: int
    content_hash: str
    placed_at: datetime
    currency: str
    lines: tuple[OrderLine, ...]
    shipping_method: str
    shipping_price: int
    total: int
    psp: str
    token: str
    split: Literal["ALLOW", "NO"]
    destination: Destination
    pii: Pii


class OrderAccepted(OrderEvent):
    pass


class OrderRejected(OrderEvent):
    """What was placed cannot be an order; a higher `external_revision` may register it afresh."""

    channel: str
    external_order_id: str
    external_revision: int
    reasons: tuple[Fault, ...]


class OrderDuplicateDetected(OrderEvent):
    """The channel sent other content under an external id that is already an order."""

    external_revision: int
    content_hash: str


class StockReservationRequested(OrderEvent):
    """`expires_at` only feeds an alarm in inventory; `answer_by` is when the order asks again (T1)."""

    request_id: str
    reservation_id: str
    attempt: int
    lines: tuple[RequestedLine, ...]
    split: Literal["ALLOW", "NO"]
    destination: Destination
    answer_by: datetime
    expires_at: datetime


class PaymentAuthorizationRequested(OrderEvent):
    """Carries what was reserved, so that the order remembers it. Not to be sent to the PSP before `not_before`."""

    request_id: str
    payment_id: str
    attempt: int
    amount: int
    currency: str
    psp: str
    token: str
    reserved: tuple[ReservedLine, ...]
    not_before: datetime
    answer_by: datetime
    expires_at: datetime


class PaymentMethodUpdateRequested(OrderEvent):
    """The customer must name another payment method by `expires_at` (T5), or the order is cancelled."""

    attempt: int
    code: str
    expires_at: datetime


class OrderConfirmed(OrderEvent):
    """Stock is held and funds are authorised. Released to its nodes at `release_at` (T4)."""

    payment_id: str
    auth_id: str
    amount: int
    release_at: datetime


class FulfillmentRequested(OrderEvent):
    """A release: what one node shall ship of the order, by `ship_by` (T10). `deliver_by` (T11) is the order's alarm."""

    request_id: str
    release_id: str
    node: str
    lines: tuple[ReleaseLine, ...]
    shipping_method: str
    destination: Destination
    ship_by: datetime
    deliver_by: datetime | None = None
    pii: Pii


class StockShipmentConfirmed(OrderEvent):
    """Tells inventory that the goods have left, so that the reservation is consumed."""

    request_id: str
    reservation_id: str
    shipment_id: str
    lines: tuple[ReservedLine, ...]


class PaymentCaptureRequested(OrderEvent):
    request_id: str
    payment_id: str
    capture_id: str
    shipment_id: str
    amount: int
    currency: str
    lines: tuple[ReleaseLine, ...]


class OrderPaymentCaptured(OrderEvent):
    shipment_id: str
    amount: int


class OrderShipmentDelivered(OrderEvent):
    shipment_id: str
    lines: tuple[ReleaseLine, ...]


class OrderCompleted(OrderEvent):
    pass


class OrderCancellationStarted(OrderEvent):
    """A cancellation that overtook its order: kept, so that the order is cancelled when it arrives."""

    channel: str = ""
    external_order_id: str = ""
    reason: str


class OrderCancelled(OrderEvent):
    counted_by: ClassVar[str] = "reason"
    reason: CancelReason


class OrderCancellationRefused(OrderEvent):
    reason: Literal["RELEASED"]


class ReservationReleaseRequested(OrderEvent):
    request_id: str
    reservation_id: str
    reason: CancelReason | Literal["LATE"]
    lines: tuple[ReservedLine, ...]


class PaymentVoidRequested(OrderEvent):
    request_id: str
    payment_id: str
    auth_id: str
    reason: CancelReason | Literal["LATE"]


class RefundRequested(OrderEvent):
    request_id: str
    payment_id: str
    refund_id: str
    amount: int
    currency: str
    by: str
    reason: str


class OrderHoldPlaced(OrderEvent):
    """Someone must look: `reason` says at what. A hold is not a status."""

    counted_by: ClassVar[str] = "type"
    hold_id: str
    type: HoldType
    reason: str


class OrderHoldReleased(OrderEvent):
    hold_id: str
    reason: str


class OrderStuckDetected(OrderEvent):
    """An answer is overdue; `waiting_for` names it."""

    counted_by: ClassVar[str] = "waiting_for"
    waiting_for: Literal["STOCK", "PAYMENT", "FULFILLMENT"]
    since: datetime


class OrderManuallyResolved(OrderEvent):
    """An operator settled the order by hand: who and why."""

    resolution: Literal["CANCEL", "COMPLETE", "RELEASE_HOLD"]
    by: str
    reason: str


OrderEvents = (
    OrderReceived
    | OrderAccepted
    | OrderRejected
    | OrderDuplicateDetected
    | StockReservationRequested
    | PaymentAuthorizationRequested
    | PaymentMethodUpdateRequested
    | OrderConfirmed
    | FulfillmentRequested
    | StockShipmentConfirmed
    | PaymentCaptureRequested
    | OrderPaymentCaptured
    | OrderShipmentDelivered
    | OrderCompleted
    | OrderCancellationStarted
    | OrderCancelled
    | OrderCancellationRefused
    | ReservationReleaseRequested
    | PaymentVoidRequested
    | RefundRequested
    | OrderHoldPlaced
    | OrderHoldReleased
    | OrderStuckDetected
    | OrderManuallyResolved
)
