"""The envelope around an event: CloudEvents attributes on the wire, in binary mode as Kafka headers.

The headers carry all of it, so that a consumer fences, deduplicates and skips a record without its body.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, Self, TypeVar

import orjson

from libs.events.base import UUID, Event

E_co = TypeVar("E_co", bound=Event, covariant=True)

TENANT = "main"
CONTENT_TYPE = "application/json"


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What is known of an event besides its data (domain.md, section 2); `occurred_at` and `recorded_at` are UTC."""

    event_id: str
    event_type: str
    schema_version: int
    stream_id: str
    stream_version: int
    occurred_at: datetime
    recorded_at: datetime
    correlation_id: str
    causation_id: str
    source: str = ""
    idempotency_key: str = ""
    channel: str = ""
    actor: str = ""
    traceparent: str = ""

    @classmethod
    def made(cls, fields: dict[str, Any]) -> Self:
        """From all of its fields at once: a frozen dataclass's own `__init__` costs more than decoding the event."""
        made = object.__new__(cls)
        made.__dict__.update(fields)
        return made


@dataclass(frozen=True, kw_only=True)
class Recorded(Envelope, Generic[E_co]):
    """An event with its envelope: what `react`, `follow` and views get."""

    event: E_co = field()

    @classmethod
    def of(cls, envelope: Envelope, event: Any) -> "Recorded[Any]":
        return cls.made({**vars(envelope), "event": event})


_OPTIONAL = (
    ("ce_idempotencykey", "idempotency_key"),
    ("ce_channel", "channel"),
    ("ce_actor", "actor"),
    ("traceparent", "traceparent"),
)


def to_headers(envelope: Envelope) -> list[tuple[str, bytes]]:
    """The Kafka headers of a stored event, CloudEvents 1.0 binary mode with `traceparent` beside."""
    headers = [
        ("content-type", CONTENT_TYPE),
        ("ce_specversion", "1.0"),
        ("ce_id", envelope.event_id),
        ("ce_type", envelope.event_type),
        ("ce_source", envelope.source),
        ("ce_subject", envelope.stream_id),
        ("ce_time", _moment_text(envelope.occurred_at)),
        ("ce_recordedtime", _moment_text(envelope.recorded_at)),
        ("ce_dataschemaversion", str(envelope.schema_version)),
        ("ce_aggregateversion", str(envelope.stream_version)),
        ("ce_correlationid", envelope.correlation_id),
        ("ce_causationid", envelope.causation_id),
        ("ce_tenantid", TENANT),
    ]
    headers += [(name, value) for name, attribute in _OPTIONAL if (value := getattr(envelope, attribute))]
    return [(name, value.encode()) for name, value in headers]


def _moment_text(moment: datetime) -> str:
    """The text that `isoformat` makes, in half its time."""
    return orjson.dumps(moment)[1:-1].decode()


class MalformedHeaders(ValueError):
    """The record's headers are not those of an event."""


def headers_of(raw: Iterable[tuple[str, bytes]]) -> Mapping[str, str]:
    """Header names to text. Raises MalformedHeaders for a repeated, oversized or undecodable header."""
    headers: dict[str, str] = {}
    for name, value in raw:
        if name in headers:
            raise MalformedHeaders(f"header {name!r} is repeated")
        if value is None or len(value) > 8192:
            raise MalformedHeaders(f"header {name!r} is empty or longer than 8 KiB")
        try:
            headers[name] = value.decode()
        except UnicodeDecodeError:
            raise MalformedHeaders(f"header {name!r} is not UTF-8") from None
    return headers


_UUID = re.compile(UUID)
_STREAM = re.compile(r"[A-Za-z0-9_.:-]{1,256}")


def _text(headers: Mapping[str, str], name: str, form: re.Pattern[str]) -> str:
    if not form.fullmatch(headers[name]):
        raise MalformedHeaders(f"{name} is malformed")
    return headers[name]


def _number(headers: Mapping[str, str], name: str, limit: int) -> int:
    number = int(headers[name])
    if not 1 <= number < limit:
        raise MalformedHeaders(f"{name} is out of range")
    return number


def _moment(headers: Mapping[str, str], name: str) -> datetime:
    moment = datetime.fromisoformat(headers[name])
    offset = moment.utcoffset()
    if offset is None or (offset and offset % timedelta(minutes=1)) or not 2000 <= moment.year < 2100:
        raise MalformedHeaders(f"{name} has no offset of hours and minutes or is outside the years 2000 to 2099")
    return moment


def from_headers(headers: Mapping[str, str]) -> Envelope:
    """The envelope of a record on one of our own topics. Raises MalformedHeaders naming what is missing or wrong."""
    try:
        return Envelope.made(
            {
                "event_id": _text(headers, "ce_id", _UUID),
                "event_type": headers["ce_type"],
                "schema_version": _number(headers, "ce_dataschemaversion", 1 << 15),
                "stream_id": _text(headers, "ce_subject", _STREAM),
                "stream_version": _number(headers, "ce_aggregateversion", 1 << 31),
                "occurred_at": _moment(headers, "ce_time"),
                "recorded_at": _moment(headers, "ce_recordedtime"),
                "correlation_id": headers["ce_correlationid"],
                "causation_id": headers["ce_causationid"],
                "source": headers.get("ce_source", ""),
                "idempotency_key": headers.get("ce_idempotencykey", ""),
                "channel": headers.get("ce_channel", ""),
                "actor": headers.get("ce_actor", ""),
                "traceparent": headers.get("traceparent", ""),
            }
        )
    except KeyError as missing:
        raise MalformedHeaders(f"header {missing.args[0]!r} is missing") from None
    except ValueError as wrong:
        raise MalformedHeaders(str(wrong)) from None
