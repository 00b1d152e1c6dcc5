"""The headline and the axes that need more than one service's story: pure functions of the row."""

from services.tracking.views.model import (
    FulfillmentStatus,
    OrderStatus,
    OrderTracking,
    PaymentStatus,
)

_ON_ITS_WAY = frozenset({"EXPECTED", "RECEIVED", "ACCEPTED", "CONFIRMED"})


def derived(view: OrderTracking) -> OrderTracking:
    statuses = {
        "status": _headline(view),
        "exception": bool(view.holds or view.overdue),
        "payment_status": _payment_status(view),
        "fulfillment_status": _fulfillment_status(view),
    }
    changed = {name: value for name, value in statuses.items() if getattr(view, name) != value}
    return view.model_copy(update=changed) if changed else view


def _headline(view: OrderTracking) -> OrderStatus:
    """The order's own, unless goods are known to have left before the order has said so."""
    left = view.milestones.dispatched_at is not None
    return "IN_FULFILLMENT" if left and view.order_status in _ON_ITS_WAY else view.order_status


def _payment_status(view: OrderTracking) -> PaymentStatus:
    amounts = view.amounts
    if amounts.captured > amounts.authorized:
        return "OVERCHARGED"
    if amounts.refunded:
        return "REFUNDED" if amounts.refunded >= amounts.captured else "PARTIALLY_REFUNDED"
    if amounts.captured:
        return "CAPTURED" if amounts.captured == amounts.authorized else "PARTIALLY_CAPTURED"
    if view.authorizations:
        return "AUTHORIZED" if amounts.authorized >= amounts.total else "PARTIALLY_AUTHORIZED"
    return view.attempt.status


def _fulfillment_status(view: OrderTracking) -> FulfillmentStatus:
    ordered = sum(line.ordered for line in view.lines)
    shipped = sum(line.shipped for line in view.lines)
    delivered = sum(line.delivered for line in view.lines)
    if 0 < ordered <= delivered:
        return "DELIVERED"
    if _went_wrong(view):
        return "EXCEPTION"
    if delivered:
        return "PARTIALLY_DELIVERED"
    if shipped:
        return "SHIPPED" if 0 < ordered <= shipped else "PARTIALLY_SHIPPED"
    if view.releases or view.milestones.released_at:
        return "RELEASED"
    return "ALLOCATED" if any(line.reserved for line in view.lines) else "UNFULFILLED"


def _went_wrong(view: OrderTracking) -> bool:
    lost = any(package.status in ("LOST", "RETURN_TO_SENDER") for package in view.packages)
    return lost or any(release.status == "REJECTED" for release in view.releases)
