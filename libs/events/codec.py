"""Events to bytes and back. What is stored is what is published: the exact bytes of `encode`."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import TypeAdapter, ValidationError

from libs.events.base import Event
from libs.events.channel import ChannelEvents
from libs.events.fulfillment import FulfillmentEvents
from libs.events.inventory import InventoryEvents
from libs.events.order import OrderEvents
from libs.events.payment import PaymentEvents
from libs.events.topics import CATEGORIES
from libs.events.upcasters import upcast

E = TypeVar("E", bound=Event)


class UnknownEvent(ValueError):
    """No class of this type in this release: a tolerant reader skips it."""


class NewerSchema(ValueError):
    """The event was written in a newer version than this code reads: deploy the reader first."""


class UndecodableEvent(ValueError):
    """The bytes are not an event of the type that the headers name."""


def event_type(cls: type[Event]) -> str:
    """The name on the wire, `oms.<owner>.<class>`: never a Python path, so that modules may move."""
    return _NAMES[cls]


def partition_key(event: Event) -> str:
    """The Kafka key: the field that the event's category names."""
    return str(getattr(event, CATEGORIES[event.category].key_field))


def encode(event: Event) -> bytes:
    return event.__pydantic_serializer__.to_json(event)


def decode(type_name: str, schema_version: int, data: bytes) -> Event:
    """An event from its bytes, upcast to today's version. Raises UnknownEvent, NewerSchema, UndecodableEvent."""
    cls = EVENT_CLASSES.get(type_name)
    if cls is None:
        raise UnknownEvent(type_name)
    if schema_version > cls.schema_version:
        raise NewerSchema(f"{type_name} version {schema_version}, this release reads {cls.schema_version}")
    try:
        if schema_version < cls.schema_version:
            old = json.loads(data)
            data = json.dumps(upcast(type_name, schema_version, cls.schema_version, old)).encode()
        return cls.__pydantic_validator__.validate_json(data)  # type: ignore[no-any-return]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UndecodableEvent(f"{type_name}: {describe(error)}") from None


def describe(error: Exception) -> str:
    """A decoding error in words that do not repeat the input."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False, include_context=False)
        )
    return f"{type(error).__name__}"


def schema_of(cls: type[Event]) -> dict[str, Any]:
    return TypeAdapter(cls).json_schema()


def _named(owner: str, union: Any) -> dict[type[Event], str]:
    return {cls: f"oms.{owner}.{cls.__name__}" for cls in get_args(union)}


_NAMES: Mapping[type[Event], str] = {
    **_named("channel", ChannelEvents),
    **_named("order", OrderEvents),
    **_named("inventory", InventoryEvents),
    **_named("payment", PaymentEvents),
    **_named("fulfillment", FulfillmentEvents),
}
EVENT_CLASSES: Mapping[str, type[Event]] = {name: cls for cls, name in _NAMES.items()}
