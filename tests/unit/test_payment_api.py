"""Payment's routes, over doors that write down what they were asked."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from libs.runtime.api import (
    CommandDoor,
    M,
    Page,
    Problem,
    Receipt,
    SignedCallback,
    ViewDoor,
    command_door,
    signed_callback,
    view_door,
)
from libs.runtime.decider import CommandRejected
from libs.runtime.projection import Projection, V
from libs.testing.payment_gateway import PspDouble
from services.payment.domain.call import Approved, Refused
from services.payment.domain.command import RecordAnswer, SettlePayment
from services.payment.gateway import HttpPaymentGateway, PspSettings
from services.payment.service import service
from services.payment.views import PaymentView

KEY = "auth:o1:1:1"
GRANT = {"id": "A1", "status": "authorized", "amount": 100, "currency": "EUR", "expires_at": "2026-02-01T00:00:00Z"}
TOLD: dict[str, Any] = {
    "id": "evt_1",
    "type": "operation.completed",
    "idempotency_key": KEY,
    "operation": "authorize",
    "reference": "o1-p",
    "status_code": 201,
    "body": GRANT,
}
SETTLED: dict[str, Any] = {
    "idempotency_key": KEY,
    "outcome": "SUCCEEDED",
    "psp_reference": "A1",
    "by": "ann",
    "reason": "seen in the portal",
}


class Door(CommandDoor):
    def __init__(self) -> None:
        self.heard: list[tuple[Any, str | None]] = []
        self.events: list[str] = ["oms.payment.PaymentAuthorized"]
        self.no: CommandRejected | None = None

    async def handle(self, command: Any, *, key: str | None = None) -> Receipt:
        self.heard.append((command, key))
        if self.no:
            raise self.no
        return Receipt(stream_id="payment-o1-p", stream_version=2, events=self.events, token="payment-o1-p@2")


class Rows(ViewDoor):
    def __init__(self) -> None:
        self.asked: list[Mapping[str, str]] = []

    async def get(self, projection: Projection[V], key: str) -> V:
        if key != "o1-p":
            raise Problem(404, "not_found")
        return projection.view.model_validate({"payment_id": key, "order_id": "o1"})

    async def page(self, projection: Projection[V], where: Mapping[str, str]) -> Page[V]:
        assert set(where) <= set(projection.indexed)
        self.asked.append(where)
        return Page(items=[])


class Told(SignedCallback):
    def __init__(self, body: bytes) -> None:
        self.id, self.body = "evt_1", body

    def read(self, model: type[M]) -> M:
        try:
            return model.model_validate_json(self.body)
        except ValidationError:
            raise Problem(422, "invalid_body") from None


async def told(request: Request) -> SignedCallback:
    return Told(await request.body())


async def problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem | CommandRejected)
    return JSONResponse({"code": error.code}, getattr(error, "status", 409))


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def rows() -> Rows:
    return Rows()


@dataclass(frozen=True)
class Client:
    app: FastAPI

    def get(self, path: str, params: Mapping[str, str] | None = None) -> httpx.Response:
        return self._ask("GET", path, params=params)

    def post(self, path: str, json: Any) -> httpx.Response:
        return self._ask("POST", path, json=json)

    def _ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(base_url="http://payment", transport=transport) as client:
                return await client.request(method, path, **content)

        return asyncio.run(ask())


@pytest.fixture
def client(door: Door, rows: Rows) -> Client:
    app = FastAPI()
    router = service(HttpPaymentGateway("http://psp", PspSettings(), PspDouble().transport)).router
    assert router is not None
    app.include_router(router)
    app.dependency_overrides = {command_door: lambda: door, view_door: lambda: rows, signed_callback: told}
    for error in (Problem, CommandRejected):
        app.add_exception_handler(error, problem)
    return Client(app)


def test_payment_is_read_by_id(client: Client) -> None:
    answer = client.get("/payments/o1-p")
    assert answer.status_code == 200
    assert PaymentView.model_validate_json(answer.content).status == "NEW"
    assert client.get("/payments/o2-p").status_code == 404
    assert client.get("/payments/o1%20p").status_code == 422


def test_payments_are_listed_by_what_is_indexed(client: Client, rows: Rows) -> None:
    assert client.get("/payments").json() == {"items": [], "next_cursor": None}
    client.get("/payments", params={"status": "CAPTURED", "order_id": "o1", "outcome": "UNKNOWN"})
    assert rows.asked == [{}, {"status": "CAPTURED", "order_id": "o1", "outcome": "UNKNOWN"}]
    assert client.get("/payments", params={"status": "captured"}).status_code == 422


def test_operator_settles_an_unknown_outcome(client: Client, door: Door) -> None:
    assert client.post("/payments/o1-p/settlements", json=SETTLED).status_code == 201
    failed = {**SETTLED, "outcome": "FAILED", "psp_reference": None}
    assert client.post("/payments/o1-p/settlements", json=failed).status_code == 201
    assert [command for command, _ in door.heard] == [
        SettlePayment("o1-p", KEY, Approved("A1"), "ann", "seen in the portal"),
        SettlePayment("o1-p", KEY, Refused("settled"), "ann", "seen in the portal"),
    ]


def test_settlement_already_made_is_200(client: Client, door: Door) -> None:
    door.events = []
    assert client.post("/payments/o1-p/settlements", json=SETTLED).status_code == 200


def test_settlement_of_what_is_known_is_refused(client: Client, door: Door) -> None:
    door.no = CommandRejected("outcome_known")
    answer = client.post("/payments/o1-p/settlements", json=SETTLED)
    assert (answer.status_code, answer.json()) == (409, {"code": "outcome_known"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"psp_reference": None},
        {"psp_reference": "../x"},
        {"outcome": "MAYBE"},
        {"by": ""},
        {"reason": ""},
        {"reason": "x" * 1025},
        {"idempotency_key": "a b"},
        {"extra": 1},
    ],
)
def test_settlement_of_a_wrong_shape_is_refused(client: Client, door: Door, wrong: dict[str, Any]) -> None:
    assert client.post("/payments/o1-p/settlements", json={**SETTLED, **wrong}).status_code == 422
    assert door.heard == []


def test_callback_is_recorded_under_its_id(client: Client, door: Door) -> None:
    answer = client.post("/callbacks/psp", json=TOLD)
    assert (answer.status_code, answer.json()["ignored"]) == (200, None)
    ((command, key),) = door.heard
    assert isinstance(command, RecordAnswer)
    assert (command.payment_id, command.key, command.source) == ("o1-p", KEY, "CALLBACK")
    assert isinstance(command.answer, Approved)
    assert (command.answer.reference, command.answer.amount, key) == ("A1", 100, "evt_1")


def test_callback_tells_of_a_decline(client: Client, door: Door) -> None:
    body = {"status": "declined", "code": "card_declined", "retryable": False}
    client.post("/callbacks/psp", json={**TOLD, "status_code": 402, "body": body})
    assert door.heard[0][0] == RecordAnswer("o1-p", KEY, Refused("card_declined"), "CALLBACK")


@pytest.mark.parametrize("key", [KEY, "cap:o1:s1", "ref:o1:r1"])
def test_callback_without_a_reference_is_understood_by_its_key(client: Client, door: Door, key: str) -> None:
    body = {"status": "failed", "code": "no"}
    bare = {**TOLD, "operation": "capture", "idempotency_key": key, "status_code": 409, "body": body}
    del bare["reference"]
    client.post("/callbacks/psp", json=bare)
    assert door.heard[0][0] == RecordAnswer("o1-p", key, Refused("no"), "CALLBACK")


def test_callback_the_domain_refuses_is_taken_and_ignored(client: Client, door: Door) -> None:
    door.no = CommandRejected("answer_mismatch")
    answer = client.post("/callbacks/psp", json=TOLD)
    assert (answer.status_code, answer.json()["ignored"]) == (202, "answer_mismatch")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"type": "payout.paid"}, "unknown_type"),
        ({"reference": None, "idempotency_key": "void:A1"}, "unknown_reference"),
        ({"reference": None, "idempotency_key": "auth"}, "unknown_reference"),
        ({"body": "<html>"}, "unreadable_outcome"),
        ({"status_code": 500}, "unreadable_outcome"),
        ({"body": {**GRANT, "amount": "100"}}, "unreadable_outcome"),
    ],
)
def test_callback_without_meaning_is_taken_and_ignored(
    client: Client, door: Door, change: dict[str, Any], code: str
) -> None:
    answer = client.post("/callbacks/psp", json={**TOLD, **change})
    assert (answer.status_code, answer.json()["ignored"]) == (202, code)
    assert door.heard == []


@pytest.mark.parametrize("change", [{"idempotency_key": "a b"}, {"reference": "../x"}, {"status_code": "201"}])
def test_callback_of_a_wrong_shape_is_refused(client: Client, change: dict[str, Any]) -> None:
    assert client.post("/callbacks/psp", json={**TOLD, **change}).status_code == 422
