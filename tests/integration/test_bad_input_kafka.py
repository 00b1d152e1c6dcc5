"""Records that nobody should publish, on the topics of the running services: every one is accounted for, and good
ones go on. Good and bad take turns, so that no limit of the park stops a partition that others use."""

import json
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from aiokafka.errors import InvalidTimestampError

from libs.events.envelope import Envelope, to_headers
from libs.events.topics import PAYMENT_EVENTS
from libs.testing.deadline import eventually
from libs.testing.outside import Outside, outside
from oms.cluster.cluster import LocalCluster

pytestmark = pytest.mark.integration

POLICY = "oms.order.policy"
Headers = Sequence[tuple[str, bytes]]


@pytest.fixture(scope="module")
async def kafka(system: LocalCluster) -> AsyncIterator[Outside]:
    async with outside(system, system.directory.callback_secret().read_text().strip()) as opened:
        await opened.stock("SKU-KAFKA", qty=100_000)
        yield opened
        await forget_own_parked(opened)


async def forget_own_parked(kafka: Outside) -> None:
    for service in ("order", "tracking"):
        for place in kafka.places:
            await kafka.sql(
                service,
                "WITH gone AS (DELETE FROM parked_record WHERE topic = $1 AND partition = $2 AND record_offset = $3"
                " RETURNING consumer, topic, key) DELETE FROM parked_key k USING gone"
                " WHERE (k.consumer, k.topic, k.key) = (gone.consumer, gone.topic, gone.key)",
                place.topic,
                place.partition,
                place.offset,
            )


async def position(kafka: Outside, place: Any, consumer: str = POLICY, service: str = "order") -> asyncpg.Record:
    """The consumer's position on a record's partition, once it is beyond the record."""

    async def beyond() -> asyncpg.Record | None:
        rows = await kafka.sql(
            service,
            "SELECT * FROM consumer_position"
            " WHERE consumer = $1 AND topic = $2 AND partition = $3 AND next_offset > $4",
            consumer,
            place.topic,
            place.partition,
            place.offset,
        )
        return rows[0] if rows else None

    return await eventually(beyond, f"{consumer} beyond {place}")


async def parked(kafka: Outside, place: Any, service: str = "order") -> list[asyncpg.Record]:
    return await kafka.sql(
        service,
        "SELECT r.*, k.reason AS key_reason FROM parked_record r JOIN parked_key k USING (consumer, topic, key)"
        " WHERE r.topic = $1 AND r.partition = $2 AND r.record_offset = $3",
        place.topic,
        place.partition,
        place.offset,
    )


def accounted(row: asyncpg.Record) -> bool:
    """I-15: every record of the partition was processed, known, parked or skipped (no partition here lost its head)."""
    return bool(row["processed"] + row["duplicate"] + row["parked"] + row["skipped"] == row["next_offset"])


async def good_order_goes_on(kafka: Outside, partition: int) -> None:
    placed = kafka.order("SKU-KAFKA")
    place = await kafka.publish(placed.model_dump_json().encode(), partition=partition)
    await position(kafka, place)
    assert (await kafka.get("order", f"/orders/{placed.order_id}")).status_code == 200


# --- the channel topic: identity is in the body ----------------------------------------------------------------------

GOOD = b'{"channel":"web","external_order_id":"W-1"'

