"""What the payment service decides, given, when, then."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from libs.events.base import Event
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
from libs.runtime.decider import Wake
from libs.testing.scenario import NOW, Scenario, scenario
from services.payment.domain.call import Approved, Refused
from services.payment.domain.command import (
    AuthorizePayment,
    CapturePayment,
    Command,
    RecordAnswer,
    RecordUnknown,
    RefundPayment,
    RepeatCall,
    SettlePayment,
    VoidPayment,
)
from services.payment.domain.decider import PaymentTerms, decider
from services.payment.domain.payment import PAYMENT

TERMS = PaymentTerms()
SOON = NOW + timedelta(seconds=1)
TTL = NOW + TERMS.authorization_ttl
IDS: dict[str, Any] = {"payment_id": "o1-p", "order_id": "o1"}
EUR: dict[str, Any] = {**IDS, "currency": "EUR"}
KEY, CAP, VOID, REF = "auth:o1:1:1", "cap:o1:s1", "void:A1", "ref:o1:r1"

AUTHORIZE = AuthorizePayment("o1-p", "o1", KEY, 1, 100, "EUR", "sim", "tok_visa", NOW)
CAPTURE = CapturePayment("o1-p", "o1", CAP, "c1", "s1", 60, "EUR")
LET_GO = VoidPayment("o1-p", "o1", VOID, "A1")
REFUND = RefundPayment("o1-p", "o1", REF, "r1", 60, "EUR")
GRANT = Approved("A1", 100, "EUR", TTL)


def asked(attempt: int = 1, amount: int = 100) -> PaymentAuthorizationSubmitted:
    return PaymentAuthorizationSubmitted(
        **EUR,
        attempt=attempt,
        psp="sim",
        idempotency_key=f"auth:o1:1:{attempt}",
        amount=amount,
        token="tok_visa",
        not_before=NOW,
    )


def granted(attempt: int = 1, amount: int = 100) -> PaymentAuthorized:
    return PaymentAuthorized(**EUR, attempt=attempt, auth_id=f"A{attempt}", amount=amount, expires_at=TTL)


def declined(code: str = "card_declined", retryable: bool = False) -> PaymentDeclined:
    return PaymentDeclined(**IDS, attempt=1, code=code, retryable=retryable)


def capturing(amount: int = 60, auth_id: str = "A1", n: int = 1) -> PaymentCaptureSubmitted:
    return PaymentCaptureSubmitted(
        **EUR,
        idempotency_key=f"cap:o1:s{n}",
        auth_id=auth_id,
        capture_id=f"c{n}",
        shipment_id=f"s{n}",
        amount=amount,
    )


def captured(amount: int = 60, n: int = 1) -> PaymentCaptured:
    return PaymentCaptured(**EUR, capture_id=f"c{n}", shipment_id=f"s{n}", amount=amount, psp_reference=f"C{n}")


def capture_failed(code: str, amount: int = 60) -> PaymentCaptureFailed:
    return PaymentCaptureFailed(**EUR, capture_id="c1", shipment_id="s1", amount=amount, code=code)


def voiding(auth_id: str = "A1") -> PaymentVoidSubmitted:
    return PaymentVoidSubmitted(**IDS, idempotency_key=f"void:{auth_id}", auth_id=auth_id)


def voided(auth_id: str = "A1") -> PaymentAuthorizationVoided:
    return PaymentAuthorizationVoided(**IDS, auth_id=auth_id)


def void_failed(code: str, auth_id: str = "A1") -> PaymentVoidFailed:
    return PaymentVoidFailed(**IDS, auth_id=auth_id, code=code)


def refunding(amount: int = 60, n: int = 1) -> RefundSubmitted:
    return RefundSubmitted(**EUR, idempotency_key=f"ref:o1:r{n}", auth_id="A1", refund_id=f"r{n}", amount=amount)


def refunded(amount: int = 60) -> PaymentRefunded:
    return PaymentRefunded(**EUR, refund_id="r1", amount=amount, psp_reference="R1")


def refund_failed(code: str, amount: int = 60, **changes: Any) -> RefundFailed:
    return RefundFailed(**{**EUR, "refund_id": "r1", "amount": amount, "code": code, **changes})


def lost(operation: Any = "AUTHORIZE", key: str = KEY, amount: int = 100, seconds: float = 1) -> PaymentOutcomeUnknown:
    return PaymentOutcomeUnknown(
        **EUR,
        operation=operation,
        idempotency_key=key,
        amount=amount,
        look_up_at=NOW + timedelta(seconds=seconds),
    )


def known(source: Any, operation: Any = "AUTHORIZE", key: str = KEY, **words: str) -> PaymentOutcomeResolved:
    return PaymentOutcomeResolved(**IDS, operation=operation, idempotency_key=key, source=source, **words)


HELD: list[Event] = [asked(), granted()]
SHIPPED: list[Event] = [*HELD, capturing(), captured()]


def given(*events: Event) -> Scenario:
    return scenario(decider(TERMS)).given(*events)


# requests


def test_requested_authorisation_is_submitted_once() -> None:
    given().when(AUTHORIZE).then(asked())
    given().when(AUTHORIZE).then_nothing_when_repeated()


def test_authorisation_that_waits_keeps_its_time() -> None:
    later = NOW + timedelta(minutes=5)
    event = asked().model_copy(update={"not_before": later})
    given().when(replace(AUTHORIZE, not_before=later)).then(event)


@pytest.mark.parametrize("end", [granted(), declined()])
def test_answered_authorisation_is_not_submitted_again(end: Event) -> None:
    given(asked(), end).when(AUTHORIZE).then_nothing()


def test_next_attempt_is_submitted_beside_the_declined_one() -> None:
    second = replace(AUTHORIZE, request_id="auth:o1:1:2", attempt=2)
    given(asked(), declined()).when(second).then(asked(2))


def test_authorisation_of_nothing_needs_no_psp() -> None:
    free = replace(AUTHORIZE, amount=0)
    event = granted(amount=0).model_copy(update={"auth_id": "o1-p-1"})
    given().when(free).then(event)
    given().when(free).then_nothing_when_repeated()
    given(event).when(replace(LET_GO, auth_id="o1-p-1")).then(voided("o1-p-1"))


def test_negative_amount_is_never_sent() -> None:
    given().when(replace(AUTHORIZE, amount=-1)).then(declined("invalid_amount"))
    given(*HELD).when(replace(CAPTURE, amount=-1)).then(capture_failed("invalid_amount", -1))
    given(*SHIPPED).when(replace(REFUND, amount=-1)).then(refund_failed("invalid_amount", -1))


def test_key_of_another_request_is_refused() -> None:
    given(*HELD).when(replace(CAPTURE, request_id=KEY)).then(capture_failed("request_id_in_use"))


def test_requested_capture_is_submitted_once() -> None:
    given(*HELD).when(CAPTURE).then(capturing())
    given(*HELD).when(CAPTURE).then_nothing_when_repeated()


@pytest.mark.parametrize("end", [captured(), capture_failed("capture_declined")])
def test_answered_capture_is_not_submitted_again(end: Event) -> None:
    given(*HELD, capturing(), end).when(CAPTURE).then_nothing()


def test_captures_up_to_the_authorised_amount_are_submitted() -> None:
    rest = replace(CAPTURE, request_id="cap:o1:s2", capture_id="c2", shipment_id="s2", amount=40)
    given(*SHIPPED).when(rest).then(capturing(40, n=2))


@pytest.mark.parametrize("first", [[capturing()], [capturing(), lost("CAPTURE", CAP, 60)], [capturing(), captured()]])
def test_captures_beyond_the_authorised_amount_fail(first: list[Event]) -> None:
    beyond = replace(CAPTURE, request_id="cap:o1:s2", capture_id="c2", shipment_id="s2", amount=41)
    failed = capture_failed("exceeds_authorization", 41).model_copy(update={"capture_id": "c2", "shipment_id": "s2"})
    given(*HELD, *first).when(beyond).then(failed)
    given(*HELD, *first).when(beyond).then_nothing_when_repeated()


def test_failed_capture_takes_nothing() -> None:
    again = replace(CAPTURE, request_id="cap:o1:s2", capture_id="c2", shipment_id="s2", amount=100)
    failed = capture_failed("capture_declined")
    given(*HELD, capturing(), failed).when(again).then(capturing(100, n=2))


@pytest.mark.parametrize(
    "past", [[], [asked()], [asked(), lost()], [asked(), declined()], [*HELD, voiding()], [*HELD, voiding(), voided()]]
)
def test_capture_without_a_live_authorisation_fails(past: list[Event]) -> None:
    given(*past).when(CAPTURE).then(capture_failed("not_authorized"))
    given(*past).when(CAPTURE).then_nothing_when_repeated()


def test_capture_in_another_currency_fails() -> None:
    failed = capture_failed("currency_mismatch").model_copy(update={"currency": "USD"})
    given(*HELD).when(replace(CAPTURE, currency="USD")).then(failed)


def test_capture_of_nothing_needs_no_psp() -> None:
    done = captured(0).model_copy(update={"psp_reference": "o1-p-c1"})
    given(*HELD).when(replace(CAPTURE, amount=0)).then(done)
    given(*HELD).when(replace(CAPTURE, amount=0)).then_nothing_when_repeated()
    given(*HELD, done).when(LET_GO).then(voiding())


def test_capture_takes_the_authorisation_that_was_granted_first() -> None:
    late_first = [asked(1), lost(), asked(2), granted(2), known("LOOKUP"), granted(1)]
    given(*late_first).when(CAPTURE).then(capturing(auth_id="A2"))


def test_capture_passes_by_an_authorisation_that_is_being_voided() -> None:
    both = [asked(1), asked(2), granted(1), granted(2)]
    given(*both, voiding("A1")).when(CAPTURE).then(capturing(auth_id="A2"))
    given(*both, voiding("A1"), voided("A1")).when(CAPTURE).then(capturing(auth_id="A2"))
    given(*both, voiding("A1"), void_failed("psp_says_no")).when(CAPTURE).then(capturing(auth_id="A1"))


def test_capture_goes_on_with_the_authorisation_already_drawn_on() -> None:
    drawn_second = [asked(1), asked(2), granted(1), granted(2), voiding("A1"), capturing(60, "A2")]
    back = void_failed("psp_says_no")
    rest = replace(CAPTURE, request_id="cap:o1:s2", capture_id="c2", shipment_id="s2", amount=40)
    given(*drawn_second, back).when(rest).then(capturing(40, "A2", n=2))


def test_requested_void_is_submitted_once() -> None:
    given(*HELD).when(LET_GO).then(voiding())
    given(*HELD).when(LET_GO).then_nothing_when_repeated()


@pytest.mark.parametrize("end", [voided(), void_failed("psp_says_no")])
def test_answered_void_is_not_submitted_again(end: Event) -> None:
    given(*HELD, voiding(), end).when(LET_GO).then_nothing()


@pytest.mark.parametrize("first", [[capturing()], [capturing(), lost("CAPTURE", CAP, 60)], [capturing(), captured()]])
def test_void_of_what_is_captured_fails(first: list[Event]) -> None:
    given(*HELD, *first).when(LET_GO).then(void_failed("already_captured"))
    given(*HELD, *first).when(LET_GO).then_nothing_when_repeated()


def test_void_after_a_failed_capture_is_submitted() -> None:
    given(*HELD, capturing(), capture_failed("capture_declined")).when(LET_GO).then(voiding())


def test_void_of_an_unknown_authorisation_fails() -> None:
    given(asked()).when(LET_GO).then(void_failed("not_authorized"))
    given(asked()).when(LET_GO).then_nothing_when_repeated()


def test_requested_refund_is_submitted_once() -> None:
    given(*SHIPPED).when(REFUND).then(refunding())
    given(*SHIPPED).when(REFUND).then_nothing_when_repeated()


@pytest.mark.parametrize("end", [refunded(), refund_failed("psp_says_no")])
def test_answered_refund_is_not_submitted_again(end: Event) -> None:
    given(*SHIPPED, refunding(), end).when(REFUND).then_nothing()


@pytest.mark.parametrize(
    "past",
    [
        [],
        HELD,
        [*HELD, capturing()],
        [*HELD, capturing(), lost("CAPTURE", CAP, 60)],
        [*HELD, capturing(59), captured(59)],
        [*SHIPPED, refunding(1, n=2)],
    ],
)
def test_refund_beyond_what_surely_was_captured_fails(past: list[Event]) -> None:
    given(*past).when(REFUND).then(refund_failed("exceeds_captured"))
    given(*past).when(REFUND).then_nothing_when_repeated()


def test_failed_refund_gives_nothing_back() -> None:
    again = replace(REFUND, request_id="ref:o1:r2", refund_id="r2")
    given(*SHIPPED, refunding(), refund_failed("psp_says_no")).when(again).then(refunding(n=2))


def test_refund_in_another_currency_fails() -> None:
    given(*SHIPPED).when(replace(REFUND, currency="USD")).then(refund_failed("currency_mismatch", currency="USD"))


def test_refund_of_nothing_fails() -> None:
    given(*SHIPPED).when(replace(REFUND, amount=0)).then(refund_failed("invalid_amount", 0))


# what the PSP says


ENDS: list[tuple[list[Event], str, Any, Event]] = [
    ([asked()], KEY, GRANT, granted()),
    ([asked()], KEY, Refused("issuer_unavailable", True), declined("issuer_unavailable", True)),
    ([*HELD, capturing()], CAP, Approved("C1", 60, "EUR"), captured()),
    ([*HELD, capturing()], CAP, Refused("capture_declined"), capture_failed("capture_declined")),
    ([*HELD, voiding()], VOID, Approved("A1"), voided()),
    ([*HELD, voiding()], VOID, Refused("already_captured"), void_failed("already_captured")),
    ([*SHIPPED, refunding()], REF, Approved("R1", 60, "EUR"), refunded()),
    ([*SHIPPED, refunding()], REF, Refused("amount_too_large"), refund_failed("amount_too_large")),
]
LOST: dict[str, PaymentOutcomeUnknown] = {
    KEY: lost(),
    CAP: lost("CAPTURE", CAP, 60),
    VOID: lost("VOID", VOID, 100),
    REF: lost("REFUND", REF, 60),
}


@pytest.mark.parametrize(("past", "key", "answer", "end"), ENDS)
def test_answer_to_a_call_ends_it(past: list[Event], key: str, answer: Any, end: Event) -> None:
    for source in ("CALL", "LOOKUP", "CALLBACK"):
        given(*past).when(RecordAnswer("o1-p", key, answer, source)).then(end)
        given(*past).when(RecordAnswer("o1-p", key, answer, source)).then_nothing_when_repeated()


@pytest.mark.parametrize(("past", "key", "answer", "end"), ENDS)
def test_answer_to_a_lost_call_resolves_it(past: list[Event], key: str, answer: Any, end: Event) -> None:
    operation = LOST[key].operation
    for source in ("LOOKUP", "CALLBACK"):
        found = given(*past, LOST[key]).when(RecordAnswer("o1-p", key, answer, source))
        found.then(known(source, operation, key), end)
        found.then_nothing_when_repeated()


@pytest.mark.parametrize(("past", "key", "answer", "end"), ENDS)
def test_call_without_an_outcome_becomes_unknown(past: list[Event], key: str, answer: Any, end: Event) -> None:
    if LOST[key].operation == "VOID":
        assert LOST[key].amount == 100, "a void is worth what it lets go"
    given(*past).when(RecordUnknown("o1-p", key)).then(LOST[key])
    given(*past).when(RecordUnknown("o1-p", key)).then_nothing_when_repeated()
    given(*past, end).when(RecordUnknown("o1-p", key)).then_nothing()


@pytest.mark.parametrize(("past", "key", "answer", "end"), ENDS)
def test_call_that_the_psp_knows_nothing_of_is_submitted_again(
    past: list[Event], key: str, answer: Any, end: Event
) -> None:
    repeat = given(*past, LOST[key]).when(RepeatCall("o1-p", key))
    repeat.then(past[-1])
    repeat.then_nothing_when_repeated()
    given(*past).when(RepeatCall("o1-p", key)).then_nothing()
    given(*past, LOST[key], end).when(RepeatCall("o1-p", key)).then_nothing()


@pytest.mark.parametrize(("past", "key", "answer", "end"), ENDS)
def test_answer_to_a_repeated_call_resolves_it(past: list[Event], key: str, answer: Any, end: Event) -> None:
    repeated = given(*past, LOST[key], past[-1]).when(RecordAnswer("o1-p", key, answer))
    repeated.then(known("LOOKUP", LOST[key].operation, key), end)
    repeated.then_nothing_when_repeated()


def test_call_lost_again_is_looked_up_later_each_time() -> None:
    past = [asked(), lost(), asked()]
    given(*past).when(RecordUnknown("o1-p", KEY)).then(lost(seconds=2))
    given(*past, lost(), asked()).when(RecordUnknown("o1-p", KEY)).then(lost(seconds=4))
    given(*past, *[lost(), asked()] * 40).when(RecordUnknown("o1-p", KEY)).then(lost(seconds=300))


def test_other_outcome_than_the_known_one_is_refused() -> None:
    late = RecordAnswer("o1-p", KEY, GRANT, "CALLBACK")
    given(asked(), declined()).when(late).then_rejected("already_resolved")
    given(*HELD).when(replace(late, answer=Refused("card_declined"))).then_rejected("already_resolved")
    given(*HELD).when(replace(late, answer=Approved("A9", 100, "EUR", TTL))).then_rejected("already_resolved")


def test_second_refusal_in_other_words_changes_nothing() -> None:
    given(asked(), declined()).when(RecordAnswer("o1-p", KEY, Refused("expired_card"))).then_nothing()


@pytest.mark.parametrize("source", ["LOOKUP", "CALLBACK"])
@pytest.mark.parametrize("answer", [Approved("A1", 99, "EUR", TTL), Approved("A1", 100, "USD", TTL)])
def test_outcome_over_other_money_is_refused(answer: Approved, source: Any) -> None:
    for past in ([asked()], [asked(), lost()]):
        given(*past).when(RecordAnswer("o1-p", KEY, answer, source)).then_rejected("answer_mismatch")


def test_answer_over_other_money_makes_the_call_unknown() -> None:
    given(asked()).when(RecordAnswer("o1-p", KEY, Approved("A1", 99, "EUR", TTL))).then(lost())


def test_authorisation_under_the_id_of_another_is_not_believed() -> None:
    second = RecordAnswer("o1-p", "auth:o1:1:2", GRANT)
    given(*HELD, asked(2)).when(second).then(lost(key="auth:o1:1:2"))
    given(*HELD, asked(2)).when(replace(second, source="CALLBACK")).then_rejected("reference_in_use")


@pytest.mark.parametrize(
    "command",
    [
        RecordAnswer("o1-p", "other", GRANT),
        RecordAnswer("o1-p", "", GRANT),
        RecordUnknown("o1-p", "other"),
        RepeatCall("o1-p", "other"),
        SettlePayment("o1-p", "other", GRANT, "ann", "seen"),
    ],
)
def test_operation_never_asked_for_is_refused(command: Command) -> None:
    for past in ([], HELD, [void_failed("not_authorized")]):
        given(*past).when(command).then_rejected("unknown_operation")


# by hand


@pytest.mark.parametrize(("past", "key", "answer", "end"), ENDS)
def test_unknown_outcome_is_settled_by_hand(past: list[Event], key: str, answer: Any, end: Event) -> None:
    by_hand = SettlePayment("o1-p", key, answer, "ann", "seen in the portal")
    settled = given(*past, LOST[key]).when(by_hand)
    settled.then(known("MANUAL", LOST[key].operation, key, by="ann", reason="seen in the portal"), end)
    given(*past, LOST[key], end).when(by_hand).then_rejected("outcome_known")


def test_settled_authorisation_lives_as_long_as_one_usually_does() -> None:
    by_hand = SettlePayment("o1-p", KEY, Approved("A1"), "ann", "seen")
    given(asked(), lost()).when(by_hand).then(known("MANUAL", by="ann", reason="seen"), granted())


def test_call_under_way_is_not_settled_by_hand() -> None:
    by_hand = SettlePayment("o1-p", KEY, Refused("settled"), "ann", "seen")
    given(asked()).when(by_hand).then_rejected("outcome_pending")
    given(asked(), lost(), asked()).when(by_hand).then_rejected("outcome_pending")


def test_settling_under_the_id_of_another_authorisation_is_refused() -> None:
    by_hand = SettlePayment("o1-p", "auth:o1:1:2", Approved("A1"), "ann", "seen")
    given(*HELD, asked(2), lost(key="auth:o1:1:2")).when(by_hand).then_rejected("reference_in_use")


def test_call_settled_by_hand_is_not_sent_again() -> None:
    given(asked(), lost(), known("MANUAL"), declined("settled")).when(RepeatCall("o1-p", KEY)).then_nothing()


def test_payment_is_never_due() -> None:
    assert PAYMENT.due(PAYMENT.initial_state()) is None
    given(*SHIPPED).when(Wake("payment-o1-p")).then_nothing()
