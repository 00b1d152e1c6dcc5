"""What the payment service can be told to do. Every command names its stream: the payment of one order."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from libs.runtime.decider import Wake
from services.payment.domain.call import Answer

Source = Literal["CALL", "LOOKUP", "CALLBACK"]


@dataclass(frozen=True, slots=True)
class AuthorizePayment:
    payment_id: str
    order_id: str
    request_id: str
    attempt: int
    amount: int
    currency: str
    psp: str
    token: str
    not_before: datetime


@dataclass(frozen=True, slots=True)
class CapturePayment:
    payment_id: str
    order_id: str
    request_id: str
    capture_id: str
    shipment_id: str
    amount: int
    currency: str


@dataclass(frozen=True, slots=True)
class VoidPayment:
    payment_id: str
    order_id: str
    request_id: str
    auth_id: str


@dataclass(frozen=True, slots=True)
class RefundPayment:
    payment_id: str
    order_id: str
    request_id: str
    refund_id: str
    amount: int
    currency: str


@dataclass(frozen=True, slots=True)
class RecordAnswer:
    """What the PSP says became of the call under `key`: in answer to it, found by look-up, or told by callback."""

    payment_id: str
    key: str
    answer: Answer
    source: Source = "CALL"


@dataclass(frozen=True, slots=True)
class RecordUnknown:
    """The PSP was called under `key` and did not say what became of it."""

    payment_id: str
    key: str


@dataclass(frozen=True, slots=True)
class RepeatCall:
    """The PSP knows nothing of an operation under `key`."""

    payment_id: str
    key: str


@dataclass(frozen=True, slots=True)
class SettlePayment:
    """An operator has found out what became of a call whose outcome is unknown."""

    payment_id: str
    key: str
    answer: Answer
    by: str
    reason: str


Request = AuthorizePayment | CapturePayment | VoidPayment | RefundPayment
Command = Request | RecordAnswer | RecordUnknown | RepeatCall | SettlePayment | Wake
