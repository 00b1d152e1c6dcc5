from typing import Any

import pytest

from libs.events.channel import Fault, OrderPlaced, PlacedPii, UnreadableOrder
from libs.events.order import (
    OrderAccepted,
    OrderCancellationRefused,
    OrderCancellationStarted,
    OrderCancelled,
    OrderDuplicateDetected,
    OrderRejected,
    PaymentVoidRequested,
    ReservationReleaseRequested,
)
from libs.testing import order_story as story
from libs.testing.order_story import ORDER, PLACED, RECEIVED, STOCK_REQUESTED
from libs.testing.scenario import scenario
from services.order.domain.command import CancelOrder, RegisterOrder, RejectUnreadable
from services.order.domain.decider import decider
from services.order.domain.intake import content_hash
from services.order.domain.timers import OrderTimers

DECIDER = decider(OrderTimers())
BAD = PLACED.model_copy(update={"currency": "EUX"})
FAULT = Fault(code="unknown_currency", field="currency", message="not a code of ISO 4217")


def changed(**fields: Any) -> OrderPlaced:
    return PLACED.model_copy(update=fields)


def rejected(revision: int = 1, reasons: tuple[Fault, ...] = (FAULT,)) -> OrderRejected:
    return OrderRejected(
        order_id=ORDER, channel="web", external_order_id="W-1", external_revision=revision, reasons=reasons
    )


def unreadable(revision: int = 1) -> RejectUnreadable:
    reasons = (Fault(code="json_invalid"),)
    return RejectUnreadable(
        ORDER,
        UnreadableOrder(channel="web", external_order_id="W-1", external_revision=revision, reasons=reasons),
    )


def duplicate(placed: OrderPlaced) -> OrderDuplicateDetected:
    return OrderDuplicateDetected(
        order_id=ORDER, external_revision=placed.external_revision, content_hash=content_hash(placed)
    )


def test_new_order_is_received_accepted_and_asks_for_stock() -> None:
    when = scenario(DECIDER).when(RegisterOrder(ORDER, PLACED))
    when.then(RECEIVED, OrderAccepted(order_id=ORDER), STOCK_REQUESTED)
    when.then_nothing_when_repeated()


def test_order_with_faults_is_rejected() -> None:
    when = scenario(DECIDER).when(RegisterOrder(ORDER, BAD))
    when.then(rejected())
    when.then_nothing_when_repeated()


def test_rejected_order_is_registered_afresh_by_a_higher_revision() -> None:
    given = scenario(DECIDER).given(rejected())
    better = changed(external_revision=2)
    received, accepted, requested = given.when(RegisterOrder(ORDER, better)).decide()
    assert received == RECEIVED.model_copy(update={"external_revision": 2, "content_hash": content_hash(better)})
    assert accepted == OrderAccepted(order_id=ORDER)
    ids = {"reservation_id": f"{ORDER}-r2", "request_id": f"res:{ORDER}:2"}
    assert requested == STOCK_REQUESTED.model_copy(update=ids)
    given.when(RegisterOrder(ORDER, changed(external_revision=2, currency="EUX"))).then(rejected(2))


def test_rejected_order_is_not_revived_by_the_same_or_a_lower_revision() -> None:
    given = scenario(DECIDER).given(rejected(2))
    given.when(RegisterOrder(ORDER, BAD)).then_nothing()
    given.when(RegisterOrder(ORDER, changed(external_revision=2))).then_rejected("order_rejected")


@pytest.mark.parametrize("past", [story.ACCEPTED, story.RELEASED, story.COMPLETED, story.CANCELLED])
def test_same_content_again_changes_nothing(past: story.Story) -> None:
    scenario(DECIDER).given(*past).when(RegisterOrder(ORDER, PLACED)).then_nothing()


@pytest.mark.parametrize("past", [story.ACCEPTED, story.PAYING, story.SHIPPED, story.COMPLETED, story.CANCELLED])
def test_other_content_is_detected_once_per_content(past: story.Story) -> None:
    given = scenario(DECIDER).given(*past)
    first, second = changed(external_revision=2), changed(pii=PlacedPii(email="a@example.com"))
    given.when(RegisterOrder(ORDER, first)).then(duplicate(first))
    known = given.given(duplicate(first))
    known.when(RegisterOrder(ORDER, first)).then_rejected("order_exists")
    known.when(RegisterOrder(ORDER, second)).then(duplicate(second))
    known.when(RegisterOrder(ORDER, PLACED)).then_nothing()


def test_content_is_the_same_whatever_the_order_of_its_keys_and_defaults_spelled_out() -> None:
    one = changed(pii=PlacedPii(ship_to={"name": "A", "street": "B"}))
    other = OrderPlaced.model_validate_json(
        changed(pii=PlacedPii(ship_to={"street": "B", "name": "A"})).model_dump_json()
    )
    assert content_hash(one) == content_hash(other) != content_hash(PLACED)


