from datetime import timedelta
from typing import Any

import pytest

from libs.events.order import (
    OrderCancelled,
    OrderHoldPlaced,
    OrderHoldReleased,
    PaymentAuthorizationRequested,
    PaymentMethodUpdateRequested,
    PaymentVoidRequested,
    ReservationReleaseRequested,
)
from libs.testing import order_story as story
from libs.testing.order_story import AUTH_REQUESTED, CONFIRMED, METHOD_ASKED, ORDER, RELEASES
from libs.testing.scenario import NOW, scenario
from services.order.domain.command import (
    ConfirmOrder,
    DeclinePayment,
    RecordReservation,
    RecordShortage,
    ResumePayment,
    SuspendPayment,
    UpdatePaymentMethod,
)
from services.order.domain.decider import decider
from services.order.domain.timers import OrderTimers

DECIDER = decider(OrderTimers())
RESERVED = RecordReservation(ORDER, story.RESERVATION, story.RESERVED)
KEY = f"auth:{ORDER}:1:1"
HOLD = OrderHoldPlaced(
    order_id=ORDER,
    hold_id=f"payment:{KEY}",
    type="PAYMENT",
    reason="the outcome of the authorisation is unknown",
)
LIFTED = OrderHoldReleased(order_id=ORDER, hold_id=f"payment:{KEY}", reason="the outcome is known")
LIVE = [story.UNRELEASED, story.RELEASED, story.PARTLY_SHIPPED, story.COMPLETED]


def authorized(auth_id: str = "au_1", amount: int = story.TOTAL) -> ConfirmOrder:
    return ConfirmOrder(ORDER, story.PAYMENT, auth_id, amount)


def declined(attempt: int = 1, retryable: bool = False) -> DeclinePayment:
    return DeclinePayment(ORDER, attempt, "stolen_card", retryable)


def attempt(number: int, **fields: Any) -> PaymentAuthorizationRequested:
    ids = {"attempt": number, "request_id": f"auth:{ORDER}:1:{number}"}
    return AUTH_REQUESTED.model_copy(update={**ids, **fields})


def void(auth_id: str, reason: Any = "LATE") -> PaymentVoidRequested:
    return PaymentVoidRequested(
        order_id=ORDER, request_id=f"void:{auth_id}", payment_id=story.PAYMENT, auth_id=auth_id, reason=reason
    )


def released(reason: Any) -> ReservationReleaseRequested:
    return ReservationReleaseRequested(
        order_id=ORDER,
        request_id=f"rel:{story.RESERVATION}:{reason}:1",
        reservation_id=story.RESERVATION,
        reason=reason,
        lines=story.RESERVED,
    )


def cancelled(reason: Any) -> OrderCancelled:
    return OrderCancelled(order_id=ORDER, reason=reason)


def test_reserved_stock_asks_for_the_payment() -> None:
    when = scenario(DECIDER).given(*story.ACCEPTED).when(RESERVED)
    when.then(AUTH_REQUESTED)
    when.then_nothing_when_repeated()


def test_stock_reserved_for_a_cancelled_order_goes_back_once() -> None:
    when = scenario(DECIDER).given(*story.CANCELLED).when(RESERVED)
    when.then(released("LATE"))
    when.then_nothing_when_repeated()


@pytest.mark.parametrize("past", [story.AWAITING_METHOD, *LIVE])
def test_stock_reserved_again_changes_nothing(past: story.Story) -> None:
    scenario(DECIDER).given(*past).when(RESERVED).then_nothing()


def test_repeated_reservation_of_an_order_whose_stock_went_back_changes_nothing() -> None:
    past = (*story.PAYING, released("EXPIRED"), cancelled("EXPIRED"))
    scenario(DECIDER).given(*past).when(RESERVED).then_nothing()


def test_stock_that_is_short_cancels_the_order() -> None:
    when = scenario(DECIDER).given(*story.ACCEPTED).when(RecordShortage(ORDER))
    when.then(cancelled("OUT_OF_STOCK"))
    when.then_nothing_when_repeated()


@pytest.mark.parametrize("past", [story.PAYING, story.CANCELLED, *LIVE])
def test_late_shortage_changes_nothing(past: story.Story) -> None:
    scenario(DECIDER).given(*past).when(RecordShortage(ORDER)).then_nothing()


