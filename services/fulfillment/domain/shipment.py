"""A shipment on its way: labelled package by package, dispatched when the carrier has them all, ended once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, assert_never

from libs.events.base import Event
from libs.events.fulfillment import (
    Package,
    ShipmentCreated,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentLost,
    ShipmentReturnedToSender,
    ShipmentTrackingUpdated,
    ShippingLabelPurchased,
    TrackingStatus,
)
from libs.runtime.decider import Aggregate, CommandRejected
from services.fulfillment.domain.command import CarrierStatus, RecordLabel, RecordTracking
from services.fulfillment.domain.quantity import contents

ShipmentEvents = (
    ShipmentCreated
    | ShippingLabelPurchased
    | ShipmentDispatched
    | ShipmentTrackingUpdated
    | ShipmentDelivered
    | ShipmentLost
    | ShipmentReturnedToSender
)
Status = Literal["created", "dispatched", "delivered", "lost", "returned"]

# The last three share a rank: each ends a package's way, and the one heard first stands.
RANK: Mapping[TrackingStatus, int] = {
    "PRE_TRANSIT": 0,
    "PICKED_UP": 1,
    "IN_TRANSIT": 2,
    "OUT_FOR_DELIVERY": 3,
    "DELIVERED": 4,
    "LOST": 4,
    "RETURN_TO_SENDER": 4,
}


@dataclass(frozen=True, slots=True)
class Parcel:
    """A package as the carrier knows it; without a tracking number its label is not bought yet."""

    package: Package
    carrier: str = ""
    tracking_number: str = ""
    status: TrackingStatus = "PRE_TRANSIT"


Parcels = Mapping[str, Parcel]


@dataclass(frozen=True, slots=True)
class Shipment:
    created: ShipmentCreated | None = None
    status: Status = "created"
    parcels: Parcels = field(default_factory=dict)


def evolve(state: Shipment, event: ShipmentEvents) -> Shipment:
    match event:
        case ShipmentCreated():
            return Shipment(event, parcels={package.package_id: Parcel(package) for package in event.packages})
        case ShippingLabelPurchased(package_id=package_id, carrier=carrier, tracking_number=number):
            labelled = replace(state.parcels[package_id], carrier=carrier, tracking_number=number)
            return replace(state, parcels={**state.parcels, package_id: labelled})
        case ShipmentDispatched():
            return replace(state, status="dispatched", parcels=_all_at_least_picked_up(state.parcels))
        case ShipmentTrackingUpdated(package_id=package_id, status=status):
            return replace(state, parcels=_with(state.parcels, package_id, status))
        case ShipmentDelivered():
            delivered = {key: replace(parcel, status="DELIVERED") for key, parcel in state.parcels.items()}
            return replace(state, status="delivered", parcels=delivered)
        case ShipmentLost(package_id=package_id):
            return replace(state, status="lost", parcels=_with(state.parcels, package_id, "LOST"))
        case ShipmentReturnedToSender(package_id=package_id):
            return replace(state, status="returned", parcels=_with(state.parcels, package_id, "RETURN_TO_SENDER"))
        case _:
            assert_never(event)


def _with(parcels: Parcels, package_id: str, status: TrackingStatus) -> Parcels:
    return {**parcels, package_id: replace(parcels[package_id], status=status)}


def _all_at_least_picked_up(parcels: Parcels) -> Parcels:
    return {
        key: replace(parcel, status="PICKED_UP") if parcel.status == "PRE_TRANSIT" else parcel
        for key, parcel in parcels.items()
    }


SHIPMENT = Aggregate(category="shipment", initial_state=Shipment, evolve=evolve)


def label(state: Shipment, command: RecordLabel) -> Sequence[Event]:
    created = _known(state)
    if _parcel(state, command.package_id).tracking_number:
        return []
    return [
        ShippingLabelPurchased(
            shipment_id=created.shipment_id,
            order_id=created.order_id,
            package_id=command.package_id,
            carrier=command.carrier,
            tracking_number=command.tracking_number,
            cost=command.cost,
            currency=command.currency,
        )
    ]


def track(state: Shipment, command: RecordTracking) -> Sequence[Event]:
    created = _known(state)
    parcel = _parcel(state, command.package_id)
    if not parcel.tracking_number:
        # The carrier's news overtook its own answer: it must tell again once the label's cost is known.
        raise CommandRejected("label_unknown")
    if parcel.tracking_number != command.tracking_number:
        raise CommandRejected("tracking_number_mismatch")
    status = _normalised(command.status)
    if status is None or status == parcel.status or RANK[status] < RANK[parcel.status]:
        return []
    if RANK[status] == RANK[parcel.status]:
        raise CommandRejected("package_closed", f"the package is {parcel.status}")
    match state.status:
        case "created" | "dispatched":
            return _moved(state, created, command, status)
        case "delivered" | "lost" | "returned":
            raise CommandRejected("shipment_closed", f"the shipment is {state.status}")
        case _:
            assert_never(state.status)


def _known(state: Shipment) -> ShipmentCreated:
    if state.created is None:
        raise CommandRejected("shipment_unknown")
    return state.created


def _parcel(state: Shipment, package_id: str) -> Parcel:
    parcel = state.parcels.get(package_id)
    if parcel is None:
        raise CommandRejected("package_unknown")
    return parcel


def _normalised(status: CarrierStatus) -> TrackingStatus | None:
    match status:
        case "picked_up":
            return "PICKED_UP"
        case "in_transit":
            return "IN_TRANSIT"
        case "out_for_delivery":
            return "OUT_FOR_DELIVERY"
        case "delivered":
            return "DELIVERED"
        case "lost":
            return "LOST"
        case "return_to_sender":
            return "RETURN_TO_SENDER"
        case "delivery_failed":
            return None  # the carrier will try again: the package is where it was
        case _:
            assert_never(status)


def _moved(
    state: Shipment, created: ShipmentCreated, command: RecordTracking, status: TrackingStatus
) -> Sequence[Event]:
    parcels = _with(state.parcels, command.package_id, status)
    if any(parcel.status == "PRE_TRANSIT" for parcel in parcels.values()):
        return [_tracked(created, command, status)]
    # Whatever the carrier says of a package, it has it: so news that came without a pick-up dispatches too.
    start = [] if state.status == "dispatched" else [_dispatched(created, parcels)]
    end = _ending(created, parcels)
    if end is not None:
        return [*start, end]
    return start if status == "PICKED_UP" else [*start, _tracked(created, command, status)]


def _tracked(created: ShipmentCreated, command: RecordTracking, status: TrackingStatus) -> ShipmentTrackingUpdated:
    return ShipmentTrackingUpdated(
        shipment_id=created.shipment_id,
        order_id=created.order_id,
        package_id=command.package_id,
        status=status,
        rank=RANK[status],
        carrier_event_id=command.carrier_event_id,
        carrier_time=command.carrier_time,
    )


def _dispatched(created: ShipmentCreated, parcels: Parcels) -> ShipmentDispatched:
    return ShipmentDispatched(
        shipment_id=created.shipment_id,
        order_id=created.order_id,
        release_id=created.release_id,
        node=created.node,
        package_ids=tuple(parcels),
        carrier=next(iter(parcels.values())).carrier,
        tracking_numbers=tuple(parcel.tracking_number for parcel in parcels.values()),
        lines=contents(created.packages),
    )


def _ending(created: ShipmentCreated, parcels: Parcels) -> Event | None:
    """One package lost or sent back ends the whole shipment: what becomes of the rest, people decide."""
    ids = {"shipment_id": created.shipment_id, "order_id": created.order_id, "release_id": created.release_id}
    for package_id, parcel in parcels.items():
        match parcel.status:
            case "LOST":
                return ShipmentLost(**ids, package_id=package_id)
            case "RETURN_TO_SENDER":
                return ShipmentReturnedToSender(**ids, package_id=package_id)
    if all(parcel.status == "DELIVERED" for parcel in parcels.values()):
        return ShipmentDelivered(**ids, lines=contents(created.packages))
    return None
