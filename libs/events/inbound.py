"""Records of the channel topic, in any of three forms: binary or structured CloudEvents, or bare JSON.

Identity is in the body (channel and external id), never in the Kafka key: other tools hash keys differently.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from libs.events import strict_json
from libs.events.base import Id
from libs.events.channel import ChannelEvent, Fault, OrderCancellationRequested, OrderPlaced, UnreadableOrder
from libs.events.envelope import MalformedHeaders, headers_of

MAX_BYTES = 256 * 1024
MAX_FAULTS = 50
_STRUCTURED = "application/cloudevents+json"
_TYPES: Mapping[str, type[ChannelEvent]] = {
    "oms.channel.OrderPlaced": OrderPlaced,
    "oms.channel.OrderCancellationRequested": OrderCancellationRequested,
}
_ID = TypeAdapter(Id)

_FIELD = re.compile(r"[A-Za-z_][A-Za-z_-]{0,63}")
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_OURS = frozenset({"text_invalid", "pan_detected"})
_CODES = {
    "extra_forbidden": "unknown_field",
    "missing": "field_missing",
    "too_long": "too_many_items",
    "too_short": "too_few_items",
}


class UnidentifiableRecord(ValueError):
    """Neither the order nor its channel can be told: nobody can be answered, so the record is parked."""


class UnknownChannelEvent(ValueError):
    """A type of channel event that is not built yet."""


def faults_of(errors: Sequence[Mapping[str, Any]]) -> tuple[Fault, ...]:
    """What pydantic found wrong with a body, at most fifty, with stable codes and without its values."""
    return tuple(
        Fault(code=_code(fault["type"]), field=".".join(_name(part) for part in fault["loc"]), message=fault["msg"])
        for fault in errors[:MAX_FAULTS]
    )


def _name(part: str | int) -> str:
    """A key may be the sender's own and hold anything: only what looks like a field's name is repeated."""
    return str(part) if isinstance(part, int) or _FIELD.fullmatch(part) else "?"


def _code(kind: str) -> str:
    if kind in _OURS:
        return kind
    if kind in _CODES:
        return _CODES[kind]
    if kind.startswith(("greater_than", "less_than", "int_parsing_size", "finite")):
        return "number_out_of_range"
    return "type_invalid" if kind.endswith("_type") else "value_invalid"


def read_channel_record(raw_headers: Iterable[tuple[str, bytes]], value: bytes | None) -> ChannelEvent:
    """The event in a channel's record; UnreadableOrder where only its identity can be read.

    Raises UnidentifiableRecord (park it) and UnknownChannelEvent (skip it).
    """
    if not value:
        raise UnidentifiableRecord("empty record")
    if len(value) > MAX_BYTES:
        raise UnidentifiableRecord(f"record larger than {MAX_BYTES} bytes")
    try:
        headers = headers_of(raw_headers)
    except MalformedHeaders:
        words = "a header is repeated, empty, longer than 8 KiB, or not UTF-8"
        return _unreadable(_loosely(value), (Fault(code="headers_invalid", message=words),))
    try:
        body = strict_json.loads(value)
    except strict_json.JsonFault as fault:
        return _unreadable(_loosely(value), (Fault(code=fault.code, message=str(fault)),))
    type_name = headers.get("ce_type", "oms.channel.OrderPlaced")
    if headers.get("content-type", "").startswith(_STRUCTURED) or _looks_structured(body):
        if not isinstance(body, dict):
            raise UnidentifiableRecord("not a JSON object")
        type_name, body = str(body.get("type")), body.get("data")
        value = json.dumps(body).encode()
    cls = _TYPES.get(type_name)
    if cls is None:
        raise UnknownChannelEvent(type_name[:128])
    try:
        return cls.model_validate_json(value)
    except ValidationError as error:
        return _unreadable(body, faults_of(error.errors()))


def traceparent_in(raw: str | bytes | None) -> str:
    """A trace context from outside, or none: whatever is no W3C traceparent is not passed on."""
    text = raw.decode(errors="replace") if isinstance(raw, bytes) else raw or ""
    return text if _TRACEPARENT.fullmatch(text) else ""


def _looks_structured(body: Any) -> bool:
    return isinstance(body, dict) and "specversion" in body and "data" in body


def _loosely(value: bytes) -> Any:
    """The same text by Python's own lenient parser: enough to find whose order it is."""
    try:
        body = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return body["data"] if _looks_structured(body) else body


def _unreadable(body: Any, reasons: tuple[Fault, ...]) -> UnreadableOrder:
    if not isinstance(body, dict):
        raise UnidentifiableRecord("not a JSON object")
    revision = body.get("external_revision", 1)
    if type(revision) is not int or not 1 <= revision <= 1_000_000:
        revision = 1
    try:
        return UnreadableOrder(
            channel=_ID.validate_python(body.get("channel"), strict=True),
            external_order_id=_ID.validate_python(body.get("external_order_id"), strict=True),
            external_revision=revision,
            reasons=reasons,
        )
    except ValidationError:
        raise UnidentifiableRecord("channel or external_order_id cannot be read") from None
