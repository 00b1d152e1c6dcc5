"""What becomes of records and requests: every ending there is, on the double and on PostgreSQL."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from libs.events.envelope import Recorded, to_headers
from libs.events.topics import ORDER_EVENTS
from libs.runtime import batch as batch_module
from libs.runtime import handler as machine
from libs.runtime import telemetry
from libs.runtime.errors import Unavailable
from libs.runtime.event_store import PostgresStorage
from libs.runtime.handler import DROPPED, MISMATCH, STALE, Answer, Handled, Handler, Request
from libs.runtime.identity import Cause, new_id
from libs.runtime.intake import Record, recorded_of
from libs.runtime.operation import Operations, Place, Word
from libs.runtime.park import ParkLimit
from libs.runtime.storage import Partition, Storage
from libs.testing.memory import MemoryStorage
from libs.testing.tally import AT, TALLY, Add, Boom, Take, Tally, envelope, tally_service, word

P0, P1 = Partition(ORDER_EVENTS.name, 0), Partition(ORDER_EVENTS.name, 1)


class Tallies:
    """The machine under test: records go in where the fence expects them, and what became of them is counted."""

    def __init__(self, storage: Storage, **options: Any) -> None:
        self.storage = storage
        self.options = options
        self.handler = Handler(tally_service(), storage, **options)
        self.counts: Counter[str] = Counter()

    def restarted(self, **options: Any) -> "Tallies":
        """Another process on the same database."""
        return Tallies(self.storage, **{**self.options, **options})

    async def hear(self, *records: Record, **options: Any) -> Handled:
        await self.storage.ensure_positions(self.handler.consumer, {P0: 0, P1: 0})
        handled = await self.handler.handle_records(records, **options)
        self.counts += handled.counts
        return handled

    async def release(self, key: str = "O1") -> int:
        return await self.handler.release(ORDER_EVENTS.name, key.encode())

    async def skip(self, offset: int, key: str = "O1") -> None:
        word = Word(operator="ann", reason="a test", key=new_id(), body_hash=b"")
        await Operations(self.handler).skip(word, ORDER_EVENTS.name, key.encode(), Place(0, offset))

    async def ask(self, *requests: Request) -> list[Answer]:
        return await self.handler.handle_requests(requests)

    async def events(self, sku: str = "A") -> list[Recorded[Any]]:
        stored = await self.storage.read_streams([f"stock-{sku}"])
        return [recorded for item in stored if (recorded := recorded_of(item)) is not None]

    async def total(self, sku: str = "A") -> int:
        """By the events, which the view must agree with."""
        total = 0
        for recorded in await self.events(sku):
            total = TALLY.evolve(replace(TALLY.initial_state(), total=total), recorded.event).total
        row = await self.storage.read_view("tally", sku)
        assert (f'"total":{total},' in row.data.decode().replace(" ", "")) if row else total == 0
        return total

    async def position(self, partition: Partition = P0) -> int:
        return (await self.storage.ensure_positions(self.handler.consumer, {}))[partition]

    async def parked(self) -> tuple[int, int]:
        """Parked keys and records."""
        figures = await self.storage.figures()
        return figures["parked_keys"], figures["parked_records"]


@pytest.fixture
def tallies(storage: Storage) -> Tallies:
    return Tallies(storage)


@pytest.fixture
def alarms(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    raised: list[str] = []
    monkeypatch.setattr(telemetry, "alarm", lambda what, **details: raised.append(what))
    return raised


def request(command: Any, **fields: Any) -> Request:
    return Request(command=command, cause=Cause(causation_id=new_id(), at=AT), **fields)


def with_header(record: Record, name: str, value: str | None) -> Record:
    """The record with one header changed, or without it."""
    headers = [(known, old) for known, old in record.headers if known != name]
    return replace(record, headers=[*headers, (name, value.encode())] if value is not None else headers)


# --- records ---------------------------------------------------------------------------------------------------------


async def test_records_become_events_outbox_views_and_position_at_once(tallies: Tallies) -> None:
    handled = await tallies.hear(word("O1", 1, "add:A", 5, offset=0), word("O2", 1, "take:A", 2, offset=1))
    assert handled.counts == {"processed": 2}
    assert [type(recorded.event).__name__ for recorded in await tallies.events()] == ["StockReceived", "StockHeld"]
    assert await tallies.total() == 3
    assert await tallies.position() == 2
    assert handled.positions == {P0: 2}
    assert (await tallies.storage.figures())["outbox_pending"] == 2
    first = (await tallies.events())[0]
    assert first.causation_id == envelope("order-O1", 1).event_id
    assert first.stream_version == 1


async def test_repeated_version_is_a_duplicate_and_has_no_second_effect(tallies: Tallies) -> None:
    await tallies.hear(word("O1", 1, "add:A", 5, offset=0))
    handled = await tallies.hear(word("O1", 1, "add:A", 5, offset=1), word("O1", 2, "add:A", 1, offset=2))
    assert handled.counts == {"duplicate": 1, "processed": 1}
    assert await tallies.total() == 6


async def test_repeat_within_one_batch_is_a_duplicate(tallies: Tallies) -> None:
    records = [word("O1", 1, "add:A", 5, offset=offset) for offset in range(3)]
    assert (await tallies.hear(*records)).counts == {"processed": 1, "duplicate": 2}
    assert await tallies.total() == 5


async def test_unwanted_and_unknown_types_are_skipped_and_still_counted_in_sequence(tallies: Tallies) -> None:
    unwanted = with_header(word("O1", 1, "add:A", offset=0), "ce_type", "oms.order.OrderCompleted")
    unknown = with_header(word("O1", 2, "add:A", offset=1), "ce_type", "oms.order.NeverHeardOf")
    handled = await tallies.hear(unwanted, unknown, word("O1", 3, "add:A", 7, offset=2))
    assert handled.counts == {"skipped": 2, "processed": 1}
    assert await tallies.total() == 7


async def test_rejected_command_is_skipped_and_nothing_waits(tallies: Tallies) -> None:
    handled = await tallies.hear(word("O1", 1, "take:A", 5, offset=0), word("O1", 2, "add:A", 1, offset=1))
    assert handled.counts == {"skipped": 1, "processed": 1}
    assert await tallies.total() == 1
    assert await tallies.parked() == (0, 0)


async def test_gap_parks_its_key_and_other_keys_go_on(tallies: Tallies) -> None:
    handled = await tallies.hear(
        word("O1", 1, "add:A", 1, offset=0),
        word("O1", 3, "add:A", 100, offset=1),
        word("O2", 1, "add:A", 10, offset=2),
        word("O1", 4, "add:A", 1000, offset=3),
    )
    assert handled.counts == {"processed": 2, "parked": 2}
    assert await tallies.total() == 11
    assert await tallies.parked() == (1, 2)
    assert await tallies.position() == 4


async def test_missing_version_that_arrives_heals_its_key_in_order(tallies: Tallies) -> None:
    await tallies.hear(
        word("O1", 1, "add:A", 1, offset=0),
        word("O1", 3, "take:A", 11, offset=1),
        word("O1", 4, "add:A", 1000, offset=2),
    )
    handled = await tallies.hear(word("O1", 2, "add:A", 10, offset=3))
    assert handled.healed == {(ORDER_EVENTS.name, b"O1")}
    assert await tallies.handler.release_healed() == 3
    assert await tallies.parked() == (0, 0)
    assert [recorded.event.qty for recorded in await tallies.events()] == [1, 10, 11, 1000]
    assert (await tallies.hear(word("O1", 5, "add:A", 1, offset=4))).counts == {"processed": 1}


async def test_key_that_healed_just_before_a_crash_heals_after_the_restart(tallies: Tallies) -> None:
    await tallies.hear(word("O1", 2, "add:A", 10, offset=0), word("O1", 1, "add:A", 1, offset=1))
    assert await tallies.restarted().handler.release_healed() == 2
    assert await tallies.total() == 11


async def test_key_heals_as_far_as_its_versions_follow(tallies: Tallies) -> None:
    await tallies.hear(word("O1", 2, "add:A", 10, offset=0), word("O1", 4, "add:A", 1000, offset=1))
    await tallies.hear(word("O1", 1, "add:A", 1, offset=2))
    assert await tallies.handler.release_healed() == 2
    assert await tallies.parked() == (1, 1)
    await tallies.hear(word("O1", 3, "add:A", 100, offset=3))
    assert await tallies.handler.release_healed() == 2
    assert await tallies.total() == 1111


async def test_stream_that_begins_late_is_a_gap_unless_its_topic_was_trimmed(tallies: Tallies) -> None:
    late = word("O1", 5, "add:A", 1, offset=0)
    assert (await tallies.hear(late)).counts == {"parked": 1}
    handled = await tallies.hear(word("O2", 5, "add:A", 1, offset=1), trimmed=frozenset({P0}))
    assert handled.counts == {"processed": 1}
    after = [word("O2", 7, "add:A", 1, offset=2)]
    assert (await tallies.hear(*after, trimmed=frozenset({P0}))).counts == {"parked": 1}, "only its beginning may miss"


BAD = {
    "undecodable": replace(word("BAD", 1, "add:A", offset=1), value=b'{"order_id": 7}'),
    "no JSON": replace(word("BAD", 1, "add:A", offset=1), value=b"\xff\x00"),
    "no value": replace(word("BAD", 1, "add:A", offset=1), value=None),
    "no key": replace(word("BAD", 1, "add:A", offset=1), key=None),
    "header missing": with_header(word("BAD", 1, "add:A", offset=1), "ce_subject", None),
    "no headers": replace(word("BAD", 1, "add:A", offset=1), headers=[]),
    "version beyond an integer": with_header(word("BAD", 1, "add:A", offset=1), "ce_aggregateversion", str(1 << 40)),
    "stream with NUL": with_header(word("BAD", 1, "add:A", offset=1), "ce_subject", "order-\x00"),
    "time of year 1": with_header(word("BAD", 1, "add:A", offset=1), "ce_recordedtime", "0001-01-01T00:00:00"),
    "react raises": word("BAD", 1, "react:A", offset=1),
    "decide raises": word("BAD", 1, "boom:A", offset=1),
    "decide raises with NUL": word("BAD", 1, "boom:\x00\ud7ff", offset=1),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
async def test_bad_record_is_parked_alone_and_the_rest_of_its_batch_is_handled(tallies: Tallies, bad: Record) -> None:
    handled = await tallies.hear(
        word("O1", 1, "add:A", 1, offset=0), bad, word("O1", 2, "add:A", 10, offset=2), word("O2", 1, "add:B", offset=3)
    )
    assert not handled.halted
    assert handled.counts == {"processed": 3, "parked": 1}
    assert (await tallies.total("A"), await tallies.total("B")) == (11, 1)
    assert await tallies.parked() == (1, 1)
    assert await tallies.position() == 4


@pytest.mark.integration
async def test_record_that_only_the_database_refuses_is_parked_alone(postgres: PostgresStorage) -> None:
    tallies = Tallies(postgres)
    bad = word("BAD", 1, "add:\x00", offset=1)
    handled = await tallies.hear(word("O1", 1, "add:A", 1, offset=0), bad, word("O1", 2, "add:A", 10, offset=2))
    assert handled.counts == {"processed": 2, "parked": 1}
    assert await tallies.total() == 11


async def test_later_records_of_a_bad_ones_key_wait_until_it_is_skipped(tallies: Tallies) -> None:
    await tallies.hear(word("O1", 1, "boom:A", offset=0), word("O1", 2, "add:A", 5, offset=1))
    assert await tallies.release() == 0
    assert await tallies.parked() == (1, 2)
    await tallies.skip(offset=0)
    assert await tallies.release() == 1
    assert await tallies.total() == 5


async def test_other_streams_behind_a_bad_record_of_their_key_do_not_release_it(tallies: Tallies) -> None:
    """They are next in their own streams, but their key waits."""
    bad = word("O1", 1, "boom:A", offset=0)
    other = replace(word("O1", 1, "add:A", offset=1), headers=to_headers(envelope("network-O1", 1)))
    await tallies.hear(bad, other)
    assert await tallies.handler.release_healed() == 0
    assert await tallies.parked() == (1, 2)
    assert await tallies.total() == 0


async def test_release_after_a_repair_goes_on_in_order(tallies: Tallies, monkeypatch: pytest.MonkeyPatch) -> None:
    await tallies.hear(word("O1", 1, "boom:A", offset=0), word("O1", 2, "add:A", 5, offset=1))
    service = tally_service()
    repaired = replace(service, react=lambda recorded: [Add("A", 100)] if recorded.stream_version == 1 else [])
    monkeypatch.setattr(tallies, "handler", Handler(repaired, tallies.storage))
    assert await tallies.release() == 2
    assert await tallies.total() == 100
    assert await tallies.parked() == (0, 0)


async def test_repeats_in_the_park_leave_it_without_effect(tallies: Tallies) -> None:
    await tallies.hear(*[word("O1", 2, "add:A", 5, offset=offset) for offset in range(2)])
    await tallies.hear(word("O1", 1, "add:A", 1, offset=2))
    assert await tallies.handler.release_healed() == 3
    assert await tallies.total() == 6


async def test_release_longer_than_a_batch_goes_through(tallies: Tallies) -> None:
    await tallies.hear(*[word("O1", version, "add:A", offset=version - 2) for version in range(2, 9)])
    await tallies.hear(word("O1", 1, "add:A", offset=7))
    assert await tallies.handler.release(ORDER_EVENTS.name, b"O1", limit=3) == 8
    assert await tallies.total() == 8


async def test_newer_schema_halts_its_partition_and_no_other(tallies: Tallies) -> None:
    newer = with_header(word("O1", 2, "add:A", offset=1), "ce_dataschemaversion", "9")
    handled = await tallies.hear(
        word("O1", 1, "add:A", 1, offset=0),
        newer,
        word("O2", 1, "add:A", 10, offset=2),
        word("O3", 1, "add:A", 100, offset=0, partition=1),
    )
    assert handled.halted.keys() == {P0}
    assert await tallies.total() == 101
    assert (await tallies.position(P0), await tallies.position(P1)) == (1, 1)
    assert handled.positions == {P0: 1, P1: 1}


async def test_newer_schema_in_the_park_stops_the_release(tallies: Tallies) -> None:
    """A release after a roll-back: what the newer code parked, the older cannot read."""
    await tallies.hear(word("O1", 1, "boom:A", offset=0))
    newer = with_header(word("O1", 2, "add:A", offset=1), "ce_dataschemaversion", "9")
    async with tallies.storage.transaction() as tx:
        heard = machine.Heard(record=newer, park_key=b"O1", stream_id="order-O1", stream_version=2)
        record = machine.parked_record(heard, "behind")
        await tx.write(machine.Changes(now=AT, consumer=tallies.handler.consumer, parked=[record]))
    await tallies.skip(offset=0)
    assert await tallies.release() == 0
    assert await tallies.parked() == (1, 1)


async def test_many_bad_keys_in_a_row_stop_the_partition(tallies: Tallies) -> None:
    bad = [word(f"BAD{n}", 1, "react:A", offset=n) for n in range(25)]
    handled = await tallies.hear(*bad, word("O1", 1, "add:A", 1, offset=0, partition=1))
    assert handled.halted.keys() == {P0}
    assert handled.counts == {"parked": 20, "processed": 1}
    assert (await tallies.position(P0), await tallies.position(P1)) == (20, 1)
    assert await tallies.total() == 1


async def test_park_limit_counts_over_batches_and_also_what_fails_in_decide(tallies: Tallies) -> None:
    for n in range(20):
        assert not (await tallies.hear(word(f"BAD{n}", 1, "boom:A", offset=n))).halted
    assert (await tallies.hear(word("BAD20", 1, "boom:A", offset=20))).halted.keys() == {P0}
    assert await tallies.position() == 20


async def test_sound_record_between_bad_ones_starts_the_row_anew(storage: Storage) -> None:
    tallies = Tallies(storage, park_limit=ParkLimit(keys_in_a_row=3))
    does = ["react", "react", "add", "react", "react", "add"]
    records = [word(f"O{n}", 1, f"{do}:A", offset=n) for n, do in enumerate(does)]
    handled = await tallies.hear(*records)
    assert not handled.halted
    assert handled.counts == {"parked": 4, "processed": 2}


async def test_share_of_bad_records_stops_the_partition(storage: Storage) -> None:
    tallies = Tallies(storage, park_limit=ParkLimit(ratio=0.1, ratio_over=20))
    records = [word(f"O{n}", 1, "react:A" if n % 5 == 4 else "mute", offset=n) for n in range(40)]
    handled = await tallies.hear(*records)
    assert handled.halted.keys() == {P0}
    assert handled.counts == {"processed": 20, "parked": 4}


async def test_waiting_behind_a_bad_record_counts_for_no_limit(storage: Storage) -> None:
    tallies = Tallies(storage, park_limit=ParkLimit(keys_in_a_row=2, ratio=0.1, ratio_over=2))
    records = [word("O1", 1, "react:A", offset=0), *(word("O1", n, "mute", offset=n - 1) for n in range(2, 12))]
    handled = await tallies.hear(*records)
    assert not handled.halted
    assert handled.counts == {"parked": 11}


# --- the fence -------------------------------------------------------------------------------------------------------


async def test_batch_that_does_not_begin_at_the_position_is_refused(tallies: Tallies) -> None:
    await tallies.hear(word("O1", 1, "add:A", 1, offset=0))
    for offset in (0, 2):
        handled = await tallies.hear(word("O2", 1, "add:A", 10, offset=offset))
        assert handled.refused == {P0: 1}
        assert not handled.counts
    assert await tallies.total() == 1
    assert await tallies.position() == 1


async def test_batch_is_cut_at_a_hole(tallies: Tallies) -> None:
    handled = await tallies.hear(word("O1", 1, "add:A", 1, offset=0), word("O2", 1, "add:A", 10, offset=2))
    assert handled.refused == {P0: 1}
    assert handled.positions == {P0: 1}
    assert handled.counts == {"processed": 1}
    assert await tallies.total() == 1


async def test_zombie_writes_nothing_and_does_not_hold_up_other_partitions(tallies: Tallies) -> None:
    batch = [word("O1", 1, "add:A", 1, offset=0), word("O2", 1, "boom:A", offset=1)]
    zombie = tallies.restarted()
    await tallies.hear(*batch)
    handled = await zombie.hear(*batch, word("O3", 1, "add:B", 3, offset=0, partition=1))
    assert handled.refused == {P0: 2}
    assert handled.counts == {"processed": 1}
    assert (await tallies.total("A"), await tallies.total("B")) == (1, 3)
    assert await tallies.parked() == (1, 1)


async def test_every_record_read_is_counted_once(tallies: Tallies) -> None:
    """I-15: processed, duplicate, parked and skipped add up to the position, in every partition."""
    does = ["add:A", "take:B", "boom:A", "add:A", "react:A", "mute", "add:B"]
    for partition in (0, 1):
        records = [word(f"O{partition}{n}", 1, does[n % 7], offset=n, partition=partition) for n in range(30)]
        repeats = [word(f"O{partition}0", v, "add:A", offset=29 + v, partition=partition) for v in (1, 3, 4)]
        for batch in (records[:11], records[11:], repeats, records[5:9]):
            await tallies.hear(*batch)
    assert await tallies.position(P0) == await tallies.position(P1)
    assert sum(tallies.counts.values()) == await tallies.position(P0) + await tallies.position(P1)
    for partition in (P0, P1):
        assert sum((await stored_counts(tallies, partition)).values()) == await tallies.position(partition)


async def stored_counts(tallies: Tallies, partition: Partition) -> dict[str, int]:
    storage = tallies.storage
    if isinstance(storage, MemoryStorage):
        return storage.tables.counts[tallies.handler.consumer, partition]
    assert isinstance(storage, PostgresStorage)
    [row] = await storage._fetch(
        "SELECT processed, duplicate, parked, skipped FROM consumer_position WHERE consumer = $1 AND partition = $2",
        tallies.handler.consumer,
        partition.number,
    )
    return dict(row)


# --- requests --------------------------------------------------------------------------------------------------------


async def test_same_key_gets_the_same_answer_and_one_effect(tallies: Tallies) -> None:
    asked = request(Add("A", 5), key="k1", body_hash=b"h")
    [first] = await tallies.ask(asked)
    [again] = await tallies.restarted().ask(request(Add("A", 5), key="k1", body_hash=b"h"))
    assert first == again == Answer("stock-A", 1, ("StockReceived",))
    assert await tallies.total() == 5


async def test_same_key_twice_in_one_batch_is_decided_once(tallies: Tallies) -> None:
    one, two = await tallies.ask(*[request(Add("A", 5), key="k1", body_hash=b"h") for _ in range(2)])
    assert one == two
    assert await tallies.total() == 5


async def test_rejection_is_kept_under_its_key_too(tallies: Tallies) -> None:
    asked = request(Take("A", 5), key="k1", body_hash=b"h")
    [first] = await tallies.ask(asked)
    assert first.code == "short"
    await tallies.ask(request(Add("A", 9)))
    assert await tallies.ask(asked) == [first]
    assert await tallies.total() == 9


async def test_same_key_with_another_body_is_a_mismatch_without_effect(tallies: Tallies) -> None:
    one, other = request(Add("A", 5), key="k1", body_hash=b"h"), request(Add("A", 6), key="k1", body_hash=b"i")
    answers = await tallies.ask(one, other)
    assert [answer.code for answer in answers] == ["", MISMATCH]
    assert (await tallies.ask(other))[0].code == MISMATCH
    assert await tallies.total() == 5


async def test_stale_expected_version_is_that_callers_answer_and_nobody_elses(tallies: Tallies) -> None:
    answers = await tallies.ask(
        request(Add("A", 1), expected_version=0),
        request(Add("A", 10), expected_version=0),
        request(Add("A", 100), expected_version=1),
    )
    assert [(answer.code, answer.stream_version) for answer in answers] == [("", 1), (STALE, 1), ("", 2)]
    assert await tallies.total() == 101


async def test_request_that_fails_is_answered_alone(tallies: Tallies, alarms: list[str]) -> None:
    answers = await tallies.ask(request(Add("A", 1)), request(Boom("A"), key="k1"), request(Add("A", 10)))
    assert [answer.code for answer in answers] == ["", machine.BROKEN, ""]
    assert await tallies.total() == 11
    assert alarms == ["request_failed"]
    assert (await tallies.ask(request(Add("A", 100), key="k1")))[0].code == "", "a defect's answer is not kept"


async def test_rejected_command_leaves_nothing_of_itself(tallies: Tallies) -> None:
    answers = await tallies.ask(request(Add("A", 2)), request(Take("A", 3)), request(Take("A", 2)))
    assert [answer.code for answer in answers] == ["", "short", ""]
    assert [recorded.stream_version for recorded in await tallies.events()] == [1, 2]


async def effect_of(tallies: Tallies) -> str:
    await tallies.ask(request(Add("A", 1, "call-1")))
    [effect] = await tallies.storage.lease_effects(10, 60)
    assert effect.key == "call-1"
    return effect.id


async def test_second_answer_to_an_effect_is_dropped(tallies: Tallies) -> None:
    effect_id = await effect_of(tallies)
    answer = request(Add("A", 10), effect_id=effect_id)
    assert [(await tallies.ask(answer))[0].code for _ in range(2)] == ["", DROPPED]
    assert await tallies.total() == 11


async def test_two_answers_to_an_effect_in_one_batch_are_one(tallies: Tallies) -> None:
    effect_id = await effect_of(tallies)
    answers = await tallies.ask(*[request(Add("A", 10), effect_id=effect_id) for _ in range(2)])
    assert [answer.code for answer in answers] == ["", DROPPED]
    assert await tallies.total() == 11


async def test_effect_whose_answer_cannot_be_recorded_stays(tallies: Tallies, alarms: list[str]) -> None:
    effect_id = await effect_of(tallies)
    [answer] = await tallies.ask(request(Boom("A"), effect_id=effect_id))
    assert answer.code == machine.BROKEN
    assert (await tallies.storage.figures())["effects_open"] == 1


# --- wakes -----------------------------------------------------------------------------------------------------------


async def woken(tallies: Tallies, total: int) -> Answer:
    await tallies.ask(request(Add("A", total)))
    assert await tallies.storage.due_streams(10) == ["stock-A"]
    [answer] = await tallies.ask(request(machine.Wake("stock-A")))
    return answer


async def test_wake_that_comes_to_rest_is_not_due_again(tallies: Tallies, alarms: list[str]) -> None:
    assert (await woken(tallies, 14)).events == ("StockReceived",)
    assert await tallies.storage.due_streams(10) == []
    assert alarms == []


@pytest.mark.parametrize(("total", "code"), [(13, ""), (17, "not_now")], ids=["decides nothing", "is refused"])
async def test_wake_that_does_not_rest_raises_an_alarm_and_spins_no_more(
    tallies: Tallies, alarms: list[str], total: int, code: str
) -> None:
    assert (await woken(tallies, total)).code == code
    assert await tallies.storage.due_streams(10) == []
    assert alarms == ["wake_did_not_rest"]
    assert await tallies.total() == total


async def test_wake_that_fails_raises_an_alarm_and_spins_no_more(
    tallies: Tallies, alarms: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decider = tallies.handler.service.decider
    assert decider is not None

    def raises(*_: Any) -> Sequence[Any]:
        raise RuntimeError

    await tallies.ask(request(Add("A", 13)))
    broken = replace(tallies.handler.service, decider=replace(decider, decide=raises))
    monkeypatch.setattr(tallies, "handler", Handler(broken, tallies.storage))
    [answer] = await tallies.ask(request(machine.Wake("stock-A")))
    assert answer.code == machine.BROKEN
    assert await tallies.storage.due_streams(10) == []
    assert alarms == ["request_failed"]


# --- snapshots -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def poisoned_snapshot(tallies: Tallies, **changes: Any) -> AsyncIterator[None]:
    """After six events the head's snapshot is of version 4; the one with these changes replaces it."""
    for n in range(6):
        await tallies.ask(request(Add("A", n)))
    async with tallies.storage.transaction() as tx:
        head = (await tx.lock_heads(["stock-A"]))["stock-A"]
        assert (head.stream_version, head.snapshot_version) == (6, 4)
        new = {"snapshot": b'{"total":1000,"events":4}', "snapshot_fingerprint": head.snapshot_fingerprint, **changes}
        kept = machine_head(head, **new)
        await tx.write(machine.Changes(now=AT, heads=[kept]))
    yield


