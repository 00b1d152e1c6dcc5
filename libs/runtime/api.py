"""The HTTP side of a service: what routers use to send commands and read views.

Routers only translate; everything that HTTP asks of a service (problem+json, Idempotency-Key, tokens, paging) is here.
"""

import asyncio
import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query, Request
from pydantic import BaseModel, ConfigDict, ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from libs.events import strict_json
from libs.events.envelope import Recorded
from libs.events.inbound import faults_of, traceparent_in
from libs.runtime import telemetry
from libs.runtime.commit import GroupCommit
from libs.runtime.decider import CommandRejected
from libs.runtime.handler import BROKEN, MISMATCH, STALE, Answer
from libs.runtime.handler import Request as CommandRequest
from libs.runtime.identity import Cause, new_id
from libs.runtime.intake import recorded_of
from libs.runtime.keys import Keys
from libs.runtime.operation import Operations
from libs.runtime.projection import Projection
from libs.runtime.storage import Storage, ViewRow

V = TypeVar("V", bound=BaseModel)
M = TypeVar("M", bound=BaseModel)

COMMAND_SECONDS = 10.0
MIN_VERSION_SECONDS = 5.0
PAGE_CAP = 200
_SIGNATURE_BYTES = 16

KEY_PATTERN = r"^[A-Za-z0-9_.:\-]{1,128}$"
_KEY = re.compile(KEY_PATTERN)
_TOKEN = re.compile(r"(?P<stream>[A-Za-z0-9_.:\-]{1,256})@(?P<version>[0-9]{1,9})")


class Body(BaseModel):
    """A request body: strict types, unknown fields refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Receipt(BaseModel):
    """What a write answers: the stream it wrote, the version it is at now, and the types of the events appended.

    `token` may be given back as `min_version` to a GET, which then waits until the view has seen it.
    """

    stream_id: str
    stream_version: int
    events: list[str]
    token: str


class Page(BaseModel, Generic[V]):
    items: list[V]
    next_cursor: str | None = None


class Problem(Exception):
    """An answer that is not a success: RFC 9457 problem+json with a stable `code`."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str = "",
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail or code)
        self.headers = dict(headers or {})
        self.status, self.code, self.detail, self.errors, self.extra = status, code, detail, errors, extra


class Ports:
    """What the doors need of the machine; the application keeps one."""

    def __init__(
        self,
        storage: Storage,
        commit: GroupCommit | None,
        callback_secret: str,
        operations: Operations | None = None,
        keys: Keys | None = None,
    ) -> None:
        self.storage = storage
        self.commit = commit
        self.callback_secret = callback_secret
        self.operations = operations
        self.keys = keys


def ports(request: Request) -> Ports:
    found: Ports = request.app.state.ports
    return found


class CommandDoor:
    """Sends one command of this request down the one road of writing, under the request's Idempotency-Key."""

    def __init__(self, request: Request, body: bytes) -> None:
        self._request = request
        self._body = body

    async def handle(self, command: Any, *, key: str | None = None) -> Receipt:
        """The answer of a command, the same for the same key. Raises CommandRejected (mapped to 409) and Problem.

        `key` None takes the request's Idempotency-Key, which must be there; an empty one keeps no answer: for
        callbacks whose repeats the domain knows, and whose refusal is an invitation to tell again.
        """
        request = self._request
        commit = ports(request).commit
        assert commit is not None, "a service without a decider has no commands"
        key = idempotency_key(request) if key is None else key
        place = f"{request.method} {request.url.path}\n".encode()
        sent = CommandRequest(
            command=command,
            cause=Cause(
                causation_id=(causation_id := new_id()),
                at=request.app.state.clock(),
                correlation_id=causation_id,
                actor=getattr(request.state, "client", "") or request.headers.get("x-actor", "")[:128],
                idempotency_key=key,
                traceparent=traceparent_in(request.headers.get("traceparent")),
            ),
            key=key,
            body_hash=hashlib.sha256(place + self._body).digest(),
            expected_version=_expected_version(request),
        )
        try:
            answer = await asyncio.wait_for(commit.submit(sent), COMMAND_SECONDS)
        except TimeoutError:
            raise Problem(503, "busy", "no answer in time; repeat with the same Idempotency-Key") from None
        return _receipt(answer)


