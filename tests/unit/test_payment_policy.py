"""Whenever the order asks payment for something, payment does it."""

from datetime import timedelta
from typing import Any

from libs.events.base import Event
from libs.events.order import (
    OrderAccepted,
    PaymentAuthorizationRequested,
    PaymentCaptureRequested,
    PaymentVoidRequested,
    RefundRequested,
)
from libs.testing.scenario import NOW, recorded
from services.payment.domain.command import AuthorizePayment, CapturePayment, Command, RefundPayment, VoidPayment
from services.payment.policy import WANTS, react

IDS: dict[str, Any] = {"order_id": "o1", "payment_id": "o1-p"}
ASKED: list[tuple[Event, Command]] = [
    (
        PaymentAuthorizationRequested(
            **IDS,
            request_id="auth:o1:1:2",
            attempt=2,
            amount=100,
            currency="EUR",
            psp="sim",
            token="tok_visa",
            reserved=(),
            not_before=NOW,
            answer_by=NOW + timedelta(minutes=2),
            expires_at=NOW + timedelta(minutes=15),
        ),
        AuthorizePayment("o1-p", "o1", "auth:o1:1:2", 2, 100, "EUR", "sim", "tok_visa", NOW),
    ),
    (
        PaymentCaptureRequested(
            **IDS, request_id="cap:o1:s1", capture_id="c1", shipment_id="s1", amount=60, currency="EUR", lines=()
        ),
        CapturePayment("o1-p", "o1", "cap:o1:s1", "c1", "s1", 60, "EUR"),
    ),
    (
        PaymentVoidRequested(**IDS, request_id="void:A1", auth_id="A1", reason="LATE"),
        VoidPayment("o1-p", "o1", "void:A1", "A1"),
    ),
    (
        RefundRequested(
            **IDS, request_id="ref:o1:r1", refund_id="r1", amount=10, currency="EUR", by="ann", reason="broken"
        ),
        RefundPayment("o1-p", "o1", "ref:o1:r1", "r1", 10, "EUR"),
    ),
]


def test_each_request_of_the_order_becomes_a_command() -> None:
    assert {type(event) for event, _ in ASKED} == WANTS
    for event, command in ASKED:
        assert react(recorded(event)) == [command]


def test_other_events_of_the_order_are_left_alone() -> None:
    assert react(recorded(OrderAccepted(order_id="o1"))) == []
