"""One call to the PSP: what is asked of it under one idempotency key, and the events that say so."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, assert_never

from libs.events.payment import (
    Operation,
    PaymentAuthorizationSubmitted,
    PaymentAuthorizationVoided,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentCaptureFailed,
    PaymentCaptureSubmitted,
    PaymentDeclined,
    PaymentEvent,
    PaymentOutcomeResolved,
    PaymentOutcomeUnknown,
    PaymentRefunded,
    PaymentVoidFailed,
    PaymentVoidSubmitted,
    RefundFailed,
    RefundSubmitted,
)

CallStatus = Literal["SUBMITTED", "UNKNOWN", "REPEATED", "SUCCEEDED", "FAILED"]
"""REPEATED: the outcome was unknown, the PSP knew nothing of the call, and it is under way again under its key."""

_AT_ONCE = datetime(2000, 1, 1, tzinfo=UTC)
_NEVER = datetime(2099, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Approved:
    """The PSP did it; `reference` is its id of what it did. A void answers with no amount."""

    reference: str
    amount: int | None = None
    currency: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The PSP surely did not do it and will not."""

    code: str
    retryable: bool = False


Answer = Approved | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """`id` is what the request names and may ask only once: an attempt, a capture_id, an auth_id or a refund_id.

    A request that was refused without calling the PSP is kept too, with status FAILED and no key.
    """

    operation: Operation
    id: str
    payment_id: str
    order_id: str
    status: CallStatus = "SUBMITTED"
    key: str = ""
    amount: int = 0
    currency: str = ""
    auth_id: str = ""
    reference: str = ""
    shipment_id: str = ""
    psp: str = ""
    token: str = ""
    not_before: datetime = _AT_ONCE
    unknowns: int = 0


def submitted(call: Call) -> PaymentEvent:
    match call.operation:
        case "AUTHORIZE":
            return PaymentAuthorizationSubmitted(
                payment_id=call.payment_id,
                order_id=call.order_id,
                attempt=int(call.id),
                psp=call.psp,
                idempotency_key=call.key,
                amount=call.amount,
                currency=call.currency,
                token=call.token,
                not_before=call.not_before,
            )
        case "CAPTURE":
            return PaymentCaptureSubmitted(
                payment_id=call.payment_id,
                order_id=call.order_id,
                idempotency_key=call.key,
                auth_id=call.auth_id,
                capture_id=call.id,
                shipment_id=call.shipment_id,
                amount=call.amount,
                currency=call.currency,
            )
        case "VOID":
            return PaymentVoidSubmitted(
                payment_id=call.payment_id, order_id=call.order_id, idempotency_key=call.key, auth_id=call.id
            )
        case "REFUND":
            return RefundSubmitted(
                payment_id=call.payment_id,
                order_id=call.order_id,
                idempotency_key=call.key,
                auth_id=call.auth_id,
                refund_id=call.id,
                amount=call.amount,
                currency=call.currency,
            )
        case _:
            assert_never(call.operation)


def succeeded(call: Call, answer: Approved) -> PaymentEvent:
    match call.operation:
        case "AUTHORIZE":
            return PaymentAuthorized(
                payment_id=call.payment_id,
                order_id=call.order_id,
                attempt=int(call.id),
                auth_id=answer.reference,
                amount=call.amount,
                currency=call.currency,
                expires_at=answer.expires_at or _NEVER,
            )
        case "CAPTURE":
            return PaymentCaptured(
                payment_id=call.payment_id,
                order_id=call.order_id,
                capture_id=call.id,
                shipment_id=call.shipment_id,
                amount=call.amount,
                currency=call.currency,
                psp_reference=answer.reference,
            )
        case "VOID":
            return PaymentAuthorizationVoided(payment_id=call.payment_id, order_id=call.order_id, auth_id=call.id)
        case "REFUND":
            return PaymentRefunded(
                payment_id=call.payment_id,
                order_id=call.order_id,
                refund_id=call.id,
                amount=call.amount,
                currency=call.currency,
                psp_reference=answer.reference,
            )
        case _:
            assert_never(call.operation)


def failed(call: Call, answer: Refused) -> PaymentEvent:
    match call.operation:
        case "AUTHORIZE":
            return PaymentDeclined(
                payment_id=call.payment_id,
                order_id=call.order_id,
                attempt=int(call.id),
                code=answer.code,
                retryable=answer.retryable,
            )
        case "CAPTURE":
            return PaymentCaptureFailed(
                payment_id=call.payment_id,
                order_id=call.order_id,
                capture_id=call.id,
                shipment_id=call.shipment_id,
                amount=call.amount,
                currency=call.currency,
                code=answer.code,
            )
        case "VOID":
            return PaymentVoidFailed(
                payment_id=call.payment_id, order_id=call.order_id, auth_id=call.id, code=answer.code
            )
        case "REFUND":
            return RefundFailed(
                payment_id=call.payment_id,
                order_id=call.order_id,
                refund_id=call.id,
                amount=call.amount,
                currency=call.currency,
                code=answer.code,
            )
        case _:
            assert_never(call.operation)


def ended(call: Call, answer: Answer) -> PaymentEvent:
    return succeeded(call, answer) if isinstance(answer, Approved) else failed(call, answer)


def unknown(call: Call, look_up_at: datetime) -> PaymentOutcomeUnknown:
    return PaymentOutcomeUnknown(
        payment_id=call.payment_id,
        order_id=call.order_id,
        operation=call.operation,
        idempotency_key=call.key,
        amount=call.amount,
        currency=call.currency,
        look_up_at=look_up_at,
    )


def resolved(
    call: Call, source: Literal["LOOKUP", "CALLBACK", "MANUAL"], by: str = "", reason: str = ""
) -> PaymentOutcomeResolved:
    return PaymentOutcomeResolved(
        payment_id=call.payment_id,
        order_id=call.order_id,
        operation=call.operation,
        idempotency_key=call.key,
        source=source,
        by=by,
        reason=reason,
    )
