"""The calls to the PSP: which events intend them, and what an answer means.

A call that may have been lost is never just made again. It becomes an unknown outcome, which is looked up; only if the
PSP knows nothing of it does a decision submit it again, under the same key, so that even a first call that arrives
late has one effect with it. That the decision and not the look-up sends it matters: an operator may have settled the
call meanwhile, and then nothing must be sent any more.
"""

from collections.abc import Sequence
from typing import Any

from libs.events.envelope import Recorded
from libs.events.payment import (
    PaymentAuthorizationSubmitted,
    PaymentCaptureSubmitted,
    PaymentOutcomeUnknown,
    PaymentVoidSubmitted,
    RefundSubmitted,
)
from libs.runtime.effect import Effect, GatewayUnavailable
from services.payment.domain.command import Command, RecordAnswer, RecordUnknown, RepeatCall
from services.payment.gateway import NotFound, PaymentGateway, Reply, Submitted, Unknown


def follow(recorded: Recorded[Any]) -> Sequence[Effect]:
    match recorded.event:
        case PaymentAuthorizationSubmitted() as event:
            return [Effect(kind="authorize", key=event.idempotency_key, intent=event, due_at=event.not_before)]
        case PaymentCaptureSubmitted() as event:
            return [Effect(kind="capture", key=event.idempotency_key, intent=event)]
        case PaymentVoidSubmitted() as event:
            return [Effect(kind="void", key=event.idempotency_key, intent=event)]
        case RefundSubmitted() as event:
            return [Effect(kind="refund", key=event.idempotency_key, intent=event)]
        case PaymentOutcomeUnknown() as event:
            return [Effect(kind="lookup", key=f"lookup:{event.idempotency_key}", intent=event, due_at=event.look_up_at)]
        case _:
            return []


async def perform(effect: Effect, gateway: PaymentGateway) -> Command:
    match effect.intent:
        case PaymentAuthorizationSubmitted() as intent:
            return _called(intent, await gateway.authorize(intent))
        case PaymentCaptureSubmitted() as intent:
            return _called(intent, await gateway.capture(intent))
        case PaymentVoidSubmitted() as intent:
            return _called(intent, await gateway.void(intent))
        case RefundSubmitted() as intent:
            return _called(intent, await gateway.refund(intent))
        case PaymentOutcomeUnknown() as lost:
            return _looked_up(lost, await gateway.lookup(lost))
        case _:
            raise TypeError(f"no call follows from {type(effect.intent).__name__}")


def _called(intent: Submitted, reply: Reply) -> Command:
    if isinstance(reply, Unknown):
        return RecordUnknown(intent.payment_id, intent.idempotency_key)
    return RecordAnswer(intent.payment_id, intent.idempotency_key, reply)


def _looked_up(lost: PaymentOutcomeUnknown, reply: Reply | NotFound) -> Command:
    match reply:
        case Unknown(why):
            raise GatewayUnavailable(why)  # a look-up changes nothing: it is made again until it says something
        case NotFound():
            return RepeatCall(lost.payment_id, lost.idempotency_key)
        case _:
            return RecordAnswer(lost.payment_id, lost.idempotency_key, reply, "LOOKUP")
