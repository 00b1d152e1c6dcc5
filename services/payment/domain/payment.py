"""The payment of one order: its calls to the PSP, and the money that follows from what became of them."""

from dataclasses import dataclass, replace
from typing import assert_never

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
    PaymentEvents,
    PaymentOutcomeResolved,
    PaymentOutcomeUnknown,
    PaymentRefunded,
    PaymentVoidFailed,
    PaymentVoidSubmitted,
    RefundFailed,
    RefundSubmitted,
)
from libs.runtime.decider import Aggregate
from services.payment.domain.call import Call, CallStatus


@dataclass(frozen=True, slots=True)
class Payment:
    """`authorised` holds the ids of authorisations in the order they were granted, voided ones too."""

    calls: tuple[Call, ...] = ()
    authorised: tuple[str, ...] = ()

    def call(self, operation: Operation, id: str) -> Call | None:
        return next((call for call in self.calls if call.operation == operation and call.id == id), None)

    def under(self, key: str) -> Call | None:
        return next((call for call in self.calls if key and call.key == key), None)

    def authorization(self, auth_id: str) -> Call | None:
        granted = (call for call in self.calls if call.operation == "AUTHORIZE" and call.status == "SUCCEEDED")
        return next((call for call in granted if call.auth_id == auth_id), None)

    def drawn(self, auth_id: str) -> int:
        """What captures have taken or may yet take: one whose outcome is open counts as taken."""
        return self._sum("CAPTURE", auth_id, certain=False)

    def refundable(self, auth_id: str) -> int:
        """What surely was captured, less what refunds have given back or may yet give back."""
        return self._sum("CAPTURE", auth_id, certain=True) - self._sum("REFUND", auth_id, certain=False)

    def chargeable(self) -> Call | None:
        """The authorisation to capture from: the one already drawn on, else the first that was granted.

        The order confirms with the first and asks to void every other, so one that is being voided is out.
        """
        live = [auth_id for auth_id in self.authorised if not self._being_voided(auth_id)]
        live.sort(key=lambda auth_id: self.drawn(auth_id) == 0)
        return self.authorization(live[0]) if live else None

    def _being_voided(self, auth_id: str) -> bool:
        void = self.call("VOID", auth_id)
        return void is not None and void.status != "FAILED"

    def _sum(self, operation: Operation, auth_id: str, *, certain: bool) -> int:
        calls = (call for call in self.calls if call.operation == operation and call.auth_id == auth_id)
        return sum(
            call.amount for call in calls if call.status == "SUCCEEDED" or not (certain or call.status == "FAILED")
        )


def evolve(payment: Payment, event: PaymentEvents) -> Payment:
    match event:
        case PaymentAuthorizationSubmitted() | PaymentCaptureSubmitted() | PaymentVoidSubmitted() | RefundSubmitted():
            return _asked(payment, _asked_by(payment, event))
        case PaymentAuthorized():
            granted = replace(payment, authorised=(*payment.authorised, event.auth_id))
            return _ended(granted, event, "AUTHORIZE", str(event.attempt), "SUCCEEDED", event.auth_id)
        case PaymentDeclined():
            return _ended(payment, event, "AUTHORIZE", str(event.attempt), "FAILED")
        case PaymentCaptured():
            return _ended(payment, event, "CAPTURE", event.capture_id, "SUCCEEDED", event.psp_reference)
        case PaymentCaptureFailed():
            return _ended(payment, event, "CAPTURE", event.capture_id, "FAILED")
        case PaymentAuthorizationVoided():
            return _ended(payment, event, "VOID", event.auth_id, "SUCCEEDED")
        case PaymentVoidFailed():
            return _ended(payment, event, "VOID", event.auth_id, "FAILED")
        case PaymentRefunded():
            return _ended(payment, event, "REFUND", event.refund_id, "SUCCEEDED", event.psp_reference)
        case RefundFailed():
            return _ended(payment, event, "REFUND", event.refund_id, "FAILED")
        case PaymentOutcomeUnknown():
            return _lost(payment, event.idempotency_key)
        case PaymentOutcomeResolved():
            return payment  # what the outcome is, the next event says
        case _:
            assert_never(event)


Submitted = PaymentAuthorizationSubmitted | PaymentCaptureSubmitted | PaymentVoidSubmitted | RefundSubmitted


def _asked_by(payment: Payment, event: Submitted) -> Call:
    match event:
        case PaymentAuthorizationSubmitted():
            call = _call(event, "AUTHORIZE", str(event.attempt), event.idempotency_key, event.amount, event.currency)
            return replace(call, psp=event.psp, token=event.token, not_before=event.not_before)
        case PaymentCaptureSubmitted():
            call = _call(event, "CAPTURE", event.capture_id, event.idempotency_key, event.amount, event.currency)
            return replace(call, auth_id=event.auth_id, shipment_id=event.shipment_id)
        case PaymentVoidSubmitted():
            voided = payment.authorization(event.auth_id)
            amount, currency = (voided.amount, voided.currency) if voided else (0, "")
            return _call(event, "VOID", event.auth_id, event.idempotency_key, amount, currency)
        case RefundSubmitted():
            call = _call(event, "REFUND", event.refund_id, event.idempotency_key, event.amount, event.currency)
            return replace(call, auth_id=event.auth_id)
        case _:
            assert_never(event)


def _call(event: PaymentEvent, operation: Operation, id: str, key: str, amount: int, currency: str) -> Call:
    return Call(
        operation=operation,
        id=id,
        payment_id=event.payment_id,
        order_id=event.order_id,
        key=key,
        amount=amount,
        currency=currency,
    )


def _asked(payment: Payment, call: Call) -> Payment:
    """Submitted for the second time under its key, the call is one whose outcome was unknown."""
    known = payment.call(call.operation, call.id)
    return _with(payment, replace(known, status="REPEATED") if known else call)


def _ended(
    payment: Payment, event: PaymentEvent, operation: Operation, id: str, status: CallStatus, reference: str = ""
) -> Payment:
    """The end of a call, or of a request that was answered without one: its amount then moves no sum."""
    call = payment.call(operation, id) or _call(event, operation, id, "", 0, "")
    auth_id = reference if operation == "AUTHORIZE" else call.auth_id
    return _with(payment, replace(call, status=status, reference=reference, auth_id=auth_id))


def _lost(payment: Payment, key: str) -> Payment:
    call = payment.under(key)
    assert call is not None, "only what was submitted can become unknown"
    return _with(payment, replace(call, status="UNKNOWN", unknowns=call.unknowns + 1))


def _with(payment: Payment, call: Call) -> Payment:
    """The call takes the place it had, or the last."""
    if payment.call(call.operation, call.id) is None:
        return replace(payment, calls=(*payment.calls, call))
    same = (call.operation, call.id)
    return replace(payment, calls=tuple(call if (each.operation, each.id) == same else each for each in payment.calls))


PAYMENT = Aggregate(category="payment", initial_state=Payment, evolve=evolve)
