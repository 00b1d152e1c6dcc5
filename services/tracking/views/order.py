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
    after = _heard(before, recorded)
    return before if after is before else derived(after)


def key(recorded: Heard) -> str | None:
    match recorded.event:
        case OrderEvent() | ReservationEvent() | PaymentEvent() | ReleaseEvent() | ShipmentEvent() as event:
            return event.order_id
        case _:
            return None


def _heard(view: OrderTracking, recorded: Heard) -> OrderTracking:
    match recorded.event:
        case OrderEvent():
            return _order(_watched(view, recorded), recorded)
        case ReservationEvent():
            return _stock(view, recorded)
        case PaymentEvent():
            return _payment(view, recorded)
        case ReleaseEvent() as event:
            return _release(view, event)
        case ShipmentEvent():
            return _shipment(view, recorded)
        case _:
            return view


# the order's own story


def _order(view: OrderTracking, recorded: Heard) -> OrderTracking:
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
            return _reached(view, "IN_FULFILLMENT")
        case OrderCancellationStarted(channel=channel, external_order_id=external_order_id):
            named = _with(view, channel=channel, external_order_id=external_order_id)
            return _reached(named, "CANCEL_PENDING")
        case OrderCancelled(reason=reason):
            return _with(_reached(view, "CANCELLED", ended_at=at), cancel_reason=reason)
        case OrderCompleted():
            return _reached(view, "COMPLETED", completed_at=at, ended_at=at)
        case _:
            return view


def _received(view: OrderTracking, event: OrderReceived, at: datetime) -> OrderTracking:
    """Also the second time: a rejected order that its channel has corrected begins afresh."""
    fresh = _with(
        view,
        channel=event.channel,
        external_order_id=event.external_order_id,
        external_revision=event.external_revision,
        placed_day=event.placed_at.astimezone(UTC).date(),
        currency=event.currency,
        amounts=view.amounts.model_copy(update={"total": event.total}),
        lines=ordered(view.lines, event.lines),
        rejections=(),
    )
    return _reached(fresh, "RECEIVED", placed_at=event.placed_at, received_at=at, ended_at=None)


def _rejected(view: OrderTracking, event: OrderRejected, at: datetime) -> OrderTracking:
    named = _with(
        view,
        channel=event.channel,
        external_order_id=event.external_order_id,
        external_revision=event.external_revision,
        rejections=event.reasons,
    )
    return _reached(named, "REJECTED", ended_at=at)


def _watched(view: OrderTracking, recorded: Heard) -> OrderTracking:
    holds = holds_after(view.holds, recorded)
    overdue = overdue_after(view.overdue, recorded)
    if holds is view.holds and overdue is view.overdue:
        return view
    return _with(view, holds=holds, overdue=overdue)


# what the other three tell


def _stock(view: OrderTracking, recorded: Heard) -> OrderTracking:
    match recorded.event:
        case StockReserved(lines=lines):
            reserved_at = _earliest(view.milestones.reserved_at, recorded.occurred_at)
            return _at(_moved(view, lines, reserved=1), reserved_at=reserved_at)
        case ReservationReleased(lines=lines) | ReservationConsumed(lines=lines):
            return _moved(view, lines, reserved=-1)
        case _:
            return view


def _payment(view: OrderTracking, recorded: Heard) -> OrderTracking:
    at = recorded.occurred_at
    match recorded.event:
        case PaymentAuthorizationSubmitted(attempt=number):
            return _with(view, attempt=Attempt(number=number, status="PENDING"))
        case PaymentAuthorized() as event:
            return _at(_authorized(view, event), authorized_at=_earliest(view.milestones.authorized_at, at))
        case PaymentDeclined(attempt=number, code=code) if number >= view.attempt.number:
            return _with(view, attempt=Attempt(number=number, status="DECLINED", decline_code=code))
        case PaymentAuthorizationVoided(auth_id=auth_id):
            return _voided(view, auth_id)
        case PaymentCaptured(amount=amount):
            return _at(_paid(view, captured=view.amounts.captured + amount), captured_at=at)
        case PaymentRefunded(amount=amount):
            return _paid(view, refunded=view.amounts.refunded + amount)
        case PaymentOutcomeUnknown(idempotency_key=key):
            return _with(view, unknown_outcomes=(*_other_than(key, view.unknown_outcomes), key))
        case PaymentOutcomeResolved(idempotency_key=key):
            return _with(view, unknown_outcomes=_other_than(key, view.unknown_outcomes))
        case _:
            return view