def test_content_hash_never_changes_from_release_to_release() -> None:
    """Stored orders carry it: with another way of hashing, every repeat would look like a changed order."""
    assert content_hash(PLACED) == "071b9c7f7f38caa49d1e69258c47d084dfcb36bf2a5245303a80805bccdf4d48"


def test_unreadable_order_is_rejected_with_its_reasons() -> None:
    when = scenario(DECIDER).when(unreadable())
    when.then(rejected(reasons=(Fault(code="json_invalid"),)))
    when.then_nothing_when_repeated()


def test_unreadable_order_of_a_higher_revision_is_rejected_again() -> None:
    given = scenario(DECIDER).given(rejected(1))
    given.when(unreadable(1)).then_nothing()
    given.when(unreadable(2)).then(rejected(2, (Fault(code="json_invalid"),)))


def test_unreadable_repeat_of_a_valid_order_is_refused() -> None:
    scenario(DECIDER).given(*story.ACCEPTED).when(unreadable(2)).then_rejected("order_exists")


STARTED = OrderCancellationStarted(order_id=ORDER, channel="web", external_order_id="W-1", reason="late")
OVERTAKING = CancelOrder(ORDER, "late", "web", "W-1")
CANCEL = CancelOrder(ORDER, "late")


def test_cancellation_that_overtakes_its_order_is_kept() -> None:
    when = scenario(DECIDER).when(OVERTAKING)
    when.then(STARTED)
    when.then_nothing_when_repeated()


def test_cancellation_of_an_order_that_nobody_can_name_is_refused() -> None:
    scenario(DECIDER).when(CANCEL).then_rejected("order_unknown")


def test_reason_with_a_card_number_is_not_kept() -> None:
    reason = CancelOrder(ORDER, "4111111111111111", "web", "W-1")
    scenario(DECIDER).when(reason).then(STARTED.model_copy(update={"reason": ""}))


def test_order_that_comes_after_its_cancellation_is_received_and_cancelled() -> None:
    when = scenario(DECIDER).given(STARTED).when(RegisterOrder(ORDER, PLACED))
    when.then(RECEIVED, OrderCancelled(order_id=ORDER, reason="CUSTOMER"))
    when.then_nothing_when_repeated()


def test_kept_cancellation_outlives_a_rejection() -> None:
    given = scenario(DECIDER).given(STARTED, rejected())
    events = given.when(RegisterOrder(ORDER, changed(external_revision=2))).decide()
    assert events[1:] == [OrderCancelled(order_id=ORDER, reason="CUSTOMER")]


def test_rejected_order_has_nothing_to_cancel() -> None:
    scenario(DECIDER).given(rejected()).when(OVERTAKING).then_nothing()


def test_order_waiting_for_stock_is_cancelled() -> None:
    when = scenario(DECIDER).given(*story.ACCEPTED).when(CANCEL)
    when.then(OrderCancelled(order_id=ORDER, reason="CUSTOMER"))
    when.then_nothing_when_repeated()


def released(reason: Any = "CUSTOMER") -> ReservationReleaseRequested:
    return ReservationReleaseRequested(
        order_id=ORDER,
        request_id=f"rel:{story.RESERVATION}:{reason}:1",
        reservation_id=story.RESERVATION,
        reason=reason,
        lines=story.RESERVED,
    )


@pytest.mark.parametrize("past", [story.PAYING, story.AWAITING_METHOD])
def test_cancelled_while_paying_releases_the_stock(past: story.Story) -> None:
    when = scenario(DECIDER).given(*past).when(CANCEL)
    when.then(released(), OrderCancelled(order_id=ORDER, reason="CUSTOMER"))
    when.then_nothing_when_repeated()


def test_cancelled_before_its_release_gives_back_stock_and_authorisation() -> None:
    void = PaymentVoidRequested(
        order_id=ORDER, request_id="void:au_1", payment_id=story.PAYMENT, auth_id="au_1", reason="CUSTOMER"
    )
    when = scenario(DECIDER).given(*story.UNRELEASED).when(CANCEL)
    when.then(released(), void, OrderCancelled(order_id=ORDER, reason="CUSTOMER"))
    when.then_nothing_when_repeated()


@pytest.mark.parametrize("past", [story.RELEASED, story.PARTLY_SHIPPED, story.COMPLETED])
def test_cancellation_after_the_release_is_refused_once(past: story.Story) -> None:
    when = scenario(DECIDER).given(*past).when(CANCEL)
    when.then(OrderCancellationRefused(order_id=ORDER, reason="RELEASED"))
    when.then_nothing_when_repeated()
