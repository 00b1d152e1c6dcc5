"""What the machine relies on in a service's database, asked of the double and of PostgreSQL alike."""

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from libs.events.codec import encode
from libs.events.inventory import StockReceived
from libs.events.topics import ORDER_EVENTS
from libs.runtime.errors import DataFault, VersionConflict
from libs.runtime.event_store import PostgresStorage
from libs.runtime.identity import new_id
from libs.runtime.storage import (
    Changes,
    Head,
    NewEffect,
    NewHead,
    ParkedRecord,
    Partition,
    Storage,
    StoredAnswer,
    StoredEvent,
    ViewChange,
    ViewRow,
)
from libs.testing.deadline import eventually
from libs.testing.interleaving import waits_or_ends
from libs.testing.tally import AT, envelope

ME = "oms.test.policy"
P0, P1 = Partition(ORDER_EVENTS.name, 0), Partition(ORDER_EVENTS.name, 1)
PAST, FUTURE = datetime(2020, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)


def stored(sku: str, version: int, qty: int = 1) -> StoredEvent:
    event = StockReceived(sku=sku, location="main", qty=qty, receipt_id="r")
    return StoredEvent(envelope(event.stream_id, version, "oms.inventory.StockReceived"), encode(event), sku)


def head(sku: str, version: int, *, existed: bool, due_at: datetime | None = None, **snapshot: Any) -> NewHead:
    return NewHead(f"stock-{sku}", version, existed, due_at, **snapshot)


def parked(offset: int, key: bytes = b"O1", version: int = 1, reason: str = "bad", **fields: Any) -> ParkedRecord:
    made = ParkedRecord(P0, offset, key, reason, b"[]", b"{}", AT, f"order-{key.decode()}", version)
    return replace(made, **fields)


def view(key: str, data: str, existed: bool, versions: dict[str, int] | None = None) -> ViewChange:
    total = orjson.loads(data).get("total")
    columns = {"total": None if total is None else str(total)}
    return ViewChange("tally", key, ViewRow(data.encode(), versions or {}), existed, columns)


async def write(storage: Storage, **changes: Any) -> None:
    async with storage.transaction() as tx:
        await tx.write(Changes(now=AT, consumer=ME, **changes))


# --- positions -------------------------------------------------------------------------------------------------------


async def test_new_partition_begins_at_the_logs_beginning_and_fence_reads_it(storage: Storage) -> None:
    assert await storage.ensure_positions(ME, {P0: 7, P1: 0}) == {P0: 7, P1: 0}
    async with storage.transaction() as tx:
        assert await tx.fence(ME, [P0]) == {P0: 7}


async def test_known_position_is_never_moved_by_ensuring_it(storage: Storage) -> None:
    await storage.ensure_positions(ME, {P0: 0})
    await write(storage, positions={P0: 5})
    for beginning in (0, 9):
        assert await storage.ensure_positions(ME, {P0: beginning}) == {P0: 5}


async def test_positions_belong_to_one_consumer(storage: Storage) -> None:
    await storage.ensure_positions(ME, {P0: 3})
    assert await storage.ensure_positions("another", {P0: 0}) == {P0: 0}


async def test_seen_versions_advance_and_never_go_back(storage: Storage) -> None:
    await write(storage, seen={"order-1": 3, "order-2": 1})
    await write(storage, seen={"order-1": 2, "order-2": 2})
    async with storage.transaction() as tx:
        assert await tx.seen(ME, ["order-1", "order-2", "order-3"]) == {"order-1": 3, "order-2": 2}
        assert await tx.seen("another", ["order-1"]) == {}


# --- heads and events ------------------------------------------------------------------------------------------------


async def test_head_is_inserted_once_and_the_loser_of_the_race_conflicts(storage: Storage) -> None:
    await write(storage, heads=[head("A", 1, existed=False)])
    with pytest.raises(VersionConflict):
        await write(storage, heads=[head("A", 1, existed=False)])
    async with storage.transaction() as tx:
        assert (await tx.lock_heads(["stock-A", "stock-B"])).keys() == {"stock-A"}