def _authorized(view: OrderTracking, event: PaymentAuthorized) -> OrderTracking:
    granted = Authorization(auth_id=event.auth_id, amount=event.amount)
    added = _with(view, authorizations=(*view.authorizations, granted))
    return _paid(added, authorized=view.amounts.authorized + event.amount)


def _voided(view: OrderTracking, auth_id: str) -> OrderTracking:
    left = tuple(each for each in view.authorizations if each.auth_id != auth_id)
    attempt = view.attempt if left else view.attempt.model_copy(update={"status": "VOIDED"})
    held = max(sum(each.amount for each in left), view.amounts.captured)
    return _paid(_with(view, authorizations=left, attempt=attempt), authorized=held)


def _paid(view: OrderTracking, **amounts: int) -> OrderTracking:
    return _with(view, amounts=view.amounts.model_copy(update=amounts))


def _other_than(key: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(other for other in keys if other != key)


def _release(view: OrderTracking, event: ReleaseEvent) -> OrderTracking:
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
            return view


def _released(view: OrderTracking, event: ReleaseEvent, **change: str) -> OrderTracking:
    known = {release.release_id: release for release in view.releases}
    release = known.get(event.release_id) or Release(release_id=event.release_id)
    known[event.release_id] = release.model_copy(update=change)
    return _with(view, releases=tuple(known[release_id] for release_id in sorted(known)))


def _shipment(view: OrderTracking, recorded: Heard) -> OrderTracking:
    at = recorded.occurred_at
    match recorded.event:
        case ShipmentCreated(packages=packages, node=node) as event:
            return _packages(view, event, [package.package_id for package in packages], "CREATED", at, node=node)
        case ShippingLabelPurchased(package_id=id, carrier=carrier, tracking_number=number) as event:
            return _packages(view, event, [id], "LABELLED", at, carrier=carrier, tracking_number=number)
        case ShipmentDispatched(package_ids=ids, lines=lines) as event:
            dispatched_at = _earliest(view.milestones.dispatched_at, at)
            gone = _at(_moved(view, lines, shipped=1), dispatched_at=dispatched_at)
            return _packages(gone, event, ids, "DISPATCHED", at)
        case ShipmentTrackingUpdated(package_id=id, status=status, carrier_time=carrier_time) as event:
            return _packages(view, event, [id], status, carrier_time)
        case ShipmentDelivered(lines=lines) as event:
            delivered_at = _latest(view.milestones.delivered_at, at)
            there = _at(_moved(view, lines, delivered=1), delivered_at=delivered_at)
            return _packages(there, event, on_the_way(view.packages, event.shipment_id), "DELIVERED", at)
        case ShipmentLost(package_id=id) as event:
            return _packages(view, event, [id], "LOST", at)
        case ShipmentReturnedToSender(package_id=id) as event:
            return _packages(view, event, [id], "RETURN_TO_SENDER", at)
        case _:
            return view


def _packages(
    view: OrderTracking,
    event: ShipmentEvent,
    ids: Iterable[str],
    status: PackageStatus,
    at: datetime,
    **change: str,
) -> OrderTracking:
    return _with(view, packages=advanced(view.packages, event.shipment_id, ids, status, at, **change))


# small changes


def _with(view: OrderTracking, **fields: Any) -> OrderTracking:
    return view.model_copy(update=fields)


def _at(view: OrderTracking, **times: datetime | None) -> OrderTracking:
    return _with(view, milestones=view.milestones.model_copy(update=times))


def _reached(view: OrderTracking, status: OrderStatus, **times: datetime | None) -> OrderTracking:
    return _with(view, order_status=status, milestones=view.milestones.model_copy(update=times))


def _moved(view: OrderTracking, quantities: Iterable[ReservedLine | ReleaseLine], **signs: int) -> OrderTracking:
    return _with(view, lines=moved(view.lines, quantities, **signs))


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