def idempotency_key(request: Request) -> str:
    key = request.headers.get("idempotency-key")
    if key is None:
        raise Problem(400, "idempotency_key_missing", "send an Idempotency-Key header with every write")
    if not _KEY.fullmatch(key):
        raise Problem(400, "idempotency_key_invalid", "1 to 128 characters of A-Z a-z 0-9 _ . : -")
    return key


def _expected_version(request: Request) -> int | None:
    tag = request.headers.get("if-match")
    if tag is None:
        return None
    version = tag.strip().strip('"')
    if not version.isascii() or not version.isdigit() or len(version) > 9:
        raise Problem(400, "if_match_invalid", "If-Match is a stream version in quotes")
    return int(version)


def _receipt(answer: Answer) -> Receipt:
    if answer.code == MISMATCH:
        raise Problem(422, MISMATCH, answer.detail)
    if answer.code == STALE:
        raise Problem(412, STALE, "the stream has moved on", current_version=answer.stream_version)
    if answer.code == BROKEN:
        raise Problem(503, "not_handled", "this request could not be handled; operators have been told")
    if answer.code:
        raise Rejected(answer.code, answer.detail, answer.stream_version)
    token = f"{answer.stream_id}@{answer.stream_version}"
    return Receipt(
        stream_id=answer.stream_id, stream_version=answer.stream_version, events=list(answer.events), token=token
    )


class Rejected(CommandRejected):
    """A rejection with the version of the stream that it was decided on."""

    def __init__(self, code: str, message: str, stream_version: int) -> None:
        super().__init__(code, message)
        self.stream_version = stream_version


class ViewDoor:
    """Reads views; waits for the request's `min_version` first."""

    def __init__(self, request: Request, min_version: str | None, limit: int, cursor: str | None) -> None:
        self._storage = ports(request).storage
        self._min_version = _parsed_token(min_version)
        self._limit = limit
        self._cursors = Cursors(ports(request).callback_secret)
        self._cursor = cursor

    async def get(self, projection: Projection[V], key: str) -> V:
        """Raises Problem 404 `not_found`, and 504 `not_visible_yet` when the version asked for does not come."""
        row = await self._row(projection.name, key)
        return projection.view.model_validate_json(row.data)

    async def _row(self, view: str, key: str) -> ViewRow:
        deadline = asyncio.get_running_loop().time() + MIN_VERSION_SECONDS
        while True:
            row = await self._storage.read_view(view, key)
            if row is not None and self._is_new_enough(row):
                return row
            if self._min_version is None:
                raise Problem(404, "not_found", "nothing is known under this id")
            if asyncio.get_running_loop().time() > deadline:
                raise Problem(504, "not_visible_yet", "this version has not arrived here yet; ask again")
            await asyncio.sleep(0.05)

    def _is_new_enough(self, row: ViewRow) -> bool:
        if self._min_version is None:
            return True
        stream_id, version = self._min_version
        return row.versions.get(stream_id, 0) >= version

    async def page(self, projection: Projection[V], where: Mapping[str, str]) -> Page[V]:
        """Rows whose indexed fields equal `where`, in order of key; `limit` and `cursor` come from the query."""
        asked = f"{projection.name}?{sorted(where.items())}"
        after = self._cursors.read(self._cursor, asked)
        rows = await self._storage.page_view(projection.name, where, after, self._limit + 1)
        shown = rows[: self._limit]
        more = len(rows) > self._limit
        return Page(
            items=[projection.view.model_validate_json(row.data) for _, row in shown],
            next_cursor=self._cursors.write(shown[-1][0], asked) if more else None,
        )

    async def story(self, projection: Projection[Any], key: str) -> list[Recorded[Any]]:
        """Every event of the streams that a view's row is made of, in no particular order. Raises Problem 404."""
        row = await self._row(projection.name, key)
        stored = await self._storage.read_streams(sorted(row.versions))
        return [recorded for item in stored if (recorded := recorded_of(item)) is not None]


