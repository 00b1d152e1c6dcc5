"""The internal door of every service: what operators see and change. Keep /internal from everybody else.

A parked key is named by topic and key. Keys are bytes: one that is printable ASCII stands as it is, any other as
`base64url:` and its encoding.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field, StringConstraints

from libs.events.text import FreeText
from libs.runtime.api import Body, Cursors, Page, Problem, idempotency_key
from libs.runtime.operation import (
    FirstChanged,
    OperationRefused,
    Operations,
    Place,
    PositionsReset,
    PublishedAgain,
    RelayPaused,
    RelayResumed,
    Released,
    Wiring,
    Word,
    redacted,
)
from libs.runtime.scope import SaidBy, may
from libs.runtime.storage import OperatorAction, ParkedKey, ParkedRecord

OPERATOR = may("operator")
_ENCODED = "base64url:"
_LIST = "parked"

KeyText = Annotated[str, StringConstraints(max_length=4096)]
TopicName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
HeaderName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
HeaderValue = Annotated[str, StringConstraints(max_length=8192)]


def key_text(key: bytes) -> str:
    text = key.decode("ascii", "replace")
    if key and text.isascii() and text.isprintable() and not text.startswith(_ENCODED):
        return text
    return _ENCODED + base64.urlsafe_b64encode(key).decode().rstrip("=")


def key_bytes(text: str) -> bytes:
    """Raises Problem 422 `key_invalid`."""
    if not text.startswith(_ENCODED):
        return text.encode("utf-8", "surrogatepass")
    encoded = text.removeprefix(_ENCODED)
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Problem(422, "key_invalid", f"what follows {_ENCODED} is not base64url") from None


class Parked(BaseModel):
    """A parked key: why, since when, and how many records wait under it."""

    topic: str
    key: str
    reason: str
    parked_at: datetime
    records: int


class Waiting(BaseModel):
    """A record that waits. `value` is its JSON with every `pii` block redacted, None where it is no JSON or empty."""

    partition: int
    offset: int
    stream_id: str
    stream_version: int
    reason: str
    recorded_at: datetime
    headers: dict[str, str]
    value: Any
    value_bytes: int


class ParkedDetail(BaseModel):
    """The first records under a key, in the order in which they will be handled, and how many wait in all."""

    topic: str
    key: str
    records: list[Waiting]
    waiting: int


class Action(BaseModel):
    at: datetime
    action: str
    by: str
    reason: str
    topic: str
    key: str | None


class Order(Body):
    """Who says so, and why."""

    by: FreeText
    reason: FreeText


class KeyOrder(Order):
    topic: TopicName
    key: KeyText


class FirstOrder(KeyOrder):
    """`partition` and `offset` are those of the record that was looked at: it must still be the first."""

    partition: Annotated[int, Field(ge=0, lt=2**31)]
    offset: Annotated[int, Field(ge=0, lt=2**63)]

    @property
    def place(self) -> Place:
        return Place(self.partition, self.offset)


class Correction(FirstOrder):
    """`value` is the whole corrected value; headers are set, or removed where null. What is not named stays.

    A `pii` block that is given back as it was shown (`"[redacted]"`) keeps what was there.
    """

    value: str | None = None
    headers: dict[HeaderName, HeaderValue | None] = Field(default_factory=dict)


class TopicOrder(Order):
    topic: TopicName


class PauseOrder(TopicOrder):
    seconds: Annotated[int, Field(ge=30, le=3600)] = 300


class PausedOrder(TopicOrder):
    """`holder` is what the pause has answered."""

    holder: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]{1,64}$")]


async def _word(request: Request, said_by: SaidBy) -> Callable[[Order], Word]:
    """On whose word: by the API key, the headers and the body, whose fields its own model has checked by then."""
    body = await request.body()
    place = f"{request.method} {request.url.path}\n".encode()
    key, body_hash = idempotency_key(request), hashlib.sha256(place + body).digest()

    def word(order: Order) -> Word:
        return Word(operator=said_by(order.by), reason=order.reason, key=key, body_hash=body_hash)

    return word


Asked = Annotated[Callable[[Order], Word], Depends(_word)]

_MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "`not_parked`: nothing waits there (any more)"}}
_NOT_HERE: dict[int | str, dict[str, Any]] = {404: {"description": "`not_subscribed` or `not_owner`: ask another"}}


def problem_of(refused: OperationRefused) -> Problem:
    status = 404 if refused.missing else 422 if refused.code == "idempotency_mismatch" else 409
    return Problem(status, refused.code, str(refused))


def internal_router(operations: Operations, cursors: Cursors) -> APIRouter:
    routes = APIRouter(prefix="/internal", tags=["operators"])
    _add_parked(routes, operations, cursors)
    _add_topics(routes, operations)

    @routes.get("/actions", summary="What was changed by hand, the latest first", openapi_extra=OPERATOR)
    async def actions(limit: Annotated[int, Query(ge=1, le=200)] = 50) -> list[Action]:
        return [_action(at, action) for at, action in await operations.actions(limit)]

    return routes


def _add_parked(routes: APIRouter, operations: Operations, cursors: Cursors) -> None:
    @routes.get("/parked", summary="Parked keys", openapi_extra=OPERATOR)
    async def parked(
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        cursor: Annotated[str | None, Query(max_length=8000)] = None,
    ) -> Page[Parked]:
        topic, _, key = cursors.read(cursor, _LIST).partition(" ")
        found = await operations.parked((topic, key_bytes(key)), limit + 1)
        shown = [_parked(one) for one in found[:limit]]
        more = len(found) > limit
        next_cursor = cursors.write(f"{shown[-1].topic} {shown[-1].key}", _LIST) if more else None
        return Page(items=shown, next_cursor=next_cursor)

    @routes.get("/parked/records", summary="What waits under a parked key", openapi_extra=OPERATOR, responses=_MISSING)
    async def records(
        topic: Annotated[TopicName, Query()],
        key: Annotated[KeyText, Query(description="As `GET /internal/parked` shows it")],
        limit: Annotated[int, Query(ge=1, le=200)] = 20,
    ) -> ParkedDetail:
        found, waiting = await operations.parked_records(topic, key_bytes(key), limit)
        return ParkedDetail(topic=topic, key=key, records=_shown(found), waiting=waiting)

    @routes.post(
        "/parked/fix", summary="Correct the first record under a parked key", openapi_extra=OPERATOR, responses=_MISSING
    )
    async def fix(order: Correction, word: Asked) -> FirstChanged:
        if order.value is None and not order.headers:
            raise Problem(422, "nothing_to_fix", "give a `value`, `headers`, or both")
        value = order.value.encode() if order.value is not None else None
        return await operations.fix(word(order), order.topic, key_bytes(order.key), order.place, value, order.headers)

    @routes.post(
        "/parked/skip", summary="Drop the first record under a parked key", openapi_extra=OPERATOR, responses=_MISSING
    )
    async def skip(order: FirstOrder, word: Asked) -> FirstChanged:
        return await operations.skip(word(order), order.topic, key_bytes(order.key), order.place)

    @routes.post(
        "/parked/release",
        summary="Handle what waits under a parked key, in order",
        openapi_extra=OPERATOR,
        responses=_MISSING,
    )
    async def release(order: KeyOrder, word: Asked) -> Released:
        return await operations.release(word(order), order.topic, key_bytes(order.key))


def _add_topics(routes: APIRouter, operations: Operations) -> None:
    @routes.get("/wiring", summary="What this service reads and writes on Kafka", openapi_extra=OPERATOR)
    async def wiring() -> Wiring:
        return operations.wiring()

    @routes.post(
        "/positions/reset",
        summary="Read a topic that was made anew from its beginning",
        openapi_extra=OPERATOR,
        responses=_NOT_HERE,
    )
    async def reset(order: TopicOrder, word: Asked) -> PositionsReset:
        return await operations.reset_positions(word(order), order.topic)

    @routes.post("/relay/pause", summary="Publish nothing for a while", openapi_extra=OPERATOR, responses=_NOT_HERE)
    async def pause(order: PauseOrder, word: Asked) -> RelayPaused:
        return await operations.pause_relay(word(order), order.topic, order.seconds)

    @routes.post("/relay/resume", summary="End a pause before its time", openapi_extra=OPERATOR, responses=_NOT_HERE)
    async def resume(order: PausedOrder, word: Asked) -> RelayResumed:
        return await operations.resume_relay(word(order), order.topic, order.holder)

    @routes.post(
        "/relay/republish",
        summary="Publish every event of a topic once more",
        openapi_extra=OPERATOR,
        responses=_NOT_HERE,
    )
    async def republish(order: PausedOrder, word: Asked) -> PublishedAgain:
        return await operations.publish_again(word(order), order.topic, order.holder)


def _parked(key: ParkedKey) -> Parked:
    return Parked(
        topic=key.topic, key=key_text(key.key), reason=key.reason, parked_at=key.parked_at, records=key.records
    )


def _shown(records: Sequence[ParkedRecord]) -> list[Waiting]:
    return [
        Waiting(
            partition=record.partition.number,
            offset=record.offset,
            stream_id=record.stream_id,
            stream_version=record.stream_version,
            reason=record.reason,
            recorded_at=record.recorded_at,
            headers=_headers(record),
            value=_value(record),
            value_bytes=len(record.value or b""),
        )
        for record in records
    ]


def _headers(record: ParkedRecord) -> dict[str, str]:
    return {name: bytes.fromhex(text).decode(errors="replace") for name, text in orjson.loads(record.headers)}


def _value(record: ParkedRecord) -> Any:
    """What cannot be parsed is not shown: nobody knows where in it the personal data stands."""
    try:
        return redacted(orjson.loads(record.value or b""))
    except orjson.JSONDecodeError:
        return None


def _action(at: datetime, action: OperatorAction) -> Action:
    return Action(
        at=at,
        action=action.action,
        by=action.operator,
        reason=action.reason,
        topic=action.topic,
        key=key_text(action.key) if action.key is not None else None,
    )
