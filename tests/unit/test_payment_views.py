"""The view of a payment, after the events that made it."""

from datetime import timedelta
from typing import Any

import pytest

from libs.events.base import Event
from libs.events.order import OrderAccepted
from libs.events.payment import (
    PaymentAuthorizationSubmitted,
    PaymentAuthorizationVoided,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentCaptureFailed,
    PaymentCaptureSubmitted,
    PaymentDeclined,
    PaymentOutcomeResolved,
    PaymentOutcomeUnknown,
    PaymentRefunded,
    PaymentVoidFailed,
    PaymentVoidSubmitted,
    RefundFailed,
    RefundSubmitted,
)
from libs.testing.scenario import NOW, projected, recorded
from services.payment.views import (
    PAYMENT_VIEW,
    AttemptView,
    AuthorizationView,
    CaptureView,
    PaymentView,
    RefundView,
    UnknownView,
)

IDS: dict[str, Any] = {"payment_id": "o1-p", "order_id": "o1"}
EUR: dict[str, Any] = {**IDS, "currency": "EUR"}
LATER = NOW + timedelta(days=7)

ASKED = PaymentAuthorizationSubmitted(
    **EUR, attempt=1, psp="sim", idempotency_key="auth:o1:1:1", amount=100, token="tok_visa", not_before=NOW
)
GRANTED = PaymentAuthorized(**EUR, attempt=1, auth_id="A1", amount=100, expires_at=LATER)
DECLINED = PaymentDeclined(**IDS, attempt=1, code="card_declined", retryable=False)
CAPTURING = PaymentCaptureSubmitted(
    **EUR, idempotency_key="cap:o1:s1", auth_id="A1", capture_id="c1", shipment_id="s1", amount=60
)
CAPTURED = PaymentCaptured(**EUR, capture_id="c1", shipment_id="s1", amount=60, psp_reference="C1")
REST = CAPTURED.model_copy(update={"capture_id": "c2", "shipment_id": "s2", "amount": 40})
CAPTURING_REST = CAPTURING.model_copy(
    update={"idempotency_key": "cap:o1:s2", "capture_id": "c2", "shipment_id": "s2", "amount": 40}
)
CAPTURE_FAILED = PaymentCaptureFailed(**EUR, capture_id="c1", shipment_id="s1", amount=60, code="capture_declined")
VOIDING = PaymentVoidSubmitted(**IDS, idempotency_key="void:A1", auth_id="A1")
VOIDED = PaymentAuthorizationVoided(**IDS, auth_id="A1")
VOID_FAILED = PaymentVoidFailed(**IDS, auth_id="A1", code="already_captured")
REFUNDING = RefundSubmitted(**EUR, idempotency_key="ref:o1:r1", auth_id="A1", refund_id="r1", amount=60)
REFUNDED = PaymentRefunded(**EUR, refund_id="r1", amount=60, psp_reference="R1")
REFUND_FAILED = RefundFailed(**EUR, refund_id="r1", amount=60, code="amount_too_large")
LOST = PaymentOutcomeUnknown(**EUR, operation="AUTHORIZE", idempotency_key="auth:o1:1:1", amount=100, look_up_at=NOW)
KNOWN = PaymentOutcomeResolved(**IDS, operation="AUTHORIZE", idempotency_key="auth:o1:1:1", source="LOOKUP")


def view(*events: Event) -> PaymentView:
    row = projected(PAYMENT_VIEW, *events)
    assert row is not None
    assert PaymentView.model_validate_json(row.model_dump_json()) == row
    return row