def test_authorised_payment_confirms_and_releases_to_every_node() -> None:
    when = scenario(DECIDER).given(*story.PAYING).when(authorized())
    when.then(CONFIRMED, *RELEASES)
    when.then_nothing_when_repeated()


def test_authorised_payment_with_a_remorse_window_is_not_released_yet() -> None:
    patient = decider(OrderTimers(remorse=timedelta(minutes=30)))
    when = scenario(patient).given(*story.PAYING).when(authorized())
    when.then(story.UNRELEASED[-1])
    when.then_nothing_when_repeated()


def test_authorisation_of_more_than_the_total_will_do() -> None:
    when = scenario(DECIDER).given(*story.PAYING).when(authorized(amount=story.TOTAL + 1))
    when.then(CONFIRMED.model_copy(update={"amount": story.TOTAL + 1}), *RELEASES)


def test_authorisation_of_an_older_attempt_confirms_and_the_surplus_one_is_void() -> None:
    given = scenario(DECIDER).given(*story.PAYING, attempt(2))
    confirmed = given.when(authorized("au_1"))
    confirmed.then(CONFIRMED, *RELEASES)
    surplus = given.given(*confirmed.decide()).when(authorized("au_2"))
    surplus.then(void("au_2"))
    surplus.then_nothing_when_repeated()


def test_authorisation_while_another_method_is_awaited_confirms() -> None:
    scenario(DECIDER).given(*story.AWAITING_METHOD).when(authorized()).then(CONFIRMED, *RELEASES)


def test_authorisation_of_less_than_the_total_is_void_and_another_method_is_asked_for() -> None:
    asked = METHOD_ASKED.model_copy(update={"code": "amount_short"})
    when = scenario(DECIDER).given(*story.PAYING).when(authorized(amount=story.TOTAL - 1))
    when.then(void("au_1", "PAYMENT_DECLINED"), asked)
    when.then_nothing_when_repeated()


def test_short_authorisation_while_another_method_is_awaited_is_only_void() -> None:
    when = scenario(DECIDER).given(*story.AWAITING_METHOD).when(authorized(amount=1))
    when.then(void("au_1", "PAYMENT_DECLINED"))


def test_short_authorisation_told_again_while_the_next_is_under_way_changes_nothing() -> None:
    past = (*story.PAYING, void("au_1", "PAYMENT_DECLINED"), METHOD_ASKED, attempt(2))
    scenario(DECIDER).given(*past).when(authorized("au_1", 1)).then_nothing()


def test_authorisation_of_a_cancelled_order_is_void_once() -> None:
    when = scenario(DECIDER).given(*story.CANCELLED).when(authorized())
    when.then(void("au_1"))
    when.then_nothing_when_repeated()


@pytest.mark.parametrize("past", LIVE)
def test_second_authorisation_of_a_live_order_is_void_but_its_own_is_not(past: story.Story) -> None:
    given = scenario(DECIDER).given(*past)
    given.when(authorized("au_1")).then_nothing()
    given.when(authorized("au_2")).then(void("au_2"))


@pytest.mark.parametrize(("number", "seconds"), [(1, 2), (2, 4)])
def test_retryable_decline_tries_again_with_back_off(number: int, seconds: int) -> None:
    past = story.PAYING if number == 1 else (*story.PAYING, attempt(2))
    not_before = NOW + timedelta(seconds=seconds)
    when = scenario(DECIDER).given(*past).when(declined(number, retryable=True))
    when.then(attempt(number + 1, not_before=not_before, answer_by=not_before + timedelta(seconds=120)))
    when.then_nothing_when_repeated()


def test_later_attempt_does_not_renew_the_reservation_but_has_time_to_answer() -> None:
    late = NOW + timedelta(minutes=14)
    answer_by = late + timedelta(seconds=122)
    when = scenario(DECIDER).given(*story.PAYING).when(declined(retryable=True), late)
    when.then(attempt(2, not_before=late + timedelta(seconds=2), answer_by=answer_by, expires_at=answer_by))


def test_final_decline_asks_for_another_method() -> None:
    when = scenario(DECIDER).given(*story.PAYING).when(declined())
    when.then(METHOD_ASKED)
    when.then_nothing_when_repeated()


