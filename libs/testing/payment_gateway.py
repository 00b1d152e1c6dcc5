"""A PSP in memory, spoken to over its wire protocol: give `psp.transport` to the payment service's HTTP gateway.

It doubles the wire and not the port, because libs know no service; so the adapter is under test wherever it is used.
tests/contract/test_payment_gateway.py holds it and the real simulator to the same behaviour.
"""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

Answer = tuple[int, dict[str, Any]]
Fault = Callable[["PspDouble", httpx.Request], httpx.Response]

DECLINES = {
    "tok_decline": ("card_declined", False),
    "tok_decline_retryable": ("issuer_unavailable", True),
}
EXPIRES_AT = "2026-12-31T00:00:00.000Z"


@dataclass
class Held:
    """An authorisation in the PSP's books."""

    reference: str
    token: str
    currency: str
    authorised: int
    captured: int = 0
    refunded: int = 0
    voided: bool = False


@dataclass
class PspDouble:
    """`faults` strike the next requests, first come first struck; `operations` is the ledger by idempotency key."""

    held: dict[str, Held] = field(default_factory=dict)
    operations: dict[str, tuple[str, str, Answer]] = field(default_factory=dict)
    attempts: dict[str, tuple[str, int]] = field(default_factory=dict)
    faults: deque[Fault] = field(default_factory=deque)

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._handle)

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        if self.faults:
            return self.faults.popleft()(self, request)
        return self.answer(request)

    def answer(self, request: httpx.Request) -> httpx.Response:
        _, _, *parts = request.url.path.split("/")
        if request.method == "GET":
            return self._look_up("/".join(parts[1:]))
        key = request.headers.get("Idempotency-Key", "")
        body = json.loads(request.content) if request.content else {}
        operation = {"captures": "capture", "refunds": "refund", "void": "void"}[parts[2]] if parts[2:] else "authorize"
        fingerprint = f"{request.url.path}\n{json.dumps(body, sort_keys=True)}"
        before, count = self.attempts.get(key, (fingerprint, 0))
        if before != fingerprint:
            return _json(422, {"code": "idempotency_mismatch"})
        self.attempts[key] = (fingerprint, count + 1)
        if key in self.operations:
            return _json(*self.operations[key][2])
        return self._first(key, operation, parts[1] if parts[1:] else "", body, first=count == 0)

    def _look_up(self, key: str) -> httpx.Response:
        if key not in self.operations:
            return _json(404, {"code": "not_found"})
        operation, _, (status_code, body) = self.operations[key]
        return _json(200, {"operation": operation, "status_code": status_code, "body": body})

    def _first(self, key: str, operation: str, auth_id: str, body: dict[str, Any], *, first: bool) -> httpx.Response:
        token = body.get("token", "")
        if "amount" in body and body["amount"] <= 0:
            return _json(422, {"code": "invalid_request"})
        if first and token == "tok_timeout_before":
            raise httpx.ReadTimeout("nothing happened and nobody said so")
        if first and token == "tok_error_once":
            return _json(500, {"code": "internal_error"})
        if operation != "authorize" and auth_id not in self.held:
            return _json(404, {"status": "failed", "code": "authorization_not_found"})
        answer = self._authorize(key, body) if operation == "authorize" else self._move(key, operation, auth_id, body)
        self.operations[key] = (operation, body.get("reference") or self.held[auth_id].reference, answer)
        if token == "tok_timeout_after":
            raise httpx.ReadTimeout("it happened and nobody said so")
        if token == "tok_garbage_once":
            return httpx.Response(200, html="<html></html>")
        return _json(*answer)

    def _authorize(self, key: str, body: dict[str, Any]) -> Answer:
        if body["token"] in DECLINES:
            code, retryable = DECLINES[body["token"]]
            return 402, {"status": "declined", "code": code, "retryable": retryable}
        auth_id = f"auth_{len(self.operations)}"
        self.held[auth_id] = Held(body["reference"], body["token"], body["currency"], body["amount"])
        money = {"amount": body["amount"], "currency": body["currency"]}
        return 201, {"id": auth_id, "status": "authorized", **money, "expires_at": EXPIRES_AT}

    def _move(self, key: str, operation: str, auth_id: str, body: dict[str, Any]) -> Answer:
        held = self.held[auth_id]
        if operation == "void":
            held.voided = not held.captured
            return (200, {"id": auth_id, "status": "voided"}) if held.voided else _failed("already_captured")
        amount, left = body["amount"], held.authorised - held.captured
        if operation == "refund":
            left = held.captured - held.refunded
        if held.token == "tok_capture_fails":
            return 402, {"status": "failed", "code": "capture_declined"}
        if body["currency"] != held.currency:
            return _failed("currency_mismatch")
        if operation == "capture" and held.voided:
            return _failed("authorization_closed")
        if amount > left:
            return _failed("amount_too_large")
        done = "captured" if operation == "capture" else "refunded"
        setattr(held, done, getattr(held, done) + amount)
        money = {"amount": amount, "currency": held.currency}
        return 201, {"id": f"{operation}_{len(self.operations)}", "status": done, **money}


def refused(psp: PspDouble, request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("nobody listens")


def busy(psp: PspDouble, request: httpx.Request) -> httpx.Response:
    return _json(503, {"code": "busy"})


def lost_before(psp: PspDouble, request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("the PSP never got it")


def lost_after(psp: PspDouble, request: httpx.Request) -> httpx.Response:
    psp.answer(request)
    raise httpx.ReadTimeout("the PSP did it, and the answer was lost")


def answers(status_code: int, **content: Any) -> Fault:
    """The PSP does it, and answers this instead."""

    def fault(psp: PspDouble, request: httpx.Request) -> httpx.Response:
        psp.answer(request)
        return httpx.Response(status_code, **content)

    return fault


def callback(psp: PspDouble, key: str) -> dict[str, Any]:
    """The callback that tells of an operation."""
    operation, reference, (status_code, body) = psp.operations[key]
    return {
        "id": f"evt_{key}",
        "type": "operation.completed",
        "idempotency_key": key,
        "operation": operation,
        "reference": reference,
        "status_code": status_code,
        "body": body,
    }


def _failed(code: str) -> Answer:
    return 409, {"status": "failed", "code": code}


def _json(status_code: int, body: dict[str, Any]) -> httpx.Response:
    return httpx.Response(status_code, json=body)