UNREADABLE: dict[str, tuple[bytes | None, Headers]] = {
    "null value": (None, ()),
    "empty": (b"", ()),
    "not JSON": (b"order please", ()),
    "truncated": (GOOD, ()),
    "a list": (b"[1,2]", ()),
    "a text": (b'"order"', ()),
    "null": (b"null", ()),
    "no identity": (b"{}", ()),
    "channel is a number": (b'{"channel":1,"external_order_id":"W-1"}', ()),
    "channel beyond ASCII": ('{"channel":"w\u0435b","external_order_id":"W-1"}'.encode(), ()),
    "channel with NUL": (b'{"channel":"a\\u0000","external_order_id":"W-1"}', ()),
    "external id of 129 characters": (b'{"channel":"web","external_order_id":"' + b"x" * 129 + b'"}', ()),
    "UTF-16": ('{"channel":"web"}'.encode("utf-16"), ()),
    "binary": (bytes(range(256)), ()),
    "schema id of a registry": (b"\0\0\0\0\x05" + GOOD + b"}", ()),
    "depth 100,000": (b"[" * 100_000, ()),
    "300 KB": (GOOD + b"," + b" " * 300_000 + b'"a":1}', ()),
    "structured, a list": (b"[1,2]", [("content-type", b"application/cloudevents+json")]),
    "structured, without data": (
        b'{"type":"oms.channel.OrderPlaced"}',
        [("content-type", b"application/cloudevents+json")],
    ),
    "structured, data is a text": (b'{"specversion":"1.0","type":"oms.channel.OrderPlaced","data":"x"}', ()),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_record_without_a_readable_identity_is_parked_alone(kafka: Outside, name: str) -> None:
    value, headers = UNREADABLE[name]
    place = await kafka.publish(value, b"any" if value is None else None, headers=headers, partition=0)
    row = await position(kafka, place)
    (record,) = await parked(kafka, place)
    assert record["reason"]
    assert record["value"] == value
    assert record["key"] == f"@{place.partition}:{place.offset}".encode()
    assert accounted(row)
    await good_order_goes_on(kafka, place.partition)


def body_of(kafka: Outside, **changes: Any) -> dict[str, Any]:
    return {**kafka.order("SKU-KAFKA").model_dump(mode="json"), **changes}


REJECTED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown field": ({"status": "PAID"}, "unknown_field"),
    "wrong currency": ({"currency": "EUX"}, "unknown_currency"),
    "no lines": ({"lines": []}, "too_few_items"),
    "lines missing": ({"lines": None}, "type_invalid"),
    "quantity as text": (
        {"lines": [{"line_id": "1", "sku": "S", "qty": "3", "amount": 1}]},
        "type_invalid",
    ),
    "total is not the sum": (
        {"totals": {"items": 3998, "shipping": 495, "tax": 0, "discount": 0, "grand": 1}},
        "totals_mismatch",
    ),
    "card number": ({"pii": {"customer_id": "4111 1111 1111 1111"}}, "pan_detected"),
    "policy not built yet": ({"policies": {"stock": "ALLOW_BACKORDER"}}, "UNSUPPORTED"),
    "31 February": ({"placed_at": "2026-02-31T10:00:00Z"}, "value_invalid"),
    "NUL in a text": ({"pii": {"customer_id": "a\0b"}}, "text_invalid"),
    "integer of 30 digits": ({"external_revision": 10**30}, "number_out_of_range"),
}


async def rejection(kafka: Outside, body: dict[str, Any], value: bytes, headers: Headers = ()) -> list[str]:
    """The codes of the OrderRejected that a record led to."""
    place = await kafka.publish(value, headers=headers)
    row = await position(kafka, place)
    assert await parked(kafka, place) == []
    assert accounted(row)
    found = await kafka.get("order", f"/orders/by-reference/{body['channel']}/{body['external_order_id']}")
    assert found.json()["status"] == "REJECTED"
    return [reason["code"] for reason in found.json()["rejections"]]


@pytest.mark.parametrize("name", REJECTED)
async def test_order_that_is_wrong_is_rejected_with_its_reasons(kafka: Outside, name: str) -> None:
    changes, code = REJECTED[name]
    body = body_of(kafka, **changes)
    assert code in await rejection(kafka, body, json.dumps(body).encode())
    stored = await kafka.sql("order", "SELECT data FROM events WHERE convert_from(data, 'UTF8') LIKE '%4111 1111%'")
    assert stored == []


SPOILT = {
    "NaN": (b'"qty": 2', b'"qty": NaN', "json_invalid"),
    "duplicate key": (b'"qty": 2', b'"qty": 2, "qty": -5', "duplicate_key"),
    "1e400": (b'"qty": 2', b'"qty": 1e400', "number_out_of_range"),
    "float": (b'"qty": 2', b'"qty": 2.0', "type_invalid"),
    "lone surrogate": (b'"customer_id": ""', b'"customer_id": "\\ud800"', "text_invalid"),
}


