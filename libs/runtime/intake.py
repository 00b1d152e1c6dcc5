"""From a Kafka record to what a service makes of it: read the headers, decode what is wanted, react. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from libs.events.channel import UnreadableOrder
from libs.events.codec import NewerSchema, UndecodableEvent, UnknownEvent, decode, event_type
from libs.events.envelope import Envelope, MalformedHeaders, Recorded, from_headers, headers_of
from libs.events.inbound import UnidentifiableRecord, UnknownChannelEvent, read_channel_record, traceparent_in
from libs.events.topics import TOPIC_BY_NAME
from libs.runtime.errors import DataFault, NewerRelease, PartitionHalted
from libs.runtime.identity import Cause
from libs.runtime.service import Service
from libs.runtime.storage import Partition, StoredEvent


@dataclass(slots=True)  # not frozen, as Heard is not: one for every record, and frozen takes three times as long
class Record:
    """A record as Kafka gave it."""

    partition: Partition
    offset: int
    key: bytes | None
    headers: Sequence[tuple[str, bytes]]
    value: bytes | None
    timestamp: datetime


@dataclass(slots=True, kw_only=True)
class Heard:
    """A record read: `fault` says why it must be parked, `skip` why there is nothing to do with it."""

    record: Record
    park_key: bytes
    cause: Cause | None = None
    stream_id: str = ""
    stream_version: int = 0
    stored: StoredEvent | None = None
    recorded: Recorded[Any] | None = None
    commands: Sequence[Any] = ()
    fault: str = ""
    skip: str = ""

    def with_fault(self, reason: str) -> "Heard":
        return replace(self, fault=reason, commands=(), recorded=None)


class Intake:
    """Reads records for one service. Only the types that it wants are decoded."""

    def __init__(self, service: Service[Any]) -> None:
        self._service = service
        self._wanted = {event_type(cls) for cls in service.wants if cls is not UnreadableOrder}
        self._keeps_all = service.decider is None

    def read(self, record: Record) -> Heard:
        """Raises PartitionHalted for an event newer than this code: the reader must be deployed first."""
        if not TOPIC_BY_NAME[record.partition.topic].versioned:
            return self._read_inbound(record)
        key = record.key or b""
        try:
            envelope = from_headers(headers_of(record.headers))
        except MalformedHeaders as error:
            return Heard(record=record, park_key=key, fault=f"headers: {error}")
        stream_id, version = envelope.stream_id, envelope.stream_version
        if key and record.value and not self._keeps_all and envelope.event_type not in self._wanted:
            return Heard(record=record, park_key=key, stream_id=stream_id, stream_version=version, skip="unwanted")
        return Heard(
            record=record,
            park_key=key,
            cause=_cause(envelope),
            stream_id=stream_id,
            stream_version=version,
            **self._made_of(envelope, record),
        )

    def _made_of(self, envelope: Envelope, record: Record) -> dict[str, Any]:
        """The rest of what is heard: fields of Heard."""
        if not record.key:
            return {"fault": "key: missing"}
        if not record.value:
            return {"fault": "value: missing"}
        if self._keeps_all:
            stored = StoredEvent(envelope, record.value, record.key.decode(errors="replace"))
            return {"stored": stored, **self._decoded(envelope, record.value)}
        return self._decoded(envelope, record.value)

    def _decoded(self, envelope: Envelope, value: bytes) -> dict[str, Any]:
        try:
            event = decode(envelope.event_type, envelope.schema_version, value)
        except UnknownEvent:
            return {} if self._keeps_all else {"skip": "unknown_type"}
        except NewerSchema as error:
            raise PartitionHalted(str(error)) from None
        except UndecodableEvent as error:
            return {"fault": f"value: {error}"}
        return self._reacted(Recorded.of(envelope, event))

    def _reacted(self, recorded: Recorded[Any]) -> dict[str, Any]:
        try:
            return {"recorded": recorded, "commands": tuple(self._service.react(recorded))}
        except Exception as error:  # noqa: BLE001  whatever a policy raises is the record's fault, and parks it
            return {"fault": f"react: {type(error).__name__}"}

    def _read_inbound(self, record: Record) -> Heard:
        # Parked alone: identity is in the body, so nothing behind it waits.
        heard = Heard(record=record, park_key=f"@{record.partition.number}:{record.offset}".encode())
        try:
            event = read_channel_record(record.headers, record.value)
        except UnknownChannelEvent:
            return replace(heard, skip="unknown_type")
        except UnidentifiableRecord as error:
            return heard.with_fault(str(error))
        place = f"{record.partition.topic}/{record.partition.number}/{record.offset}"
        # The channel's own ids are not to be trusted: the cause is where the record lies, with Kafka's timestamp.
        envelope = Envelope(
            event_id=place,
            event_type=f"oms.channel.{type(event).__name__}",
            schema_version=1,
            stream_id="",
            stream_version=0,
            occurred_at=record.timestamp,
            recorded_at=record.timestamp,
            correlation_id=event.order_id,
            causation_id=place,
            channel=event.channel,
            idempotency_key=f"{event.channel}:{event.external_order_id}:{event.external_revision}",
            traceparent=traceparent_in(dict(record.headers).get("traceparent")),
        )
        return replace(heard, cause=_cause(envelope), **self._reacted(Recorded.of(envelope, event)))


def recorded_of(stored: StoredEvent) -> Recorded[Any] | None:
    """A stored event decoded; None where its type is not known to this release. Raises DataFault, NewerRelease."""
    envelope = stored.envelope
    try:
        event = decode(envelope.event_type, envelope.schema_version, stored.data)
    except UnknownEvent:
        return None
    except NewerSchema as error:
        raise NewerRelease(f"{envelope.stream_id}@{envelope.stream_version}: {error}") from None
    except ValueError as error:
        raise DataFault(f"{envelope.stream_id}@{envelope.stream_version}: {error}") from error
    return Recorded.of(envelope, event)


def _cause(envelope: Envelope) -> Cause:
    return Cause(
        causation_id=envelope.event_id,
        at=envelope.recorded_at,
        correlation_id=envelope.correlation_id,
        channel=envelope.channel,
        idempotency_key=envelope.idempotency_key if envelope.stream_version == 0 else "",
        traceparent=envelope.traceparent,
    )
