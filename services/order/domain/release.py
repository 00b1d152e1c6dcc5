"""From a confirmed order to goods that are shipped, delivered and paid for."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import reduce
from typing import assert_never

from libs.events.base import ReleaseLine, ReservedLine
from libs.events.order import (
    FulfillmentRequested,
    OrderCompleted,
    OrderEvents,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderPaymentCaptured,
    OrderShipmentDelivered,
    PaymentCaptureRequested,
    StockShipmentConfirmed,
)
from libs.runtime.decider import CommandRejected
from services.order.domain.command import RecordCapture, RecordDelivery, RecordDispatch
from services.order.domain.state import Order, evolve
from services.order.domain.timers import OrderTimers


def releases(order: Order, now: datetime, timers: OrderTimers) -> list[FulfillmentRequested]:
    """One for each node that holds something of the order."""
    nodes = dict.fromkeys(line.location for line in order.reserved)
    return [_release(order, node, now + timers.ship, timers) for node in nodes]


def _release(order: Order, node: str, ship_by: datetime, timers: OrderTimers) -> FulfillmentRequested:
    release_id = f"{order.order_id}-{node}-1"
    return FulfillmentRequested(
        order_id=order.order_id,
        request_id=f"rls:{release_id}",
        release_id=release_id,
        node=node,
        lines=tuple(_release_line(line) for line in order.reserved if line.location == node),
        shipping_method=order.received.shipping_method,
        destination=order.received.destination,
        ship_by=ship_by,
        deliver_by=ship_by + timers.delivery,
        pii=order.received.pii,
    )


def _release_line(line: ReservedLine) -> ReleaseLine:
    return ReleaseLine(line_id=line.line_id, sku=line.sku, qty=line.qty)


def record_dispatch(command: RecordDispatch, order: Order) -> list[OrderEvents]:
    match order.status:
        case "new" | "rejected" | "accepted" | "paying" | "awaiting_method" | "confirmed":
            raise CommandRejected("order_not_released")
        case "released" | "in_fulfillment":
            return [] if command.shipment_id in order.captures else _dispatched(command, order)
        case "completed" | "cancelled":
            return [] if command.shipment_id in order.captures else _unexpected(command, order)
        case _:
            assert_never(order.status)


def _dispatched(command: RecordDispatch, order: Order) -> list[OrderEvents]:
    node = order.nodes.get(command.release_id, "")
    lines = tuple(
        ReservedLine(line_id=line.line_id, sku=line.sku, location=node, qty=line.qty) for line in command.lines
    )
    if not _may_ship(order, lines):
        return _unexpected(command, order)
    return [
        StockShipmentConfirmed(
            order_id=order.order_id,
            request_id=f"ship:{command.shipment_id}",
            reservation_id=order.reservation_id,
            shipment_id=command.shipment_id,
            lines=lines,
        ),
        _capture(command, order),
    ]


def _may_ship(order: Order, lines: Iterable[ReservedLine]) -> bool:
    """Only what is reserved there and has not shipped yet: neither stock nor money may move for anything else."""
    left = {(line.line_id, line.location): line.qty for line in order.unshipped}
    for line in lines:
        place = (line.line_id, line.location)
        left[place] = left.get(place, 0) - line.qty
    return all(qty >= 0 for qty in left.values())


def _unexpected(command: RecordDispatch, order: Order) -> list[OrderEvents]:
    """The goods are gone, but not as this order knows it: a person must look."""
    hold_id = f"dispatch:{command.shipment_id}"
    if hold_id in order.trouble:
        return []
    reason = f"shipment {command.shipment_id} left that the {order.status} order does not expect"
    return [OrderHoldPlaced(order_id=order.order_id, hold_id=hold_id, type="MANUAL", reason=reason)]


def _capture(command: RecordDispatch, order: Order) -> PaymentCaptureRequested:
    capture_id = f"cap:{order.order_id}:{command.shipment_id}"
    return PaymentCaptureRequested(
        order_id=order.order_id,
        request_id=capture_id,
        payment_id=order.payment_id,
        capture_id=capture_id,
        shipment_id=command.shipment_id,
        amount=worth(order, command.lines),
        currency=order.received.currency,
        lines=command.lines,
    )


def worth(order: Order, lines: Sequence[ReleaseLine]) -> int:
    """What the next shipment is worth. The first k of n units are worth floor(total * k / n), so parts add up."""
    before = order.shipped_by_line
    after = before.copy()
    for line in lines:
        after[line.line_id] += line.qty
    goods = 0
    for ordered in order.received.lines:
        total = ordered.amount + ordered.tax - ordered.discount
        goods += total * after[ordered.line_id] // ordered.qty - total * before[ordered.line_id] // ordered.qty
    return goods if order.captures else goods + order.received.shipping_price


def record_delivery(command: RecordDelivery, order: Order) -> list[OrderEvents]:
    match order.status:
        case "new" | "rejected" | "accepted" | "paying" | "awaiting_method" | "confirmed" | "released" | "cancelled":
            raise CommandRejected("shipment_unknown")
        case "in_fulfillment" | "completed":
            if command.shipment_id not in order.captures:
                raise CommandRejected("shipment_unknown")
            if command.shipment_id in order.delivered:
                return []
            return _completing(order, _delivered(command))
        case _:
            assert_never(order.status)


def _delivered(command: RecordDelivery) -> OrderShipmentDelivered:
    return OrderShipmentDelivered(order_id=command.order_id, shipment_id=command.shipment_id, lines=command.lines)


def record_capture(command: RecordCapture, order: Order) -> list[OrderEvents]:
    match order.status:
        case "new" | "rejected" | "accepted" | "paying" | "awaiting_method" | "confirmed" | "released" | "cancelled":
            raise CommandRejected("capture_unknown")
        case "in_fulfillment" | "completed":
            if command.shipment_id not in order.captures:
                raise CommandRejected("capture_unknown")
            if command.shipment_id in order.captured:
                return []
            return _completing(order, *_capture_hold_lifted(command, order), _captured(command))
        case _:
            assert_never(order.status)


def _captured(command: RecordCapture) -> OrderPaymentCaptured:
    return OrderPaymentCaptured(order_id=command.order_id, shipment_id=command.shipment_id, amount=command.amount)


def _capture_hold_lifted(command: RecordCapture, order: Order) -> list[OrderHoldReleased]:
    hold_id = f"capture:{command.capture_id}"
    if hold_id not in order.holds:
        return []
    return [OrderHoldReleased(order_id=order.order_id, hold_id=hold_id, reason="captured after all")]


def _completing(order: Order, *events: OrderEvents) -> list[OrderEvents]:
    """These events, and the order's end if they bring it: delivery and capture come in either order."""
    after = reduce(evolve, events, order)
    completed = order.status == "in_fulfillment" and after.settled
    return [*events, OrderCompleted(order_id=order.order_id)] if completed else [*events]
