"""The application around a service's router: problem+json, limits on what comes in, health and metrics."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import h11
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from libs.events import strict_json
from libs.events.inbound import MAX_BYTES, faults_of
from libs.runtime.api import Cursors, Ports, Problem, Rejected
from libs.runtime.contract import only_known_parameters, publish
from libs.runtime.decider import CommandRejected
from libs.runtime.errors import Unavailable
from libs.runtime.internal import internal_router, problem_of
from libs.runtime.operation import OperationRefused
from libs.runtime.scope import OPEN, only_who_may, refuse_undeclared
from libs.runtime.service import Service

Health = Callable[[], Awaitable[Mapping[str, Any]]]

BODY_SECONDS = 10.0
HEAD_SECONDS = 10.0
MAX_HEADERS = 100
_NOT_COUNTED = frozenset({"/livez", "/readyz", "/startupz", "/status", "/metrics"})
MAX_HEAD_BYTES = 32 * 1024


def problem_response(problem: Problem) -> Response:
    body = {
        "type": "about:blank",
        "title": problem.code.replace("_", " "),
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        **({"errors": list(problem.errors)} if problem.errors else {}),
        **problem.extra,
    }
    headers = problem.headers | ({"retry-after": "1"} if problem.status in (503, 504) else {})
    return JSONResponse(body, problem.status, headers, media_type="application/problem+json")


class PromptProtocol(H11Protocol):
    """Ends a connection whose request head does not arrive in time: uvicorn itself would wait for ever."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._end)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        in_head = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if in_head and self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._end)
        elif not in_head:
            self._forget()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()


class BodyGuard:
    """Reads a request's body within a limit of bytes and time, and lets through only strict JSON under a short head.

    Callbacks are only measured here: their signature is checked before anything is parsed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            _refuse_long_head(scope)
            if scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
                receive = _replay(await _guarded_body(scope, receive), receive)
        except Problem as problem:
            response = problem_response(problem)
            if problem.status in (408, 413, 431):
                response.headers["connection"] = "close"
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)


async def _guarded_body(scope: Scope, receive: Receive) -> bytes:
    _refuse_announced(scope)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await _read_body(receive)
    except TimeoutError:
        raise Problem(408, "body_timeout", "the body did not arrive in time") from None
    if body and not scope["path"].startswith("/callbacks/"):
        _check_json(scope, body)
    return body


def _refuse_long_head(scope: Scope) -> None:
    headers = scope["headers"]
    size = len(scope["query_string"]) + sum(len(name) + len(value) for name, value in headers)
    if len(headers) > MAX_HEADERS or size > MAX_HEAD_BYTES:
        raise Problem(431, "headers_too_large", f"at most {MAX_HEADERS} headers and {MAX_HEAD_BYTES} bytes")


def _refuse_announced(scope: Scope) -> None:
    """What says itself that it is too large is not even begun to be read."""
    announced = dict(scope["headers"]).get(b"content-length", b"0")
    if announced.isdigit() and int(announced[:20]) > MAX_BYTES:
        raise _too_large()


def _too_large() -> Problem:
    return Problem(413, "body_too_large", f"at most {MAX_BYTES} bytes")


async def _read_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "body_incomplete", "the connection ended before the body did")
        body += message.get("body", b"")
        if len(body) > MAX_BYTES:
            raise _too_large()
        if not message.get("more_body", False):
            return bytes(body)


def _check_json(scope: Scope, body: bytes) -> None:
    headers = dict(scope["headers"])
    content_type = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if content_type != b"application/json" and not content_type.endswith(b"+json"):
        raise Problem(415, "media_type_unsupported", "send application/json")
    try:
        strict_json.loads(body)
    except strict_json.JsonFault as fault:
        raise Problem(fault.status, fault.code, str(fault)) from None


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _on_problem(_request: Request, problem: Problem) -> Response:
    return problem_response(problem)


async def _on_rejection(_request: Request, rejection: CommandRejected) -> Response:
    problem = Problem(409, rejection.code, str(rejection))
    if isinstance(rejection, Rejected):
        problem.extra["current_version"] = rejection.stream_version
    return problem_response(problem)


async def _on_refusal(_request: Request, refused: OperationRefused) -> Response:
    return problem_response(problem_of(refused))


async def _on_invalid(_request: Request, error: RequestValidationError) -> Response:
    faults = faults_of(error.errors())
    code = faults[0].code if len({fault.code for fault in faults}) == 1 else "invalid"
    errors = [fault.model_dump() for fault in faults]
    return problem_response(Problem(422, code, "the request is not of the documented shape", errors))


async def _on_http(request: Request, error: HTTPException) -> Response:
    codes = {404: "not_found", 405: "method_not_allowed"}
    response = problem_response(Problem(error.status_code, codes.get(error.status_code, "refused"), str(error.detail)))
    if error.status_code == 405:
        response.headers["allow"] = ", ".join(_methods(request))
    return response


def _methods(request: Request) -> list[str]:
    """Of all routes of this path: the framework names those of the first only."""
    routes = request.app.routes
    return [
        method
        for method in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


async def _on_unavailable(_request: Request, _error: Unavailable) -> Response:
    return problem_response(Problem(503, "unavailable", "the database is away; repeat with the same Idempotency-Key"))


def create_app(service: Service[Any], ports: Ports, health: Health) -> FastAPI:
    """`health` gives {"ready": bool, …}: readiness, and what /status shows. Raises UndeclaredScope."""
    app = FastAPI(
        title=f"Orderloom {service.name}",
        version="1",
        docs_url="/docs",
        redoc_url=None,
        dependencies=[Depends(only_who_may), Depends(only_known_parameters)],
        # Only its metrics. Its spans would tell of what stands in paths and queries, and sample every request; our own
        # logs are structured, and asking for a logger provider costs every request.
        telemetry={"tracing": False, "logs": False, "exclude": lambda scope: scope["path"] in _NOT_COUNTED},
    )
    publish(app)
    app.state.ports = ports
    app.state.clock = lambda: datetime.now(UTC)
    app.add_middleware(BodyGuard)
    handlers: Mapping[type[Exception], Any] = {
        Problem: _on_problem,
        CommandRejected: _on_rejection,
        OperationRefused: _on_refusal,
        RequestValidationError: _on_invalid,
        HTTPException: _on_http,
        Unavailable: _on_unavailable,
    }
    for error, handler in handlers.items():
        app.add_exception_handler(error, handler)
    if service.router is not None:
        app.include_router(service.router)
    if ports.operations is not None:
        app.include_router(internal_router(ports.operations, Cursors(ports.callback_secret)))
    _add_health(app, health)
    refuse_undeclared(app)
    return app


def _add_health(app: FastAPI, health: Health) -> None:
    @app.get("/livez", include_in_schema=False, openapi_extra=OPEN)
    async def livez() -> PlainTextResponse:
        return PlainTextResponse("alive")  # the loop answers: that is all that liveness asks

    @app.get("/readyz", include_in_schema=False, openapi_extra=OPEN)
    async def readyz() -> JSONResponse:
        state = await health()
        return JSONResponse({"ready": state["ready"]}, 200 if state["ready"] else 503)

    @app.get("/startupz", include_in_schema=False, openapi_extra=OPEN)
    async def startupz() -> PlainTextResponse:
        return PlainTextResponse("started")

    @app.get("/status", include_in_schema=False, openapi_extra=OPEN)
    async def status() -> JSONResponse:
        return JSONResponse(dict(await health()))

    @app.get("/metrics", include_in_schema=False, openapi_extra=OPEN)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