@pytest.mark.parametrize("form", ["bare", "structured"])
@pytest.mark.parametrize("name", SPOILT)
async def test_order_that_is_no_strict_json_is_rejected_if_its_identity_can_be_read(
    kafka: Outside, name: str, form: str
) -> None:
    old, new, code = SPOILT[name]
    body = body_of(kafka)
    sent = body if form == "bare" else {"specversion": "1.0", "type": "oms.channel.OrderPlaced", "data": body}
    value = json.dumps(sent).encode()
    assert old in value
    assert code in await rejection(kafka, body, value.replace(old, new, 1))


HEADERS: dict[str, Headers] = {
    "repeated": [("ce_type", b"oms.channel.OrderPlaced"), ("ce_type", b"oms.channel.OrderPlaced")],
    "over 8 KB": [("x-note", b"y" * 8193)],
    "not UTF-8": [("x-note", b"\xff\xfe")],
}


@pytest.mark.parametrize("name", HEADERS)
async def test_order_under_malformed_headers_is_rejected(kafka: Outside, name: str) -> None:
    body = body_of(kafka)
    assert await rejection(kafka, body, json.dumps(body).encode(), HEADERS[name]) == ["headers_invalid"]


async def test_strange_names_in_a_body_are_not_stored(kafka: Outside, canary: str) -> None:
    body = body_of(kafka) | {f"{canary} {n}": 0 for n in range(2_000)}
    codes = await rejection(kafka, body, json.dumps(body).encode())
    assert len(codes) == 50
    assert await kafka.sql("order", "SELECT FROM events WHERE convert_from(data, 'UTF8') LIKE $1", f"%{canary}%") == []


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (b"{}", [("ce_type", b"oms.channel.OrderInvented")]),
        (b'{"specversion":"1.0","type":"com.example.Else","data":{}}', []),
    ],
)
async def test_unknown_type_is_skipped_and_counted(kafka: Outside, value: bytes, headers: Headers) -> None:
    first = await kafka.publish(kafka.order("SKU-KAFKA").model_dump_json().encode(), partition=1)
    before = await position(kafka, first)
    place = await kafka.publish(value, headers=headers, partition=1)
    after = await position(kafka, place)
    assert after["skipped"] == before["skipped"] + 1
    assert await parked(kafka, place) == []


async def test_timestamp_of_the_next_century_is_refused_by_the_broker(kafka: Outside) -> None:
    placed = kafka.order("SKU-KAFKA")
    with pytest.raises(InvalidTimestampError):
        await kafka.publish(placed.model_dump_json().encode(), timestamp_ms=4_102_444_800_000)


@pytest.mark.parametrize("timestamp_ms", [1, 1_000_000_000_000])
async def test_odd_timestamp_changes_nothing(kafka: Outside, timestamp_ms: int) -> None:
    placed = kafka.order("SKU-KAFKA")
    await kafka.publish(placed.model_dump_json().encode(), timestamp_ms=timestamp_ms)
    assert (await kafka.tracked(placed.order_id, "COMPLETED"))["exception"] is False


@pytest.mark.parametrize(
    "traceparent", [b"garbage", b"garbage-00", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"\0", b"x" * 8000]
)
async def test_odd_trace_context_is_not_passed_on(kafka: Outside, traceparent: bytes) -> None:
    placed = kafka.order("SKU-KAFKA")
    place = await kafka.publish(placed.model_dump_json().encode(), headers=[("traceparent", traceparent)])
    await position(kafka, place)
    rows = await kafka.sql(
        "order",
        "SELECT convert_from(metadata, 'UTF8') AS metadata FROM events WHERE stream_id = $1",
        f"order-{placed.order_id}",
    )
    assert rows
    assert not any(traceparent.decode()[:30] in row["metadata"] for row in rows)


# --- our own topics: a stream and a version in the headers -----------------------------------------------------------