async def test_head_without_a_new_snapshot_keeps_the_one_it_has(storage: Storage) -> None:
    first = {"snapshot": b"S", "snapshot_version": 2, "snapshot_fingerprint": "f"}
    await write(storage, heads=[head("A", 2, existed=False, **first)])
    await write(storage, heads=[head("A", 3, existed=True)])
    async with storage.transaction() as tx:
        found = (await tx.read_heads(["stock-A"]))["stock-A"]
    assert found == Head("stock-A", 3, b"S", 2, "f")
    await write(storage, heads=[head("A", 4, existed=True, snapshot=b"T", snapshot_version=4)])
    async with storage.transaction() as tx:
        found = (await tx.read_heads(["stock-A"]))["stock-A"]
    assert found == Head("stock-A", 4, b"T", 4, "")


async def test_events_load_in_order_of_version_after_the_one_named(storage: Storage) -> None:
    events = [stored("A", 1), stored("B", 1), stored("A", 2), stored("A", 3)]
    await write(storage, events=events)
    async with storage.transaction() as tx:
        found = await tx.load_events({"stock-A": 1, "stock-B": 0})
    assert list(found) == [events[2], events[3], events[1]]
    assert list(await storage.read_streams(["stock-A"])) == [events[0], events[2], events[3]]


async def test_version_taken_by_another_conflicts_and_leaves_nothing(storage: Storage) -> None:
    await write(storage, events=[stored("A", 1)])
    with pytest.raises(VersionConflict):
        await write(storage, events=[stored("B", 1), stored("A", 1, qty=9)], seen={"order-1": 1}, positions={P0: 1})
    assert await storage.read_streams(["stock-B"]) == []
    async with storage.transaction() as tx:
        assert await tx.seen(ME, ["order-1"]) == {}


async def test_failing_transaction_leaves_nothing(storage: Storage) -> None:
    await storage.ensure_positions(ME, {P0: 0})
    everything = Changes(
        now=AT,
        consumer=ME,
        positions={P0: 1},
        heads=[head("A", 1, existed=False, due_at=PAST)],
        events=[stored("A", 1)],
        views=[view("A", "{}", existed=False)],
        seen={"order-1": 1},
        effects=[NewEffect(new_id(), "call", "k", "stock-A", 1, PAST)],
        answers={"key": StoredAnswer(b"h", b"a")},
        parked=[parked(0)],
    )
    with suppress(ZeroDivisionError):
        async with storage.transaction() as tx:
            await tx.write(everything)
            raise ZeroDivisionError
    figures = await storage.figures()
    assert not any(figures.values()), figures
    assert await storage.due_streams(10) == []
    assert await storage.read_view("tally", "A") is None
    async with storage.transaction() as tx:
        assert await tx.fence(ME, [P0]) == {P0: 0}
        assert await tx.answers(["key"]) == {}
        assert await tx.lock_heads(["stock-A"]) == {}


async def test_due_streams_are_those_whose_time_has_passed_and_clearing_ends_it(storage: Storage) -> None:
    heads = [
        head("A", 1, existed=False, due_at=PAST),
        head("B", 1, existed=False, due_at=FUTURE),
        head("C", 1, existed=False, due_at=PAST - timedelta(1)),
    ]
    await write(storage, heads=heads)
    assert await storage.due_streams(10) == ["stock-C", "stock-A"]
    assert await storage.due_streams(1) == ["stock-C"]
    await storage.clear_due("stock-C")
    assert await storage.due_streams(10) == ["stock-A"]


# --- outbox ----------------------------------------------------------------------------------------------------------


async def test_outbox_gives_events_in_order_until_they_are_deleted(storage: Storage) -> None:
    events = [stored("A", 1), stored("B", 1), stored("A", 2)]
    await write(storage, events=events)
    pointers = await storage.read_outbox(10)
    assert [event for _, event in pointers] == events
    assert [event for _, event in await storage.read_outbox(2)] == events[:2]
    await storage.delete_outbox([pointers[0][0], pointers[2][0]])
    assert [event for _, event in await storage.read_outbox(10)] == [events[1]]
    assert len(await storage.read_streams(["stock-A"])) == 2


