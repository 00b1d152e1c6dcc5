"""What operators change by hand, on the double and on PostgreSQL: the change, its record and its answer in one."""

import asyncio
import base64
from dataclasses import replace
from typing import Any

import orjson
import pytest

from libs.events.codec import encode
from libs.events.order import OrderDuplicateDetected
from libs.events.topics import CHANNEL_ORDERS, INVENTORY_EVENTS, INVENTORY_STOCK, ORDER_EVENTS, PAYMENT_EVENTS
from libs.runtime.event_store import PostgresStorage
from libs.runtime.handler import Handler, Request
from libs.runtime.identity import Cause, new_id
from libs.runtime.intake import Record, recorded_of
from libs.runtime.operation import FirstChanged, OperationRefused, Operations, Place, Released, Word
from libs.runtime.relay import lease_of
from libs.runtime.storage import OperatorAction, Partition, Storage
from libs.testing.tally import AT, Add, tally_service, word

TOPIC = ORDER_EVENTS.name
P0 = Partition(TOPIC, 0)
FIRST = Place(0, 0)


class Desk:
    """An operator at the tally's desk."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.handler = Handler(tally_service(), storage)
        self.operations = Operations(self.handler)
        self.consumer = self.handler.consumer

    async def hear(self, *records: Record) -> dict[str, int]:
        await self.storage.ensure_positions(self.consumer, {P0: 0})
        return (await self.handler.handle_records(records)).counts

    async def fix(self, value: bytes | None = None, place: Place = FIRST, **headers: Any) -> FirstChanged:
        return await self.operations.fix(said(), TOPIC, b"O1", place, value, headers)

    async def skip(self, place: Place = FIRST, said_: Word | None = None) -> FirstChanged:
        return await self.operations.skip(said_ or said(), TOPIC, b"O1", place)

    async def release(self, said_: Word | None = None, limit: int = 500) -> Released:
        return await self.operations.release(said_ or said(), TOPIC, b"O1", limit)

    async def quantities(self, sku: str = "A") -> list[int]:
        stored = await self.storage.read_streams([f"stock-{sku}"])
        return [recorded.event.qty for item in stored if (recorded := recorded_of(item)) is not None]

    async def parked(self) -> tuple[int, int]:
        figures = await self.storage.figures()
        return figures["parked_keys"], figures["parked_records"]

    async def actions(self) -> list[OperatorAction]:
        """The oldest first."""
        return [action for _, action in await self.operations.actions(100)][::-1]


@pytest.fixture
def desk(storage: Storage) -> Desk:
    return Desk(storage)


def said(**fields: Any) -> Word:
    return replace(Word(operator="ann", reason="ticket 7", key=new_id(), body_hash=b"body"), **fields)


def bad(order_id: str = "O1", version: int = 1, offset: int = 0) -> Record:
    return replace(word(order_id, version, "add:A", offset=offset), value=b'{"order_id": 7}')


def body(does: str, qty: int, order_id: str = "O1") -> bytes:
    return encode(OrderDuplicateDetected(order_id=order_id, external_revision=qty, content_hash=does))


# --- parked keys -----------------------------------------------------------------------------------------------------


async def test_fixed_record_is_released_before_those_behind_it(desk: Desk) -> None:
    await desk.hear(bad(), word("O1", 2, "take:A", 5, offset=1), word("O1", 3, "add:A", 1, offset=2))
    assert (await desk.fix(body("add:A", 7))).waiting == 3
    assert await desk.quantities() == [], "a fix handles nothing yet"
    assert await desk.release() == Released(released=3, waiting=0, stopped="")
    assert await desk.quantities() == [7, 5, 1]
    assert await desk.parked() == (0, 0)
    assert (await desk.hear(word("O1", 4, "add:A", 2, offset=3))) == {"processed": 1}


async def test_headers_are_fixed_and_the_record_takes_its_place_in_its_stream(desk: Desk) -> None:
    whole = word("O1", 2, "take:A", 5, offset=0)
    await desk.hear(replace(whole, headers=[]), word("O1", 1, "add:A", 7, offset=1))
    headers = {name: value.decode() for name, value in whole.headers}
    done = await desk.operations.fix(said(), TOPIC, b"O1", FIRST, None, headers)
    assert (done.stream_id, done.stream_version) == ("order-O1", 2)
    assert (await desk.release()).released == 2
    assert await desk.quantities() == [7, 5]


async def test_removed_header_is_gone(desk: Desk) -> None:
    whole = word("O1", 1, "add:A", 7, offset=0)
    await desk.hear(replace(whole, headers=[*whole.headers, ("traceparent", b"\xff")]))
    await desk.fix(traceparent=None)
    assert (await desk.release()).released == 1


async def test_action_keeps_who_why_and_the_original(desk: Desk) -> None:
    await desk.hear(bad(), word("O1", 2, "boom:A", offset=1))
    await desk.fix(body("add:A", 7))
    await desk.release()
    await desk.skip(Place(0, 1))
    fixed, released, skipped = await desk.actions()
    assert [one.action for one in (fixed, released, skipped)] == ["park.fix", "park.release", "park.skip"]
    assert {(one.operator, one.reason, one.consumer, one.topic, one.key) for one in (fixed, released, skipped)} == {
        ("ann", "ticket 7", desk.consumer, TOPIC, b"O1")
    }
    kept = orjson.loads(fixed.details)
    assert base64.b64decode(kept["value_base64"]) == b'{"order_id": 7}'
    assert (kept["partition"], kept["offset"]) == (0, 0)
    assert [name for name, _ in kept["headers"]] == [name for name, _ in bad().headers]
    assert "order_id" in kept["reason"]
    assert orjson.loads(released.details) == {"released": 1}


@pytest.mark.parametrize(
    ("value", "headers", "code"),
    [
        (b"[]", {}, "still_bad"),
        (None, {"ce_time": "yesterday"}, "still_bad"),
        (None, {"ce_aggregateversion": None}, "still_bad"),
        (body("add:A", 7), {"ce_subject": "order-O2"}, "another_stream"),
        (body("add:A", 7, "O2"), {"ce_subject": "order-O2"}, "another_stream"),
        (body("add:A", 7), {"ce_subject": "payment-O1-p", "ce_type": "oms.payment.Nothing"}, "another_stream"),
        (body("add:A", 7), {"ce_dataschemaversion": "9"}, "newer_schema"),
        (b"{}", {"ce_type": "oms.order.OrderAccepted"}, "still_bad"),
        (b'{"order_id": "O1"}', {"ce_type": "oms.order.OrderAccepted", "ce_dataschemaversion": "9"}, "newer_schema"),
    ],
)
async def test_fix_that_mends_nothing_is_refused_and_leaves_nothing(
    desk: Desk, value: bytes | None, headers: dict[str, str | None], code: str
) -> None:
    await desk.hear(bad())
    before, _ = await desk.operations.parked_records(TOPIC, b"O1", 1)
    with pytest.raises(OperationRefused) as refused:
        await desk.operations.fix(said(), TOPIC, b"O1", FIRST, value, headers)
    assert refused.value.code == code
    after, _ = await desk.operations.parked_records(TOPIC, b"O1", 1)
    assert list(after) == list(before)
    assert await desk.actions() == []


async def test_personal_data_that_was_only_shown_redacted_is_kept_by_a_fix(desk: Desk) -> None:
    whole = orjson.loads(body("add:A", 7))
    await desk.hear(replace(bad(), value=orjson.dumps({"order_id": 7, "pii": {"email": "a@b.example"}})))
    await desk.fix(orjson.dumps({**whole, "pii": "[redacted]"}))
    [fixed], _ = await desk.operations.parked_records(TOPIC, b"O1", 1)
    assert orjson.loads(fixed.value or b"") == {**whole, "pii": {"email": "a@b.example"}}


async def test_skipped_record_counts_as_heard_and_the_next_may_go(desk: Desk) -> None:
    await desk.hear(word("O1", 1, "boom:A", offset=0), word("O1", 2, "add:A", 5, offset=1))
    assert (await desk.skip()).waiting == 1
    assert (await desk.release()).released == 1
    assert await desk.quantities() == [5]
    assert (await desk.hear(word("O1", 1, "add:A", 9, offset=2))) == {"duplicate": 1}


async def test_change_meant_for_another_record_is_refused(desk: Desk) -> None:
    """It healed, or a colleague was faster: what is first now was never looked at."""
    await desk.hear(word("O1", 1, "boom:A", offset=0), word("O1", 2, "boom:A", offset=1))
    await desk.skip()
    for change in (desk.skip(), desk.fix(body("add:A", 1))):
        with pytest.raises(OperationRefused) as refused:
            await change
        assert refused.value.code == "another_is_first"
    assert await desk.parked() == (1, 1)


async def test_release_goes_as_far_as_it_is_sound_and_says_what_stopped_it(desk: Desk) -> None:
    await desk.hear(word("O1", 2, "add:A", 2, offset=0))
    records = [word("O1", version, f"{'boom' if version == 6 else 'add'}:A", version, offset=version - 2)
               for version in range(3, 9)]  # fmt: skip
    await desk.hear(*records)
    await desk.hear(word("O1", 1, "add:A", 1, offset=7))
    done = [await desk.release() for _ in range(4)]
    assert sum(one.released for one in done) == 5
    assert await desk.quantities() == [1, 2, 3, 4, 5]
    assert (done[-1].released, done[-1].waiting) == (0, 3)
    assert "RuntimeError" in done[-1].stopped
    released = [orjson.loads(action.details)["released"] for action in await desk.actions()]
    assert sum(released) == 5


async def test_release_before_a_gap_is_closed_says_so_and_records_nothing(desk: Desk) -> None:
    await desk.hear(word("O1", 3, "add:A", offset=0))
    done = await desk.release()
    assert (done.released, done.waiting, done.stopped) == (0, 1, "gap: order-O1 at 3 after 0")
    assert await desk.actions() == []


async def test_same_key_gets_the_same_answer_and_one_change(desk: Desk) -> None:
    await desk.hear(*[word("O1", version, "boom:A", offset=version - 1) for version in (1, 2)])
    once = said()
    assert await desk.skip(said_=once) == await desk.skip(said_=once)
    assert await desk.parked() == (1, 1)
    assert len(await desk.actions()) == 1
    with pytest.raises(OperationRefused) as refused:
        await desk.skip(said_=replace(once, body_hash=b"another"))
    assert refused.value.code == "idempotency_mismatch"


async def test_repeat_of_the_change_that_freed_the_key_gets_its_answer(desk: Desk) -> None:
    await desk.hear(word("O1", 1, "boom:A", offset=0))
    once = said()
    answers = await asyncio.gather(*(desk.skip(said_=once) for _ in range(4)))
    assert len(set(map(str, answers))) == 1
    assert len(await desk.actions()) == 1


async def test_nothing_parked_is_said_so(desk: Desk) -> None:
    for change in (desk.skip(), desk.fix(b"{}"), desk.release(), desk.operations.parked_records(TOPIC, b"O1", 1)):
        with pytest.raises(OperationRefused) as refused:
            await change
        assert (refused.value.code, refused.value.missing) == ("not_parked", True)


async def test_parked_keys_are_listed_in_pages(desk: Desk) -> None:
    keys = [f"O{number}" for number in range(1, 6)]
    await desk.hear(*[bad(key, offset=place) for place, key in enumerate(keys)], word("O1", 2, "add:A", offset=5))
    first = await desk.operations.parked(("", b""), 3)
    rest = await desk.operations.parked((first[-1].topic, first[-1].key), 3)
    found = [*first, *rest]
    assert [(one.topic, one.key.decode(), one.records) for one in found] == [
        (TOPIC, key, 2 if key == "O1" else 1) for key in keys
    ]
    assert all("order_id" in one.reason for one in found)


@pytest.mark.integration
async def test_application_may_not_change_what_operators_did(postgres: PostgresStorage) -> None:
    desk = Desk(postgres)
    await desk.hear(bad())
    await desk.skip()
    for statement in ("UPDATE operator_action SET reason = ''", "DELETE FROM operator_action"):
        with pytest.raises(Exception, match="permission denied"):
            async with postgres.transaction() as tx:
                await tx._connection.execute(statement)
    assert len(await desk.actions()) == 1


# --- a topic that was lost -------------------------------------------------------------------------------------------


async def test_topic_made_anew_is_read_again_and_has_no_second_effect(desk: Desk) -> None:
    heard = [word("O1", 1, "add:A", 5, offset=0), word("O2", 1, "add:A", 7, offset=1)]
    await desk.hear(*heard, bad("O3", offset=2), word("O3", 2, "add:A", 9, offset=3))
    done = await desk.operations.reset_positions(said(), TOPIC)
    assert (done.positions, done.parked_records) == (1, 2)
    assert await desk.parked() == (0, 0)
    again = [*heard, word("O3", 1, "add:A", 8, offset=2), word("O3", 2, "add:A", 9, offset=3)]
    assert await desk.hear(*again) == {"duplicate": 2, "processed": 2}
    assert await desk.quantities() == [5, 7, 8, 9]
    [action] = await desk.actions()
    assert (action.action, orjson.loads(action.details)) == ("positions.reset", {"positions": 1, "parked_records": 2})


async def test_repeated_reset_has_the_first_ones_answer_and_moves_nothing_again(desk: Desk) -> None:
    await desk.hear(word("O1", 1, "add:A", offset=0))
    once = said()
    first = await desk.operations.reset_positions(once, TOPIC)
    await desk.hear(word("O1", 1, "add:A", offset=0), word("O1", 2, "add:A", offset=1))
    assert await desk.operations.reset_positions(once, TOPIC) == first
    assert (await desk.storage.ensure_positions(desk.consumer, {}))[P0] == 2
    assert len(await desk.actions()) == 1


async def test_reset_touches_only_its_own_topic_and_consumer(desk: Desk) -> None:
    others = {Partition(PAYMENT_EVENTS.name, 0): 4}
    await desk.storage.ensure_positions(desk.consumer, others)
    await desk.storage.ensure_positions("another", {P0: 3})
    await desk.hear(word("O1", 1, "add:A", offset=0))
    await desk.operations.reset_positions(said(), TOPIC)
    assert await desk.storage.ensure_positions(desk.consumer, {}) == {P0: 0, **others}
    assert await desk.storage.ensure_positions("another", {}) == {P0: 3}


@pytest.mark.parametrize("topic", [PAYMENT_EVENTS.name, "oms.nothing", CHANNEL_ORDERS.name])
async def test_topic_that_is_not_read_is_not_reset(desk: Desk, topic: str) -> None:
    with pytest.raises(OperationRefused) as refused:
        await desk.operations.reset_positions(said(), topic)
    assert refused.value.code == "not_subscribed"


async def test_events_of_a_topic_are_published_again_while_the_relay_is_kept_out(desk: Desk) -> None:
    await ask(desk, Add("A", 1), Add("A", 2), Add("B", 3))
    relay = lease_of("inventory")
    await desk.storage.delete_outbox([position for position, _ in await desk.storage.read_outbox(2)])
    assert await desk.storage.hold_lease(relay, "relay", 60)
    pause = await desk.operations.pause_relay(said(), INVENTORY_STOCK.name, 60)
    assert not await desk.storage.hold_lease(relay, "relay", 60), "the relay has lost its lease"
    done = await desk.operations.publish_again(said(), INVENTORY_STOCK.name, pause.holder)
    assert done.events == 2, "what still waits is not put there twice"
    order = [
        (event.envelope.stream_id, event.envelope.stream_version) for _, event in await desk.storage.read_outbox(9)
    ]
    assert order == [("stock-A", 1), ("stock-A", 2), ("stock-B", 1)]
    assert await desk.storage.hold_lease(relay, "relay", 60), "the relay goes on"
    assert [action.action for action in await desk.actions()] == ["relay.pause", "topic.republish"]


async def test_only_the_topics_own_categories_are_published_again(desk: Desk) -> None:
    await ask(desk, Add("A", 1))
    await desk.storage.delete_outbox([position for position, _ in await desk.storage.read_outbox(2)])
    pause = await desk.operations.pause_relay(said(), INVENTORY_EVENTS.name, 60)
    assert (await desk.operations.publish_again(said(), INVENTORY_EVENTS.name, pause.holder)).events == 0


async def test_republish_without_its_pause_is_refused(desk: Desk) -> None:
    await ask(desk, Add("A", 1))
    await desk.storage.delete_outbox([position for position, _ in await desk.storage.read_outbox(2)])
    assert await desk.storage.hold_lease(lease_of("inventory"), "relay", 60)
    for holder in ("relay", "operator.gone"):
        for without_pause in (desk.operations.publish_again, desk.operations.resume_relay):
            with pytest.raises(OperationRefused) as refused:
                await without_pause(said(), INVENTORY_STOCK.name, f"{holder}x")
            assert refused.value.code == "relay_not_paused"
    assert await desk.storage.read_outbox(9) == []


async def test_relay_goes_on_when_its_pause_is_given_up_and_nothing_is_published_again(desk: Desk) -> None:
    await ask(desk, Add("A", 1))
    await desk.storage.delete_outbox([position for position, _ in await desk.storage.read_outbox(2)])
    pause = await desk.operations.pause_relay(said(), INVENTORY_STOCK.name, 60)
    await desk.operations.resume_relay(said(), INVENTORY_STOCK.name, pause.holder)
    assert await desk.storage.read_outbox(9) == []
    assert await desk.storage.hold_lease(lease_of("inventory"), "relay", 60)
    assert [action.action for action in await desk.actions()] == ["relay.pause", "relay.resume"]


async def test_second_operator_does_not_take_the_pause_of_the_first(desk: Desk) -> None:
    await desk.operations.pause_relay(said(), INVENTORY_STOCK.name, 60)
    with pytest.raises(OperationRefused) as refused:
        await desk.operations.pause_relay(said(), INVENTORY_STOCK.name, 60)
    assert refused.value.code == "relay_paused"


async def test_topic_of_another_service_is_not_republished(desk: Desk) -> None:
    with pytest.raises(OperationRefused) as refused:
        await desk.operations.pause_relay(said(), PAYMENT_EVENTS.name, 60)
    assert (refused.value.code, refused.value.missing) == ("not_owner", True)


async def ask(desk: Desk, *commands: Any) -> None:
    causes = [Cause(causation_id=new_id(), at=AT) for _ in commands]
    await desk.handler.handle_requests(
        [Request(command=command, cause=cause) for command, cause in zip(commands, causes, strict=True)]
    )
