"""Calls to the outside: the intent is committed before, the answer takes the effect with it, nobody calls twice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import httpx
import pytest

from libs.runtime.commit import GroupCommit
from libs.runtime.effect import Effect
from libs.runtime.effects import EffectWorker
from libs.runtime.handler import Handler, Request
from libs.runtime.identity import Cause, new_id
from libs.runtime.service import Service
from libs.runtime.settings import Settings
from libs.runtime.storage import Storage
from libs.testing.database import database, storage_on
from libs.testing.deadline import eventually
from libs.testing.payment_gateway import PspDouble
from libs.testing.tally import AT, Add, tally_service
from oms.cluster.cluster import LocalCluster
from services.payment.domain.command import AuthorizePayment
from services.payment.gateway import HttpPaymentGateway, PspSettings
from services.payment.service import service as payment_service

Perform = Callable[[Effect, Any], Awaitable[Any]]


def calling(perform: Perform) -> Service[Any]:
    """The tally, whose every `Add` with a ref of call… is followed by this call."""
    service = tally_service()
    assert service.effects is not None
    return replace(service, effects=replace(service.effects, perform=perform))


@asynccontextmanager
async def working(service: Service[Any], storage: Storage, lease_seconds: float = 60) -> AsyncIterator[Handler]:
    """A process that performs effects."""
    handler = Handler(service, storage)
    commit, stop = GroupCommit(handler), asyncio.Event()
    settings = Settings(poll_ms=20, effect_lease_seconds=lease_seconds, stop_seconds=10)
    assert service.effects is not None
    worker = EffectWorker(service.effects, storage, commit, settings)
    committing = asyncio.create_task(commit.run())
    performing = asyncio.create_task(worker.run(handler.effects_added, stop))
    try:
        yield handler
    finally:
        stop.set()
        await performing
        committing.cancel()
        with suppress(asyncio.CancelledError):
            await committing


async def ask(handler: Handler, *commands: Any) -> None:
    causes = [Cause(causation_id=new_id(), at=AT) for _ in commands]
    asked = [Request(command=command, cause=cause) for command, cause in zip(commands, causes, strict=True)]
    assert [answer.code for answer in await handler.handle_requests(asked)] == [""] * len(asked)


async def told(storage: Storage, stream_id: str) -> list[str]:
    return [item.envelope.event_type.rpartition(".")[2] for item in await storage.read_streams([stream_id])]


async def none_open(storage: Storage) -> None:
    async def none() -> bool:
        return (await storage.figures())["effects_open"] == 0

    await eventually(none, "every effect has its answer")


async def test_call_is_made_when_its_intent_is_committed_and_leaves_with_its_answer(storage: Storage) -> None:
    seen: list[Any] = []

    async def perform(effect: Effect, _gateway: Any) -> Add:
        seen.append((effect.key, await told(storage, "stock-A"), (await storage.figures())["effects_open"]))
        return Add("A", 1, "answered")

    async with working(calling(perform), storage) as handler:
        await ask(handler, Add("A", 1, "call-1"))
        await none_open(storage)
    assert seen == [("call-1", ["StockReceived"], 1)]
    assert await told(storage, "stock-A") == ["StockReceived"] * 2


async def test_call_in_which_the_process_died_is_made_again_under_its_key(storage: Storage) -> None:
    keys: list[str] = []

    async def perform(effect: Effect, _gateway: Any) -> Add:
        keys.append(effect.key)
        if len(keys) == 1:
            raise RuntimeError("the end of this process")
        return Add("A", 1, "answered")

    async with working(calling(perform), storage, lease_seconds=0.2) as handler:
        await ask(handler, Add("A", 1, "call-1"))
        await none_open(storage)
    assert keys == ["call-1", "call-1"]
    assert len(await told(storage, "stock-A")) == 2


async def test_two_processes_make_each_call_once(storage: Storage) -> None:
    keys: list[str] = []

    async def perform(effect: Effect, _gateway: Any) -> Add:
        keys.append(effect.key)
        await asyncio.sleep(0.01)  # not a wait: what a call takes
        return Add("A", 1, "answered")

    wanted = [f"call-{number}" for number in range(50)]
    service = calling(perform)
    async with working(service, storage), working(service, storage) as handler:
        await ask(handler, *(Add("A", 1, key) for key in wanted))
        await none_open(storage)
    assert sorted(keys) == sorted(wanted)
    assert len(await told(storage, "stock-A")) == 100


async def test_call_that_outlived_its_lease_and_was_made_again_has_one_answer(storage: Storage) -> None:
    """A process that froze in mid-call wakes and answers, too; the key kept the other side from doing it twice."""
    calls = 0
    thawed = asyncio.Event()

    async def perform(_effect: Effect, _gateway: Any) -> Add:
        nonlocal calls
        calls += 1
        if calls == 1:
            await thawed.wait()
        return Add("A", 1, "answered")

    async with working(calling(perform), storage, lease_seconds=0.2) as handler:
        await ask(handler, Add("A", 1, "call-1"))
        await none_open(storage)
        thawed.set()
    assert calls == 2
    assert len(await told(storage, "stock-A")) == 2


@pytest.mark.integration
async def test_psp_is_called_when_what_was_submitted_is_committed(servers: LocalCluster) -> None:
    seen: list[tuple[str, list[str]]] = []
    psp = PspDouble()

    async def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.headers["Idempotency-Key"], await told(storage, "payment-o1-p")))
        return psp.answer(request)

    gateway = HttpPaymentGateway("http://psp", PspSettings(), httpx.MockTransport(answer))
    service = payment_service(gateway)
    made = database(service, servers.admin_dsn, servers.dsn("payment"), "test_effects_payment")
    async with made as dsn, storage_on(dsn) as storage, working(service, storage) as handler:
        await ask(handler, AuthorizePayment("o1-p", "o1", "auth:o1:1:1", 1, 100, "EUR", "sim", "tok_visa", AT))
        await none_open(storage)
        events = await told(storage, "payment-o1-p")
    await gateway.close()
    assert seen == [("auth:o1:1:1", ["PaymentAuthorizationSubmitted"])]
    assert events == ["PaymentAuthorizationSubmitted", "PaymentAuthorized"]