async def test_events_that_were_heard_are_stored_and_not_published(storage: Storage) -> None:
    await write(storage, events=[stored("A", 1)], publish=False)
    assert await storage.read_outbox(10) == []
    assert len(await storage.read_streams(["stock-A"])) == 1


@pytest.mark.integration
async def test_log_readers_never_skip_a_late_commit(postgres: PostgresStorage) -> None:
    """The earlier position commits after the later one was read and deleted: `position > last` would lose it."""
    begun, finish = asyncio.Event(), asyncio.Event()

    async def late() -> None:
        async with postgres.transaction() as tx:
            await tx.write(Changes(now=AT, consumer=ME, events=[stored("LATE", 1)]))
            begun.set()
            await finish.wait()

    writer = asyncio.create_task(late())
    await begun.wait()
    await write(postgres, events=[stored("EARLY", 1)])
    [(later_position, event)] = await postgres.read_outbox(10)
    assert event.key == "EARLY"
    await postgres.delete_outbox([later_position])
    finish.set()
    await writer
    [(position, event)] = await postgres.read_outbox(10)
    assert event.key == "LATE"
    assert position < later_position, "the race has not happened: the test shows nothing"


@pytest.mark.integration
@pytest.mark.parametrize("statement", ["UPDATE events SET data = ''", "DELETE FROM events", "TRUNCATE events"])
async def test_application_may_not_change_what_has_happened(postgres: PostgresStorage, statement: str) -> None:
    await write(postgres, events=[stored("A", 1)])
    with pytest.raises(Exception, match="permission denied"):
        await postgres._fetch(statement)


# --- views -----------------------------------------------------------------------------------------------------------


async def test_view_row_is_inserted_updated_and_deleted(storage: Storage) -> None:
    await write(storage, views=[view("A", '{"total": 1}', existed=False, versions={"stock-A": 1})])
    await write(storage, views=[view("A", '{"total": 2}', existed=True, versions={"stock-A": 2})])
    async with storage.transaction() as tx:
        rows = await tx.lock_views("tally", ["A", "B"])
    assert rows.keys() == {"A"}
    assert rows["A"].data == b'{"total": 2}'
    assert rows["A"].versions == {"stock-A": 2}
    assert await storage.read_view("tally", "A") == rows["A"]
    await write(storage, views=[ViewChange("tally", "A", None, existed=True)])
    assert await storage.read_view("tally", "A") is None


async def test_known_view_row_comes_with_its_versions_alone(storage: Storage) -> None:
    await write(
        storage, views=[view(key, '{"total": 1}', existed=False, versions={f"stock-{key}": 1}) for key in ("A", "B")]
    )
    async with storage.transaction() as tx:
        rows = await tx.lock_views("tally", ["A", "B"], ["A"])
    assert rows["A"] == ViewRow(b"", {"stock-A": 1})
    assert rows["B"] == ViewRow(b'{"total": 1}', {"stock-B": 1})


async def test_view_row_made_by_two_conflicts(storage: Storage) -> None:
    await write(storage, views=[view("A", "{}", existed=False)])
    with pytest.raises(VersionConflict):
        await write(storage, views=[view("A", "{}", existed=False)])


async def test_view_pages_by_key_with_filter_and_cursor(storage: Storage) -> None:
    totals = {"A": 1, "B": 2, "C": 1, "D": 1}
    await write(storage, views=[view(key, f'{{"total": {n}}}', existed=False) for key, n in totals.items()])

    async def page(after: str, limit: int, **where: str) -> list[str]:
        return [key for key, _ in await storage.page_view("tally", where, after, limit)]

    assert await page("", 2) == ["A", "B"]
    assert await page("B", 2) == ["C", "D"]
    assert await page("", 2, total="1") == ["A", "C"]
    assert await page("C", 2, total="1") == ["D"]
    assert await page("", 2, total="7") == []


# --- effects and answers ---------------------------------------------------------------------------------------------