@pytest.mark.parametrize(
    ("past", "status"),
    [
        ([VOID_FAILED], "NEW"),
        ([ASKED], "SUBMITTED"),
        ([ASKED, LOST], "SUBMITTED"),
        ([ASKED, DECLINED], "DECLINED"),
        ([ASKED, DECLINED, ASKED.model_copy(update={"attempt": 2})], "SUBMITTED"),
        ([ASKED, GRANTED], "AUTHORIZED"),
        ([ASKED, GRANTED, VOIDING], "AUTHORIZED"),
        ([ASKED, GRANTED, VOIDING, VOIDED], "VOIDED"),
        ([ASKED, GRANTED, VOID_FAILED], "AUTHORIZED"),
        ([ASKED, GRANTED, CAPTURING, CAPTURE_FAILED], "AUTHORIZED"),
        ([ASKED, GRANTED, CAPTURING, CAPTURED], "PARTIALLY_CAPTURED"),
        ([ASKED, GRANTED, CAPTURING, CAPTURED, CAPTURING_REST, REST], "CAPTURED"),
        ([ASKED, GRANTED, CAPTURING, CAPTURED, CAPTURING_REST, REST, REFUNDING], "CAPTURED"),
        ([ASKED, GRANTED, CAPTURING, CAPTURED, CAPTURING_REST, REST, REFUNDING, REFUNDED], "PARTIALLY_REFUNDED"),
        ([ASKED, GRANTED, CAPTURING, CAPTURED, REFUNDING, REFUND_FAILED], "PARTIALLY_CAPTURED"),
        ([ASKED, GRANTED, CAPTURING, CAPTURED, REFUNDING, REFUNDED], "REFUNDED"),
    ],
)
def test_status_follows_the_money(past: list[Event], status: str) -> None:
    assert view(*past).status == status


def test_late_second_authorisation_leaves_a_full_capture_full() -> None:
    second = GRANTED.model_copy(update={"attempt": 2, "auth_id": "A2"})
    row = view(ASKED, GRANTED, CAPTURING, CAPTURED, CAPTURING_REST, REST, second)
    assert (row.status, row.authorised, row.captured) == ("CAPTURED", 200, 100)


def test_whole_story_is_in_the_view() -> None:
    row = view(ASKED, GRANTED, CAPTURING, CAPTURED, REFUNDING, REFUNDED)
    assert row == PaymentView(
        payment_id="o1-p",
        order_id="o1",
        currency="EUR",
        status="REFUNDED",
        authorised=100,
        captured=60,
        refunded=60,
        attempts=(AttemptView(id="1", status="AUTHORIZED", amount=100, idempotency_key="auth:o1:1:1", auth_id="A1"),),
        authorizations=(AuthorizationView(id="A1", attempt=1, status="AUTHORIZED", amount=100, expires_at=LATER),),
        captures=(
            CaptureView(id="c1", shipment_id="s1", amount=60, status="CAPTURED", auth_id="A1", psp_reference="C1"),
        ),
        refunds=(RefundView(id="r1", amount=60, status="REFUNDED", auth_id="A1", psp_reference="R1"),),
    )


def test_failures_say_why() -> None:
    row = view(ASKED, DECLINED, VOID_FAILED, CAPTURE_FAILED, REFUND_FAILED)
    assert row.attempts[0].code == "card_declined"
    assert row.attempts[0].retryable is False
    assert row.captures[0].code == "capture_declined"
    assert row.refunds[0].code == "amount_too_large"
    assert view(ASKED, GRANTED, VOIDING, VOID_FAILED).authorizations[0].void_code == "already_captured"


def test_unknown_outcome_lies_over_the_status_until_resolved() -> None:
    unknown = UnknownView(id="auth:o1:1:1", operation="AUTHORIZE", amount=100, since=NOW)
    row = view(ASKED, LOST)
    assert (row.status, row.outcome, row.unknown) == ("SUBMITTED", "UNKNOWN", (unknown,))
    assert view(ASKED, LOST, ASKED, LOST) == row
    after = view(ASKED, LOST, KNOWN, GRANTED)
    assert (after.status, after.outcome, after.unknown) == ("AUTHORIZED", "KNOWN", ())


def test_token_is_not_in_the_view() -> None:
    assert "tok_visa" not in view(ASKED, LOST).model_dump_json()


def test_events_of_others_change_nothing() -> None:
    other = recorded(OrderAccepted(order_id="o1"))
    assert PAYMENT_VIEW.key(other) is None
    assert PAYMENT_VIEW.evolve(view(ASKED), other) == view(ASKED)


def test_indexed_fields_are_fields() -> None:
    assert set(PAYMENT_VIEW.indexed) <= set(PaymentView.model_fields)
