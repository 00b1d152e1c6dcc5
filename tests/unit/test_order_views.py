from datetime import timedelta
from typing import Any

import pytest

from libs.events.channel import Fault
from libs.events.order import (
    OrderCancellationRefused,
    OrderCancellationStarted,
    OrderCancelled,
    OrderDuplicateDetected,
    OrderEvents,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderManuallyResolved,
    OrderRejected,
    OrderStuckDetected,
    PaymentVoidRequested,
    RefundRequested,
    ReservationReleaseRequested,
)
from libs.events.payment import PaymentAuthorizationVoided
from libs.testing import order_story as story
from libs.testing.order_story import BERLIN_AMOUNT, BERLIN_PARCEL, ORDER
from libs.testing.scenario import NOW, projected, recorded
from services.order.views import ORDER_VIEW, OrderView

BUCKETS = ("open", "reserved", "released", "shipped", "delivered", "cancelled")


def view(*events: OrderEvents) -> OrderView:
    row = projected(ORDER_VIEW, *events)
    assert row is not None
    return row


def buckets(row: OrderView) -> list[dict[str, int]]:
    return [{name: getattr(line, name) for name in BUCKETS if getattr(line, name)} for line in row.lines]


def released(reason: Any, *lines: Any) -> ReservationReleaseRequested:
    return ReservationReleaseRequested(
        order_id=ORDER, request_id="rel", reservation_id=story.RESERVATION, reason=reason, lines=lines
    )


def voided(reason: Any) -> PaymentVoidRequested:
    return PaymentVoidRequested(order_id=ORDER, request_id="v", payment_id="p", auth_id="a", reason=reason)


def cancelled(reason: Any = "CUSTOMER") -> OrderCancelled:
    return OrderCancelled(order_id=ORDER, reason=reason)


@pytest.mark.parametrize(
    ("past", "axes", "lines"),
    [
        ((story.RECEIVED,), ("RECEIVED", "NONE", "UNFULFILLED"), [{"open": 3}, {"open": 2}]),
        (story.ACCEPTED, ("ACCEPTED", "NONE", "UNFULFILLED"), [{"open": 3}, {"open": 2}]),
        (story.PAYING, ("ACCEPTED", "PENDING", "ALLOCATED"), [{"reserved": 3}, {"reserved": 2}]),
        (story.AWAITING_METHOD, ("ACCEPTED", "DECLINED", "ALLOCATED"), [{"reserved": 3}, {"reserved": 2}]),
        (story.UNRELEASED, ("CONFIRMED", "AUTHORIZED", "ALLOCATED"), [{"reserved": 3}, {"reserved": 2}]),
        (story.RELEASED, ("CONFIRMED", "AUTHORIZED", "RELEASED"), [{"released": 3}, {"released": 2}]),
        (
            story.PARTLY_SHIPPED,
            ("IN_FULFILLMENT", "AUTHORIZED", "PARTIALLY_SHIPPED"),
            [{"released": 1, "shipped": 2}, {"released": 2}],
        ),
        (story.SHIPPED, ("IN_FULFILLMENT", "AUTHORIZED", "SHIPPED"), [{"shipped": 3}, {"shipped": 2}]),
        (
            (*story.SHIPPED, story.captured(BERLIN_PARCEL, BERLIN_AMOUNT)),
            ("IN_FULFILLMENT", "PARTIALLY_CAPTURED", "SHIPPED"),
            [{"shipped": 3}, {"shipped": 2}],
        ),
        (
            (*story.PAID, story.delivered(BERLIN_PARCEL, *story.BERLIN_LINES)),
            ("IN_FULFILLMENT", "CAPTURED", "PARTIALLY_DELIVERED"),
            [{"shipped": 1, "delivered": 2}, {"shipped": 2}],
        ),
        (story.COMPLETED, ("COMPLETED", "CAPTURED", "DELIVERED"), [{"delivered": 3}, {"delivered": 2}]),
        (story.CANCELLED, ("CANCELLED", "NONE", "UNFULFILLED"), [{"cancelled": 3}, {"cancelled": 2}]),
        (
            (*story.RELEASED, released("MANUAL", *story.RESERVED), voided("MANUAL"), cancelled("MANUAL")),
            ("CANCELLED", "VOIDED", "UNFULFILLED"),
            [{"cancelled": 3}, {"cancelled": 2}],
        ),
        (
            (*story.PARTLY_SHIPPED, released("MANUAL", *story.RESERVED[1:])),
            ("IN_FULFILLMENT", "AUTHORIZED", "SHIPPED"),
            [{"shipped": 2, "cancelled": 1}, {"cancelled": 2}],
        ),
    ],
)
def test_view_shows_the_three_axes_and_where_every_unit_is(
    past: story.Story, axes: tuple[str, ...], lines: list[dict[str, int]]
) -> None:
    row = view(*past)
    assert (row.status, row.payment_status, row.fulfillment_status) == axes
    assert buckets(row) == lines


def test_completed_order_shows_its_amounts_and_shipments() -> None:
    row = view(*story.COMPLETED)
    assert (row.total, row.authorized, row.captured) == (story.TOTAL, story.TOTAL, story.TOTAL)
    assert [(it.shipment_id, it.captured, it.delivered) for it in row.shipments] == [
        (story.BERLIN_PARCEL, True, True),
        (story.HAMBURG_PARCEL, True, True),
    ]


