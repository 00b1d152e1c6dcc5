"""Who may use a route: every route declares it in its OpenAPI `security`, and that declaration is what is enforced.

Scopes count where API keys are on (OMS_API_KEYS_FILE). Where they are off, the process is bound to this machine.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute, iter_route_contexts

from libs.runtime import telemetry
from libs.runtime.api import Problem
from libs.runtime.keys import Key, Keys, Scope

API_KEY, SIGNATURE = "api_key", "signature"
SCHEMES = {
    API_KEY: {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key with one of the named scopes. Not asked for where the service is bound to loopback "
        "without keys.",
    },
    SIGNATURE: {
        "type": "apiKey",
        "in": "header",
        "name": "webhook-signature",
        "description": "Standard Webhooks: the partner signs id, time and body.",
    },
}
_LONGEST = 1024
"""Characters of a text in an event."""
_REALM = 'Bearer realm="orderloom"'

OPEN: dict[str, Any] = {"security": []}
"""Everybody may: health and metrics."""
SIGNED: dict[str, Any] = {"security": [{SIGNATURE: []}]}
"""Whoever signs with the callbacks' secret may."""


def may(*scopes: Scope) -> dict[str, Any]:
    """A key with any one of these scopes may. For `openapi_extra` of a route."""
    return {"security": [{API_KEY: [scope]} for scope in scopes]}


class UndeclaredScope(Exception):
    """A route does not say who may use it: the service must not run, for it might be open to everybody."""


def refuse_undeclared(app: FastAPI) -> None:
    """Raises UndeclaredScope, which names the routes."""
    undeclared = [f"{path} ({', '.join(methods)})" for path, methods, security in routes(app) if security is None]
    if undeclared:
        raise UndeclaredScope(f"no scope is declared for {'; '.join(undeclared)}: openapi_extra=may(…)")


def routes(app: FastAPI) -> Iterator[tuple[str, list[str], list[dict[str, list[str]]] | None]]:
    """Path, methods and declaration of every route of ours; the framework's own (/docs) are open."""
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, APIRoute):
            declared = (context.openapi_extra or {}).get("security")
            yield context.path or "", sorted(context.methods or ()), declared


def _scopes(security: list[dict[str, list[str]]]) -> frozenset[str]:
    return frozenset(scope for one in security for scope in one.get(API_KEY, ()))


async def only_who_may(request: Request) -> None:
    """Raises Problem 401 where a key is missing or unknown, 403 where it has none of the scopes."""
    keys: Keys | None = request.app.state.ports.keys
    needed = _scopes(request.scope["route"].openapi_extra["security"])
    if keys is None or not needed:
        return
    key = _key_of(request, keys)
    if key.scopes.isdisjoint(needed):
        telemetry.count("oms.requests.refused", code="scope_missing")
        wanted = " ".join(sorted(needed))
        raise Problem(
            403,
            "scope_missing",
            f"this key's scopes are {', '.join(sorted(key.scopes))}; this takes {' or '.join(sorted(needed))}",
            headers={"www-authenticate": f'{_REALM}, error="insufficient_scope", scope="{wanted}"'},
        )
    request.state.client = key.client


def _key_of(request: Request, keys: Keys) -> Key:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not text.strip():
        telemetry.count("oms.requests.refused", code="key_missing")
        raise Problem(
            401, "key_missing", "send Authorization: Bearer and an API key", headers={"www-authenticate": _REALM}
        )
    if (key := keys.of(text.strip())) is None:
        telemetry.count("oms.requests.refused", code="key_invalid")
        challenge = f'{_REALM}, error="invalid_token"'
        raise Problem(401, "key_invalid", "no such API key, or not any more", headers={"www-authenticate": challenge})
    return key


def client_of(request: Request) -> str:
    """The client whose key was shown; empty where keys are off."""
    client: str = getattr(request.state, "client", "")
    return client


async def _attribution(request: Request) -> Callable[[str], str]:
    client = client_of(request)

    def said_by(name: str) -> str:
        return name if client in ("", name) else f"{client} ({name})"[:_LONGEST]

    return said_by


SaidBy = Annotated[Callable[[str], str], Depends(_attribution)]
"""Who is recorded for what an operator does: the key's client, with the name it gives; that name where keys are off."""
