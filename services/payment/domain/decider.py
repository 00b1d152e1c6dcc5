"""What the payment service decides: the guards around money, and what an answer of the PSP changes."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import assert_never

from pydantic import BaseModel, ConfigDict

from libs.events.base import Event
from libs.events.payment import Operation
from libs.runtime.decider import CommandRejected, Decider, States, Stream, Wake
from services.payment.domain.call import Answer, Approved, Call, Refused, ended, failed, resolved, submitted, unknown
from services.payment.domain.command import (
    AuthorizePayment,
    CapturePayment,
    Command,
    RecordAnswer,
    RecordUnknown,
    RefundPayment,
    RepeatCall,
    Request,
    SettlePayment,
    Source,
    VoidPayment,
)
from services.payment.domain.payment import PAYMENT, Payment


class PaymentTerms(BaseModel):
    """How long an authorisation is good for, and how a lost call is looked up."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    authorization_ttl: timedelta = timedelta(days=7)
    """Assumed where the PSP says none."""
    first_look_up: timedelta = timedelta(seconds=1)
    """The wait before an unknown outcome is looked up at the PSP; it doubles each time."""
    longest_look_up: timedelta = timedelta(minutes=5)
    """The longest wait between two look-ups."""


def decider(terms: PaymentTerms) -> Decider[Command]:
    return Decider(aggregates=[PAYMENT], streams=streams, decide=partial(decide, terms))


def streams(command: Command) -> Sequence[Stream[Payment]]:
    if isinstance(command, Wake):
        return [Stream(PAYMENT, command.stream_id)]
    return [PAYMENT.stream(command.payment_id)]


def decide(terms: PaymentTerms, command: Command, states: States, now: datetime) -> Sequence[Event]:
    payment = states[streams(command)[0]]
    match command:
        case AuthorizePayment() | CapturePayment() | VoidPayment() | RefundPayment():
            return _request(terms, payment, command, now)
        case RecordAnswer(_, key, answer, source):
            return _record(terms, payment, _known(payment, key), answer, source, now)
        case RecordUnknown(_, key):
            return _lose(terms, _known(payment, key), now)
        case RepeatCall(_, key):
            return _repeat(_known(payment, key))
        case SettlePayment(_, key, answer, by, reason):
            return _settle(terms, payment, _known(payment, key), answer, by, reason, now)
        case Wake():
            return []  # no payment waits for a time: its calls are effects
        case _:
            assert_never(command)


def _request(terms: PaymentTerms, payment: Payment, command: Request, now: datetime) -> Sequence[Event]:
    call = _called_for(payment, command)
    if payment.call(call.operation, call.id) is not None:
        return []  # asked before: it has its answer, or will
    code = _refusal(payment, call)
    if code is not None:
        return [failed(call, Refused(code))]
    if call.amount == 0:  # nothing to move, so nothing to ask of a PSP: most of them refuse an amount of 0
        return [ended(call, Approved(f"{call.payment_id}-{call.id}", expires_at=now + terms.authorization_ttl))]
    return [submitted(call)]


def _called_for(payment: Payment, command: Request) -> Call:
    match command:
        case AuthorizePayment():
            call = _call(command, "AUTHORIZE", str(command.attempt), command.amount, command.currency)
            return replace(call, psp=command.psp, token=command.token, not_before=command.not_before)
        case CapturePayment():
            call = _call(command, "CAPTURE", command.capture_id, command.amount, command.currency)
            auth = payment.chargeable()
            return replace(call, shipment_id=command.shipment_id, auth_id=auth.auth_id if auth else "")
        case VoidPayment():
            auth = payment.authorization(command.auth_id)
            amount, currency = (auth.amount, auth.currency) if auth else (0, "")
            return _call(command, "VOID", command.auth_id, amount, currency)
        case RefundPayment():
            call = _call(command, "REFUND", command.refund_id, command.amount, command.currency)
            return replace(call, auth_id=_refunded_from(payment, command.amount))
        case _:
            assert_never(command)


def _call(command: Request, operation: Operation, id: str, amount: int, currency: str) -> Call:
    return Call(
        operation=operation,
        id=id,
        payment_id=command.payment_id,
        order_id=command.order_id,
        key=command.request_id,
        amount=amount,
        currency=currency,
    )


def _refunded_from(payment: Payment, amount: int) -> str:
    covering = (auth_id for auth_id in payment.authorised if payment.refundable(auth_id) >= amount)
    return next(covering, "")


