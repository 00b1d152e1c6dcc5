"""Where an order is: the stories of four services joined into one row.

Topics arrive in any order between each other. So every field is written by the events of one topic only (a line has a
column for each), and what needs more than one of them is derived from the fields, last.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TypeAlias

from libs.events.base import ReleaseLine, ReservedLine
from libs.events.envelope import Recorded
from libs.events.fulfillment import (
    FulfillmentAccepted,
    FulfillmentOrderCreated,
    FulfillmentPacked,
    FulfillmentPicked,
    FulfillmentRejected,
    ReleaseEvent,
    ShipmentCreated,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentEvent,
    ShipmentLost,
    ShipmentReturnedToSender,
    ShipmentTrackingUpdated,
    ShippingLabelPurchased,
)
from libs.events.inventory import ReservationConsumed, ReservationEvent, ReservationReleased, StockReserved
from libs.events.order import (
    FulfillmentRequested,
    OrderAccepted,
    OrderCancellationStarted,
    OrderCancelled,
    OrderCompleted,
    OrderConfirmed,
    OrderEvent,
    OrderReceived,
    OrderRejected,
    StockShipmentConfirmed,
)
from libs.events.payment import (
    PaymentAuthorizationSubmitted,
    PaymentAuthorizationVoided,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDeclined,
    PaymentEvent,
    PaymentOutcomeResolved,
    PaymentOutcomeUnknown,
    PaymentRefunded,
)
from libs.runtime.projection import Projection
from services.tracking.views.duration import durations
from services.tracking.views.exception import holds_after, overdue_after
from services.tracking.views.line import moved, ordered
from services.tracking.views.model import Attempt, Authorization, OrderStatus, OrderTracking, PackageStatus, Release
from services.tracking.views.package import advanced, on_the_way
from services.tracking.views.status import derived

Heard: TypeAlias = Recorded[Any]


def evolve(view: OrderTracking | None, recorded: Heard) -> OrderTracking:
    """A row from the first word on, also of what changes nothing: the machine notes in it which streams were heard."""
    before = view or OrderTracking(order_id=recorded.event.order_id)
    changes = _changes(before, recorded)
    return derived(before.model_copy(update=changes)) if changes else before


def key(recorded: Heard) -> str | None:
    match recorded.event:
        case OrderEvent() | ReservationEvent() | PaymentEvent() | ReleaseEvent() | ShipmentEvent() as event:
            return event.order_id
        case _:
            return None


Changes: TypeAlias = dict[str, Any]
"""Fields of the row with their new values. What one event changes is gathered first, so that the row is copied once."""


def _changes(view: OrderTracking, recorded: Heard) -> Changes:
    match recorded.event:
        case OrderEvent():
            return _watched(view, recorded) | _order(view, recorded)
        case ReservationEvent():
            return _stock(view, recorded)
        case PaymentEvent():
            return _payment(view, recorded)
        case ReleaseEvent() as event:
            return _release(view, event)
        case ShipmentEvent():
            return _shipment(view, recorded)
        case _:
            return {}


# the order's own story


def _order(view: OrderTracking, recorded: Heard) -> Changes:
    at = recorded.occurred_at
    match recorded.event:
        case OrderReceived() as event:
            return _received(view, event, at)
        case OrderAccepted():
            return _reached(view, "ACCEPTED", accepted_at=at)
        case OrderRejected() as event:
            return _rejected(view, event, at)
        case OrderConfirmed():
            return _reached(view, "CONFIRMED", confirmed_at=at)
        case FulfillmentRequested() if view.milestones.released_at is None:
            return _at(view, released_at=at)
        case StockShipmentConfirmed():
            return {"order_status": "IN_FULFILLMENT"}
        case OrderCancellationStarted(channel=channel, external_order_id=external_order_id):
            return {"order_status": "CANCEL_PENDING", "channel": channel, "external_order_id": external_order_id}
        case OrderCancelled(reason=reason):
            return {"cancel_reason": reason, **_reached(view, "CANCELLED", ended_at=at)}
        case OrderCompleted():
            return _reached(view, "COMPLETED", completed_at=at, ended_at=at)
        case _:
            return {}


def _received(view: OrderTracking, event: OrderReceived, at: datetime) -> Changes:
    """Also the second time: a rejected order that its channel has corrected begins afresh."""
    return {
        "channel": event.channel,
        "external_order_id": event.external_order_id,
        "external_revision": event.external_revision,
        "placed_day": event.placed_at.astimezone(UTC).date(),
        "currency": event.currency,
        "lines": ordered(view.lines, event.lines),
        "rejections": (),
        **_paid(view, total=event.total),
        **_reached(view, "RECEIVED", placed_at=event.placed_at, received_at=at, ended_at=None),
    }


def _rejected(view: OrderTracking, event: OrderRejected, at: datetime) -> Changes:
    return {
        "channel": event.channel,
        "external_order_id": event.external_order_id,
        "external_revision": event.external_revision,
        "rejections": event.reasons,
        **_reached(view, "REJECTED", ended_at=at),
    }


def _watched(view: OrderTracking, recorded: Heard) -> Changes:
    holds = holds_after(view.holds, recorded)
    overdue = overdue_after(view.overdue, recorded)
    if holds is view.holds and overdue is view.overdue:
        return {}
    return {"holds": holds, "overdue": overdue}


# what the other three tell


def _stock(view: OrderTracking, recorded: Heard) -> Changes:
    match recorded.event:
        case StockReserved(lines=lines):
            reserved_at = _earliest(view.milestones.reserved_at, recorded.occurred_at)
            return _moved(view, lines, reserved=1) | _at(view, reserved_at=reserved_at)
        case ReservationReleased(lines=lines) | ReservationConsumed(lines=lines):
            return _moved(view, lines, reserved=-1)
        case _:
            return {}


def _payment(view: OrderTracking, recorded: Heard) -> Changes:
    at = recorded.occurred_at
    match recorded.event:
        case PaymentAuthorizationSubmitted(attempt=number):
            return {"attempt": Attempt(number=number, status="PENDING")}
        case PaymentAuthorized() as event:
            return _authorized(view, event) | _at(view, authorized_at=_earliest(view.milestones.authorized_at, at))
        case PaymentDeclined(attempt=number, code=code) if number >= view.attempt.number:
            return {"attempt": Attempt(number=number, status="DECLINED", decline_code=code)}
        case PaymentAuthorizationVoided(auth_id=auth_id):
            return _voided(view, auth_id)
        case PaymentCaptured(amount=amount):
            return _paid(view, captured=view.amounts.captured + amount) | _at(view, captured_at=at)
        case PaymentRefunded(amount=amount):
            return _paid(view, refunded=view.amounts.refunded + amount)
        case PaymentOutcomeUnknown(idempotency_key=key):
            return {"unknown_outcomes": (*_other_than(key, view.unknown_outcomes), key)}
        case PaymentOutcomeResolved(idempotency_key=key):
            return {"unknown_outcomes": _other_than(key, view.unknown_outcomes)}
        case _:
            return {}


def _authorized(view: OrderTracking, event: PaymentAuthorized) -> Changes:
    granted = Authorization(auth_id=event.auth_id, amount=event.amount)
    return {
        "authorizations": (*view.authorizations, granted),
        **_paid(view, authorized=view.amounts.authorized + event.amount),
    }


def _voided(view: OrderTracking, auth_id: str) -> Changes:
    left = tuple(each for each in view.authorizations if each.auth_id != auth_id)
    attempt = view.attempt if left else view.attempt.model_copy(update={"status": "VOIDED"})
    held = max(sum(each.amount for each in left), view.amounts.captured)
    return {"authorizations": left, "attempt": attempt, **_paid(view, authorized=held)}


def _paid(view: OrderTracking, **amounts: int) -> Changes:
    return {"amounts": view.amounts.model_copy(update=amounts)}


def _other_than(key: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(other for other in keys if other != key)


def _release(view: OrderTracking, event: ReleaseEvent) -> Changes:
    match event:
        case FulfillmentOrderCreated(node=node):
            return _released(view, event, node=node)
        case FulfillmentAccepted(node=node):
            return _released(view, event, node=node, status="ACCEPTED")
        case FulfillmentRejected(node=node):
            return _released(view, event, node=node, status="REJECTED")
        case FulfillmentPicked():
            return _released(view, event, status="PICKED")
        case FulfillmentPacked():
            return _released(view, event, status="PACKED")
        case _:
            return {}


def _released(view: OrderTracking, event: ReleaseEvent, **change: str) -> Changes:
    known = {release.release_id: release for release in view.releases}
    release = known.get(event.release_id) or Release(release_id=event.release_id)
    known[event.release_id] = release.model_copy(update=change)
    return {"releases": tuple(known[release_id] for release_id in sorted(known))}


def _shipment(view: OrderTracking, recorded: Heard) -> Changes:
    at = recorded.occurred_at
    match recorded.event:
        case ShipmentCreated(packages=packages, node=node) as event:
            return _packages(view, event, [package.package_id for package in packages], "CREATED", at, node=node)
        case ShippingLabelPurchased(package_id=id, carrier=carrier, tracking_number=number) as event:
            return _packages(view, event, [id], "LABELLED", at, carrier=carrier, tracking_number=number)
        case ShipmentDispatched(package_ids=ids, lines=lines) as event:
            return {
                **_moved(view, lines, shipped=1),
                **_at(view, dispatched_at=_earliest(view.milestones.dispatched_at, at)),
                **_packages(view, event, ids, "DISPATCHED", at),
            }
        case ShipmentTrackingUpdated(package_id=id, status=status, carrier_time=carrier_time) as event:
            return _packages(view, event, [id], status, carrier_time)
        case ShipmentDelivered(lines=lines) as event:
            return {
                **_moved(view, lines, delivered=1),
                **_at(view, delivered_at=_latest(view.milestones.delivered_at, at)),
                **_packages(view, event, on_the_way(view.packages, event.shipment_id), "DELIVERED", at),
            }
        case ShipmentLost(package_id=id) as event:
            return _packages(view, event, [id], "LOST", at)
        case ShipmentReturnedToSender(package_id=id) as event:
            return _packages(view, event, [id], "RETURN_TO_SENDER", at)
        case _:
            return {}


def _packages(
    view: OrderTracking,
    event: ShipmentEvent,
    ids: Iterable[str],
    status: PackageStatus,
    at: datetime,
    **change: str,
) -> Changes:
    return {"packages": advanced(view.packages, event.shipment_id, ids, status, at, **change)}


# small changes


def _at(view: OrderTracking, **times: datetime | None) -> Changes:
    return {"milestones": view.milestones.model_copy(update=times)}


def _reached(view: OrderTracking, status: OrderStatus, **times: datetime | None) -> Changes:
    return {"order_status": status, **_at(view, **times)}


def _moved(view: OrderTracking, quantities: Iterable[ReservedLine | ReleaseLine], **signs: int) -> Changes:
    return {"lines": moved(view.lines, quantities, **signs)}


def _earliest(known: datetime | None, at: datetime) -> datetime:
    return min(known or at, at)


def _latest(known: datetime | None, at: datetime) -> datetime:
    return max(known or at, at)


ORDER_TRACKING = Projection(
    name="order_tracking",
    view=OrderTracking,
    key=key,
    evolve=evolve,
    indexed=("status", "channel", "external_order_id", "placed_day"),
    durations=durations,
)