def machine_head(head: Any, **changes: Any) -> Any:
    from libs.runtime.storage import NewHead

    return NewHead(head.stream_id, head.stream_version, True, None, snapshot_version=head.snapshot_version, **changes)


@pytest.fixture
def snapshotting(storage: Storage) -> Tallies:
    return Tallies(storage, snapshot_every=4, cached_states=0)


async def test_snapshot_is_made_and_used(snapshotting: Tallies) -> None:
    async with poisoned_snapshot(snapshotting):
        [answer] = await snapshotting.ask(request(Take("A", 1000)))
        assert answer.code == "", "a state from version 1 on would have only 15"


async def test_snapshot_of_other_code_is_refolded(snapshotting: Tallies) -> None:
    async with poisoned_snapshot(snapshotting, snapshot_fingerprint="another"):
        assert [a.code for a in await snapshotting.ask(request(Take("A", 16)), request(Take("A", 15)))] == ["short", ""]


async def test_snapshot_that_cannot_be_read_is_refolded(snapshotting: Tallies, alarms: list[str]) -> None:
    async with poisoned_snapshot(snapshotting, snapshot=b'{"total": "many"}'):
        assert [a.code for a in await snapshotting.ask(request(Take("A", 16)), request(Take("A", 15)))] == ["short", ""]
    assert alarms == ["snapshot_unreadable"]


