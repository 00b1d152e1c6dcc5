"""How an order comes in, and how it goes before anything of it has been released."""

import hashlib
from datetime import datetime
from typing import assert_never

import orjson

from libs.events.base import Destination, Pii
from libs.events.channel import Fault, OrderPlaced
from libs.events.order import (
    CancelReason,
    OrderAccepted,
    OrderCancellationRefused,
    OrderCancellationStarted,
    OrderCancelled,
    OrderDuplicateDetected,
    OrderEvents,
    OrderLine,
    OrderReceived,
    OrderRejected,
    PaymentVoidRequested,
    RequestedLine,
    ReservationReleaseRequested,
    StockReservationRequested,
)
from libs.runtime.decider import CommandRejected
from services.order.domain.command import CancelOrder, RegisterOrder, RejectUnreadable
from services.order.domain.state import Order
from services.order.domain.timers import OrderTimers
from services.order.domain.validation import text_faults, validate


def register(command: RegisterOrder, order: Order, now: datetime, timers: OrderTimers) -> list[OrderEvents]:
    placed = command.placed
    match order.status:
        case "new":
            return _judge(command.order_id, placed, order, now, timers)
        case "rejected":
            if placed.external_revision > order.revision:
                return _judge(command.order_id, placed, order, now, timers)
            if validate(placed):
                return []
            raise CommandRejected("order_rejected", "only a higher external_revision registers it afresh")
        case (
            "accepted"
            | "paying"
            | "awaiting_method"
            | "confirmed"
            | "released"
            | "in_fulfillment"
            | "completed"
            | "cancelled"
        ):
            return _compare(placed, order)
        case _:
            assert_never(order.status)


def _judge(order_id: str, placed: OrderPlaced, order: Order, now: datetime, timers: OrderTimers) -> list[OrderEvents]:
    if faults := validate(placed):
        return [_rejected(order_id, placed.channel, placed.external_order_id, placed.external_revision, faults)]
    received = _received(order_id, placed)
    if order.cancellation_kept:
        return [received, OrderCancelled(order_id=order_id, reason="CUSTOMER")]
    return [received, OrderAccepted(order_id=order_id), reservation_requested(received, 1, now, timers)]


def _compare(placed: OrderPlaced, order: Order) -> list[OrderEvents]:
    content = content_hash(placed)
    if content == order.received.content_hash:
        return []
    if content in order.duplicates:
        raise CommandRejected("order_exists", "an order of other content has this external id")
    revision = placed.external_revision
    return [OrderDuplicateDetected(order_id=order.order_id, external_revision=revision, content_hash=content)]


def content_hash(placed: OrderPlaced) -> str:
    """Of the content alone: neither the order of keys nor a default spelled out (or added later) changes it."""
    content = placed.model_dump(exclude_defaults=True)
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _received(order_id: str, placed: OrderPlaced) -> OrderReceived:
    destination, pii = placed.destination, placed.pii
    return OrderReceived(
        order_id=order_id,
        channel=placed.channel,
        external_order_id=placed.external_order_id,
        external_revision=placed.external_revision,
        content_hash=content_hash(placed),
        placed_at=placed.placed_at,
        currency=placed.currency,
        lines=tuple(
            OrderLine(
                line_id=line.line_id,
                sku=line.sku,
                qty=line.qty,
                amount=line.amount,
                tax=line.tax,
                discount=line.discount,
                node=line.node,
            )
            for line in placed.lines
        ),
        shipping_method=placed.shipping.method,
        shipping_price=placed.shipping.price,
        total=placed.totals.grand,
        psp=placed.payment.psp,
        token=placed.payment.token,
        split=placed.policies.split,
        destination=Destination(
            country=destination.country, postal_code=destination.postal_code, lat=destination.lat, lon=destination.lon
        ),
        pii=Pii(customer_id=pii.customer_id, email=pii.email, ship_to=pii.ship_to, bill_to=pii.bill_to),
    )


