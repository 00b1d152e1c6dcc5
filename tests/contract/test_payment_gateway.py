"""What payment relies on from a PSP: the double keeps it, and so does the real simulator."""

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import httpx
import pytest
import pytest_asyncio

from libs.events.payment import (
    Operation,
    PaymentAuthorizationSubmitted,
    PaymentCaptureSubmitted,
    PaymentOutcomeUnknown,
    PaymentVoidSubmitted,
    RefundSubmitted,
)
from libs.runtime.effect import GatewayUnavailable
from libs.testing.payment_gateway import PspDouble, lost_before, refused
from libs.testing.scenario import NOW
from services.payment.domain.call import Approved, Refused
from services.payment.gateway import HttpPaymentGateway, NotFound, PspSettings, Submitted, Unknown
from simulators.running import running

IMPATIENT = PspSettings(connect_seconds=1, read_seconds=0.5, total_seconds=1)


class World(Protocol):
    @property
    def gateway(self) -> HttpPaymentGateway: ...

    async def set_away(self) -> None:
        """The next call meets a PSP that answers nothing."""

    async def come_back(self) -> None: ...

    async def books(self, order_id: str) -> list[tuple[int, int, int]]:
        """Authorised, captured and refunded of each authorisation of an order's payment."""


@dataclass(frozen=True)
class Double:
    gateway: HttpPaymentGateway
    psp: PspDouble

    async def set_away(self) -> None:
        self.psp.faults.append(lost_before)

    async def come_back(self) -> None:
        self.psp.faults.clear()

    async def books(self, order_id: str) -> list[tuple[int, int, int]]:
        held = [held for held in self.psp.held.values() if held.reference == f"{order_id}-p"]
        return [(each.authorised, each.captured, each.refunded) for each in held]


@dataclass(frozen=True)
class Simulator:
    gateway: HttpPaymentGateway
    client: httpx.AsyncClient

    async def set_away(self) -> None:
        await self.client.put("/behaviour", json={"away": True})

    async def come_back(self) -> None:
        await self.client.put("/behaviour", json={"away": False})

    async def books(self, order_id: str) -> list[tuple[int, int, int]]:
        answer = await self.client.get("/ledger/balances", params={"reference": f"{order_id}-p"})
        return [(row["authorised"], row["captured"], row["refunded"]) for row in answer.json()["rows"]]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running("psp", tmp_path_factory.mktemp("psp")) as simulator:
        yield simulator.url


@pytest_asyncio.fixture(params=["double", pytest.param("simulator", marks=pytest.mark.integration)])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "double":
        psp = PspDouble()
        yield Double(HttpPaymentGateway("http://psp", IMPATIENT, psp.transport), psp)
        return
    url: str = request.getfixturevalue("url")
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        gateway = HttpPaymentGateway(url, IMPATIENT)
        yield Simulator(gateway, client)
        await gateway.close()


@dataclass(frozen=True)
class Order:
    """The calls of one order's payment, named after the test: the simulator's books outlive it."""

    id: str

    def _money(self, amount: int) -> dict[str, Any]:
        return {"payment_id": f"{self.id}-p", "order_id": self.id, "amount": amount, "currency": "EUR"}

    def authorization(self, token: str = "tok_visa", amount: int = 100) -> PaymentAuthorizationSubmitted:
        return PaymentAuthorizationSubmitted(
            **self._money(amount),
            attempt=1,
            psp="sim",
            idempotency_key=f"auth:{self.id}:1:1",
            token=token,
            not_before=NOW,
        )

    def capture(self, auth_id: str, amount: int, n: int = 1) -> PaymentCaptureSubmitted:
        return PaymentCaptureSubmitted(
            **self._money(amount),
            idempotency_key=f"cap:{self.id}:s{n}",
            auth_id=auth_id,
            capture_id=f"c{n}",
            shipment_id=f"s{n}",
        )

    def void(self, auth_id: str) -> PaymentVoidSubmitted:
        return PaymentVoidSubmitted(
            payment_id=f"{self.id}-p", order_id=self.id, idempotency_key=f"void:{auth_id}", auth_id=auth_id
        )

    def refund(self, auth_id: str, amount: int, n: int = 1) -> RefundSubmitted:
        return RefundSubmitted(
            **self._money(amount), idempotency_key=f"ref:{self.id}:r{n}", auth_id=auth_id, refund_id=f"r{n}"
        )

    def lost(self, intent: Submitted, operation: Operation = "AUTHORIZE") -> PaymentOutcomeUnknown:
        money = self._money(100 if isinstance(intent, PaymentVoidSubmitted) else intent.amount)
        return PaymentOutcomeUnknown(**money, operation=operation, idempotency_key=intent.idempotency_key)