@dataclass(frozen=True)
class WiderTally(Tally):
    """Another shape; an old state can be read as this one, and would be wrong."""

    received: int = 0


OTHER_CODE = """
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

def evolve(tally, event):
    return replace(tally, total=tally.total + 2 * event.qty, events=tally.events + 1)
"""


@pytest.mark.parametrize("changed", ["code", "shape"])
async def test_snapshot_of_an_earlier_release_is_not_used(
    snapshotting: Tallies, changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with poisoned_snapshot(snapshotting):
        aggregate = replace(TALLY, initial_state=WiderTally)
        if changed == "code":
            (tmp_path / "tally_of_a_later_release.py").write_text(OTHER_CODE)
            monkeypatch.syspath_prepend(tmp_path)
            aggregate = replace(TALLY, evolve=import_module("tally_of_a_later_release").evolve)
        later = snapshotting.restarted()
        later.handler = Handler(tally_service(aggregate), later.storage, snapshot_every=4, cached_states=0)
        total = 30 if changed == "code" else 15
        answers = await later.ask(request(Take("A", total + 1)), request(Take("A", total)))
        assert [answer.code for answer in answers] == ["short", ""]


# --- repeats ---------------------------------------------------------------------------------------------------------


async def test_event_ids_repeat_with_their_cause(storage: Storage) -> None:
    ids = []
    for other in (storage, MemoryStorage(), MemoryStorage()):
        tallies = Tallies(other)
        await tallies.hear(word("O1", 1, "add:A", 5, offset=0), word("O2", 1, "add:A", 6, offset=1))
        ids.append([recorded.event_id for recorded in await tallies.events()])
    assert ids[0] == ids[1] == ids[2]
    assert len(set(ids[0])) == 2


class LosesOutcome:
    """Commits, and then says that it does not know."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.losing = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self._storage.transaction() as tx:
            yield tx
        if self.losing:
            self.losing = False
            raise Unavailable("connection lost")


class FailsToCommit(LosesOutcome):
    """Once, when told to, does all but commit."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self.failing = False

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self._storage.transaction() as tx:
            yield tx
            if self.failing:
                self.failing = False
                raise Unavailable("connection lost")


@pytest.mark.parametrize("by", ["record", "request"])
async def test_effect_is_there_as_soon_as_its_intent_is(storage: Storage, by: str) -> None:
    """What would be written after the commit is lost when the process dies there."""
    tallies = Tallies(LosesOutcome(storage))  # type: ignore[arg-type]
    await storage.ensure_positions(tallies.handler.consumer, {P0: 0, P1: 0})
    with pytest.raises(Unavailable):
        if by == "record":
            await tallies.handler.handle_records([word("O1", 1, "call:A", offset=0)])
        else:
            await tallies.ask(request(Add("A", 1, "call-1")))
    assert len(await tallies.events()) == 1
    assert (await storage.figures())["effects_open"] == 1


async def test_records_whose_commit_is_unknown_find_themselves_when_repeated(storage: Storage) -> None:
    await storage.ensure_positions("oms.inventory.policy", {P0: 0, P1: 0})
    tallies = Tallies(LosesOutcome(storage))  # type: ignore[arg-type]
    batch = [word("O1", 1, "add:A", 5, offset=0), word("O2", 1, "add:A", 6, offset=1)]
    with pytest.raises(Unavailable):
        await tallies.handler.handle_records(batch)
    handled = await tallies.handler.handle_records(batch)
    assert handled.refused == {P0: 2}
    assert await tallies.total() == 11


async def test_request_whose_commit_is_unknown_finds_its_answer_when_repeated(storage: Storage) -> None:
    tallies = Tallies(LosesOutcome(storage))  # type: ignore[arg-type]
    asked = request(Add("A", 5), key="k1", body_hash=b"h")
    with pytest.raises(Unavailable):
        await tallies.ask(asked)
    assert await tallies.ask(asked) == [Answer("stock-A", 1, ("StockReceived",))]
    assert await tallies.total() == 5


# --- states kept in memory -------------------------------------------------------------------------------------------


async def test_state_in_use_is_not_read_from_the_log_again(tallies: Tallies, monkeypatch: pytest.MonkeyPatch) -> None:
    await tallies.ask(request(Add("A", 10)))
    asked: list[Any] = []
    monkeypatch.setattr(batch_module.Batch, "_refold", lambda _batch, stored: asked.append(stored))
    [answer] = await tallies.ask(request(Take("A", 10)))
    assert (answer.code, asked) == ("", [])


async def test_state_kept_in_memory_is_caught_up_with_what_others_wrote(tallies: Tallies) -> None:
    other = tallies.restarted()
    for process in (tallies, other, tallies, other):
        await process.ask(request(Add("A", 10)))
        assert await tallies.total() == sum([recorded.event.qty for recorded in await tallies.events()])  # the view's
    assert [a.code for a in await tallies.ask(request(Take("A", 41)), request(Take("A", 40)))] == ["short", ""]
    assert [a.code for a in await other.ask(request(Take("A", 1)))] == ["short"]


async def test_state_of_a_batch_that_was_not_committed_is_not_kept(storage: Storage) -> None:
    """Another's event has taken the version that it would have had."""
    fragile = FailsToCommit(storage)
    tallies = Tallies(fragile)  # type: ignore[arg-type]
    await tallies.ask(request(Add("A", 10)))
    fragile.failing = True
    with pytest.raises(Unavailable):
        await tallies.ask(request(Add("A", 10)))
    await tallies.restarted().ask(request(Add("A", 1)))
    assert [a.code for a in await tallies.ask(request(Take("A", 12)), request(Take("A", 11)))] == ["short", ""]


async def test_state_of_a_version_that_the_log_does_not_hold_is_not_used(storage: Storage) -> None:
    """The database was restored from a copy of yesterday while this process went on."""
    tallies = Tallies(MemoryStorage())
    for _ in range(2):
        await tallies.ask(request(Add("A", 10)))
    await Tallies(storage).ask(request(Add("A", 1)))
    tallies.handler.storage = storage
    assert [a.code for a in await tallies.ask(request(Take("A", 2)), request(Take("A", 1)))] == ["short", ""]
