"""The payment service provider: authorise, capture, void, refund, look up; `python -m simulators.psp`."""

import sqlite3
import time
from collections.abc import Callable
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from simulators import authorization
from simulators.authorization import SCHEMA, books, capture, declined_capture, refund, void
from simulators.behaviour import Behaviour, Millis, Rate, Seconds, Verdict
from simulators.callbacks import Callback, repeated
from simulators.chance import draw, name, spread
from simulators.operation import Answer, Effect, answer, request
from simulators.operation import Request as Operation
from simulators.process import Fault, IdempotencyKey, Identifier, Process, Simulator
from simulators.server import After, Limit, main, page

RETRYABLE = ("do_not_honor", "issuer_unavailable")
FINAL = ("card_declined", "insufficient_funds", "expired_card")

# A token named here has only the fate named here: no rate touches its authorisation.
FAULTS: dict[str, Verdict] = {
    "tok_timeout_before": "timeout_before",
    "tok_timeout_after": "timeout_after",
    "tok_error_once": "error",
    "tok_garbage_once": "garbage",
}
DECLINES: dict[str, tuple[str, bool]] = {
    "tok_decline": ("card_declined", False),
    "tok_decline_retryable": ("issuer_unavailable", True),
    "tok_decline_once": ("issuer_unavailable", True),
    "tok_insufficient_once": ("insufficient_funds", False),
}
FIRST_KEY_ONLY = frozenset({"tok_decline_once", "tok_insufficient_once"})
MAGIC = FAULTS.keys() | DECLINES.keys() | {"tok_capture_fails"}


class PspBehaviour(Behaviour):
    decline_rate: Rate = Field(default=0, description="authorisations declined")
    retryable_share: Rate = Field(default=0.5, description="of the declines, those that another attempt may overcome")
    capture_decline_rate: Rate = Field(default=0, description="captures declined")
    authorization_ttl_s: Seconds = Field(default=7 * 86_400, description="life of an authorisation")
    callback_rate: Rate = Field(default=0, description="operations also told by callback (lost answers always are)")
    callback_delay_ms: Millis = Field(default=500, description="about when the callback goes out")
    callback_repeat_rate: Rate = Field(default=0, description="callbacks sent a second time under the same id")


