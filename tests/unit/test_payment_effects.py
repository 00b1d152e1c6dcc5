"""Which calls follow from which events, and what each kind of answer of the PSP means."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from libs.events.base import Event
from libs.events.payment import (
    PaymentAuthorizationSubmitted,
    PaymentCaptureSubmitted,
    PaymentDeclined,
    PaymentEvent,
    PaymentOutcomeUnknown,
    PaymentVoidSubmitted,
    RefundSubmitted,
)
from libs.runtime.effect import Effect, GatewayUnavailable
from libs.testing.payment_gateway import PspDouble
from libs.testing.scenario import NOW, recorded
from services.payment.domain.call import Approved, Refused
from services.payment.domain.command import Command, RecordAnswer, RecordUnknown, RepeatCall
from services.payment.effects import follow, perform
from services.payment.gateway import HttpPaymentGateway, PspSettings

EUR: dict[str, Any] = {"payment_id": "o1-p", "order_id": "o1", "currency": "EUR"}
KEY = "auth:o1:1:1"
ASKED = PaymentAuthorizationSubmitted(
    **EUR, attempt=1, psp="sim", idempotency_key=KEY, amount=100, token="tok_visa", not_before=NOW
)
CAPTURING = PaymentCaptureSubmitted(
    **EUR, idempotency_key="cap:o1:s1", auth_id="A1", capture_id="c1", shipment_id="s1", amount=60
)
VOIDING = PaymentVoidSubmitted(payment_id="o1-p", order_id="o1", idempotency_key="void:A1", auth_id="A1")
REFUNDING = RefundSubmitted(**EUR, idempotency_key="ref:o1:r1", auth_id="A1", refund_id="r1", amount=60)
LOST = PaymentOutcomeUnknown(**EUR, operation="AUTHORIZE", idempotency_key=KEY, amount=100, look_up_at=NOW)

UNTIL = datetime(2026, 2, 1, tzinfo=UTC)
GRANT = {"id": "A1", "status": "authorized", "amount": 100, "currency": "EUR", "expires_at": "2026-02-01T00:00:00Z"}
CAPTURED = {"id": "C1", "status": "captured", "amount": 60, "currency": "EUR"}
DECLINED = {"status": "declined", "code": "card_declined", "retryable": False}

Handler = Callable[[httpx.Request], httpx.Response]


def effect(intent: PaymentEvent) -> Effect:
    (only,) = follow(recorded(intent))
    return only


def performed(intent: PaymentEvent, handler: Handler, settings: PspSettings | None = None) -> Command:
    async def call() -> Command:
        gateway = HttpPaymentGateway("http://psp", settings or PspSettings(), httpx.MockTransport(handler))
        try:
            return await perform(effect(intent), gateway)
        finally:
            await gateway.close()

    return asyncio.run(call())


def answering(status_code: int, **content: Any) -> Handler:
    return lambda request: httpx.Response(status_code, **content)


def raising(error: Exception) -> Handler:
    def handler(request: httpx.Request) -> httpx.Response:
        raise error

    return handler


# follow


@pytest.mark.parametrize(
    ("event", "kind", "key", "due_at"),
    [
        (ASKED, "authorize", KEY, NOW),
        (CAPTURING, "capture", "cap:o1:s1", None),
        (VOIDING, "void", "void:A1", None),
        (REFUNDING, "refund", "ref:o1:r1", None),
        (LOST, "lookup", f"lookup:{KEY}", NOW),
    ],
)
def test_each_intent_is_called_for_under_its_key(event: Event, kind: str, key: str, due_at: Any) -> None:
    assert follow(recorded(event)) == [Effect(kind=kind, key=key, intent=event, due_at=due_at)]


def test_outcomes_call_for_nothing() -> None:
    event = PaymentDeclined(payment_id="o1-p", order_id="o1", attempt=1, code="card_declined", retryable=False)
    assert follow(recorded(event)) == []


def test_event_without_a_call_is_a_defect() -> None:
    event = PaymentDeclined(payment_id="o1-p", order_id="o1", attempt=1, code="card_declined", retryable=False)
    with pytest.raises(TypeError, match="PaymentDeclined"):
        asyncio.run(perform(Effect(kind="authorize", key=KEY, intent=event), _nobody()))


def _nobody() -> HttpPaymentGateway:
    return HttpPaymentGateway("http://psp", PspSettings(), PspDouble().transport)


# what is sent


def test_call_is_sent_as_the_protocol_has_it() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(500)

    for intent in (ASKED, CAPTURING, VOIDING, REFUNDING):
        performed(intent, handler)
    assert [(request.method, request.url.path, request.headers["Idempotency-Key"]) for request in seen] == [
        ("POST", "/v1/authorizations", KEY),
        ("POST", "/v1/authorizations/A1/captures", "cap:o1:s1"),
        ("POST", "/v1/authorizations/A1/void", "void:A1"),
        ("POST", "/v1/authorizations/A1/refunds", "ref:o1:r1"),
    ]
    assert seen[0].content == b'{"amount":100,"currency":"EUR","reference":"o1-p","token":"tok_visa"}'
    assert seen[1].content == b'{"amount":60,"currency":"EUR","reference":"o1-p"}'
    assert seen[2].content == b""
    assert seen[3].content == seen[1].content


# definite answers


@pytest.mark.parametrize(
    ("intent", "status_code", "body", "answer"),
    [
        (ASKED, 201, GRANT, Approved("A1", 100, "EUR", UNTIL)),
        (ASKED, 402, DECLINED, Refused("card_declined")),
        (ASKED, 402, {**DECLINED, "code": "do_not_honor", "retryable": True}, Refused("do_not_honor", True)),
        (ASKED, 422, {"code": "idempotency_mismatch"}, Refused("idempotency_mismatch")),
        (ASKED, 400, {"code": "invalid_request"}, Refused("invalid_request")),
        (CAPTURING, 201, CAPTURED, Approved("C1", 60, "EUR")),
        (CAPTURING, 402, {"status": "failed", "code": "capture_declined"}, Refused("capture_declined")),
        (CAPTURING, 409, {"status": "failed", "code": "amount_too_large"}, Refused("amount_too_large")),
        (CAPTURING, 404, {"status": "failed", "code": "authorization_not_found"}, Refused("authorization_not_found")),
        (VOIDING, 200, {"id": "A1", "status": "voided"}, Approved("A1")),
        (VOIDING, 409, {"status": "failed", "code": "already_captured"}, Refused("already_captured")),
        (REFUNDING, 201, {**CAPTURED, "id": "R1", "status": "refunded"}, Approved("R1", 60, "EUR")),
        (REFUNDING, 409, {"status": "failed", "code": "amount_too_large"}, Refused("amount_too_large")),
    ],
)
def test_definite_answer_is_recorded(intent: Any, status_code: int, body: Any, answer: Any) -> None:
    command = performed(intent, answering(status_code, json=body))
    assert command == RecordAnswer("o1-p", intent.idempotency_key, answer, "CALL")


# answers that are neither


BOMB = json.dumps(GRANT).encode() + b" " * 1_000_000  # right in all but its size
NEITHER: list[tuple[int, dict[str, Any]]] = [
    (200, {"html": "<html>"}),
    (201, {"content": b""}),
    (201, {"content": b'{"id": "A1", "status": "autho'}),
    (201, {"content": b"[" * 100_000}),
    (201, {"content": b"\xff\xfe"}),
    (201, {"content": BOMB}),
    (201, {"json": [GRANT]}),
    (201, {"json": {**GRANT, "amount": 99}}),
    (201, {"json": {**GRANT, "amount": 101}}),
    (201, {"json": {**GRANT, "amount": "100"}}),
    (201, {"json": {**GRANT, "amount": 100.0}}),
    (201, {"json": {**GRANT, "currency": "USD"}}),
    (201, {"json": {**GRANT, "status": "pending"}}),
    (201, {"json": {**GRANT, "id": ""}}),
    (201, {"json": {**GRANT, "id": ".."}}),
    (201, {"json": {**GRANT, "id": "A/1"}}),
    (201, {"json": {**GRANT, "expires_at": "tomorrow"}}),
    (201, {"json": {key: value for key, value in GRANT.items() if key != "id"}}),
    (201, {"json": {key: value for key, value in GRANT.items() if key != "amount"}}),
    (202, {"json": GRANT}),
    (204, {}),
    (301, {"headers": {"location": "http://elsewhere/v1/authorizations"}}),
    (307, {"headers": {"location": "http://psp/v1/authorizations"}}),
    (402, {"html": "<html>"}),
    (402, {"json": {**DECLINED, "code": "never_heard_of"}}),
    (402, {"json": {**DECLINED, "retryable": "yes"}}),
    (404, {"html": "<html>"}),
    (500, {"json": {"code": "internal_error"}}),
    (502, {"html": "<html>"}),
    (504, {"json": {"code": "timeout"}}),
]


@pytest.mark.parametrize("intent", [CAPTURING, REFUNDING, VOIDING])
def test_decline_of_any_call_under_an_unknown_code_is_unknown(intent: Any) -> None:
    command = performed(intent, answering(402, json={"status": "declined", "code": "never_heard_of"}))
    assert command == RecordUnknown("o1-p", intent.idempotency_key)


@pytest.mark.parametrize(("status_code", "content"), NEITHER)
def test_answer_that_is_not_wholly_right_is_unknown(status_code: int, content: dict[str, Any]) -> None:
    assert performed(ASKED, answering(status_code, **content)) == RecordUnknown("o1-p", KEY)


def test_compressed_answer_is_unknown() -> None:
    async def zipped() -> AsyncIterator[bytes]:
        yield gzip.compress(json.dumps(GRANT).encode())

    headers = {"content-encoding": "gzip"}
    command = performed(ASKED, lambda request: httpx.Response(201, headers=headers, content=zipped()))
    assert command == RecordUnknown("o1-p", KEY)


def test_capture_over_other_money_is_unknown() -> None:
    for wrong in ({"amount": 59}, {"amount": 61}, {"currency": "USD"}, {"status": "refunded"}):
        command = performed(CAPTURING, answering(201, json={**CAPTURED, **wrong}))
        assert command == RecordUnknown("o1-p", "cap:o1:s1")


def test_redirect_is_not_followed() -> None:
    hosts: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(307, headers={"location": "http://elsewhere/"})

    performed(ASKED, handler)
    assert hosts == ["psp"]


def test_listed_decline_code_is_a_decline() -> None:
    body = {**DECLINED, "code": "never_heard_of"}
    settings = PspSettings(decline_codes=frozenset({"never_heard_of"}))
    command = performed(ASKED, answering(402, json=body), settings)
    assert command == RecordAnswer("o1-p", KEY, Refused("never_heard_of"), "CALL")


@pytest.mark.parametrize(
    "error",
    [
        httpx.ReadTimeout("slow"),
        httpx.WriteTimeout("slow"),
        httpx.ReadError("reset"),
        httpx.WriteError("reset"),
        httpx.RemoteProtocolError("closed"),
    ],
)
def test_call_whose_answer_is_lost_is_unknown(error: Exception) -> None:
    assert performed(ASKED, raising(error)) == RecordUnknown("o1-p", KEY)


def test_answer_that_drips_is_cut_off_and_unknown() -> None:
    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.001)

    settings = PspSettings(total_seconds=0.05)
    command = performed(ASKED, lambda request: httpx.Response(201, content=drip()), settings)
    assert command == RecordUnknown("o1-p", KEY)


# calls that surely had no effect


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("refused, or the name in the certificate is wrong"), httpx.ConnectTimeout("")]
)
def test_call_that_reached_nobody_waits(error: Exception) -> None:
    for intent in (ASKED, LOST):
        with pytest.raises(GatewayUnavailable):
            performed(intent, raising(error))


@pytest.mark.parametrize("status_code", [401, 403, 408, 425, 429, 503])
def test_call_refused_at_the_door_waits(status_code: int) -> None:
    for intent in (ASKED, CAPTURING, VOIDING, REFUNDING, LOST):
        with pytest.raises(GatewayUnavailable):
            performed(intent, answering(status_code, json={"code": "later"}))


# look-ups


def found(status_code: int, body: Any, operation: str = "authorize") -> Handler:
    return answering(200, json={"operation": operation, "status_code": status_code, "body": body})


def test_operation_found_is_recorded() -> None:
    granted = RecordAnswer("o1-p", KEY, Approved("A1", 100, "EUR", UNTIL), "LOOKUP")
    assert performed(LOST, found(201, GRANT)) == granted
    assert performed(LOST, found(402, DECLINED)) == RecordAnswer("o1-p", KEY, Refused("card_declined"), "LOOKUP")


def test_void_found_is_recorded_though_it_names_no_money() -> None:
    lost = LOST.model_copy(update={"operation": "VOID", "idempotency_key": "void:A1"})
    command = performed(lost, found(200, {"id": "A1", "status": "voided"}, "void"))
    assert command == RecordAnswer("o1-p", "void:A1", Approved("A1"), "LOOKUP")


def test_look_up_asks_by_key_and_changes_nothing() -> None:
    seen: list[tuple[str, str]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path))
        return httpx.Response(404, json={"code": "not_found"})

    assert performed(LOST, handler) == RepeatCall("o1-p", KEY)
    assert seen == [("GET", f"/v1/operations/{KEY}")]


@pytest.mark.parametrize(
    "handler",
    [
        found(201, {**GRANT, "amount": 99}),
        found(201, {**GRANT, "currency": "USD"}),
        found(201, GRANT, "capture"),
        found(201, "garbage"),
        found(500, {"code": "internal_error"}),
        found(402, {**DECLINED, "code": "never_heard_of"}),
        answering(404, html="<html>a proxy's 404 is no proof</html>"),
        answering(404, json={"code": "no_such_route"}),
        answering(200, html="<html>"),
        answering(500),
        answering(410, json={"code": "gone"}),
        raising(httpx.ReadTimeout("slow")),
    ],
)
def test_look_up_that_says_nothing_certain_is_made_again(handler: Handler) -> None:
    with pytest.raises(GatewayUnavailable):
        performed(LOST, handler)