@pytest.fixture
def order(request: pytest.FixtureRequest) -> Order:
    return Order("".join(letter if letter.isalnum() else "-" for letter in request.node.name)[:100])


async def authorised(world: World, order: Order, token: str = "tok_visa") -> str:
    reply = await world.gateway.authorize(order.authorization(token))
    assert isinstance(reply, Approved)
    assert (reply.amount, reply.currency) == (100, "EUR")
    assert reply.expires_at is not None
    return reply.reference


async def test_authorisation_holds_the_money(world: World, order: Order) -> None:
    await authorised(world, order)
    assert await world.books(order.id) == [(100, 0, 0)]


@pytest.mark.parametrize(
    ("token", "decline"),
    [
        ("tok_decline", Refused("card_declined", retryable=False)),
        ("tok_decline_retryable", Refused("issuer_unavailable", retryable=True)),
    ],
)
async def test_declined_authorisation_says_why_and_holds_nothing(
    world: World, order: Order, token: str, decline: Refused
) -> None:
    intent = order.authorization(token)
    assert await world.gateway.authorize(intent) == decline
    assert await world.gateway.authorize(intent) == decline
    assert await world.gateway.lookup(order.lost(intent)) == decline
    assert await world.books(order.id) == []


async def test_call_under_the_same_key_has_one_effect_and_one_answer(world: World, order: Order) -> None:
    auth_id = await authorised(world, order)
    assert await authorised(world, order) == auth_id
    first = await world.gateway.capture(order.capture(auth_id, 60))
    assert first == await world.gateway.capture(order.capture(auth_id, 60))
    assert await world.books(order.id) == [(100, 60, 0)]


async def test_other_call_under_a_used_key_is_refused(world: World, order: Order) -> None:
    await authorised(world, order)
    assert await world.gateway.authorize(order.authorization(amount=99)) == Refused("idempotency_mismatch")
    assert await world.books(order.id) == [(100, 0, 0)]


async def test_captures_stop_at_the_authorised_amount(world: World, order: Order) -> None:
    auth_id = await authorised(world, order)
    for n, amount in enumerate((60, 40)):
        reply = await world.gateway.capture(order.capture(auth_id, amount, n))
        assert isinstance(reply, Approved)
        assert (reply.amount, reply.currency) == (amount, "EUR")
    assert await world.gateway.capture(order.capture(auth_id, 1, 3)) == Refused("amount_too_large")
    assert await world.books(order.id) == [(100, 100, 0)]


async def test_declined_capture_takes_nothing(world: World, order: Order) -> None:
    auth_id = await authorised(world, order, "tok_capture_fails")
    assert await world.gateway.capture(order.capture(auth_id, 60)) == Refused("capture_declined")
    assert await world.books(order.id) == [(100, 0, 0)]


async def test_refunds_stop_at_what_was_captured(world: World, order: Order) -> None:
    auth_id = await authorised(world, order)
    await world.gateway.capture(order.capture(auth_id, 60))
    reply = await world.gateway.refund(order.refund(auth_id, 60))
    assert isinstance(reply, Approved)
    assert (reply.amount, reply.currency) == (60, "EUR")
    assert await world.gateway.refund(order.refund(auth_id, 1, 2)) == Refused("amount_too_large")
    assert await world.books(order.id) == [(100, 60, 60)]


