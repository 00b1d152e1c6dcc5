"""The merged story of an order: no event before its cause, whatever the clocks of the databases said."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.events.envelope import Recorded
from libs.events.order import (
    OrderAccepted,
    OrderCompleted,
    OrderHoldPlaced,
    PaymentMethodUpdateRequested,
    RefundRequested,
)
from libs.events.payment import PaymentAuthorizationSubmitted, PaymentAuthorized, PaymentDeclined
from libs.testing.scenario import NOW, recorded
from services.tracking.views.summary import in_words, money, summary
from services.tracking.views.timeline import in_causal_order, timeline

ORDER = "5f0c6f4e-0001"


def at(seconds: float) -> Any:
    return NOW + timedelta(seconds=seconds)


def told(event_id: str, cause: str, seconds: float, stream: str = "order", stream_version: int = 1) -> Recorded[Any]:
    return recorded(
        OrderAccepted(order_id=f"{ORDER}-{stream}"),
        event_id=event_id,
        causation_id=cause,
        recorded_at=at(seconds),
        stream_version=stream_version,
    )


def ids(heard: Sequence[Recorded[Any]]) -> list[str]:
    return [item.event_id for item in in_causal_order(heard)]


def test_events_come_by_time() -> None:
    assert ids([told("b", "x", 2, "s"), told("a", "y", 1, "t")]) == ["a", "b"]


def test_cause_with_a_fast_clock_comes_before_its_effect() -> None:
    assert ids([told("effect", "cause", 1, "s"), told("cause", "x", 5, "t"), told("other", "x", 3, "u")]) == [
        "other",
        "cause",
        "effect",
    ]


def test_versions_of_a_stream_keep_their_order_at_the_same_moment() -> None:
    heard = [told(f"v{n}", "x", 0, stream_version=n) for n in (10, 9, 11)]
    assert ids(heard) == ["v9", "v10", "v11"]


def test_version_recorded_by_a_clock_put_back_stays_in_its_place() -> None:
    assert ids([told("v2", "x", 1, stream_version=2), told("v1", "x", 2, stream_version=1)]) == ["v1", "v2"]


def test_event_heard_twice_is_told_once() -> None:
    assert ids([told("a", "x", 1), told("a", "x", 1)]) == ["a"]


def test_event_that_names_itself_as_cause_waits_for_nothing() -> None:
    assert ids([told("b", "x", 2, "s"), told("a", "a", 1, "t")]) == ["a", "b"]


def test_events_that_cause_each_other_are_told_by_time() -> None:
    assert ids([told("b", "a", 2, "s"), told("a", "b", 1, "t"), told("c", "x", 3, "u")]) == ["c", "a", "b"]


@st.composite
def stories(draw: st.DrawFn) -> list[Recorded[Any]]:
    """Up to thirty events, each caused by an earlier one or by nothing, at clocks that disagree, heard in any order."""
    versions: dict[str, int] = {}
    heard: list[Recorded[Any]] = []
    for nth in range(draw(st.integers(1, 30))):
        stream = draw(st.sampled_from("abcd"))
        versions[stream] = versions.get(stream, 0) + 1
        cause = draw(st.sampled_from(["request", *(item.event_id for item in heard)]))
        heard.append(told(f"e{nth}", cause, draw(st.integers(-5, 5)), stream, versions[stream]))
    return draw(st.permutations(heard))


@given(stories())
def test_any_story_is_told_whole_with_causes_and_versions_first(heard: list[Recorded[Any]]) -> None:
    out = in_causal_order(heard)
    place = {item.event_id: nth for nth, item in enumerate(out)}
    assert sorted(place) == sorted(item.event_id for item in heard)
    for item in heard:
        assert place.get(item.causation_id, -1) < place[item.event_id]
    for stream in {item.stream_id for item in heard}:
        versions = [item.stream_version for item in out if item.stream_id == stream]
        assert versions == sorted(versions)


@given(stories())
def test_the_way_events_were_heard_does_not_change_the_story(heard: list[Recorded[Any]]) -> None:
    assert in_causal_order(heard) == in_causal_order(sorted(heard, key=lambda item: item.event_id))


def test_entry_shows_the_event_without_what_nobody_should_see() -> None:
    submitted = PaymentAuthorizationSubmitted(
        payment_id=f"{ORDER}-p",
        order_id=ORDER,
        attempt=1,
        psp="sim",
        idempotency_key="auth:1",
        amount=5291,
        currency="EUR",
        token="tok_visa",
        not_before=NOW,
    )
    [entry] = timeline([recorded(submitted)])
    assert entry.model_dump(mode="json") == {
        "occurred_at": "2026-01-05T10:00:00Z",
        "recorded_at": "2026-01-05T10:00:00Z",
        "service": "payment",
        "type": "PaymentAuthorizationSubmitted",
        "summary": "Payment authorization submitted",
        "stream_id": f"payment-{ORDER}-p",
        "stream_version": 1,
        "event_id": recorded(submitted).event_id,
        "causation_id": "cause",
        "data": {
            "payment_id": f"{ORDER}-p",
            "order_id": ORDER,
            "attempt": 1,
            "psp": "sim",
            "idempotency_key": "auth:1",
            "amount": 5291,
            "currency": "EUR",
            "not_before": "2026-01-05T10:00:00Z",
        },
    }


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            PaymentAuthorized(
                payment_id="p", order_id="o", attempt=1, auth_id="a", amount=5291, currency="EUR", expires_at=NOW
            ),
            "Payment of 52.91 EUR authorised",
        ),
        (
            PaymentDeclined(payment_id="p", order_id="o", attempt=1, code="lost_card", retryable=False),
            "Payment declined: lost_card",
        ),
        (OrderHoldPlaced(order_id="o", hold_id="h", type="PAYMENT", reason="dunning"), "PAYMENT hold placed: dunning"),
        (
            PaymentMethodUpdateRequested(order_id="o", attempt=1, code="lost_card", expires_at=NOW),
            "Another payment method asked for: lost_card",
        ),
        (
            RefundRequested(
                order_id="o",
                request_id="r",
                payment_id="p",
                refund_id="r",
                amount=500,
                currency="JPY",
                by="eve",
                reason="goodwill",
            ),
            "Refund of 500 JPY requested by eve: goodwill",
        ),
        (OrderCompleted(order_id="o"), "Order completed"),
    ],
)
def test_event_reads_as_a_sentence(event: Any, words: str) -> None:
    assert summary(event) == words


@pytest.mark.parametrize(
    ("minor", "currency", "words"),
    [(5291, "EUR", "52.91 EUR"), (5, "USD", "0.05 USD"), (500, "JPY", "500 JPY"), (1234, "KWD", "1.234 KWD")],
)
def test_money_is_written_with_its_currency_s_digits(minor: int, currency: str, words: str) -> None:
    assert money(minor, currency) == words


def test_type_without_a_sentence_reads_as_its_words() -> None:
    assert in_words(OrderAccepted(order_id="o")) == "Order accepted"
