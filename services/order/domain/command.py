"""What an order can be told to do. Every command names its order, and so its stream."""

from dataclasses import dataclass
from typing import Literal

from libs.events.base import ReleaseLine, ReservedLine
from libs.events.channel import OrderPlaced, UnreadableOrder
from libs.events.order import HoldType
from libs.runtime.decider import Wake

Resolution = Literal["CANCEL", "COMPLETE", "RELEASE_HOLD"]


@dataclass(frozen=True, slots=True)
class RegisterOrder:
    order_id: str
    placed: OrderPlaced


@dataclass(frozen=True, slots=True)
class RejectUnreadable:
    order_id: str
    unreadable: UnreadableOrder


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """With channel and external id the cancellation may come before its order, and is kept for it."""

    order_id: str
    reason: str
    channel: str = ""
    external_order_id: str = ""


@dataclass(frozen=True, slots=True)
class RecordReservation:
    order_id: str
    reservation_id: str
    lines: tuple[ReservedLine, ...]


@dataclass(frozen=True, slots=True)
class RecordShortage:
    order_id: str


@dataclass(frozen=True, slots=True)
class ConfirmOrder:
    order_id: str
    payment_id: str
    auth_id: str
    amount: int


@dataclass(frozen=True, slots=True)
class DeclinePayment:
    order_id: str
    attempt: int
    code: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class SuspendPayment:
    """The outcome of an authorisation is unknown: no deadline of the payment may fire until it is known."""

    order_id: str
    key: str


@dataclass(frozen=True, slots=True)
class ResumePayment:
    order_id: str


@dataclass(frozen=True, slots=True)
class UpdatePaymentMethod:
    order_id: str
    token: str


@dataclass(frozen=True, slots=True)
class RecordDispatch:
    order_id: str
    shipment_id: str
    release_id: str
    lines: tuple[ReleaseLine, ...]


@dataclass(frozen=True, slots=True)
class RecordDelivery:
    order_id: str
    shipment_id: str
    lines: tuple[ReleaseLine, ...]


@dataclass(frozen=True, slots=True)
class RecordCapture:
    order_id: str
    shipment_id: str
    capture_id: str
    amount: int


@dataclass(frozen=True, slots=True)
class PlaceHold:
    """Someone must look. `hold_id` names what went wrong, so that the same trouble opens one hold, once."""

    order_id: str
    hold_id: str
    type: HoldType
    reason: str


@dataclass(frozen=True, slots=True)
class ResolveOrder:
    order_id: str
    resolution: Resolution
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class RefundOrder:
    order_id: str
    refund_id: str
    amount: int
    by: str
    reason: str


Command = (
    RegisterOrder
    | RejectUnreadable
    | CancelOrder
    | RecordReservation
    | RecordShortage
    | ConfirmOrder
    | DeclinePayment
    | SuspendPayment
    | ResumePayment
    | UpdatePaymentMethod
    | RecordDispatch
    | RecordDelivery
    | RecordCapture
    | PlaceHold
    | ResolveOrder
    | RefundOrder
    | Wake
)