def _parsed_token(token: str | None) -> tuple[str, int] | None:
    if token is None:
        return None
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise Problem(422, "min_version_invalid", "give back a token that a write has answered")
    return match["stream"], int(match["version"])


class Cursors:
    """The place a page ended at, signed together with what was asked: good for the next page of the same list only."""

    def __init__(self, secret: str) -> None:
        self._key = hashlib.sha256(f"cursors:{secret}".encode()).digest()

    def write(self, key: str, asked: str) -> str:
        signed = self._signature(key, asked) + key.encode()
        return base64.urlsafe_b64encode(signed).decode().rstrip("=")

    def read(self, cursor: str | None, asked: str) -> str:
        """Raises Problem 422 `cursor_invalid`."""
        if cursor is None:
            return ""
        try:
            signed = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
            key = signed[_SIGNATURE_BYTES:].decode()
        except ValueError:
            key, signed = "", b""
        if not hmac.compare_digest(signed[:_SIGNATURE_BYTES], self._signature(key, asked)):
            raise Problem(422, "cursor_invalid", "give back the `next_cursor` of the page before, and the same filters")
        return key

    def _signature(self, key: str, asked: str) -> bytes:
        return hmac.digest(self._key, f"{asked}\n{key}".encode(), "sha256")[:_SIGNATURE_BYTES]


class SignedCallback:
    """A callback whose signature was right: its id, and its body on demand."""

    def __init__(self, callback_id: str, body: bytes) -> None:
        self.id = callback_id
        self._body = body

    def read(self, model: type[M]) -> M:
        """Raises Problem 400 or 422 when the body is not JSON of this shape."""
        try:
            strict_json.loads(self._body)
            return model.model_validate_json(self._body)
        except strict_json.JsonFault as fault:
            raise Problem(fault.status, fault.code, str(fault)) from None
        except ValidationError as error:
            raise Problem(422, "invalid", errors=[fault.model_dump() for fault in faults_of(error.errors())]) from None


async def command_door(request: Request) -> CommandDoor:
    return CommandDoor(request, await request.body())


async def view_door(
    request: Request,
    min_version: Annotated[str | None, Query(max_length=300, description="Wait until the view has seen this")] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_CAP)] = 50,
    cursor: Annotated[str | None, Query(max_length=400)] = None,
) -> ViewDoor:
    return ViewDoor(request, min_version, limit, cursor)


async def signed_callback(request: Request) -> SignedCallback:
    """Verifies the signature before anything is parsed (Standard Webhooks: five minutes, constant time)."""
    secret = ports(request).callback_secret
    body = await request.body()
    try:
        if not secret:
            raise _unsigned("no callback secret is configured")
        Webhook(secret).verify(body, dict(request.headers), json_parse=False)
    except (WebhookVerificationError, ValueError):
        raise _unsigned("the signature, its time or its id is not right") from None
    callback_id = request.headers["webhook-id"]
    if not _KEY.fullmatch(callback_id):
        raise _unsigned("webhook-id is malformed")
    return SignedCallback(callback_id, body)


def _unsigned(detail: str) -> Problem:
    """All that stays of it is a count."""
    telemetry.count("oms.callbacks.refused")
    return Problem(401, "signature_invalid", detail)


Commands = Annotated[CommandDoor, Depends(command_door)]
Views = Annotated[ViewDoor, Depends(view_door)]
Callback = Annotated[SignedCallback, Depends(signed_callback)]