def headers_of(order_id: str, version: int, **changes: bytes | None) -> list[tuple[str, bytes]]:
    """Headers of an event that no service wants, on a stream of its own."""
    now = datetime.now(UTC)
    envelope = Envelope(
        event_id=str(uuid.uuid4()),
        event_type="oms.payment.PaymentInvented",
        schema_version=1,
        stream_id=f"payment-{order_id}-p",
        stream_version=version,
        occurred_at=now,
        recorded_at=now,
        correlation_id=order_id,
        causation_id=str(uuid.uuid4()),
        source="/payment-service",
    )
    headers = {**dict(to_headers(envelope)), **changes}
    return [(name, value) for name, value in headers.items() if value is not None]


async def tell(kafka: Outside, order_id: str, headers: Headers, value: bytes | None = b"{}", **fields: Any) -> Any:
    sent = {"key": order_id.encode(), "partition": 2, **fields}
    return await kafka.publish(value, headers=headers, topic=PAYMENT_EVENTS.name, **sent)


def without(name: str) -> dict[str, bytes | None]:
    return {name: None}


FORGED: dict[str, dict[str, bytes | None]] = {
    "no version": without("ce_aggregateversion"),
    "no type": without("ce_type"),
    "no stream": without("ce_subject"),
    "no id": without("ce_id"),
    "version 0": {"ce_aggregateversion": b"0"},
    "version -1": {"ce_aggregateversion": b"-1"},
    "version 2^31": {"ce_aggregateversion": str(2**31).encode()},
    "version 10^30": {"ce_aggregateversion": b"1" + b"0" * 30},
    "version as text": {"ce_aggregateversion": b"one"},
    "id is no uuid": {"ce_id": b"42"},
    "stream with NUL": {"ce_subject": b"payment-\0"},
    "stream of 10 KB": {"ce_subject": b"p" * 10_000},
    "schema version 0": {"ce_dataschemaversion": b"0"},
    "schema version as text": {"ce_dataschemaversion": b"latest"},
    "time without offset": {"ce_recordedtime": b"2026-01-05T10:00:00"},
    "time in year 1": {"ce_recordedtime": b"0001-01-01T00:00:00+00:00"},
    "time infinity": {"ce_time": b"infinity"},
    "header over 8 KB": {"x-note": b"y" * 8193},
    "header not UTF-8": {"ce_type": b"\xff"},
    "wanted type, other body": {"ce_type": b"oms.payment.PaymentAuthorized"},
}


@pytest.mark.parametrize("name", FORGED)
async def test_forged_record_parks_its_key_and_no_other(kafka: Outside, name: str) -> None:
    bad, good = str(uuid.uuid4()), str(uuid.uuid4())
    place = await tell(kafka, bad, headers_of(bad, 1, **FORGED[name]))
    behind = await tell(kafka, bad, headers_of(bad, 2))
    other = await tell(kafka, good, headers_of(good, 1))
    row = await position(kafka, other)
    assert [record["key"] for record in await parked(kafka, place)] == [bad.encode()]
    assert [record["reason"] for record in await parked(kafka, behind)] == ["behind"]
    assert await parked(kafka, other) == []
    assert accounted(row)


@pytest.mark.parametrize(
    ("key", "value", "twice"),
    [(None, b"{}", False), (b"", b"{}", False), (b"k", None, False), (b"k", b"", False), (b"k", b"{}", True)],
)
async def test_record_without_key_or_value_or_with_a_repeated_header_is_parked(
    kafka: Outside, key: bytes | None, value: bytes | None, twice: bool
) -> None:
    order_id = str(uuid.uuid4())
    key = order_id.encode() if key == b"k" else key
    headers = headers_of(order_id, 1, ce_type=b"oms.payment.PaymentAuthorized")
    place = await tell(kafka, order_id, [*headers, headers[0]] if twice else headers, value, key=key)
    await position(kafka, place)
    assert len(await parked(kafka, place)) == 1
    await forget_key(kafka, key or b"")
    other = str(uuid.uuid4())
    place = await tell(kafka, other, headers_of(other, 1))
    assert accounted(await position(kafka, place))