@pytest.mark.parametrize("retryable", [True, False])
def test_decline_of_the_last_attempt_cancels_the_order(retryable: bool) -> None:
    past = (*story.PAYING, attempt(2), attempt(3))
    when = scenario(DECIDER).given(*past).when(declined(3, retryable))
    when.then(released("PAYMENT_DECLINED"), cancelled("PAYMENT_DECLINED"))
    when.then_nothing_when_repeated()


@pytest.mark.parametrize("past", [(*story.PAYING, attempt(2)), story.AWAITING_METHOD, story.CANCELLED, *LIVE])
def test_decline_of_an_old_attempt_changes_nothing(past: story.Story) -> None:
    scenario(DECIDER).given(*past).when(declined(1)).then_nothing()


def test_another_method_is_tried_at_once() -> None:
    given = scenario(DECIDER).given(*story.AWAITING_METHOD)
    expires_at = NOW + timedelta(hours=24)
    when = given.when(UpdatePaymentMethod(ORDER, "tok_new"))
    when.then(attempt(2, token="tok_new", expires_at=expires_at))
    when.then_nothing_when_repeated()
    retried = given.given(*when.decide()).when(declined(2, retryable=True)).decide()
    assert [getattr(event, "token", "") for event in retried] == ["tok_new"]


@pytest.mark.parametrize("past", [(), story.ACCEPTED, story.PAYING, story.CANCELLED, *LIVE])
def test_another_method_that_nobody_asked_for_is_refused(past: story.Story) -> None:
    when = scenario(DECIDER).given(*past).when(UpdatePaymentMethod(ORDER, "tok_new"))
    when.then_rejected("payment_method_not_awaited")


def test_unknown_outcome_holds_the_order() -> None:
    when = scenario(DECIDER).given(*story.PAYING).when(SuspendPayment(ORDER, KEY))
    when.then(HOLD)
    when.then_nothing_when_repeated()


@pytest.mark.parametrize("past", [story.AWAITING_METHOD, story.CANCELLED, *LIVE])
def test_unknown_outcome_of_an_order_that_does_not_wait_for_it_changes_nothing(past: story.Story) -> None:
    scenario(DECIDER).given(*past).when(SuspendPayment(ORDER, KEY)).then_nothing()


def test_hold_stays_until_the_answer_that_follows_the_resolved_outcome() -> None:
    scenario(DECIDER).given(*story.PAYING, HOLD).when(ResumePayment(ORDER)).then_nothing()


def test_answer_lifts_the_hold_first() -> None:
    given = scenario(DECIDER).given(*story.PAYING, HOLD)
    given.when(authorized()).then(LIFTED, CONFIRMED, *RELEASES)
    given.when(declined()).then(LIFTED, METHOD_ASKED)


def test_unknown_outcome_told_again_after_its_answer_changes_nothing() -> None:
    past = (*story.PAYING, HOLD, LIFTED, attempt(2))
    scenario(DECIDER).given(*past).when(SuspendPayment(ORDER, KEY)).then_nothing()


def test_answer_to_an_order_cancelled_meanwhile_lifts_the_hold() -> None:
    given = scenario(DECIDER).given(*story.PAYING, HOLD, cancelled("CUSTOMER"))
    given.when(authorized()).then(LIFTED, void("au_1"))
    given.when(declined()).then(LIFTED)
    given.when(ResumePayment(ORDER)).then(LIFTED)
    given.when(ResumePayment(ORDER)).then_nothing_when_repeated()


@pytest.mark.parametrize("command", [RESERVED, RecordShortage(ORDER)])
def test_answer_about_the_stock_of_an_unknown_order_is_refused(command: Any) -> None:
    scenario(DECIDER).when(command).then_rejected("order_unknown")


@pytest.mark.parametrize("past", [(), story.ACCEPTED])
@pytest.mark.parametrize("command", [authorized(), declined(), SuspendPayment(ORDER, KEY), ResumePayment(ORDER)])
def test_answer_to_a_payment_never_requested_is_refused(past: story.Story, command: Any) -> None:
    scenario(DECIDER).given(*past).when(command).then_rejected("payment_not_requested")


def test_method_is_asked_for_with_the_code_of_the_decline() -> None:
    (asked,) = scenario(DECIDER).given(*story.PAYING).when(DeclinePayment(ORDER, 1, "expired_card", False)).decide()
    assert isinstance(asked, PaymentMethodUpdateRequested)
    assert asked.code == "expired_card"