async def intended(storage: Storage, *due: datetime) -> list[str]:
    """Effects due at these times, in the order of their ids."""
    ids = [new_id() for _ in due]
    effects = [NewEffect(i, "call", f"k{n}", "stock-A", 1, at) for n, (i, at) in enumerate(zip(ids, due, strict=True))]
    await write(storage, events=[stored("A", 1)], effects=effects)
    return ids


async def leased(storage: Storage, seconds: float = 60, limit: int = 10) -> list[str]:
    return [effect.id for effect in await storage.lease_effects(limit, seconds)]


async def test_lease_gives_due_effects_with_their_intent_once(storage: Storage) -> None:
    due, _later = await intended(storage, PAST, FUTURE)
    [effect] = await storage.lease_effects(10, 60)
    assert (effect.id, effect.kind, effect.key, effect.attempts) == (due, "call", "k0", 0)
    assert effect.intent == stored("A", 1)
    assert await leased(storage) == []


async def test_concurrent_leases_never_share_an_effect(storage: Storage) -> None:
    ids = await intended(storage, *[PAST] * 40)
    taken = await asyncio.gather(*(leased(storage, limit=7) for _ in range(8)))
    assert sorted(i for some in taken for i in some) == sorted(ids)


async def test_effect_whose_worker_died_is_leased_again_when_the_lease_has_ended(storage: Storage) -> None:
    ids = await intended(storage, PAST)
    assert await leased(storage, seconds=0.2) == ids
    assert await leased(storage) == []

    async def again() -> list[str]:
        return await leased(storage)

    assert await eventually(lambda: _nonempty(again()), "the lease ends", 5) == ids


async def _nonempty(found: Any) -> Any:
    return await found or None


async def test_postponed_effect_waits_and_counts_the_attempt(storage: Storage) -> None:
    [effect_id] = await intended(storage, PAST)
    await leased(storage)
    await storage.postpone_effect(effect_id, 60)
    assert await leased(storage) == []
    await storage.postpone_effect(effect_id, -1)
    [effect] = await storage.lease_effects(10, 60)
    assert effect.attempts == 2


async def test_effect_is_taken_once(storage: Storage) -> None:
    [effect_id] = await intended(storage, PAST)
    for expected in ({effect_id}, set()):
        async with storage.transaction() as tx:
            assert await tx.take_effects([effect_id, new_id()]) == expected
    assert await leased(storage) == []
    await storage.postpone_effect(effect_id, -1)
    assert await leased(storage) == []


async def test_answer_is_kept_and_a_second_one_under_its_key_conflicts(storage: Storage) -> None:
    await write(storage, answers={"key": StoredAnswer(b"h", b"a")})
    async with storage.transaction() as tx:
        assert await tx.answers(["key", "other"]) == {"key": StoredAnswer(b"h", b"a")}
    with pytest.raises(VersionConflict):
        await write(storage, answers={"key": StoredAnswer(b"h", b"b")})


async def test_answers_are_forgotten_when_their_time_is_over(storage: Storage) -> None:
    await write(storage, answers={"key": StoredAnswer(b"h", b"a")})
    assert await storage.forget_answers((datetime.now(UTC) - AT).total_seconds() + 3600) == 0
    assert await storage.forget_answers((datetime.now(UTC) - AT).total_seconds() - 3600) == 1
    async with storage.transaction() as tx:
        assert await tx.answers(["key"]) == {}


async def test_lease_is_for_one_holder_until_its_time_is_over(storage: Storage) -> None:
    assert await storage.hold_lease("relay", "one", 0.3)
    assert not await storage.hold_lease("relay", "two", 60)
    assert await storage.hold_lease("other", "two", 60)
    assert await storage.hold_lease("relay", "one", 0.3), "the holder renews"

    async def taken() -> bool:
        return await storage.hold_lease("relay", "two", 60)

    await eventually(taken, "the lease ends by itself", 5)
    assert not await storage.hold_lease("relay", "one", 60)


