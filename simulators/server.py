"""What the three simulators share as processes: settings, doors, start and stop."""

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import orjson
import structlog
import uvicorn
import uvloop
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import Field, HttpUrl, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from simulators import callbacks, operation
from simulators.callbacks import Courier
from simulators.ledger import Ledger
from simulators.process import B, Fault, Process, Simulator, json

LOG = structlog.get_logger()

GRACE_S = 5

After = Annotated[int, Query(ge=0, description="the last rowid seen")]
Limit = Annotated[int, Query(ge=1, le=1000)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(frozen=True, env_prefix="SIM_", env_ignore_empty=True)

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int | None = Field(default=None, ge=0, le=65535, description="0 takes a free one; default by simulator")
    seed: int = Field(default=0, description="same seed and same keys, same outcomes")
    ledger: str = Field(default=":memory:", description="path of the SQLite file; in memory nothing survives")
    callback_url: HttpUrl | None = Field(default=None, description="where callbacks are posted; unset, they wait")
    callback_secret_file: Path | None = Field(default=None, description="file with the whsec_… that signs them")
    callback_give_up_s: float = Field(default=86_400, gt=0, description="age at which a callback is given up")


def main(simulator: Simulator[B]) -> None:
    _teach(simulator)
    try:
        settings, behaviour = Settings(), simulator.behaviour()
        secret = _secret(settings)
    except (ValidationError, OSError, ValueError) as error:
        sys.exit(f"{simulator.name}: cannot start: {error}")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(simulator, settings, behaviour, secret))


