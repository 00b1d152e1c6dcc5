"""What channels publish: three forms of one order, what cannot be read, and whom there is to answer."""

import json
from typing import Any

import pytest

from libs.events.channel import OrderCancellationRequested, OrderPlaced, UnreadableOrder
from libs.events.codec import encode
from libs.events.inbound import UnidentifiableRecord, UnknownChannelEvent, read_channel_record
from libs.testing.builders import order_placed

ORDER = order_placed("W-1")
BODY: dict[str, Any] = json.loads(encode(ORDER))
CANCELLATION = {"channel": "web", "external_order_id": "W-1"}
PLACED = [("ce_type", b"oms.channel.OrderPlaced"), ("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/web")]


def structured(body: Any, type_name: str = "oms.channel.OrderPlaced") -> bytes:
    event = {"specversion": "1.0", "id": "1", "source": "/web", "type": type_name, "data": body}
    return json.dumps(event).encode()


def text(**changes: Any) -> bytes:
    return json.dumps({**BODY, **changes}).encode()


FORMS = {
    "bare JSON": ([], text()),
    "binary": (PLACED, text()),
    "structured": ([("content-type", b"application/cloudevents+json; charset=utf-8")], structured(BODY)),
    "structured without its content type": ([], structured(BODY)),
}


@pytest.mark.parametrize(("headers", "value"), FORMS.values(), ids=FORMS.keys())
def test_order_is_the_same_in_every_form(headers: list[tuple[str, bytes]], value: bytes) -> None:
    assert read_channel_record(headers, value) == ORDER


@pytest.mark.parametrize("form", ["binary", "structured"])
def test_cancellation_is_told_by_its_type(form: str) -> None:
    name = "oms.channel.OrderCancellationRequested"
    if form == "binary":
        event = read_channel_record([("ce_type", name.encode())], json.dumps(CANCELLATION).encode())
    else:
        event = read_channel_record([], structured(CANCELLATION, name))
    assert isinstance(event, OrderCancellationRequested)
    assert event.order_id == ORDER.order_id


@pytest.mark.parametrize("form", ["binary", "structured"])
def test_type_that_is_not_built_yet_is_unknown(form: str) -> None:
    name = "oms.channel.OrderAmended"
    headers, value = ([("ce_type", name.encode())], text()) if form == "binary" else ([], structured(BODY, name))
    with pytest.raises(UnknownChannelEvent):
        read_channel_record(headers, value)


WRONG = {
    "unknown field": (text(status="PAID"), "unknown_field"),
    "missing field": (json.dumps({k: v for k, v in BODY.items() if k != "lines"}).encode(), "field_missing"),
    "quantity as text": (text(lines=[{**BODY["lines"][0], "qty": "3"}]), "type_invalid"),
    "quantity true": (text(lines=[{**BODY["lines"][0], "qty": True}]), "type_invalid"),
    "quantity 0": (text(lines=[{**BODY["lines"][0], "qty": 0}]), "number_out_of_range"),
    "quantity beyond": (text(lines=[{**BODY["lines"][0], "qty": 10**9}]), "number_out_of_range"),
    "no lines": (text(lines=[]), "too_few_items"),
    "501 lines": (text(lines=BODY["lines"] * 501), "too_many_items"),
    "money of 64 bits": (text(totals={**BODY["totals"], "grand": 2**63}), "number_out_of_range"),
    "NaN": (text(lines=[{**BODY["lines"][0], "qty": float("nan")}]), "json_invalid"),
    "repeated key": (text()[:-1] + b',"channel":"web"}', "duplicate_key"),
}


@pytest.mark.parametrize(("value", "code"), WRONG.values(), ids=WRONG.keys())
def test_wrong_order_is_unreadable_and_its_channel_can_be_answered(value: bytes, code: str) -> None:
    event = read_channel_record([], value)
    assert isinstance(event, UnreadableOrder)
    assert event.order_id == ORDER.order_id
    assert code in {reason.code for reason in event.reasons}


def test_reasons_do_not_repeat_what_was_sent() -> None:
    event = read_channel_record([], text(currency="4111111111111111", **{"4111111111111112": 1}))
    assert isinstance(event, UnreadableOrder)
    assert "4111" not in event.model_dump_json(exclude={"channel", "external_order_id"})


def test_wrong_order_in_structured_form_is_answered_too() -> None:
    event = read_channel_record([], structured({**BODY, "currency": "euro"}))
    assert isinstance(event, UnreadableOrder)
    assert event.order_id == ORDER.order_id


@pytest.mark.parametrize("revision", [0, -1, "2", 1.5, True, 10**9])
def test_unreadable_revision_counts_as_the_first(revision: Any) -> None:
    event = read_channel_record([], text(external_revision=revision))
    assert isinstance(event, UnreadableOrder)
    assert event.external_revision == 1


UNIDENTIFIABLE = {
    "nothing": None,
    "empty": b"",
    "no JSON": b"hello",
    "truncated": text()[:40],
    "an array": b"[]",
    "a number": b"7",
    "no channel": json.dumps({k: v for k, v in BODY.items() if k != "channel"}).encode(),
    "no external id": json.dumps({k: v for k, v in BODY.items() if k != "external_order_id"}).encode(),
    "external id no identifier": text(external_order_id="W 1\n"),
    "external id a number": text(external_order_id=17),
    "channel too long": text(channel="w" * 129),
    "larger than 256 KiB": text(pad="x" * 256 * 1024),
    "structured around nothing": structured(None),
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("value", UNIDENTIFIABLE.values(), ids=UNIDENTIFIABLE.keys())
def test_record_that_names_no_order_is_unidentifiable(value: bytes | None) -> None:
    with pytest.raises(UnidentifiableRecord):
        read_channel_record([], value)


def test_key_of_the_record_is_not_asked() -> None:
    assert isinstance(read_channel_record([], text()), OrderPlaced)
