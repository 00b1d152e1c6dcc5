"""Answers that are no answers: the effect is there, and what comes back tells neither yes nor no in earnest."""

from typing import Any, Literal, get_args

import orjson
from fastapi import Response

from simulators.behaviour import Shape
from simulators.chance import draw
from simulators.operation import Answer

HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
HUGE = 10 * 2**20
IDS = ("id", "tracking_number", "release_id")


def shape(asked: Shape | Literal["any"], seed: int, key: str) -> Shape:
    shapes: tuple[Shape, ...] = get_args(Shape)
    return shapes[int(draw(seed, "garbage_shape", key) * len(shapes))] if asked == "any" else asked


def garbled(shape: Shape, given: Answer) -> Response:
    body: dict[str, Any] = orjson.loads(given.body)
    match shape:
        case "html":
            return Response(HTML, 200, media_type="text/html")
        case "truncated":
            return Response(given.body[: len(given.body) // 2], 200, media_type="application/json")
        case "huge":
            return _json(200, body | {"padding": "x" * HUGE})
        case "redirect":
            return Response(status_code=307, headers={"location": "/livez"})
        case "no_id":
            return _json(given.status_code, {name: value for name, value in body.items() if name not in IDS})
        case "other_amount" | "smaller_amount":
            more = 1 if shape == "other_amount" else -1
            return _json(
                given.status_code, body | {name: body[name] + more for name in ("amount", "cost") if name in body}
            )
        case "other_currency":
            return _json(given.status_code, body | {"currency": "XTS"})
        case "unknown_code":
            return _json(402, {"status": "declined", "code": "mystery", "retryable": False})


def _json(status_code: int, body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), status_code, media_type="application/json")
