"""What people do to an order: holds that wait for them, resolutions, refunds."""

from typing import assert_never

from libs.events.order import (
    OrderCompleted,
    OrderEvents,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderManuallyResolved,
    RefundRequested,
)
from libs.runtime.decider import CommandRejected
from services.order.domain.command import PlaceHold, RefundOrder, ResolveOrder
from services.order.domain.intake import called_off, reservation_released
from services.order.domain.state import Order, payment_holds


def place_hold(command: PlaceHold, order: Order) -> list[OrderEvents]:
    """On an order in any status, also an ended one: money or goods may go astray after its end."""
    if not order.known:
        raise CommandRejected("order_unknown")
    if command.hold_id in order.trouble:
        return []
    return [
        OrderHoldPlaced(order_id=command.order_id, hold_id=command.hold_id, type=command.type, reason=command.reason)
    ]


def resolve(command: ResolveOrder, order: Order) -> list[OrderEvents]:
    if not order.known:
        raise CommandRejected("order_unknown")
    match command.resolution:
        case "CANCEL":
            return _cancelled_by_hand(command, order)
        case "COMPLETE":
            return _completed_by_hand(command, order)
        case "RELEASE_HOLD":
            if not order.holds:
                raise CommandRejected("no_open_hold")
            return [_resolved(command), *_lifted(command, order.holds)]
        case _:
            assert_never(command.resolution)


def _cancelled_by_hand(command: ResolveOrder, order: Order) -> list[OrderEvents]:
    match order.status:
        case "cancelled":
            return []
        case "in_fulfillment" | "completed":
            raise CommandRejected("already_dispatched")
        case "new" | "rejected" | "accepted" | "paying" | "awaiting_method" | "confirmed" | "released":
            return [_resolved(command), *_settled(command, order), *called_off(order, "MANUAL")]
        case _:
            assert_never(order.status)


def _completed_by_hand(command: ResolveOrder, order: Order) -> list[OrderEvents]:
    match order.status:
        case "completed":
            return []
        case "in_fulfillment":
            rest = reservation_released(order, "MANUAL")
            return [
                _resolved(command),
                *_settled(command, order),
                *rest,
                OrderCompleted(order_id=order.order_id),
            ]
        case "new" | "rejected" | "accepted" | "paying" | "awaiting_method" | "confirmed" | "released" | "cancelled":
            raise CommandRejected("not_in_fulfillment")
        case _:
            assert_never(order.status)


def _resolved(command: ResolveOrder) -> OrderManuallyResolved:
    return OrderManuallyResolved(
        order_id=command.order_id, resolution=command.resolution, by=command.by, reason=command.reason
    )


def _settled(command: ResolveOrder, order: Order) -> list[OrderHoldReleased]:
    """Ending the order settles what waited for a person, but not a payment of which nobody knows what became."""
    unknown = payment_holds(order)
    return _lifted(command, tuple(hold_id for hold_id in order.holds if hold_id not in unknown))


def _lifted(command: ResolveOrder, hold_ids: tuple[str, ...]) -> list[OrderHoldReleased]:
    return [
        OrderHoldReleased(order_id=command.order_id, hold_id=hold_id, reason=command.reason) for hold_id in hold_ids
    ]


def refund(command: RefundOrder, order: Order) -> list[OrderEvents]:
    if not order.known:
        raise CommandRejected("order_unknown")
    if command.refund_id in order.refunds:
        return []
    if command.amount > refundable(order):
        raise CommandRejected("refund_exceeds_captured")
    return [
        RefundRequested(
            order_id=command.order_id,
            request_id=f"ref:{command.order_id}:{command.refund_id}",
            payment_id=order.payment_id,
            refund_id=command.refund_id,
            amount=command.amount,
            currency=order.received.currency,
            by=command.by,
            reason=command.reason,
        )
    ]


def refundable(order: Order) -> int:
    """What was captured and nobody has asked back yet; a refund that failed may be asked for again under a new id."""
    asked = sum(amount for refund_id, amount in order.refunds.items() if f"refund:{refund_id}" not in order.trouble)
    return sum(order.captured.values()) - asked