class Body(BaseModel):
    """Strict and closed: a field that the protocol does not know is a misunderstanding about money."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    amount: Annotated[int, Field(gt=0, le=2**53)]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    reference: Identifier

    @property
    def money(self) -> tuple[int, str]:
        return self.amount, self.currency


class Authorization(Body):
    token: Annotated[str, Field(pattern="^tok_[A-Za-z0-9_-]{1,100}$")]


def router(psp: Process[PspBehaviour]) -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/authorizations")
    async def authorizations(body: Authorization, key: IdempotencyKey, http: Request) -> Response:
        behaviour = psp.behaviour

        def effect(connection: sqlite3.Connection, verdict: Verdict) -> Answer:
            decline = _decline(connection, psp.seed, behaviour, key, body)
            if decline is not None:
                code, retryable = decline
                no = {"status": "declined", "code": code, "retryable": retryable}
                return answer(402, no, amount=body.amount, currency=body.currency)
            ttl_s = behaviour.authorization_ttl_s
            id_ = name("auth_", key)
            return authorization.authorise(connection, id_, body.reference, body.token, body.money, ttl_s)

        verdict = FAULTS.get(body.token, "answer") if body.token in MAGIC else None
        asked = request(key, "authorize", body.reference, body.model_dump())
        return await psp.answer(http, asked, _told(psp, asked, effect), verdict)

    async def move(
        http: Request,
        key: str,
        operation: str,
        id_: str,
        body: Body,
        rule: Callable[[sqlite3.Connection, sqlite3.Row], Answer],
    ) -> Response:
        def effect(connection: sqlite3.Connection, verdict: Verdict) -> Answer:
            held = authorization.held(connection, id_)
            if held is None:
                return answer(404, {"status": "failed", "code": "authorization_not_found"}, kept=False)
            return rule(connection, held)

        asked = request(key, operation, body.reference, {"authorization": id_} | body.model_dump())
        return await psp.answer(http, asked, _told(psp, asked, effect))

    @routes.post("/v1/authorizations/{id_}/captures")
    async def captures(id_: str, body: Body, key: IdempotencyKey, http: Request) -> Response:
        declined = draw(psp.seed, "capture_decline", key) < psp.behaviour.capture_decline_rate

        def rule(connection: sqlite3.Connection, held: sqlite3.Row) -> Answer:
            if declined or held["token"] == "tok_capture_fails":
                return declined_capture(held, body.money)
            return capture(connection, name("cap_", key), held, body.money)

        return await move(http, key, "capture", id_, body, rule)

    @routes.post("/v1/authorizations/{id_}/refunds")
    async def refunds(id_: str, body: Body, key: IdempotencyKey, http: Request) -> Response:
        def rule(connection: sqlite3.Connection, held: sqlite3.Row) -> Answer:
            return refund(connection, name("ref_", key), held, body.money)

        return await move(http, key, "refund", id_, body, rule)

    @routes.post("/v1/authorizations/{id_}/void")
    async def voids(id_: str, key: IdempotencyKey, http: Request) -> Response:
        held = await psp.ledger.run(lambda connection: authorization.held(connection, id_))
        if held is None:
            raise Fault(404, "authorization_not_found")

        def effect(connection: sqlite3.Connection, verdict: Verdict) -> Answer:
            current = authorization.held(connection, id_)
            assert current is not None
            return void(connection, current)

        asked = request(key, "void", held["reference"], {"authorization": id_})
        return await psp.answer(http, asked, _told(psp, asked, effect))

    @routes.get("/ledger/balances")
    async def balances(after: After = 0, limit: Limit = 200, reference: str | None = None) -> Response:
        return page(
            await psp.ledger.run(lambda connection: authorization.balances(connection, after, limit, reference))
        )

    return routes


def _decline(
    connection: sqlite3.Connection, seed: int, behaviour: PspBehaviour, key: str, body: Authorization
) -> tuple[str, bool] | None:
    if body.token in MAGIC:
        if body.token in FIRST_KEY_ONLY and _asked_before(connection, body.reference):
            return None
        return DECLINES.get(body.token)
    if draw(seed, "decline", key) >= behaviour.decline_rate:
        return None
    retryable = draw(seed, "retryable", key) < behaviour.retryable_share
    codes = RETRYABLE if retryable else FINAL
    return codes[int(draw(seed, "code", key) * len(codes))], retryable


def _asked_before(connection: sqlite3.Connection, reference: str) -> bool:
    row = connection.execute(
        "SELECT 1 FROM operations WHERE reference = ? AND operation = 'authorize' LIMIT 1", (reference,)
    ).fetchone()
    return row is not None


def _told(psp: Process[PspBehaviour], asked: Operation, effect: Effect) -> Effect:
    """The effect, and the callback that tells of it: always when the answer is going to be lost."""
    behaviour, seed, key = psp.behaviour, psp.seed, asked.key

    def told(connection: sqlite3.Connection, verdict: Verdict) -> Answer:
        given = effect(connection, verdict)
        if given.kept and (verdict != "answer" or draw(seed, "callback", key) < behaviour.callback_rate):
            body: dict[str, Any] = {
                "id": name("evt_", key),
                "type": "operation.completed",
                "idempotency_key": key,
                "operation": asked.operation,
                "reference": asked.reference,
                "status_code": given.status_code,
                "body": orjson.loads(given.body),
            }
            due_at = time.time() + spread(seed, "callback_delay", key, behaviour.callback_delay_ms) / 1000
            callback = Callback(id=body["id"], due_at=due_at, body=body)
            psp.schedule(connection, key, repeated([callback], seed, behaviour.callback_repeat_rate))
        return given

    return told


PSP = Simulator(
    name="psp",
    about=__doc__,
    port=7101,
    behaviour=PspBehaviour,
    router=router,
    schema=SCHEMA,
    books=books,
    lesson="magic tokens, which win over the rates:\n  " + "  ".join(sorted(MAGIC)),
)

if __name__ == "__main__":
    main(PSP)