def reservation_requested(
    received: OrderReceived, attempt: int, now: datetime, timers: OrderTimers
) -> StockReservationRequested:
    """The same request however often it is sent: only `attempt` and the deadlines differ."""
    order_id, revision = received.order_id, received.external_revision
    return StockReservationRequested(
        order_id=order_id,
        request_id=f"res:{order_id}:{revision}",
        reservation_id=f"{order_id}-r{revision}",
        attempt=attempt,
        lines=tuple(
            RequestedLine(line_id=line.line_id, sku=line.sku, qty=line.qty, node=line.node) for line in received.lines
        ),
        split=received.split,
        destination=received.destination,
        answer_by=now + timers.stock_answer,
        expires_at=now + timers.reservation,
    )


def reject_unreadable(command: RejectUnreadable, order: Order) -> list[OrderEvents]:
    unreadable = command.unreadable
    match order.status:
        case "rejected" if unreadable.external_revision <= order.revision:
            return []
        case "new" | "rejected":
            ids = (unreadable.channel, unreadable.external_order_id, unreadable.external_revision)
            return [_rejected(command.order_id, *ids, unreadable.reasons)]
        case (
            "accepted"
            | "paying"
            | "awaiting_method"
            | "confirmed"
            | "released"
            | "in_fulfillment"
            | "completed"
            | "cancelled"
        ):
            raise CommandRejected("order_exists", "an order has this external id")
        case _:
            assert_never(order.status)


def _rejected(
    order_id: str, channel: str, external_order_id: str, external_revision: int, reasons: tuple[Fault, ...]
) -> OrderRejected:
    return OrderRejected(
        order_id=order_id,
        channel=channel,
        external_order_id=external_order_id,
        external_revision=external_revision,
        reasons=reasons,
    )


def cancel(command: CancelOrder, order: Order) -> list[OrderEvents]:
    match order.status:
        case "new":
            return _keep_cancellation(command, order)
        case "rejected" | "cancelled":
            return []
        case "accepted" | "paying" | "awaiting_method" | "confirmed":
            return called_off(order, "CUSTOMER")
        case "released" | "in_fulfillment" | "completed":
            if order.cancellation_refused:
                return []
            return [OrderCancellationRefused(order_id=order.order_id, reason="RELEASED")]
        case _:
            assert_never(order.status)


def _keep_cancellation(command: CancelOrder, order: Order) -> list[OrderEvents]:
    if order.cancellation_kept:
        return []
    if not command.channel:
        raise CommandRejected("order_unknown")
    return [
        OrderCancellationStarted(
            order_id=command.order_id,
            channel=command.channel,
            external_order_id=command.external_order_id,
            reason="" if any(text_faults("reason", command.reason)) else command.reason,
        )
    ]


def called_off(order: Order, reason: CancelReason) -> list[OrderEvents]:
    """The order ends: what is reserved goes back, and what is authorised is void."""
    return [
        *reservation_released(order, reason),
        *authorization_voided(order, reason),
        OrderCancelled(order_id=order.order_id, reason=reason),
    ]


def reservation_released(order: Order, reason: CancelReason) -> list[ReservationReleaseRequested]:
    lines = order.unshipped
    if not lines:
        return []
    return [
        ReservationReleaseRequested(
            order_id=order.order_id,
            request_id=f"rel:{order.reservation_id}:{reason}:1",
            reservation_id=order.reservation_id,
            reason=reason,
            lines=lines,
        )
    ]


def authorization_voided(order: Order, reason: CancelReason) -> list[PaymentVoidRequested]:
    if not order.auth_id:
        return []
    return [
        PaymentVoidRequested(
            order_id=order.order_id,
            request_id=f"void:{order.auth_id}",
            payment_id=order.payment_id,
            auth_id=order.auth_id,
            reason=reason,
        )
    ]
