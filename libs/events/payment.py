"""Events of the payment service, on streams `payment-{payment_id}`: one an order. `…Submitted` is the stored intent."""

from datetime import datetime
from typing import ClassVar, Literal

from libs.events.base import Event

Operation = Literal["AUTHORIZE", "CAPTURE", "VOID", "REFUND"]


class PaymentEvent(Event):
    category: ClassVar[str] = "payment"
    stream_field: ClassVar[str] = "payment_id"
    payment_id: str
    order_id: str


class PaymentAuthorizationSubmitted(PaymentEvent):
    """Written before the PSP is called; not to be called before `not_before`."""

    attempt: int
    psp: str
    idempotency_key: str
    amount: int
    currency: str
    token: str
    not_before: datetime


class PaymentAuthorized(PaymentEvent):
    attempt: int
    auth_id: str
    amount: int
    currency: str
    expires_at: datetime


class PaymentDeclined(PaymentEvent):
    attempt: int
    code: str
    retryable: bool


class PaymentCaptureSubmitted(PaymentEvent):
    idempotency_key: str
    auth_id: str
    capture_id: str
    shipment_id: str
    amount: int
    currency: str


class PaymentCaptured(PaymentEvent):
    capture_id: str
    shipment_id: str
    amount: int
    currency: str
    psp_reference: str


class PaymentCaptureFailed(PaymentEvent):
    capture_id: str
    shipment_id: str
    amount: int
    currency: str
    code: str


class PaymentVoidSubmitted(PaymentEvent):
    idempotency_key: str
    auth_id: str


class PaymentAuthorizationVoided(PaymentEvent):
    auth_id: str


class PaymentVoidFailed(PaymentEvent):
    auth_id: str
    code: str


class RefundSubmitted(PaymentEvent):
    idempotency_key: str
    auth_id: str
    refund_id: str
    amount: int
    currency: str


class PaymentRefunded(PaymentEvent):
    refund_id: str
    amount: int
    currency: str
    psp_reference: str


class RefundFailed(PaymentEvent):
    refund_id: str
    amount: int
    currency: str
    code: str


class PaymentOutcomeUnknown(PaymentEvent):
    """The PSP was called and did not say what became of it: it is looked up, never guessed, never sent under a new key.

    Looked up at `look_up_at`. If the PSP knows nothing of it, the same intent is submitted again under the same key,
    and may become unknown again: an operation has at most one outcome, but any number of these before it.
    """

    counted_by: ClassVar[str] = "operation"
    operation: Operation
    idempotency_key: str
    amount: int = 0
    currency: str = ""
    look_up_at: datetime | None = None


class PaymentOutcomeResolved(PaymentEvent):
    """An unknown outcome is known: found by look-up, told by a callback, or settled by hand (who and why)."""

    operation: Operation
    idempotency_key: str
    source: Literal["LOOKUP", "CALLBACK", "MANUAL"]
    by: str = ""
    reason: str = ""


PaymentEvents = (
    PaymentAuthorizationSubmitted
    | PaymentAuthorized
    | PaymentDeclined
    | PaymentCaptureSubmitted
    | PaymentCaptured
    | PaymentCaptureFailed
    | PaymentVoidSubmitted
    | PaymentAuthorizationVoided
    | PaymentVoidFailed
    | RefundSubmitted
    | PaymentRefunded
    | RefundFailed
    | PaymentOutcomeUnknown
    | PaymentOutcomeResolved
)