async def test_voided_authorisation_is_closed(world: World, order: Order) -> None:
    auth_id = await authorised(world, order)
    for _ in range(2):
        assert await world.gateway.void(order.void(auth_id)) == Approved(auth_id)
    assert await world.gateway.lookup(order.lost(order.void(auth_id), "VOID")) == Approved(auth_id)
    assert await world.gateway.capture(order.capture(auth_id, 60)) == Refused("authorization_closed")


async def test_void_of_what_is_captured_is_refused(world: World, order: Order) -> None:
    auth_id = await authorised(world, order)
    await world.gateway.capture(order.capture(auth_id, 60))
    assert await world.gateway.void(order.void(auth_id)) == Refused("already_captured")


async def test_operation_on_an_unknown_authorisation_is_refused(world: World, order: Order) -> None:
    assert await world.gateway.capture(order.capture("auth_none", 60)) == Refused("authorization_not_found")
    assert await world.gateway.void(order.void("auth_none")) == Refused("authorization_not_found")


async def test_amount_of_nothing_is_refused(world: World, order: Order) -> None:
    assert await world.gateway.authorize(order.authorization(amount=0)) == Refused("invalid_request")


async def test_every_operation_is_found_by_its_key(world: World, order: Order) -> None:
    intent = order.authorization()
    reply = await world.gateway.authorize(intent)
    assert isinstance(reply, Approved)
    assert await world.gateway.lookup(order.lost(intent)) == reply
    capture, refund = order.capture(reply.reference, 60), order.refund(reply.reference, 60)
    captured = await world.gateway.capture(capture)
    assert await world.gateway.lookup(order.lost(capture, "CAPTURE")) == captured
    refunded = await world.gateway.refund(refund)
    assert await world.gateway.lookup(order.lost(refund, "REFUND")) == refunded


async def test_operation_never_made_is_not_found(world: World, order: Order) -> None:
    assert await world.gateway.lookup(order.lost(order.authorization())) == NotFound()
    assert await world.books(order.id) == []


Token = Literal["tok_timeout_before", "tok_error_once", "tok_timeout_after", "tok_garbage_once"]


@pytest.mark.parametrize("token", ["tok_timeout_before", "tok_error_once"])
async def test_call_lost_before_its_effect_is_not_found_and_has_it_when_repeated(
    world: World, order: Order, token: Token
) -> None:
    intent = order.authorization(token)
    assert isinstance(await world.gateway.authorize(intent), Unknown)
    assert await world.gateway.lookup(order.lost(intent)) == NotFound()
    await authorised(world, order, token)
    assert await world.books(order.id) == [(100, 0, 0)]


@pytest.mark.parametrize("token", ["tok_timeout_after", "tok_garbage_once"])
async def test_call_whose_answer_was_lost_is_found(world: World, order: Order, token: Token) -> None:
    intent = order.authorization(token)
    assert isinstance(await world.gateway.authorize(intent), Unknown)
    found = await world.gateway.lookup(order.lost(intent))
    assert isinstance(found, Approved)
    assert await world.books(order.id) == [(100, 0, 0)]


async def test_call_to_a_psp_that_is_away_is_never_taken_for_an_answer(world: World, order: Order) -> None:
    await world.set_away()
    reply: object = None
    with suppress(GatewayUnavailable):
        reply = await world.gateway.authorize(order.authorization())
    await world.come_back()
    assert reply is None or isinstance(reply, Unknown)
    assert await world.books(order.id) == []


async def test_call_that_nobody_listens_to_waits(order: Order) -> None:
    psp = PspDouble()
    psp.faults.append(refused)
    nowhere = [
        HttpPaymentGateway("http://psp", IMPATIENT, psp.transport),
        HttpPaymentGateway("http://127.0.0.1:9", IMPATIENT),
    ]
    for gateway in nowhere:
        with pytest.raises(GatewayUnavailable):
            await gateway.authorize(order.authorization())
        await gateway.close()
