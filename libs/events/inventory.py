"""Events of the inventory service: reservations (keyed by order), stock (keyed by SKU) and the network of locations."""

from datetime import datetime
from typing import ClassVar, Literal

from libs.events.base import Event, ReservedLine, Value

ReleaseReason = Literal["OUT_OF_STOCK", "PAYMENT_DECLINED", "EXPIRED", "CUSTOMER", "MANUAL", "LATE"]


class ShortLine(Value):
    """What was asked for and what could have been reserved of it."""

    line_id: str
    sku: str
    qty: int
    available: int


class ReservationEvent(Event):
    category: ClassVar[str] = "reservation"
    stream_field: ClassVar[str] = "reservation_id"
    reservation_id: str
    order_id: str


class StockReserved(ReservationEvent):
    """Every line is held, each at the locations named."""

    request_id: str
    lines: tuple[ReservedLine, ...]
    expires_at: datetime


class StockReservationRejected(ReservationEvent):
    """Nothing is held."""

    request_id: str
    short_lines: tuple[ShortLine, ...]


class ReservationReleased(ReservationEvent):
    """Held quantities went back to what can be promised."""

    request_id: str
    lines: tuple[ReservedLine, ...]
    reason: ReleaseReason


class ReservationConsumed(ReservationEvent):
    """Held quantities left with a shipment; the reservation ends when all have."""

    request_id: str
    shipment_id: str
    lines: tuple[ReservedLine, ...]


class StockEvent(Event):
    category: ClassVar[str] = "stock"
    stream_field: ClassVar[str] = "sku"
    sku: str
    location: str
    qty: int


class StockHeld(StockEvent):
    reservation_id: str


class StockHoldReleased(StockEvent):
    reservation_id: str


class StockShipped(StockEvent):
    reservation_id: str
    shipment_id: str


class StockReceived(StockEvent):
    """`receipt_id` names the delivery (purchase order, advance notice); the same one counts once."""

    receipt_id: str


class StockAdjusted(StockEvent):
    """`qty` is the signed change: a count, damage, a find."""

    reason: str
    by: str


class NetworkEvent(Event):
    category: ClassVar[str] = "network"
    stream_field: ClassVar[str] = "network_id"
    network_id: str = "main"
    location: str


class LocationRegistered(NetworkEvent):
    """A node that can hold and ship stock, or new data of a known one."""

    name: str
    country: str
    lat: float
    lon: float


class NodeDisabled(NetworkEvent):
    by: str
    reason: str


class NodeEnabled(NetworkEvent):
    by: str
    reason: str


InventoryEvents = (
    StockReserved
    | StockReservationRejected
    | ReservationReleased
    | ReservationConsumed
    | StockHeld
    | StockHoldReleased
    | StockShipped
    | StockReceived
    | StockAdjusted
    | LocationRegistered
    | NodeDisabled
    | NodeEnabled
)
