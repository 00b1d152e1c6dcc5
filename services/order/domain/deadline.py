"""What happens when an answer, a customer or a carrier is overdue."""

from datetime import datetime
from typing import Literal, assert_never

from libs.events.order import OrderEvents, OrderStuckDetected
from services.order.domain.intake import called_off, reservation_requested
from services.order.domain.release import releases
from services.order.domain.state import Order, due, open_deadlines
from services.order.domain.timers import OrderTimers


def wake(order: Order, now: datetime, timers: OrderTimers) -> list[OrderEvents]:
    """Always leaves the order due later than now, or not at all."""
    due_at = due(order)
    if due_at is None or due_at > now:
        return []
    match order.status:
        case "accepted":
            return _stock_overdue(order, now, timers)
        case "paying":
            return called_off(order, "EXPIRED") if order.expires_at <= now else _stuck(order, "PAYMENT", now)
        case "awaiting_method":
            return called_off(order, "PAYMENT_DECLINED")
        case "confirmed":
            return [*releases(order, now, timers)]
        case "released":
            return _stuck(order, "FULFILLMENT", now)
        case "in_fulfillment":
            return _stuck(order, "PAYMENT" if _all_delivered(order) else "FULFILLMENT", now)
        case "new" | "rejected" | "completed" | "cancelled":
            return []
        case _:
            assert_never(order.status)


def _stock_overdue(order: Order, now: datetime, timers: OrderTimers) -> list[OrderEvents]:
    if order.reservation_attempt > 1:
        return _stuck(order, "STOCK", now)
    return [reservation_requested(order.received, order.reservation_attempt + 1, now, timers)]


def _stuck(order: Order, waiting_for: Literal["STOCK", "PAYMENT", "FULFILLMENT"], now: datetime) -> list[OrderEvents]:
    overdue = max(deadline for deadline in open_deadlines(order) if deadline <= now)
    return [OrderStuckDetected(order_id=order.order_id, waiting_for=waiting_for, since=overdue)]


def _all_delivered(order: Order) -> bool:
    return order.wholly_shipped and order.delivered >= order.captures.keys()
