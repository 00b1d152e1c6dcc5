from typing import Any

import pytest

from libs.events.base import ReservedLine
from libs.events.order import (
    OrderCancelled,
    OrderCompleted,
    OrderEvents,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderManuallyResolved,
    OrderRejected,
    PaymentVoidRequested,
    RefundRequested,
    ReservationReleaseRequested,
)
from libs.testing import order_story as story
from libs.testing.order_story import ORDER
from libs.testing.scenario import scenario
from services.order.domain.command import PlaceHold, RefundOrder, Resolution, ResolveOrder
from services.order.domain.decider import decider
from services.order.domain.timers import OrderTimers

DECIDER = decider(OrderTimers())
REJECTED = OrderRejected(order_id=ORDER, channel="web", external_order_id="W-1", external_revision=1, reasons=())
UNKNOWN: list[tuple[OrderEvents, ...]] = [(), (REJECTED,)]


def hold(hold_id: str = "lost:1", type: Any = "MANUAL") -> OrderHoldPlaced:
    return OrderHoldPlaced(order_id=ORDER, hold_id=hold_id, type=type, reason="it is lost")


def lifted(hold_id: str = "lost:1") -> OrderHoldReleased:
    return OrderHoldReleased(order_id=ORDER, hold_id=hold_id, reason="customer called")


def resolve(resolution: Resolution) -> ResolveOrder:
    return ResolveOrder(ORDER, resolution, "ada", "customer called")


def resolved(resolution: Resolution) -> OrderManuallyResolved:
    return OrderManuallyResolved(order_id=ORDER, resolution=resolution, by="ada", reason="customer called")


def released(*lines: ReservedLine) -> ReservationReleaseRequested:
    return ReservationReleaseRequested(
        order_id=ORDER,
        request_id=f"rel:{story.RESERVATION}:MANUAL:1",
        reservation_id=story.RESERVATION,
        reason="MANUAL",
        lines=lines,
    )


VOID = PaymentVoidRequested(
    order_id=ORDER, request_id="void:au_1", payment_id=story.PAYMENT, auth_id="au_1", reason="MANUAL"
)
CANCELLED = OrderCancelled(order_id=ORDER, reason="MANUAL")


@pytest.mark.parametrize("past", [story.ACCEPTED, story.RELEASED, story.SHIPPED, story.COMPLETED, story.CANCELLED])
def test_trouble_opens_a_hold_once_in_any_status(past: story.Story) -> None:
    when = scenario(DECIDER).given(*past).when(PlaceHold(ORDER, "lost:1", "MANUAL", "it is lost"))
    when.then(hold())
    when.then_nothing_when_repeated()


def test_trouble_heard_of_again_after_its_release_opens_no_second_hold() -> None:
    given = scenario(DECIDER).given(*story.SHIPPED, hold(), lifted())
    given.when(PlaceHold(ORDER, "lost:1", "MANUAL", "it is lost")).then_nothing()


@pytest.mark.parametrize("past", UNKNOWN)
@pytest.mark.parametrize(
    "command",
    [
        PlaceHold(ORDER, "lost:1", "MANUAL", "it is lost"),
        resolve("CANCEL"),
        resolve("COMPLETE"),
        resolve("RELEASE_HOLD"),
        RefundOrder(ORDER, "f1", 1, "ada", "broken"),
    ],
)
def test_order_that_was_never_received_is_refused(past: tuple[OrderEvents, ...], command: Any) -> None:
    scenario(DECIDER).given(*past).when(command).then_rejected("order_unknown")


def test_release_of_holds_lifts_every_open_one() -> None:
    given = scenario(DECIDER).given(*story.SHIPPED, hold("a"), hold("b"), hold("c"), lifted("b"))
    given.when(resolve("RELEASE_HOLD")).then(resolved("RELEASE_HOLD"), lifted("a"), lifted("c"))


def test_release_of_holds_without_one_is_refused() -> None:
    given = scenario(DECIDER).given(*story.SHIPPED, hold(), lifted())
    given.when(resolve("RELEASE_HOLD")).then_rejected("no_open_hold")


