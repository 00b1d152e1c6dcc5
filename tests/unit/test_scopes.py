"""Every route of every service against every scope. One that does not declare who may use it fails the build."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI

from libs.runtime.api import Ports
from libs.runtime.handler import Handler
from libs.runtime.http import create_app
from libs.runtime.keys import SCOPES, Keys, new_key, write_keys
from libs.runtime.operation import Operations
from libs.runtime.scope import API_KEY, UndeclaredScope, routes
from libs.testing.memory import MemoryStorage
from libs.testing.tally import tally_service
from oms.catalogue import catalogue

OPEN = {"/livez", "/readyz", "/startupz", "/status", "/metrics"}
CHANNEL = {
    ("POST", "/orders"),
    ("POST", "/cancellations"),
    ("POST", "/orders/{order_id}/cancellation"),
    ("POST", "/orders/{order_id}/payment-method"),
    ("GET", "/orders"),
    ("GET", "/orders/{order_id}"),
    ("GET", "/orders/{order_id}/timeline"),
    ("GET", "/orders/by-reference/{channel}/{external_order_id}"),
    ("GET", "/availability/{sku}"),
}


async def health() -> dict[str, Any]:
    return {"ready": True}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A key of each scope, by scope; and the file that the services read."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    made = {scope: new_key(f"{scope}-client", [scope]) for scope in SCOPES}
    write_keys(file, [key for key, _ in made.values()])
    return {**{scope: text for scope, (_, text) in made.items()}, "file": str(file)}


def app_of(name: str, file: str | None) -> FastAPI:
    handler = Handler(catalogue()[name], MemoryStorage())
    keys = Keys(Path(file)) if file else None
    return create_app(handler.service, Ports(handler.storage, None, "", Operations(handler), keys), health)


def cells(app: FastAPI) -> Iterator[tuple[str, str, set[str]]]:
    for path, methods, security in routes(app):
        assert security is not None
        for method in methods:
            yield method, path, {scope for one in security for scope in one.get(API_KEY, ())}


async def asked(app: FastAPI, method: str, path: str, **headers: str) -> httpx.Response:
    # Not raised: nothing but who may is looked at here, and there is no decider's loop behind the doors.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://oms") as client:
        place = re.sub(r"\{\w+\}", "X", path)
        return await client.request(method, place, headers=headers, json={} if method == "POST" else None)


@pytest.mark.parametrize("name", catalogue())
async def test_every_route_lets_in_its_own_scopes_and_nobody_else(name: str, shown: dict[str, str]) -> None:
    app = app_of(name, shown["file"])
    seen = 0
    for method, path, scopes in cells(app):
        seen += 1
        bare = await asked(app, method, path)
        if not scopes:
            assert path in OPEN or path.startswith("/callbacks/"), f"{path} is open"
            if path in OPEN:
                assert bare.status_code == 200
            else:
                assert bare.json()["code"] == "signature_invalid"
            continue
        assert (bare.status_code, bare.json()["code"]) == (401, "key_missing"), path
        assert bare.headers["www-authenticate"] == 'Bearer realm="orderloom"'
        assert bare.headers["content-type"] == "application/problem+json"
        wrong = await asked(app, method, path, authorization=f"Bearer {shown['reader'][:-1]}x")
        assert (wrong.status_code, wrong.json()["code"]) == (401, "key_invalid"), path
        assert 'error="invalid_token"' in wrong.headers["www-authenticate"]
        for scope in SCOPES:
            answer = await asked(app, method, path, authorization=f"Bearer {shown[scope]}")
            if scope in scopes:
                assert answer.status_code not in (401, 403), (path, scope)
            else:
                assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing"), (path, scope)
                assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
    assert seen > 15


@pytest.mark.parametrize("name", catalogue())
def test_scopes_are_what_each_kind_of_client_needs(name: str) -> None:
    for method, path, scopes in cells(app_of(name, None)):
        if path.startswith("/internal/"):
            assert scopes == {"operator"}
        elif "channel" in scopes:
            assert (method, path) in CHANNEL
        elif scopes:
            assert scopes == ({"operator", "reader"} if method == "GET" else {"operator"})


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("name", catalogue())
def test_openapi_tells_of_the_key_and_of_both_refusals(name: str, keyed: bool, shown: dict[str, str]) -> None:
    schema = app_of(name, shown["file"] if keyed else None).openapi()
    assert schema["components"]["securitySchemes"][API_KEY]["scheme"] == "bearer"
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert operation["security"], path
            if path.startswith("/callbacks/"):
                assert "403" not in operation["responses"]
            else:
                assert "WWW-Authenticate" in operation["responses"]["401"]["headers"]
                assert "403" in operation["responses"]
                assert ({} in operation["security"]) is not keyed, "where keys are off, none is a way, too"


async def test_without_keys_nothing_is_asked_for() -> None:
    app = app_of("inventory", None)
    assert (await asked(app, "GET", "/locations")).status_code == 200


def test_route_that_declares_no_scope_keeps_the_service_from_being_made() -> None:
    router = APIRouter()

    @router.get("/secrets")
    async def secrets() -> str:
        return "everything"

    handler = Handler(replace(tally_service(), router=router), MemoryStorage())
    with pytest.raises(UndeclaredScope, match=r"/secrets \(GET\)"):
        create_app(handler.service, Ports(handler.storage, None, ""), health)


async def test_operator_is_recorded_as_the_client_of_the_key_with_the_name_it_gives(shown: dict[str, str]) -> None:
    handler = Handler(tally_service(), MemoryStorage())
    operations = Operations(handler)
    said: list[Any] = []

    async def reset(word: Any, topic: str) -> None:
        said.append((word.operator, word.reason, topic))
        raise ValueError

    operations.reset_positions = reset  # type: ignore[method-assign, assignment]
    app = create_app(handler.service, Ports(handler.storage, None, "", operations, Keys(Path(shown["file"]))), health)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://oms") as client:
        for number, name in enumerate(("ann", "operator-client")):
            headers = {"authorization": f"Bearer {shown['operator']}", "idempotency-key": f"k-{number}"}
            body = {"by": name, "reason": "ticket 7", "topic": "oms.order.events"}
            await client.post("/internal/positions/reset", json=body, headers=headers)
    assert [operator for operator, *_ in said] == ["operator-client (ann)", "operator-client"]
