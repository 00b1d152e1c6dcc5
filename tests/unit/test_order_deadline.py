from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from libs.events.order import (
    OrderCancelled,
    OrderEvents,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderStuckDetected,
    ReservationReleaseRequested,
)
from libs.runtime.decider import Wake
from libs.testing import order_story as story
from libs.testing.order_story import ORDER, STOCK_REQUESTED
from libs.testing.scenario import NOW, fold, scenario
from services.order.domain.decider import decider
from services.order.domain.state import ORDER as AGGREGATE
from services.order.domain.state import Order
from services.order.domain.timers import OrderTimers

DECIDER = decider(OrderTimers())
WAKE = Wake(f"order-{ORDER}")
HOLD = OrderHoldPlaced(order_id=ORDER, hold_id="payment:1", type="PAYMENT", reason="unknown")


def after(**delta: float) -> datetime:
    return NOW + timedelta(**delta)


def state(*past: OrderEvents) -> Order:
    stream = AGGREGATE.stream(ORDER)
    return fold(DECIDER, past, [stream])[stream]


def due(*past: OrderEvents) -> datetime | None:
    return AGGREGATE.due(state(*past))


def stuck(waiting_for: Any, since: datetime) -> OrderStuckDetected:
    return OrderStuckDetected(order_id=ORDER, waiting_for=waiting_for, since=since)


def called_off(reason: Any) -> tuple[ReservationReleaseRequested, OrderCancelled]:
    return (
        ReservationReleaseRequested(
            order_id=ORDER,
            request_id=f"rel:{story.RESERVATION}:{reason}:1",
            reservation_id=story.RESERVATION,
            reason=reason,
            lines=story.RESERVED,
        ),
        OrderCancelled(order_id=ORDER, reason=reason),
    )


ASKED_AGAIN = STOCK_REQUESTED.model_copy(
    update={"attempt": 2, "answer_by": after(seconds=120), "expires_at": after(minutes=16)}
)


@pytest.mark.parametrize(
    ("past", "at"),
    [
        ((), None),
        (story.ACCEPTED, after(seconds=60)),
        (story.PAYING, after(seconds=120)),
        (story.AWAITING_METHOD, after(hours=24)),
        (story.UNRELEASED, after(minutes=30)),
        (story.RELEASED, after(days=2)),
        (story.PARTLY_SHIPPED, after(days=2)),
        (story.SHIPPED, after(days=16)),
        (story.COMPLETED, None),
        (story.CANCELLED, None),
    ],
)
def test_every_status_that_waits_is_due(past: story.Story, at: datetime | None) -> None:
    assert due(*past) == at


@pytest.mark.parametrize(
    "past", [story.ACCEPTED, story.PAYING, story.AWAITING_METHOD, story.UNRELEASED, story.RELEASED, story.COMPLETED]
)
def test_wake_before_its_time_changes_nothing(past: story.Story) -> None:
    scenario(DECIDER).given(*past).when(WAKE, after(seconds=59)).then_nothing()


def test_overdue_stock_is_asked_for_again_under_the_same_id() -> None:
    when = scenario(DECIDER).given(*story.ACCEPTED).when(WAKE, after(seconds=60))
    when.then(ASKED_AGAIN)
    when.then_nothing_when_repeated()


def test_stock_overdue_twice_is_stuck_and_waits_for_ever() -> None:
    given = scenario(DECIDER).given(*story.ACCEPTED, ASKED_AGAIN)
    when = given.when(WAKE, after(seconds=120))
    when.then(stuck("STOCK", after(seconds=120)))
    when.then_nothing_when_repeated()
    assert due(*story.ACCEPTED, ASKED_AGAIN, stuck("STOCK", after(seconds=120))) is None


def test_overdue_payment_is_stuck_once_and_then_expires() -> None:
    given = scenario(DECIDER).given(*story.PAYING)
    when = given.when(WAKE, after(seconds=121))
    when.then(stuck("PAYMENT", after(seconds=120)))
    when.then_nothing_when_repeated()
    expired = given.given(*when.decide()).when(WAKE, after(minutes=15))
    expired.then(*called_off("EXPIRED"))
    expired.then_nothing_when_repeated()


def test_payment_of_unknown_outcome_is_never_due() -> None:
    assert due(*story.PAYING, HOLD) is None
    scenario(DECIDER).given(*story.PAYING, HOLD).when(WAKE, after(days=9)).then_nothing()


def test_payment_hold_released_by_hand_lets_the_order_expire() -> None:
    released = OrderHoldReleased(order_id=ORDER, hold_id="payment:1", reason="gave up")
    scenario(DECIDER).given(*story.PAYING, HOLD, released).when(WAKE, after(minutes=15)).then(*called_off("EXPIRED"))


def test_customer_who_names_no_other_method_loses_the_order() -> None:
    when = scenario(DECIDER).given(*story.AWAITING_METHOD).when(WAKE, after(hours=24))
    when.then(*called_off("PAYMENT_DECLINED"))
    when.then_nothing_when_repeated()


def test_end_of_the_remorse_window_releases_the_order() -> None:
    at = after(minutes=30)
    releases = [
        release.model_copy(update={"ship_by": at + timedelta(days=2), "deliver_by": at + timedelta(days=16)})
        for release in story.RELEASES
    ]
    when = scenario(DECIDER).given(*story.UNRELEASED).when(WAKE, at)
    when.then(*releases)
    when.then_nothing_when_repeated()


def test_overdue_shipment_is_stuck_and_then_its_delivery() -> None:
    given = scenario(DECIDER).given(*story.RELEASED)
    when = given.when(WAKE, after(days=2))
    when.then(stuck("FULFILLMENT", after(days=2)))
    when.then_nothing_when_repeated()
    later = given.given(*when.decide(), *story.BERLIN_SHIPPED, *story.HAMBURG_SHIPPED)
    late = later.when(WAKE, after(days=16))
    late.then(stuck("FULFILLMENT", after(days=16)))
    late.then_nothing_when_repeated()


def test_both_deadlines_passed_are_told_in_one() -> None:
    when = scenario(DECIDER).given(*story.RELEASED).when(WAKE, after(days=20))
    when.then(stuck("FULFILLMENT", after(days=16)))
    when.then_nothing_when_repeated()


def test_delivered_order_that_is_not_paid_is_stuck_in_payment() -> None:
    scenario(DECIDER).given(*story.DELIVERED).when(WAKE, after(days=16)).then(stuck("PAYMENT", after(days=16)))


@pytest.mark.parametrize(
    ("past", "progress"),
    [
        (story.ACCEPTED, story.AUTH_REQUESTED),
        (story.PAYING, story.METHOD_ASKED),
        (story.PAYING, story.UNRELEASED[-1]),
        ((*story.PAYING, story.CONFIRMED), story.RELEASES[0]),
    ],
)
def test_progress_forgets_what_was_overdue_even_if_the_clock_went_back(
    past: story.Story, progress: OrderEvents
) -> None:
    assert due(*past, stuck("PAYMENT", after(days=9)), progress) == due(*past, progress) is not None


@pytest.mark.parametrize(
    "name", ["stock_answer", "payment_answer", "payment_method", "reservation", "ship", "delivery"]
)
def test_wait_of_nothing_is_no_setting(name: str) -> None:
    with pytest.raises(ValidationError):
        OrderTimers.model_validate({name: timedelta(0)})
