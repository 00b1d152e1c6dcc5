"""The internal door: how operators are answered, over a storage in memory."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from libs.events.codec import encode
from libs.events.order import OrderDuplicateDetected
from libs.events.topics import INVENTORY_STOCK, ORDER_EVENTS
from libs.runtime.api import Ports, Problem
from libs.runtime.handler import Handler
from libs.runtime.http import create_app
from libs.runtime.internal import key_bytes, key_text
from libs.runtime.operation import Operations, redacted
from libs.runtime.storage import Partition
from libs.testing.memory import MemoryStorage
from libs.testing.tally import tally_service, word

TOPIC = ORDER_EVENTS.name
WORD = {"by": "ann", "reason": "ticket 7"}
KEY = {"topic": TOPIC, "key": "O1", **WORD}
FIRST = {**KEY, "partition": 0, "offset": 0}


@pytest.fixture
async def handler() -> Handler:
    handler = Handler(tally_service(), MemoryStorage())
    await handler.storage.ensure_positions(handler.consumer, {Partition(TOPIC, 0): 0})
    first = replace(word("O1", 1, "add:A", offset=0), value=b'{"order_id": 7, "pii": {"email": "a@b.example"}}')
    second = word("O1", 2, "add:A", 5, offset=1)
    await handler.handle_records([first, second, replace(word("O2", 1, "x", offset=2), value=b"a@b.example")])
    return handler


@pytest.fixture
def client(handler: Handler) -> httpx.AsyncClient:
    async def health() -> dict[str, Any]:
        return {"ready": True}

    app = create_app(handler.service, Ports(handler.storage, None, "secret", Operations(handler)), health)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://inventory")


async def post(client: httpx.AsyncClient, path: str, body: Any, key: str = "k-1") -> httpx.Response:
    return await client.post(f"/internal/{path}", json=body, headers={"idempotency-key": key})


async def test_parked_keys_are_listed_page_by_page(client: httpx.AsyncClient) -> None:
    first = (await client.get("/internal/parked?limit=1")).json()
    assert [(item["topic"], item["key"], item["records"]) for item in first["items"]] == [(TOPIC, "O1", 2)]
    rest = (await client.get("/internal/parked", params={"limit": 1, "cursor": first["next_cursor"]})).json()
    assert [item["key"] for item in rest["items"]] == ["O2"]
    assert rest["next_cursor"] is None
    assert (await client.get("/internal/parked?cursor=AAAA")).json()["code"] == "cursor_invalid"


async def test_records_are_shown_without_personal_data(client: httpx.AsyncClient) -> None:
    answer = await client.get("/internal/parked/records", params={"topic": TOPIC, "key": "O1"})
    shown = answer.json()
    assert (shown["waiting"], [record["stream_version"] for record in shown["records"]]) == (2, [1, 2])
    assert shown["records"][0]["value"] == {"order_id": 7, "pii": "[redacted]"}
    assert shown["records"][0]["headers"]["ce_subject"] == "order-O1"
    assert "a@b.example" not in answer.text
    hidden = await client.get("/internal/parked/records", params={"topic": TOPIC, "key": "O2"})
    assert (hidden.json()["records"][0]["value"], hidden.json()["records"][0]["value_bytes"]) == (None, 11)


def test_personal_data_is_redacted_wherever_it_stands() -> None:
    value = {"data": {"pii": {"email": "x"}, "lines": [{"pii": 1, "sku": "A"}]}, "n": 1}
    assert redacted(value) == {"data": {"pii": "[redacted]", "lines": [{"pii": "[redacted]", "sku": "A"}]}, "n": 1}


async def test_fix_release_and_history_over_http(client: httpx.AsyncClient) -> None:
    value = encode(OrderDuplicateDetected(order_id="O1", external_revision=7, content_hash="add:A")).decode()
    fixed = await post(client, "parked/fix", {**FIRST, "value": value})
    assert (fixed.status_code, fixed.json()["waiting"]) == (200, 2)
    released = await post(client, "parked/release", KEY, "k-2")
    assert released.json() == {"released": 2, "waiting": 0, "stopped": ""}
    assert (await post(client, "parked/release", KEY, "k-2")).json() == released.json(), "the same key, the same answer"
    actions = (await client.get("/internal/actions")).json()
    assert [(one["action"], one["by"], one["reason"], one["key"]) for one in actions] == [
        ("park.release", "ann", "ticket 7", "O1"),
        ("park.fix", "ann", "ticket 7", "O1"),
    ]


async def test_skip_over_http(client: httpx.AsyncClient) -> None:
    assert (await post(client, "parked/skip", FIRST)).json()["waiting"] == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("parked/skip", {**FIRST, "key": "O9"}, 404, "not_parked"),
        ("parked/skip", {**FIRST, "offset": 1}, 409, "another_is_first"),
        ("parked/skip", {**FIRST, "reason": ""}, 422, "value_invalid"),
        ("parked/skip", {name: FIRST[name] for name in FIRST if name != "by"}, 422, "field_missing"),
        ("parked/skip", {**FIRST, "key": "base64url:!"}, 422, "key_invalid"),
        ("parked/skip", {**FIRST, "offset": -1}, 422, "number_out_of_range"),
        ("parked/skip", {**FIRST, "force": True}, 422, "unknown_field"),
        ("parked/fix", FIRST, 422, "nothing_to_fix"),
        ("parked/fix", {**FIRST, "value": "{}"}, 409, "still_bad"),
        ("parked/release", {**KEY, "topic": "oms order"}, 422, "value_invalid"),
        ("positions/reset", {"topic": "oms.payment.events", **WORD}, 404, "not_subscribed"),
        ("relay/pause", {"topic": TOPIC, **WORD}, 404, "not_owner"),
        ("relay/republish", {"topic": INVENTORY_STOCK.name, "holder": "operator.x", **WORD}, 409, "relay_not_paused"),
        ("relay/resume", {"topic": INVENTORY_STOCK.name, "holder": "operator.x", **WORD}, 409, "relay_not_paused"),
    ],
)
async def test_no_is_said_as_a_problem_and_changes_nothing(
    client: httpx.AsyncClient, handler: Handler, path: str, body: Any, status: int, code: str
) -> None:
    answer = await post(client, path, body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert await Operations(handler).actions(10) == []


async def test_change_without_an_idempotency_key_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/internal/parked/skip", json=FIRST)
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_missing")


async def test_same_key_with_another_body_is_a_mismatch(client: httpx.AsyncClient) -> None:
    await post(client, "parked/skip", FIRST)
    answer = await post(client, "parked/skip", {**FIRST, "reason": "another"})
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")


async def test_wiring_names_what_is_read_and_written(client: httpx.AsyncClient) -> None:
    wiring = (await client.get("/internal/wiring")).json()
    assert (wiring["service"], wiring["subscribes"]) == ("inventory", [TOPIC])
    assert wiring["publishes"] == ["oms.inventory.events", "oms.inventory.stock"]


async def test_topic_is_published_again_over_http(client: httpx.AsyncClient) -> None:
    topic = {"topic": INVENTORY_STOCK.name, **WORD}
    pause = (await post(client, "relay/pause", topic)).json()
    assert pause["quiet_after_seconds"] > 15
    assert (await post(client, "relay/pause", topic, "k-2")).json()["code"] == "relay_paused"
    again = await post(client, "relay/republish", {**topic, "holder": pause["holder"]}, "k-3")
    assert again.json() == {"topic": INVENTORY_STOCK.name, "events": 0}
    once_more = (await post(client, "relay/pause", topic, "k-4")).json()
    given_up = await post(client, "relay/resume", {**topic, "holder": once_more["holder"]}, "k-5")
    assert given_up.json() == {"service": "inventory"}


@pytest.mark.parametrize("key", [b"O1", b"", b"\x00\xff", b"base64url:x", "ü".encode(), b"a b", b"\n"])
def test_any_key_has_a_text_that_names_it(key: bytes) -> None:
    text = key_text(key)
    assert text.isascii()
    assert text.isprintable()
    assert key_bytes(text) == key


def test_key_text_that_is_no_base64_is_refused() -> None:
    with pytest.raises(Problem):
        key_bytes("base64url:a")


async def test_every_operators_operation_documents_its_answers(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    internal = {path: operations for path, operations in paths.items() if path.startswith("/internal/")}
    assert len(internal) == 11
    for path, operations in internal.items():
        for method, operation in operations.items():
            assert operation["summary"], path
            assert {"200", "422", "503"} <= operation["responses"].keys(), path
            assert method == "get" or {"400", "404", "409", "408", "413", "415"} <= operation["responses"].keys(), path
