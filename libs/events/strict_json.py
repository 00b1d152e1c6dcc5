"""JSON from strangers: what Python's parser lets through (NaN, repeated keys, 1e400, any depth) is refused."""

import json
import math
from typing import Any

MAX_DEPTH = 32
_MAX_DIGITS = 19


class JsonFault(ValueError):
    """`code` is stable: json_invalid, duplicate_key, number_out_of_range or text_invalid."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def status(self) -> int:
        """As HTTP says it: 400 for what is no JSON, 422 for what is and cannot be taken."""
        return 422 if self.code in ("number_out_of_range", "text_invalid") else 400


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise JsonFault("duplicate_key", "a key stands twice in one object")
    return out


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > _MAX_DIGITS:
        raise JsonFault("number_out_of_range", "an integer is beyond 64 bits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise JsonFault("number_out_of_range", "a number is beyond what a float holds")
    return value


def _constant(text: str) -> Any:
    raise JsonFault("json_invalid", f"{text} is not JSON")


def _too_deep(data: bytes) -> bool:
    """Whether brackets nest beyond MAX_DEPTH, strings aside: checked before parsing, in one pass."""
    depth, in_string, escaped = 0, False, False
    for byte in data:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif byte in b"]}":
            depth -= 1
    return False


def loads(data: bytes) -> Any:
    """The value of a UTF-8 JSON text. Raises JsonFault; never echoes the input."""
    # Only a text with many brackets can be deep: the cheap count spares the walk.
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _too_deep(data):
        raise JsonFault("json_invalid", f"nested deeper than {MAX_DEPTH}")
    try:
        text = data.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
    except UnicodeDecodeError:
        raise JsonFault("json_invalid", "not UTF-8") from None
    except JsonFault:
        raise
    except (ValueError, RecursionError) as error:
        raise JsonFault("json_invalid", str(error).split(":")[0]) from None
    # Only an escape can write them: the cheap look spares the walk.
    if b"\\u0000" in data or b"\\ud" in data or b"\\uD" in data:
        _refuse_unstorable(value)
    return value


def _refuse_unstorable(value: Any) -> None:
    """NUL and halves of surrogate pairs: PostgreSQL's jsonb takes neither."""
    left = [value]
    while left:
        match left.pop():
            case str(text) if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
                raise JsonFault("text_invalid", "a text holds NUL or half of a surrogate pair")
            case list(items):
                left += items
            case dict(fields):
                left += [*fields.keys(), *fields.values()]
