"""The envelope on the wire: headers and back, every way in which they can be wrong, and another library's opinion."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from libs.events.envelope import Envelope, MalformedHeaders, from_headers, headers_of, to_headers

FULL = Envelope(
    event_id="019b8d4a-6f00-8abc-9def-0123456789ab",
    event_type="oms.order.OrderConfirmed",
    schema_version=2,
    stream_id="order-2f1c",
    stream_version=7,
    occurred_at=datetime(2026, 1, 5, 10, 0, 0, 123456, tzinfo=UTC),
    recorded_at=datetime(2026, 1, 5, 10, 0, 1, tzinfo=UTC),
    correlation_id="2f1c",
    causation_id="oms.channel.orders/0/17",
    source="/order-service",
    idempotency_key="key-1",
    channel="web",
    actor="ann",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)
REQUIRED = (
    "ce_id",
    "ce_type",
    "ce_subject",
    "ce_time",
    "ce_recordedtime",
    "ce_dataschemaversion",
    "ce_aggregateversion",
    "ce_correlationid",
    "ce_causationid",
)


def read(headers: list[tuple[str, bytes]]) -> Envelope:
    return from_headers(headers_of(headers))


def changed(name: str, value: str) -> list[tuple[str, bytes]]:
    return [(known, value.encode() if known == name else old) for known, old in to_headers(FULL)]


@pytest.mark.parametrize("envelope", [FULL, replace(FULL, idempotency_key="", channel="", actor="", traceparent="")])
def test_envelope_comes_back_from_its_headers(envelope: Envelope) -> None:
    assert read(to_headers(envelope)) == envelope


def test_headers_of_strangers_beside_ours_are_ignored() -> None:
    assert read([*to_headers(FULL), ("x-theirs", b"1")]) == FULL


def test_time_with_another_offset_is_the_same_moment() -> None:
    there = FULL.occurred_at.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert read(changed("ce_time", there.isoformat())).occurred_at == FULL.occurred_at
    assert read(changed("ce_time", "2026-01-05T10:00:00Z")).occurred_at == datetime(2026, 1, 5, 10, tzinfo=UTC)


@pytest.mark.parametrize("microsecond", [0, 1, 120_000, 999_999])
@pytest.mark.parametrize("minutes", [0, 330, -570])
def test_time_is_written_as_iso_8601(minutes: int, microsecond: int) -> None:
    moment = FULL.occurred_at.replace(microsecond=microsecond, tzinfo=timezone(timedelta(minutes=minutes)))
    headers = dict(to_headers(replace(FULL, occurred_at=moment)))
    assert headers["ce_time"].decode() == moment.isoformat()


@pytest.mark.parametrize("name", REQUIRED)
def test_missing_header_is_named(name: str) -> None:
    with pytest.raises(MalformedHeaders, match=name):
        read([(known, value) for known, value in to_headers(FULL) if known != name])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ce_aggregateversion", "0"),
        ("ce_aggregateversion", "-1"),
        ("ce_aggregateversion", "seven"),
        ("ce_aggregateversion", ""),
        ("ce_aggregateversion", str(1 << 31)),
        ("ce_aggregateversion", "9" * 5_000),
        ("ce_dataschemaversion", "0"),
        ("ce_dataschemaversion", str(1 << 15)),
        ("ce_time", "yesterday"),
        ("ce_time", "2026-01-05T10:00:00"),
        ("ce_time", "2026-01-05T10:00:00+01:00:01"),
        ("ce_time", "0001-01-01T00:00:00+00:00"),
        ("ce_recordedtime", "9999-12-31T23:59:59-23:59"),
        ("ce_id", "17"),
        ("ce_id", ""),
        ("ce_subject", ""),
        ("ce_subject", "order-\x00"),
        ("ce_subject", "order-" + "x" * 300),
    ],
)
def test_header_that_nothing_can_store_is_malformed(name: str, value: str) -> None:
    with pytest.raises(MalformedHeaders):
        read(changed(name, value))


@pytest.mark.parametrize(
    "extra",
    [("ce_id", b"again"), ("x", b"\xff\xfe"), ("x", b"v" * 8193), ("x", None)],
    ids=["repeated", "not UTF-8", "longer than 8 KiB", "without a value"],
)
def test_header_that_cannot_be_read_is_malformed(extra: tuple[str, bytes]) -> None:
    with pytest.raises(MalformedHeaders):
        headers_of([*to_headers(FULL), extra])


def test_fault_does_not_repeat_long_input() -> None:
    with pytest.raises(MalformedHeaders) as fault:
        read(changed("ce_subject", "4111111111111111 " * 100))
    assert "4111" not in str(fault.value)


def test_cloudevents_library_reads_our_headers_in_binary_mode() -> None:
    message = KafkaMessage(headers=dict(to_headers(FULL)), key=b"2f1c", value=b'{"order_id":"2f1c"}')
    event = from_binary(message, JSONFormat(), CloudEvent)
    assert event.get_id() == FULL.event_id
    assert event.get_type() == FULL.event_type
    assert event.get_source() == FULL.source
    assert event.get_subject() == FULL.stream_id
    assert event.get_time() == FULL.occurred_at
    assert event.get_specversion() == "1.0"
    assert event.get_datacontenttype() == "application/json"
    assert event.get_data() == {"order_id": "2f1c"}
    assert event.get_extension("aggregateversion") == "7"
    assert event.get_extension("tenantid") == "main"
