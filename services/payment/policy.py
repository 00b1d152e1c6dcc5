"""Whenever the order asks for money to be held, taken, let go or given back, then ask the PSP."""

from collections.abc import Sequence
from typing import Any

from libs.events.envelope import Recorded
from libs.events.order import (
    PaymentAuthorizationRequested,
    PaymentCaptureRequested,
    PaymentVoidRequested,
    RefundRequested,
)
from services.payment.domain.command import AuthorizePayment, CapturePayment, Command, RefundPayment, VoidPayment

WANTS: frozenset[type] = frozenset(
    {PaymentAuthorizationRequested, PaymentCaptureRequested, PaymentVoidRequested, RefundRequested}
)


def react(recorded: Recorded[Any]) -> Sequence[Command]:
    match recorded.event:
        case PaymentAuthorizationRequested() as event:
            return [
                AuthorizePayment(
                    event.payment_id,
                    event.order_id,
                    event.request_id,
                    event.attempt,
                    event.amount,
                    event.currency,
                    event.psp,
                    event.token,
                    event.not_before,
                )
            ]
        case PaymentCaptureRequested() as event:
            return [
                CapturePayment(
                    event.payment_id,
                    event.order_id,
                    event.request_id,
                    event.capture_id,
                    event.shipment_id,
                    event.amount,
                    event.currency,
                )
            ]
        case PaymentVoidRequested() as event:
            return [VoidPayment(event.payment_id, event.order_id, event.request_id, event.auth_id)]
        case RefundRequested() as event:
            return [
                RefundPayment(
                    event.payment_id, event.order_id, event.request_id, event.refund_id, event.amount, event.currency
                )
            ]
        case _:
            return []