async def test_lease_is_let_go_by_its_holder_only(storage: Storage) -> None:
    assert await storage.hold_lease("relay", "one", 60)
    await storage.drop_lease("relay", "two")
    assert not await storage.hold_lease("relay", "two", 60)
    await storage.drop_lease("relay", "one")
    assert await storage.hold_lease("relay", "two", 60)


# --- parked keys -----------------------------------------------------------------------------------------------------


async def waiting(storage: Storage, key: bytes = b"O1", limit: int = 10) -> list[ParkedRecord]:
    async with storage.transaction() as tx:
        return list(await tx.parked_records(ME, P0.topic, key, limit))


async def test_parked_records_wait_in_order_of_stream_and_version(storage: Storage) -> None:
    second, first, other = parked(4, version=3), parked(5, version=2), parked(6, b"O2")
    await write(storage, parked=[second, first, other])
    async with storage.transaction() as tx:
        keys = await tx.parked_keys(ME, [(P0.topic, b"O1"), (P0.topic, b"O3"), (P1.topic, b"O2")])
    assert keys == {(P0.topic, b"O1"), (P0.topic, b"O2")}
    assert await waiting(storage) == [first, second]
    assert await waiting(storage, limit=1) == [first]
    assert await waiting(storage, b"O3") == []


async def test_key_is_parked_until_its_last_record_has_left(storage: Storage) -> None:
    records = [parked(4, version=2), parked(5, version=3)]
    await write(storage, parked=records)
    for left in (1, 0):
        await write(storage, unparked=[records.pop(0)])
        assert len(await waiting(storage)) == left
        async with storage.transaction() as tx:
            assert len(await tx.parked_keys(ME, [(P0.topic, b"O1")])) == left
    figures = await storage.figures()
    assert (figures["parked_keys"], figures["parked_records"]) == (0, 0)


async def test_key_heals_only_when_the_version_that_its_gap_misses_has_come(storage: Storage) -> None:
    async def healed() -> list[tuple[str, bytes]]:
        return list(await storage.healed_keys(ME))

    gap = "gap: order-O1 at 3 after 1"
    await write(storage, seen={"order-O1": 1}, parked=[parked(4, version=3, reason=gap)])
    await write(storage, parked=[parked(5, version=1, reason="behind", stream_id="order-O1x")])
    await write(storage, parked=[parked(6, b"O2", reason="value: bad")])
    assert await healed() == []
    await write(storage, parked=[parked(7, version=2, reason="behind")])
    assert await healed() == [(P0.topic, b"O1")]


@pytest.mark.integration
async def test_release_and_arrival_of_one_key_wait_for_each_other(postgres: PostgresStorage, onlooker: str) -> None:
    """The key's row is the lock: a record that arrives during a release sees the key either parked or done."""
    await write(postgres, parked=[parked(4)])
    locked, finish = asyncio.Event(), asyncio.Event()

    async def releasing() -> None:
        async with postgres.transaction() as tx:
            await tx.parked_records(ME, P0.topic, b"O1", 10)
            await tx.write(Changes(now=AT, consumer=ME, unparked=[parked(4)]))
            locked.set()
            await finish.wait()

    async def arriving() -> set[tuple[str, bytes]]:
        async with postgres.transaction() as tx:
            return await tx.parked_keys(ME, [(P0.topic, b"O1")])

    release = asyncio.create_task(releasing())
    await locked.wait()
    arrival = asyncio.create_task(arriving())
    await waits_or_ends(onlooker, arrival)
    assert not arrival.done(), "the arrival did not wait for the release"
    finish.set()
    await release
    assert await arrival == set()


# --- operator --------------------------------------------------------------------------------------------------------


async def test_figures_say_what_is_open(storage: Storage) -> None:
    await intended(storage, PAST, FUTURE)
    await write(storage, heads=[head("B", 1, existed=False, due_at=PAST)], parked=[parked(1), parked(2)])
    figures = await storage.figures()
    assert {name: figures[name] for name in figures if not name.endswith("_seconds")} == {
        "outbox_pending": 1,
        "parked_keys": 1,
        "parked_records": 2,
        "effects_open": 2,
        "effects_due": 1,
        "wakes_due": 1,
    }
    waiting = ("parked_oldest_age_seconds", "effects_late_seconds", "wakes_late_seconds")
    assert all(figures[name] > 0 for name in waiting), figures