def test_rejected_order_shows_its_faults() -> None:
    faults = (Fault(code="token_missing", field="payment.token"),)
    row = view(
        OrderRejected(order_id=ORDER, channel="web", external_order_id="W-1", external_revision=1, reasons=faults)
    )
    assert (row.status, row.channel, row.external_order_id, row.rejections) == ("REJECTED", "web", "W-1", faults)
    afresh = view(
        OrderRejected(order_id=ORDER, channel="web", external_order_id="W-1", external_revision=1, reasons=faults),
        *story.ACCEPTED,
    )
    assert (afresh.status, afresh.rejections) == ("ACCEPTED", ())


def test_cancellation_ahead_of_its_order_is_pending() -> None:
    started = OrderCancellationStarted(order_id=ORDER, channel="web", external_order_id="W-1", reason="late")
    row = view(started)
    assert (row.status, row.channel, row.external_order_id, row.reason) == ("CANCEL_PENDING", "web", "W-1", "late")
    assert view(started, story.RECEIVED, cancelled()).status == "CANCELLED"


def test_late_void_of_a_surplus_authorisation_leaves_a_live_order_authorised() -> None:
    assert view(*story.RELEASED, voided("LATE")).payment_status == "AUTHORIZED"
    assert view(*story.CANCELLED, voided("LATE")).payment_status == "VOIDED"


def test_final_decline_is_the_reason_of_the_cancellation() -> None:
    row = view(*story.PAYING, cancelled("PAYMENT_DECLINED"))
    assert (row.payment_status, row.reason) == ("DECLINED", "PAYMENT_DECLINED")


def test_further_attempts_reserve_nothing_twice() -> None:
    again = story.AUTH_REQUESTED.model_copy(update={"attempt": 2})
    row = view(*story.AWAITING_METHOD, again)
    assert buckets(row) == [{"reserved": 3}, {"reserved": 2}]
    assert (row.payment_status, row.payment_method_by) == ("PENDING", None)


def test_method_that_is_awaited_shows_until_when() -> None:
    assert view(*story.AWAITING_METHOD).payment_method_by == NOW + timedelta(hours=24)


def test_open_holds_are_listed() -> None:
    one, other = (
        OrderHoldPlaced(order_id=ORDER, hold_id=hold_id, type="MANUAL", reason="lost") for hold_id in ("a", "b")
    )
    row = view(*story.SHIPPED, one, other, OrderHoldReleased(order_id=ORDER, hold_id="a", reason="found"))
    assert (row.has_hold, [(hold.hold_id, hold.since) for hold in row.holds]) == ("yes", [("b", NOW)])
    released = view(*story.SHIPPED, one, OrderHoldReleased(order_id=ORDER, hold_id="a", reason="found"))
    assert (released.has_hold, released.holds) == ("no", ())


@pytest.mark.parametrize(
    ("past", "waiting_for", "progress"),
    [
        (story.ACCEPTED, "STOCK", story.AUTH_REQUESTED),
        (story.PAYING, "PAYMENT", story.CONFIRMED),
        (story.PAYING, "PAYMENT", story.METHOD_ASKED),
        (story.PAYING, "PAYMENT", cancelled("EXPIRED")),
        (story.DELIVERED, "FULFILLMENT", story.COMPLETED[-1]),
    ],
)
def test_overdue_answer_is_shown_until_there_is_progress(
    past: story.Story, waiting_for: Any, progress: OrderEvents
) -> None:
    stuck = OrderStuckDetected(order_id=ORDER, waiting_for=waiting_for, since=NOW)
    assert view(*past, stuck).stuck == waiting_for
    assert view(*past, stuck, progress).stuck == "no"


def test_what_people_did_is_shown() -> None:
    refund = RefundRequested(
        order_id=ORDER,
        request_id="r",
        payment_id="p",
        refund_id="f",
        amount=7,
        currency="EUR",
        by="ada",
        reason="broken",
    )
    row = view(
        *story.COMPLETED,
        OrderManuallyResolved(order_id=ORDER, resolution="RELEASE_HOLD", by="ada", reason="found"),
        refund,
        refund,
        OrderCancellationRefused(order_id=ORDER, reason="RELEASED"),
        OrderDuplicateDetected(order_id=ORDER, external_revision=2, content_hash="x"),
    )
    assert [(it.by, it.reason, it.at) for it in row.resolutions] == [("ada", "found", NOW)]
    assert (row.refund_requested, row.cancellation_refused, row.duplicates) == (14, True, 1)


def test_view_holds_no_personal_data_and_no_token() -> None:
    pii = story.RECEIVED.pii.model_copy(update={"email": "ada@example.com"})
    received = story.RECEIVED.model_copy(update={"pii": pii})
    document = view(received, *story.COMPLETED[1:]).model_dump_json()
    assert "ada@example.com" not in document
    assert "tok_visa" not in document


def test_view_of_an_order_is_keyed_by_it_and_other_streams_have_none() -> None:
    assert ORDER_VIEW.key(recorded(story.RECEIVED)) == ORDER
    voided = PaymentAuthorizationVoided(payment_id="p", order_id=ORDER, auth_id="a")
    assert ORDER_VIEW.key(recorded(voided)) is None


def test_view_reads_back_from_its_document() -> None:
    row = view(*story.COMPLETED)
    assert OrderView.model_validate_json(row.model_dump_json()) == row
