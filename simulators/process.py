"""A simulator at work: answers under idempotency keys, with the faults that its behaviour asks for."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import orjson
from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import Field

from simulators.behaviour import Behaviour, Verdict
from simulators.callbacks import Callback, Courier, schedule
from simulators.garbage import garbled, shape
from simulators.ledger import Ledger
from simulators.operation import Effect, attempt
from simulators.operation import Request as Operation

B = TypeVar("B", bound=Behaviour)

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,200}$")]  # some travel in a header: webhook-id


@dataclass(frozen=True, kw_only=True)
class Simulator(Generic[B]):
    name: str
    about: str
    port: int
    behaviour: type[B]
    router: "Callable[[Process[B]], APIRouter]"
    schema: str = ""
    lesson: str = ""
    books: Callable[[sqlite3.Connection], dict[str, Any]] = lambda connection: {}


class Fault(Exception):
    """A request that cannot be taken as it is."""

    def __init__(self, status_code: int, code: str) -> None:
        super().__init__(code)
        self.status_code = status_code
        self.code = code


def json(status_code: int, body: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status_code, headers, "application/json")


def _idempotency_key(idempotency_key: Annotated[str | None, Header()] = None) -> str:
    if not idempotency_key:
        raise Fault(400, "idempotency_key_missing")
    if len(idempotency_key) > 255 or not idempotency_key.isascii() or not idempotency_key.isprintable():
        raise Fault(400, "idempotency_key_invalid")
    return idempotency_key


IdempotencyKey = Annotated[str, Depends(_idempotency_key)]


class Process(Generic[B]):
    def __init__(self, behaviour: B, ledger: Ledger, courier: Courier | None, seed: int) -> None:
        self.behaviour = behaviour
        self.ledger = ledger
        self.seed = seed
        self.stopping = asyncio.Event()
        self._courier = courier
        self._loop = asyncio.get_running_loop()

    async def answer(
        self, http: Request, operation: Operation, effect: Effect, verdict: Verdict | None = None
    ) -> Response:
        key = operation.key
        asked = verdict or self.behaviour.verdict(self.seed, key)
        outcome = await self.ledger.run(lambda connection: attempt(connection, operation, asked, effect))
        # After the effect, so that a caller who loses patience leaves one behind.
        await self._pause(http, self.behaviour.delay_s(self.seed, key))
        match outcome.verdict:
            case "rate_limit":
                return json(429, {"code": "rate_limited"}, {"retry-after": "1"})
            case "error":
                return json(500, {"code": "internal_error"})
            case "timeout_before" | "timeout_after":
                await self._pause(http, self.behaviour.timeout_hold_s)
                return json(504, {"code": "timeout"})
            case "garbage":
                assert outcome.answer is not None
                return garbled(shape(self.behaviour.garbage, self.seed, key), outcome.answer)
            case "answer":
                assert outcome.answer is not None
                return Response(outcome.answer.body, outcome.answer.status_code, media_type="application/json")

    def schedule(self, connection: sqlite3.Connection, subject: str, callbacks: Sequence[Callback]) -> None:
        """Called inside an effect, on the ledger's thread: the courier hears of it on the loop."""
        schedule(connection, subject, callbacks)
        if callbacks and self._courier is not None:
            first = min(callback.due_at for callback in callbacks)
            self._loop.call_soon_threadsafe(self._courier.expect, first)

    async def _pause(self, http: Request, seconds: float) -> None:
        """Ends early when the caller hangs up or the process is asked to stop."""
        if seconds <= 0:
            return
        ends = [asyncio.create_task(_hang_up(http)), asyncio.create_task(self.stopping.wait())]
        try:
            await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()


async def _hang_up(http: Request) -> bool:
    while (await http.receive())["type"] != "http.disconnect":
        pass
    return True