async def test_what_is_due_later_is_not_late(storage: Storage) -> None:
    await intended(storage, FUTURE)
    await write(storage, heads=[head("B", 1, existed=False, due_at=FUTURE)])
    figures = await storage.figures()
    assert (figures["effects_late_seconds"], figures["wakes_late_seconds"]) == (0, 0)


async def test_rows_of_a_view_are_counted_by_a_column(storage: Storage) -> None:
    assert await storage.count_rows("tally", "total") == {}
    totals = {"A": 1, "B": 1, "C": 2}
    await write(storage, views=[view(key, f'{{"total": {n}}}', existed=False) for key, n in totals.items()])
    assert await storage.count_rows("tally", "total") == {"1": 2, "2": 1}


@pytest.mark.integration
@pytest.mark.parametrize(
    "broken",
    [
        {"stream_version": 1 << 31},
        {"stream_id": "order-\x00"},
        {"event_id": "no uuid"},
        {"schema_version": 1 << 15},
    ],
    ids=lambda broken: next(iter(broken)),
)
async def test_value_that_no_column_holds_is_the_datas_fault(postgres: PostgresStorage, broken: dict[str, Any]) -> None:
    """Taken for an outage it would be repeated for ever, and its partition would stand still without a word."""
    event = stored("A", 1)
    with pytest.raises(DataFault):
        await write(postgres, events=[event._replace(envelope=replace(event.envelope, **broken))])


@pytest.mark.integration
async def test_heads_are_locked_in_order_so_that_crossing_batches_never_deadlock(postgres: PostgresStorage) -> None:
    skus = [f"S{n}" for n in range(20)]
    await write(postgres, heads=[head(sku, 1, existed=False) for sku in skus])

    @asynccontextmanager
    async def batch(order: list[str]) -> Any:
        async with postgres.transaction() as tx:
            await tx.lock_heads([f"stock-{sku}" for sku in order])
            yield tx

    async def worker(order: list[str]) -> None:
        for _ in range(20):
            async with batch(order) as tx:
                await tx.write(Changes(now=AT, heads=[head(sku, 2, existed=True) for sku in order]))

    await asyncio.gather(*(worker(order) for order in (skus, skus[::-1], skus[7:], skus[:-5][::-1])))


@pytest.mark.integration
async def test_heads_are_locked_one_after_the_other_in_order_of_id(postgres: PostgresStorage, onlooker: str) -> None:
    """Whatever order they lie in and were asked in: who waits for B has locked A by then, and not yet C."""
    for sku in "CBA":
        await write(postgres, heads=[head(sku, 1, existed=False)])

    async def lock(*skus: str) -> None:
        async with postgres.transaction() as tx:
            await tx.lock_heads([f"stock-{sku}" for sku in skus])

    async with postgres.transaction() as tx:
        await tx.lock_heads(["stock-B"])
        waiting = asyncio.create_task(lock("C", "B", "A"))
        await waits_or_ends(onlooker, waiting)
        assert not waiting.done()
        async with asyncio.timeout(5):
            await lock("C")
        behind = asyncio.create_task(lock("A"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(behind, 0.3)
    await waiting


@pytest.mark.integration
async def test_effect_whose_answer_is_being_recorded_is_neither_leased_nor_waited_for(
    postgres: PostgresStorage,
) -> None:
    [effect_id] = await intended(postgres, PAST)
    with suppress(ZeroDivisionError):
        async with postgres.transaction() as tx:
            assert await tx.take_effects([effect_id]) == {effect_id}
            async with asyncio.timeout(5):
                assert await asyncio.gather(leased(postgres), leased(postgres)) == [[], []]
            raise ZeroDivisionError
    taken = await asyncio.gather(leased(postgres), leased(postgres))
    assert sorted(taken) == [[], [effect_id]], "the answer was not recorded after all"