async def _run(simulator: Simulator[B], settings: Settings, behaviour: B, secret: str) -> None:
    ledger = Ledger(settings.ledger, simulator.schema)
    await ledger.open()
    courier = None
    if settings.callback_url is not None:
        courier = Courier(ledger, str(settings.callback_url), secret, settings.seed, settings.callback_give_up_s)
    process = Process(behaviour, ledger, courier, settings.seed)
    door = Door(application(simulator, process), process)
    server = Server(
        uvicorn.Config(
            door,
            http="h11",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
        )
    )
    door.lines = server.server_state.connections

    def stop() -> None:
        process.stopping.set()
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    port = simulator.port if settings.port is None else settings.port
    listening = socket.create_server((settings.host, port), backlog=2048)
    address = "http://{}:{}".format(*listening.getsockname()[:2])
    LOG.info("simulator.started", simulator=simulator.name, url=address, seed=settings.seed, ledger=settings.ledger)
    async with asyncio.TaskGroup() as tasks:  # a dead courier takes the process with it
        if courier is not None:
            tasks.create_task(courier.run())
        await server.serve([listening])
        if courier is not None:
            courier.stop()
    await ledger.close()
    LOG.info("simulator.stopped", simulator=simulator.name)


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process: uvicorn would raise them again before the ledger is closed."""
        yield


class Door:
    """In front of the application, because being away is a closed connection and not an answer."""

    def __init__(self, app: ASGIApp, process: Process[Any]) -> None:
        self.lines: set[Any] = set()
        self._app = app
        self._process = process

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not (self._process.behaviour.away and scope["type"] == "http" and scope["path"].startswith("/v1/")):
            await self._app(scope, receive, send)
            return
        for line in list(self.lines):
            if line.client == scope["client"]:
                line.transport.abort()
        while (await receive())["type"] != "http.disconnect":
            pass


def application(simulator: Simulator[B], process: Process[B]) -> FastAPI:
    app = FastAPI(title=simulator.name, description=simulator.about, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    app.include_router(simulator.router(process))
    app.include_router(_doors(simulator, process))
    app.add_exception_handler(Fault, _refuse)
    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _refuse)
    return app


def _doors(simulator: Simulator[B], process: Process[B]) -> APIRouter:
    router = APIRouter()
    ledger = process.ledger

    @router.get("/livez")
    async def live() -> Response:
        return json(200, {"status": "live"})

    @router.get("/readyz")
    async def ready() -> Response:
        if process.stopping.is_set():
            return json(503, {"code": "stopping"})
        return json(200, {"status": "ready", "simulator": simulator.name})

    @router.get("/behaviour")
    async def behaviour() -> Response:
        return json(200, process.behaviour.model_dump())

    @router.put("/behaviour")
    async def change(changes: dict[str, Any]) -> Response:
        try:
            process.behaviour = process.behaviour.changed(changes)
        except ValidationError as error:
            return json(422, {"code": "invalid_behaviour", "errors": _errors(error.errors())})
        return json(200, process.behaviour.model_dump())

    @router.get("/v1/operations/{idempotency_key:path}")
    async def look_up(idempotency_key: str) -> Response:
        row = await ledger.run(lambda connection: operation.recorded(connection, idempotency_key))
        if row is None:
            raise Fault(404, "not_found")
        return json(200, dict(row) | {"body": orjson.loads(row["body"])})

    @router.get("/ledger")
    async def operations(after: After = 0, limit: Limit = 200, reference: str | None = None) -> Response:
        rows = await ledger.run(lambda connection: operation.operations(connection, after, limit, reference))
        return page(rows)

    @router.get("/ledger/callbacks")
    async def sent(after: After = 0, limit: Limit = 200) -> Response:
        return page(await ledger.run(lambda connection: callbacks.page(connection, after, limit)))

    @router.get("/ledger/summary")
    async def summary() -> Response:
        body = await ledger.run(lambda connection: operation.summary(connection) | simulator.books(connection))
        return json(200, {"simulator": simulator.name, "seed": process.seed} | body)

    return router


def page(rows: list[dict[str, Any]]) -> Response:
    """`next_after` is what to ask for next; null when nothing is left."""
    return json(200, {"rows": rows, "next_after": rows[-1]["rowid"] if rows else None})


async def _refuse(http: Request, error: Exception) -> Response:
    match error:
        case Fault():
            return json(error.status_code, {"code": error.code})
        case HTTPException():
            code = {404: "no_such_route", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
            return json(error.status_code, {"code": code})
        case _:
            return json(500, {"code": "internal_error"})


async def _invalid(http: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return json(422, {"code": "invalid_request", "errors": _errors(error.errors())})


def _errors(errors: Any) -> list[dict[str, str]]:
    return [{"at": ".".join(str(part) for part in one["loc"]), "says": one["msg"]} for one in errors]


def _secret(settings: Settings) -> str:
    if settings.callback_url is None:
        return ""
    if settings.callback_secret_file is None:
        raise ValueError("SIM_CALLBACK_URL is set, SIM_CALLBACK_SECRET_FILE is not: callbacks are never sent unsigned")
    secret = settings.callback_secret_file.read_text().strip()
    if not secret.startswith("whsec_"):
        raise ValueError(f"{settings.callback_secret_file} holds no whsec_… secret")
    return secret


def _teach(simulator: Simulator[B]) -> None:
    fields = Settings.model_fields | simulator.behaviour.model_fields
    lines = [
        f"  SIM_{name.upper():<24} {field.description} [{simulator.port if name == 'port' else field.default}]"
        for name, field in fields.items()
    ]
    argparse.ArgumentParser(
        prog=f"python -m simulators.{simulator.name}",
        description=simulator.about,
        epilog="\n".join(["settings, from the environment:", *lines, "", DOORS, "", simulator.lesson]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()


DOORS = """doors beside the protocol:
  GET  /v1/operations/{key}   what was answered under an idempotency key, or 404: nothing happened under it
  GET  /ledger  /ledger/callbacks  /ledger/summary      paged by ?after=rowid&limit=
  GET  /behaviour  PUT /behaviour                       the rates above in lower case without SIM_; absent ones stay
  GET  /livez  /readyz"""