@pytest.mark.parametrize(
    ("past", "entailed"),
    [
        (story.ACCEPTED, ()),
        (story.PAYING, (released(*story.RESERVED),)),
        (story.AWAITING_METHOD, (released(*story.RESERVED),)),
        (story.UNRELEASED, (released(*story.RESERVED), VOID)),
        (story.RELEASED, (released(*story.RESERVED), VOID)),
        ((*story.RELEASED, hold()), (lifted(), released(*story.RESERVED), VOID)),
    ],
)
def test_cancellation_by_hand_gives_everything_back(past: story.Story, entailed: tuple[OrderEvents, ...]) -> None:
    when = scenario(DECIDER).given(*past).when(resolve("CANCEL"))
    when.then(resolved("CANCEL"), *entailed, CANCELLED)
    when.then_nothing_when_repeated()


def test_cancellation_by_hand_keeps_the_hold_of_an_unknown_payment() -> None:
    given = scenario(DECIDER).given(*story.PAYING, hold("payment:1", "PAYMENT"))
    given.when(resolve("CANCEL")).then(resolved("CANCEL"), released(*story.RESERVED), CANCELLED)


@pytest.mark.parametrize("past", [story.PARTLY_SHIPPED, story.COMPLETED])
def test_order_with_goods_on_their_way_cannot_be_cancelled_by_hand(past: story.Story) -> None:
    scenario(DECIDER).given(*past).when(resolve("CANCEL")).then_rejected("already_dispatched")


def test_completion_by_hand_settles_the_holds() -> None:
    when = scenario(DECIDER).given(*story.SHIPPED, hold()).when(resolve("COMPLETE"))
    when.then(resolved("COMPLETE"), lifted(), OrderCompleted(order_id=ORDER))
    when.then_nothing_when_repeated()


def test_completion_by_hand_gives_back_what_has_not_shipped() -> None:
    when = scenario(DECIDER).given(*story.PARTLY_SHIPPED).when(resolve("COMPLETE"))
    when.then(resolved("COMPLETE"), released(*story.RESERVED[1:]), OrderCompleted(order_id=ORDER))


@pytest.mark.parametrize("past", [story.ACCEPTED, story.PAYING, story.RELEASED, story.CANCELLED])
def test_order_of_which_nothing_left_cannot_be_completed_by_hand(past: story.Story) -> None:
    scenario(DECIDER).given(*past).when(resolve("COMPLETE")).then_rejected("not_in_fulfillment")


def refund(refund_id: str, amount: int) -> RefundOrder:
    return RefundOrder(ORDER, refund_id, amount, "ada", "broken")


def refunded(refund_id: str, amount: int) -> RefundRequested:
    return RefundRequested(
        order_id=ORDER,
        request_id=f"ref:{ORDER}:{refund_id}",
        payment_id=story.PAYMENT,
        refund_id=refund_id,
        amount=amount,
        currency="EUR",
        by="ada",
        reason="broken",
    )


def test_captured_money_can_be_refunded_up_to_the_last_cent() -> None:
    given = scenario(DECIDER).given(*story.COMPLETED)
    when = given.when(refund("f1", 2000))
    when.then(refunded("f1", 2000))
    when.then_nothing_when_repeated()
    rest = given.given(refunded("f1", 2000))
    rest.when(refund("f2", 95)).then(refunded("f2", 95))
    rest.when(refund("f2", 96)).then_rejected("refund_exceeds_captured")


def test_money_that_is_not_captured_cannot_be_refunded() -> None:
    given = scenario(DECIDER).given(*story.PARTLY_SHIPPED)
    given.when(refund("f1", 1)).then_rejected("refund_exceeds_captured")


def test_refund_that_failed_may_be_asked_for_again_under_a_new_id() -> None:
    given = scenario(DECIDER).given(*story.COMPLETED, refunded("f1", story.TOTAL), hold("refund:f1"))
    given.when(refund("f1", story.TOTAL)).then_nothing()
    given.when(refund("f2", story.TOTAL)).then(refunded("f2", story.TOTAL))
