"""The published contract of a service's HTTP: what every operation may answer beside what its router says of it."""

from collections.abc import Mapping, MutableMapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi

from libs.runtime.api import KEY_PATTERN, Problem
from libs.runtime.scope import API_KEY, SCHEMES

PROBLEM = "application/problem+json"

_ANY = {
    400: "Not a request that HTTP or JSON allows (`json_invalid`, `duplicate_key`)",
    422: "Not of the documented shape",
    431: "`headers_too_large`",
    503: "`unavailable` or `busy`: repeat it after Retry-After, a write with the same Idempotency-Key",
}
_READ = {504: "`not_visible_yet`: `min_version` has not arrived here yet"}
_BODY = {
    408: "`body_timeout`: the body did not arrive in time",
    413: "`body_too_large`",
    415: "`media_type_unsupported`: send application/json",
}
_COMMAND = {
    400: "`idempotency_key_missing`, `idempotency_key_invalid`, `if_match_invalid`, `json_invalid`, `duplicate_key`",
    409: "The domain says no: `code` says why",
    412: "`stale_version`: If-Match names another version than `current_version`",
}
_CHALLENGE = {"WWW-Authenticate": {"schema": {"type": "string"}, "description": "RFC 6750", "required": True}}
_PROBLEM = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_KEYED = {
    "401": {
        "description": "`key_missing`, `key_invalid`: show an API key that is valid",
        "headers": _CHALLENGE,
        "content": _PROBLEM,
    },
    "403": {
        "description": "`scope_missing`: the key may not do this",
        "headers": _CHALLENGE,
        "content": _PROBLEM,
    },
}
_KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "The same key gives the same answer, and has its effect once",
    "schema": {"type": "string", "pattern": KEY_PATTERN},
}
_VERSION_PARAMETER = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The version that the stream must still have, in quotes",
    "schema": {"type": "string", "pattern": '^"[0-9]{1,9}"$'},
}
_PROBLEM_SCHEMA = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457. `code` is stable; `errors` says what is wrong with which field.",
    "required": ["type", "title", "status", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "current_version": {"type": "integer"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "code": {"type": "string"},
                    "field": {"type": "string"},
                    "message": {"type": "string"},
                },
            },
        },
    },
}


def publish(app: FastAPI) -> None:
    """Makes /openapi.json and /docs tell of every answer, also of those that the machine gives."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            app.openapi_schema = _completed(schema, keyed=app.state.ports.keys is not None)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(schema: dict[str, Any], *, keyed: bool) -> dict[str, Any]:
    """`keyed`: whether this process asks for API keys at all; where it does not, showing none is one of the ways."""
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = _PROBLEM_SCHEMA
    components["securitySchemes"] = SCHEMES
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            _complete(operation["responses"], path, method)
            if any(API_KEY in one for one in operation["security"]):
                operation["responses"] |= _KEYED
                operation["security"] += [] if keyed else [{}]
            if _is_command(path, method):
                operation.setdefault("parameters", []).extend((_KEY_PARAMETER, _VERSION_PARAMETER))
    return schema


def _is_command(path: str, method: str) -> bool:
    return method != "get" and not path.startswith("/callbacks/")


def _complete(responses: MutableMapping[str, Any], path: str, method: str) -> None:
    common = {**_ANY, **_READ} if method == "get" else {**_ANY, **_BODY}
    if _is_command(path, method):
        common |= _COMMAND
    for status, description in common.items():
        responses.setdefault(str(status), {"description": description})
    for answer, response in responses.items():
        if answer >= "400":
            response["content"] = _PROBLEM


async def only_known_parameters(request: Request) -> None:
    """A misspelled filter would list everything: a query parameter that is not in the contract is refused."""
    route = request.scope["route"]
    operation = _operation(request.app.openapi(), route.path, request.method)
    known = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"}
    if operation and not known.issuperset(request.query_params):
        raise Problem(422, "unknown_parameter", "the query has a parameter that is not documented")


def _operation(schema: Mapping[str, Any], path: str, method: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = schema["paths"].get(path, {}).get(method.lower(), {})
    return found