async def forget_key(kafka: Outside, key: bytes) -> None:
    """The empty key is everybody's: it must not stay parked."""
    for service in ("order", "tracking"):
        await kafka.sql(service, "DELETE FROM parked_record WHERE key = $1", key)
        await kafka.sql(service, "DELETE FROM parked_key WHERE key = $1", key)


async def test_repeated_version_is_known_and_counted(kafka: Outside) -> None:
    order_id = str(uuid.uuid4())
    before = await position(kafka, await tell(kafka, order_id, headers_of(order_id, 1)))
    after = await position(kafka, await tell(kafka, order_id, headers_of(order_id, 1)))
    assert after["duplicate"] == before["duplicate"] + 1
    assert accounted(after)


async def test_gap_parks_the_key_at_once_and_the_missing_version_heals_it(kafka: Outside) -> None:
    order_id = str(uuid.uuid4())
    await tell(kafka, order_id, headers_of(order_id, 1))
    gap = await tell(kafka, order_id, headers_of(order_id, 3))
    await position(kafka, gap)
    (record,) = await parked(kafka, gap)
    assert record["reason"].startswith("gap: ")
    await tell(kafka, order_id, headers_of(order_id, 2))

    async def healed() -> bool:
        rows = await kafka.sql("order", "SELECT FROM parked_key WHERE key = $1", order_id.encode())
        seen = await kafka.sql("order", "SELECT stream_version FROM seen WHERE stream_id = $1", f"payment-{order_id}-p")
        return not rows and [row["stream_version"] for row in seen] == [3]

    await eventually(healed, "the key is free and all three versions are seen")


async def test_newer_schema_stops_its_partition_and_no_other_until_an_operator_moves_on(kafka: Outside) -> None:
    """Order and tracking both read it: both wait, and go on once the position is beyond it."""
    order_id = str(uuid.uuid4())
    tomorrow = {"ce_type": b"oms.payment.PaymentAuthorized", "ce_dataschemaversion": b"99"}
    place = await tell(kafka, order_id, headers_of(order_id, 1, **tomorrow))
    partition = f"{place.topic}/{place.partition}"
    readers = {"order": POLICY, "tracking": "oms.tracking.views"}

    async def halted(service: str) -> str | None:
        found: dict[str, str] = (await kafka.aside(service, "/status")).json()["halted"]
        return found.get(partition)

    try:
        for service in readers:
            assert "version 99" in await eventually(lambda service=service: halted(service), f"{service} waits")
        behind, other = str(uuid.uuid4()), str(uuid.uuid4())
        await tell(kafka, behind, headers_of(behind, 1))
        elsewhere = await tell(kafka, other, headers_of(other, 1), partition=place.partition + 1)
        await position(kafka, elsewhere)
        rows = await kafka.sql("order", AT, POLICY, place.topic, place.partition)
        assert [row["next_offset"] for row in rows] == [place.offset]
    finally:
        for service, consumer in readers.items():
            await kafka.sql(service, MOVED, consumer, place.topic, place.partition)
    for service, consumer in readers.items():
        await position(kafka, place, consumer, service)
        await eventually(lambda service=service: resumed(kafka, service), f"{service} goes on")


AT = "SELECT next_offset FROM consumer_position WHERE consumer = $1 AND topic = $2 AND partition = $3"
MOVED = (
    "UPDATE consumer_position SET next_offset = next_offset + 1, skipped = skipped + 1"
    " WHERE consumer = $1 AND topic = $2 AND partition = $3"
)


async def resumed(kafka: Outside, service: str) -> bool:
    return not (await kafka.aside(service, "/status")).json()["halted"]


async def test_no_bad_record_keeps_a_good_order_from_its_end(kafka: Outside) -> None:
    await kafka.publish(b"order please")
    placed = await kafka.place(kafka.order("SKU-KAFKA"))
    await kafka.publish(b"order please")
    await kafka.tracked(placed.order_id, "COMPLETED")
