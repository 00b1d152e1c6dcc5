"""What people ask about a payment: what was tried, what is held, taken and given back, and what is not known."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from libs.events.envelope import Recorded
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
from libs.runtime.projection import Projection

PaymentStatus = Literal[
    "NEW",
    "SUBMITTED",
    "AUTHORIZED",
    "PARTIALLY_CAPTURED",
    "CAPTURED",
    "PARTIALLY_REFUNDED",
    "REFUNDED",
    "DECLINED",
    "VOIDED",
]


class Row(BaseModel):
    """A row of a payment, found by `id`."""

    model_config = ConfigDict(frozen=True)

    id: str


class AttemptView(Row):
    """One attempt to have money authorised; `id` is its number."""

    status: Literal["SUBMITTED", "AUTHORIZED", "DECLINED"]
    amount: int = 0
    idempotency_key: str = ""
    auth_id: str | None = None
    code: str | None = None
    retryable: bool | None = None


class AuthorizationView(Row):
    attempt: int
    status: Literal["AUTHORIZED", "VOID_SUBMITTED", "VOIDED"]
    amount: int
    expires_at: datetime
    void_code: str | None = None


class CaptureView(Row):
    shipment_id: str
    amount: int
    status: Literal["SUBMITTED", "CAPTURED", "FAILED"]
    auth_id: str | None = None
    psp_reference: str | None = None
    code: str | None = None


class RefundView(Row):
    amount: int
    status: Literal["SUBMITTED", "REFUNDED", "FAILED"]
    auth_id: str | None = None
    psp_reference: str | None = None
    code: str | None = None


class UnknownView(Row):
    """A call whose outcome nobody knows yet; `id` is its idempotency key, by which it is settled."""

    operation: Operation
    amount: int
    since: datetime


class PaymentView(BaseModel):
    """`authorised` counts what is not voided; `outcome` is UNKNOWN while any call's outcome is."""

    model_config = ConfigDict(frozen=True)

    payment_id: str
    order_id: str
    currency: str = ""
    status: PaymentStatus = "NEW"
    outcome: Literal["KNOWN", "UNKNOWN"] = "KNOWN"
    authorised: int = 0
    captured: int = 0
    refunded: int = 0
    attempts: tuple[AttemptView, ...] = ()
    authorizations: tuple[AuthorizationView, ...] = ()
    captures: tuple[CaptureView, ...] = ()
    refunds: tuple[RefundView, ...] = ()
    unknown: tuple[UnknownView, ...] = ()


def evolve(view: PaymentView | None, recorded: Recorded[Any]) -> PaymentView | None:
    event = recorded.event
    if not isinstance(event, PaymentEvent):
        return view
    view = view or PaymentView(payment_id=event.payment_id, order_id=event.order_id)
    return _summed(_changed(view, event, recorded.occurred_at))


def _changed(view: PaymentView, event: PaymentEvent, at: datetime) -> PaymentView:
    match event:
        case PaymentAuthorizationSubmitted():
            attempt = AttemptView(
                id=str(event.attempt), status="SUBMITTED", amount=event.amount, idempotency_key=event.idempotency_key
            )
            return _set(view, currency=event.currency, attempts=_put(view.attempts, attempt))
        case PaymentAuthorized():
            return _authorized(view, event)
        case PaymentDeclined():
            attempt = _attempt(view, event.attempt)
            declined = _set(attempt, status="DECLINED", code=event.code, retryable=event.retryable)
            return _set(view, attempts=_put(view.attempts, declined))
        case PaymentCaptureSubmitted() | PaymentCaptured() | PaymentCaptureFailed():
            return _set(view, captures=_put(view.captures, _capture(view, event)))
        case PaymentVoidSubmitted() | PaymentAuthorizationVoided() | PaymentVoidFailed():
            return _voided(view, event)
        case RefundSubmitted() | PaymentRefunded() | RefundFailed():
            return _set(view, refunds=_put(view.refunds, _refund(view, event)))
        case PaymentOutcomeUnknown():
            row = UnknownView(id=event.idempotency_key, operation=event.operation, amount=event.amount, since=at)
            first = _find(view.unknown, row.id) or row  # lost twice, it has been unknown since the first time
            return _set(view, unknown=_put(view.unknown, first))
        case PaymentOutcomeResolved():
            return _set(view, unknown=tuple(row for row in view.unknown if row.id != event.idempotency_key))
        case _:
            return view


