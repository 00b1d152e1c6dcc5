"""What the fulfillment service can be told."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from libs.events.base import Destination, Pii, ReleaseLine
from libs.events.fulfillment import Package
from libs.runtime.decider import Wake

CarrierStatus = Literal[
    "picked_up", "in_transit", "out_for_delivery", "delivered", "delivery_failed", "return_to_sender", "lost"
]


@dataclass(frozen=True, slots=True)
class CreateFulfillmentOrder:
    release_id: str
    order_id: str
    node: str
    lines: tuple[ReleaseLine, ...]
    shipping_method: str
    destination: Destination
    pii: Pii


@dataclass(frozen=True, slots=True)
class AcceptRelease:
    release_id: str


@dataclass(frozen=True, slots=True)
class RejectRelease:
    release_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RecordPicked:
    release_id: str
    lines: tuple[ReleaseLine, ...]


@dataclass(frozen=True, slots=True)
class RecordPacked:
    release_id: str
    packages: tuple[Package, ...]


@dataclass(frozen=True, slots=True)
class RecordLabel:
    shipment_id: str
    package_id: str
    carrier: str
    tracking_number: str
    cost: int
    currency: str


@dataclass(frozen=True, slots=True)
class RecordTracking:
    shipment_id: str
    package_id: str
    tracking_number: str
    status: CarrierStatus
    carrier_event_id: str
    carrier_time: datetime


Command = (
    CreateFulfillmentOrder
    | AcceptRelease
    | RejectRelease
    | RecordPicked
    | RecordPacked
    | RecordLabel
    | RecordTracking
    | Wake
)
