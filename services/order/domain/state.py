"""The order as its events made it, and when it wants to be woken."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal, assert_never

from libs.events.base import Destination, Pii, ReservedLine
from libs.events.order import (
    FulfillmentRequested,
    OrderAccepted,
    OrderCancellationRefused,
    OrderCancellationStarted,
    OrderCancelled,
    OrderCompleted,
    OrderConfirmed,
    OrderDuplicateDetected,
    OrderEvents,
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
    StockReservationRequested,
    StockShipmentConfirmed,
)
from libs.runtime.decider import Aggregate

Status = Literal[
    "new",
    "rejected",
    "accepted",
    "paying",
    "awaiting_method",
    "confirmed",
    "released",
    "in_fulfillment",
    "completed",
    "cancelled",
]

NEVER = datetime(1970, 1, 1, tzinfo=UTC)
NOT_RECEIVED = OrderReceived(
    order_id="",
    channel="",
    external_order_id="",
    external_revision=0,
    content_hash="",
    placed_at=NEVER,
    currency="",
    lines=(),
    shipping_method="",
    shipping_price=0,
    total=0,
    psp="",
    token="",
    split="ALLOW",
    destination=Destination(country="ZZ", lat=0.0, lon=0.0),
    pii=Pii(),
)


@dataclass(frozen=True, slots=True)
class Order:
    """`deadlines` are those of what is waited for now; `stuck_since` is the latest of them that was given up on.

    `trouble` has the id of every hold there ever was, so that a trouble heard of twice opens its hold once.
    """

    status: Status = "new"
    received: OrderReceived = NOT_RECEIVED
    revision: int = 0
    duplicates: frozenset[str] = frozenset()
    cancellation_kept: bool = False
    cancellation_refused: bool = False
    deadlines: tuple[datetime, ...] = ()
    stuck_since: datetime = NEVER
    reservation_attempt: int = 0
    reserved: tuple[ReservedLine, ...] = ()
    reservation_freed: bool = False
    attempt: int = 0
    token: str = ""
    expires_at: datetime = NEVER
    auth_id: str = ""
    voided: frozenset[str] = frozenset()
    nodes: Mapping[str, str] = field(default_factory=dict)
    shipped: tuple[ReservedLine, ...] = ()
    captures: Mapping[str, int] = field(default_factory=dict)
    captured: Mapping[str, int] = field(default_factory=dict)
    delivered: frozenset[str] = frozenset()
    refunds: Mapping[str, int] = field(default_factory=dict)
    holds: tuple[str, ...] = ()
    trouble: frozenset[str] = frozenset()

    @property
    def order_id(self) -> str:
        return self.received.order_id

    @property
    def known(self) -> bool:
        """It was received: not only cancelled ahead of its coming, or rejected."""
        return bool(self.order_id)

    @property
    def reservation_id(self) -> str:
        return f"{self.order_id}-r{self.revision}"

    @property
    def payment_id(self) -> str:
        return f"{self.order_id}-p"

    @property
    def shipped_by_line(self) -> Counter[str]:
        return _quantities(self.shipped)

    @property
    def wholly_shipped(self) -> bool:
        return self.shipped_by_line.total() >= sum(line.qty for line in self.received.lines)

    @property
    def settled(self) -> bool:
        """Everything is shipped, and every shipment delivered and paid for."""
        return self.wholly_shipped and all(it in self.delivered and it in self.captured for it in self.captures)

    @property
    def unshipped(self) -> tuple[ReservedLine, ...]:
        """What is still reserved, and where."""
        gone = Counter[tuple[str, str]]()
        for line in self.shipped:
            gone[line.line_id, line.location] += line.qty
        rest = ((line, line.qty - gone[line.line_id, line.location]) for line in self.reserved)
        return tuple(line.model_copy(update={"qty": qty}) for line, qty in rest if qty > 0)


def _quantities(lines: tuple[ReservedLine, ...]) -> Counter[str]:
    quantities = Counter[str]()
    for line in lines:
        quantities[line.line_id] += line.qty
    return quantities


def evolve(order: Order, event: OrderEvents) -> Order:
    match event:
        case OrderReceived():
            # always followed, in the same decision, by what became of it
            return replace(order, received=event, revision=event.external_revision)
        case OrderAccepted():
            return replace(order, status="accepted")
        case OrderRejected():
            return replace(order, status="rejected", revision=event.external_revision)
        case OrderDuplicateDetected():
            return replace(order, duplicates=order.duplicates | {event.content_hash})
        case StockReservationRequested():
            return replace(order, reservation_attempt=event.attempt, deadlines=(event.answer_by,))
        case PaymentAuthorizationRequested():
            return _asked_for_payment(order, event)
        case PaymentMethodUpdateRequested():
            expires_at = event.expires_at
            return replace(
                order, status="awaiting_method", deadlines=(expires_at,), expires_at=expires_at, stuck_since=NEVER
            )
        case OrderConfirmed():
            deadlines = (event.release_at,)
            return replace(order, status="confirmed", auth_id=event.auth_id, deadlines=deadlines, stuck_since=NEVER)
        case FulfillmentRequested():
            return _released(order, event)
        case StockShipmentConfirmed():
            return replace(order, shipped=order.shipped + event.lines)
        case PaymentCaptureRequested():
            captures = {**order.captures, event.shipment_id: event.amount}
            return replace(order, status="in_fulfillment", captures=captures)
        case OrderPaymentCaptured():
            return replace(order, captured={**order.captured, event.shipment_id: event.amount})
        case OrderShipmentDelivered():
            return replace(order, delivered=order.delivered | {event.shipment_id})
        case OrderCompleted():
            return replace(order, status="completed", deadlines=())
        case OrderCancellationStarted():
            return replace(order, cancellation_kept=True)
        case OrderCancelled():
            return replace(order, status="cancelled", deadlines=())
        case OrderCancellationRefused():
            return replace(order, cancellation_refused=True)
        case ReservationReleaseRequested():
            return replace(order, reservation_freed=True)
        case PaymentVoidRequested():
            return replace(order, voided=order.voided | {event.auth_id})
        case RefundRequested():
            return replace(order, refunds={**order.refunds, event.refund_id: event.amount})
        case OrderHoldPlaced():
            return replace(order, holds=(*order.holds, event.hold_id), trouble=order.trouble | {event.hold_id})
        case OrderHoldReleased():
            return replace(order, holds=tuple(it for it in order.holds if it != event.hold_id))
        case OrderStuckDetected():
            return replace(order, stuck_since=event.since)
        case OrderManuallyResolved():
            return order
        case _:
            assert_never(event)


def _asked_for_payment(order: Order, event: PaymentAuthorizationRequested) -> Order:
    return replace(
        order,
        status="paying",
        reserved=event.reserved,
        attempt=event.attempt,
        token=event.token,
        deadlines=(event.answer_by, event.expires_at),
        expires_at=event.expires_at,
        stuck_since=NEVER,
    )


def _released(order: Order, event: FulfillmentRequested) -> Order:
    return replace(
        order,
        status="released",
        nodes={**order.nodes, event.release_id: event.node},
        deadlines=(event.ship_by, event.deliver_by) if event.deliver_by else (event.ship_by,),
        stuck_since=NEVER,
    )


def payment_holds(order: Order) -> list[str]:
    """Open holds for an authorisation of which nobody knows what became."""
    return [hold_id for hold_id in order.holds if hold_id.startswith("payment:")]


def due(order: Order) -> datetime | None:
    if order.status == "paying" and payment_holds(order):
        return None  # the reservation waits for the outcome, however long it takes
    return min(open_deadlines(order), default=None)


def open_deadlines(order: Order) -> list[datetime]:
    deadlines = order.deadlines[1:] if order.status == "in_fulfillment" and order.wholly_shipped else order.deadlines
    return [deadline for deadline in deadlines if deadline > order.stuck_since]


ORDER = Aggregate(category="order", initial_state=Order, evolve=evolve, due=due)