def _authorized(view: PaymentView, event: PaymentAuthorized) -> PaymentView:
    attempt = _set(_attempt(view, event.attempt), status="AUTHORIZED", auth_id=event.auth_id)
    authorization = AuthorizationView(
        id=event.auth_id,
        attempt=event.attempt,
        status="AUTHORIZED",
        amount=event.amount,
        expires_at=event.expires_at,
    )
    return _set(
        view,
        currency=event.currency,
        attempts=_put(view.attempts, attempt),
        authorizations=_put(view.authorizations, authorization),
    )


def _attempt(view: PaymentView, number: int) -> AttemptView:
    return _find(view.attempts, str(number)) or AttemptView(id=str(number), status="SUBMITTED")


def _capture(view: PaymentView, event: PaymentCaptureSubmitted | PaymentCaptured | PaymentCaptureFailed) -> CaptureView:
    row = _find(view.captures, event.capture_id) or CaptureView(
        id=event.capture_id, shipment_id=event.shipment_id, amount=event.amount, status="SUBMITTED"
    )
    match event:
        case PaymentCaptureSubmitted():
            return _set(row, auth_id=event.auth_id)
        case PaymentCaptured():
            return _set(row, status="CAPTURED", psp_reference=event.psp_reference)
        case PaymentCaptureFailed():
            return _set(row, status="FAILED", code=event.code)


def _refund(view: PaymentView, event: RefundSubmitted | PaymentRefunded | RefundFailed) -> RefundView:
    row = _find(view.refunds, event.refund_id) or RefundView(
        id=event.refund_id, amount=event.amount, status="SUBMITTED"
    )
    match event:
        case RefundSubmitted():
            return _set(row, auth_id=event.auth_id)
        case PaymentRefunded():
            return _set(row, status="REFUNDED", psp_reference=event.psp_reference)
        case RefundFailed():
            return _set(row, status="FAILED", code=event.code)


def _voided(
    view: PaymentView, event: PaymentVoidSubmitted | PaymentAuthorizationVoided | PaymentVoidFailed
) -> PaymentView:
    row = _find(view.authorizations, event.auth_id)
    if row is None:
        return view
    match event:
        case PaymentVoidSubmitted():
            row = _set(row, status="VOID_SUBMITTED")
        case PaymentAuthorizationVoided():
            row = _set(row, status="VOIDED")
        case PaymentVoidFailed():
            row = _set(row, status="AUTHORIZED", void_code=event.code)
    return _set(view, authorizations=_put(view.authorizations, row))


def _summed(view: PaymentView) -> PaymentView:
    authorised = sum(row.amount for row in view.authorizations if row.status != "VOIDED")
    captured = sum(row.amount for row in view.captures if row.status == "CAPTURED")
    refunded = sum(row.amount for row in view.refunds if row.status == "REFUNDED")
    return _set(
        view,
        authorised=authorised,
        captured=captured,
        refunded=refunded,
        outcome="UNKNOWN" if view.unknown else "KNOWN",
        status=_status(view, captured, refunded),
    )


def _status(view: PaymentView, captured: int, refunded: int) -> PaymentStatus:
    if refunded:
        return "REFUNDED" if refunded == captured else "PARTIALLY_REFUNDED"
    if captured:
        drawn = {row.auth_id for row in view.captures if row.status == "CAPTURED"}
        held = sum(row.amount for row in view.authorizations if row.id in drawn)
        return "CAPTURED" if captured == held else "PARTIALLY_CAPTURED"
    if any(row.status != "VOIDED" for row in view.authorizations):
        return "AUTHORIZED"
    if any(row.status == "SUBMITTED" for row in view.attempts):
        return "SUBMITTED"
    if view.authorizations:
        return "VOIDED"
    return "DECLINED" if view.attempts else "NEW"


M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", bound=Row)


def _set(model: M, **fields: Any) -> M:
    return model.model_copy(update=fields)


def _find(rows: Sequence[R], id: str) -> R | None:
    return next((row for row in rows if row.id == id), None)


def _put(rows: tuple[R, ...], row: R) -> tuple[R, ...]:
    """The row takes the place it had, or the last."""
    if _find(rows, row.id) is None:
        return (*rows, row)
    return tuple(row if each.id == row.id else each for each in rows)


def _key(recorded: Recorded[Any]) -> str | None:
    return recorded.event.payment_id if isinstance(recorded.event, PaymentEvent) else None


PAYMENT_VIEW = Projection(
    name="payment_view",
    view=PaymentView,
    key=_key,
    evolve=evolve,
    indexed=("status", "order_id", "outcome"),
)
