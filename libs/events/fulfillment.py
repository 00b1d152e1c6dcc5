"""Events of the fulfillment service: releases at a node (`release-…`) and their shipments (`shipment-…`)."""

from datetime import datetime
from typing import ClassVar, Literal

from libs.events.base import Destination, Event, Pii, ReleaseLine, Value

TrackingStatus = Literal[
    "PRE_TRANSIT", "PICKED_UP", "IN_TRANSIT", "OUT_FOR_DELIVERY", "DELIVERED", "LOST", "RETURN_TO_SENDER"
]


class Package(Value):
    """`weight` in grams."""

    package_id: str
    weight: int
    lines: tuple[ReleaseLine, ...]


class ReleaseEvent(Event):
    category: ClassVar[str] = "release"
    stream_field: ClassVar[str] = "release_id"
    release_id: str
    order_id: str


class FulfillmentOrderCreated(ReleaseEvent):
    """The release as the order asked for it: the intent to hand it to the node's warehouse."""

    node: str
    lines: tuple[ReleaseLine, ...]
    shipping_method: str
    destination: Destination
    pii: Pii


class FulfillmentAccepted(ReleaseEvent):
    node: str


class FulfillmentRejected(ReleaseEvent):
    node: str
    reason: str


class FulfillmentPicked(ReleaseEvent):
    lines: tuple[ReleaseLine, ...]


class FulfillmentPacked(ReleaseEvent):
    """Past the point of no return: what is packed is shipped."""

    packages: tuple[Package, ...]


class ShipmentEvent(Event):
    category: ClassVar[str] = "shipment"
    stream_field: ClassVar[str] = "shipment_id"
    shipment_id: str
    order_id: str


class ShipmentCreated(ShipmentEvent):
    """The intent to buy a label for each package."""

    release_id: str
    node: str
    packages: tuple[Package, ...]
    destination: Destination
    pii: Pii


class ShippingLabelPurchased(ShipmentEvent):
    """Version 2 names the currency of `cost` (minor units); version 1 meant EUR."""

    schema_version: ClassVar[int] = 2
    package_id: str
    carrier: str
    tracking_number: str
    cost: int
    currency: str


class ShipmentDispatched(ShipmentEvent):
    """The carrier has the goods: the money may be captured."""

    release_id: str
    node: str
    package_ids: tuple[str, ...]
    carrier: str
    tracking_numbers: tuple[str, ...]
    lines: tuple[ReleaseLine, ...]


class ShipmentTrackingUpdated(ShipmentEvent):
    """One package moved forward and no event of the whole shipment says so. Of several packages some may move (and
    even be LOST) before the last one is picked up, which dispatches the shipment."""

    package_id: str
    status: TrackingStatus
    rank: int
    carrier_event_id: str
    carrier_time: datetime


class ShipmentDelivered(ShipmentEvent):
    release_id: str
    lines: tuple[ReleaseLine, ...]


class ShipmentLost(ShipmentEvent):
    release_id: str
    package_id: str


class ShipmentReturnedToSender(ShipmentEvent):
    release_id: str
    package_id: str


FulfillmentEvents = (
    FulfillmentOrderCreated
    | FulfillmentAccepted
    | FulfillmentRejected
    | FulfillmentPicked
    | FulfillmentPacked
    | ShipmentCreated
    | ShippingLabelPurchased
    | ShipmentDispatched
    | ShipmentTrackingUpdated
    | ShipmentDelivered
    | ShipmentLost
    | ShipmentReturnedToSender
)
