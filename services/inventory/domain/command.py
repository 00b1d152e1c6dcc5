"""What the inventory service can be told to do. Every command carries what names its streams."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from libs.events.base import Destination, ReservedLine
from libs.events.inventory import ReleaseReason
from libs.events.order import RequestedLine
from libs.runtime.decider import Wake


@dataclass(frozen=True, slots=True)
class ReserveStock:
    reservation_id: str
    order_id: str
    request_id: str
    lines: tuple[RequestedLine, ...]
    split: Literal["ALLOW", "NO"]
    destination: Destination
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ReleaseReservation:
    """Gives back what is still held of the lines named."""

    reservation_id: str
    order_id: str
    request_id: str
    reason: ReleaseReason
    lines: tuple[ReservedLine, ...]


@dataclass(frozen=True, slots=True)
class ConsumeReservation:
    """The goods have left with a shipment."""

    reservation_id: str
    order_id: str
    request_id: str
    shipment_id: str
    lines: tuple[ReservedLine, ...]


@dataclass(frozen=True, slots=True)
class ReceiptLine:
    sku: str
    location: str
    qty: int


@dataclass(frozen=True, slots=True)
class ReceiveStock:
    """A delivery, all of it or nothing."""

    receipt_id: str
    lines: tuple[ReceiptLine, ...]


@dataclass(frozen=True, slots=True)
class AdjustStock:
    """Has no id of its own, so a repeat adjusts again: callers repeat it under an Idempotency-Key."""

    sku: str
    location: str
    delta: int
    reason: str
    by: str


@dataclass(frozen=True, slots=True)
class RegisterLocation:
    location: str
    name: str
    country: str
    lat: float
    lon: float


@dataclass(frozen=True, slots=True)
class DisableNode:
    location: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class EnableNode:
    location: str
    by: str
    reason: str


Command = (
    ReserveStock
    | ReleaseReservation
    | ConsumeReservation
    | ReceiveStock
    | AdjustStock
    | RegisterLocation
    | DisableNode
    | EnableNode
    | Wake
)