def _refusal(payment: Payment, call: Call) -> str | None:
    """Why the PSP is not even asked."""
    if payment.under(call.key) is not None:
        return "request_id_in_use"  # two calls under one key would be one call to the PSP
    if call.amount < 0:
        return "invalid_amount"
    match call.operation:
        case "AUTHORIZE":
            return None
        case "CAPTURE":
            return _capture_refusal(payment, call) if call.amount else None
        case "VOID":
            return _void_refusal(payment, call)
        case "REFUND":
            return _refund_refusal(payment, call)
        case _:
            assert_never(call.operation)


def _capture_refusal(payment: Payment, call: Call) -> str | None:
    auth = payment.authorization(call.auth_id)
    if auth is None:
        return "not_authorized"
    if payment.drawn(auth.auth_id) + call.amount > auth.amount:
        return "exceeds_authorization"
    return None if call.currency == auth.currency else "currency_mismatch"


def _void_refusal(payment: Payment, call: Call) -> str | None:
    if payment.authorization(call.id) is None:
        return "not_authorized"
    return "already_captured" if payment.drawn(call.id) else None


def _refund_refusal(payment: Payment, call: Call) -> str | None:
    auth = payment.authorization(call.auth_id)
    if auth is None or call.amount == 0:
        return "exceeds_captured" if call.amount else "invalid_amount"
    return None if call.currency == auth.currency else "currency_mismatch"


def _known(payment: Payment, key: str) -> Call:
    call = payment.under(key)
    if call is None:
        raise CommandRejected("unknown_operation", "no call was made under this key")
    return call


def _record(
    terms: PaymentTerms,
    payment: Payment,
    call: Call,
    answer: Answer,
    source: Source,
    now: datetime,
) -> Sequence[Event]:
    match call.status:
        case "SUCCEEDED" | "FAILED":
            if _agrees(call, answer):
                return []
            raise CommandRejected("already_resolved", f"the call has {call.status.lower()}")
        case "SUBMITTED" | "UNKNOWN" | "REPEATED":
            doubt = _doubt(payment, call, answer)
            if doubt is None and call.status == "SUBMITTED":
                return [ended(call, answer)]
            if doubt is None:
                # A repeated call was made because of a look-up: its answer is what that look-up led to.
                return [resolved(call, "LOOKUP" if source == "CALL" else source), ended(call, answer)]
            if source == "CALL":
                return _lose(terms, call, now)
            raise CommandRejected(doubt, "the answer is not one to this call")
        case _:
            assert_never(call.status)


def _agrees(call: Call, answer: Answer) -> bool:
    if isinstance(answer, Refused):
        return call.status == "FAILED"
    return call.status == "SUCCEEDED" and (call.operation == "VOID" or call.reference == answer.reference)


def _doubt(payment: Payment, call: Call, answer: Answer) -> str | None:
    """Why an answer cannot be one to this call, whoever gave it."""
    if isinstance(answer, Refused):
        return None
    if answer.amount not in (None, call.amount) or answer.currency not in (None, call.currency):
        return "answer_mismatch"
    if call.operation == "AUTHORIZE" and answer.reference in payment.authorised:
        return "reference_in_use"
    return None


def _lose(terms: PaymentTerms, call: Call, now: datetime) -> Sequence[Event]:
    match call.status:
        case "SUBMITTED" | "REPEATED":
            wait = min(terms.first_look_up * 2 ** min(call.unknowns, 20), terms.longest_look_up)
            return [unknown(call, now + wait)]
        case "UNKNOWN" | "SUCCEEDED" | "FAILED":
            return []
        case _:
            assert_never(call.status)


def _repeat(call: Call) -> Sequence[Event]:
    """Only a decision may send a call again: an operator may have settled it since the look-up set out."""
    match call.status:
        case "UNKNOWN":
            return [submitted(call)]
        case "SUBMITTED" | "REPEATED" | "SUCCEEDED" | "FAILED":
            return []
        case _:
            assert_never(call.status)


def _settle(
    terms: PaymentTerms, payment: Payment, call: Call, answer: Answer, by: str, reason: str, now: datetime
) -> Sequence[Event]:
    match call.status:
        case "UNKNOWN":
            doubt = _doubt(payment, call, answer)
            if doubt is not None:
                raise CommandRejected(doubt, "the reference belongs to another authorisation")
            if isinstance(answer, Approved):
                answer = replace(answer, expires_at=now + terms.authorization_ttl)
            return [resolved(call, "MANUAL", by, reason), ended(call, answer)]
        case "SUBMITTED" | "REPEATED":
            raise CommandRejected("outcome_pending", "the PSP is being called: its answer, or none, comes first")
        case "SUCCEEDED" | "FAILED":
            raise CommandRejected("outcome_known", f"the call has {call.status.lower()}")
        case _:
            assert_never(call.status)
