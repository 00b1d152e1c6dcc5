"""Two workers on one stream at the same time, on real PostgreSQL: nothing is sold twice, nobody is left without an
answer, and nobody waits for ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from libs.events.base import Destination
from libs.events.channel import order_id_of
from libs.events.codec import encode
from libs.events.inventory import StockReservationRejected, StockReserved
from libs.events.order import OrderReceived, RequestedLine
from libs.events.topics import CHANNEL_ORDERS, ORDER_EVENTS
from libs.runtime.event_store import PostgresStorage
from libs.runtime.handler import Handled, Handler, Request
from libs.runtime.identity import Cause, new_id
from libs.runtime.intake import Record, recorded_of
from libs.runtime.storage import Partition
from libs.testing.builders import order_placed
from libs.testing.database import database, storage_on
from libs.testing.interleaving import Watched, meeting
from libs.testing.tally import AT, TALLIES, Add, Take, TallyView, tally_service, word
from oms.cluster.cluster import LocalCluster
from services.inventory.domain.command import ReceiptLine, ReceiveStock, RegisterLocation, ReserveStock
from services.inventory.service import service as inventory_service
from services.order.service import service as order_service

pytestmark = pytest.mark.integration

P0 = Partition(ORDER_EVENTS.name, 0)
BERLIN = Destination(country="DE", lat=52.5, lon=13.4)


@pytest.fixture(scope="module")
async def inventories(servers: LocalCluster) -> AsyncIterator[list[Handler]]:
    """Two handlers of the inventory, each with a pool of its own, as in two processes."""
    async with AsyncExitStack() as stack:
        made = database(inventory_service(), servers.admin_dsn, servers.dsn("inventory"), "test_race_inventory")
        dsn = await stack.enter_async_context(made)
        storages = [await stack.enter_async_context(storage_on(dsn)) for _ in range(2)]
        yield [Handler(inventory_service(), storage, snapshot_every=7) for storage in storages]


def request(command: Any) -> Request:
    return Request(command=command, cause=Cause(causation_id=new_id(), at=AT))


def reserve(number: int, *skus: str) -> ReserveStock:
    lines = tuple(RequestedLine(line_id=sku, sku=sku, qty=1) for sku in skus)
    return ReserveStock(f"O{number}-r1", f"O{number}", f"res:O{number}:1", lines, "ALLOW", BERLIN, AT)


async def outcomes(storage: Any, numbers: range) -> tuple[int, int]:
    """How many of these reservations were held and how many refused."""
    found = await storage.read_streams([f"reservation-O{number}-r1" for number in numbers])
    events = [recorded.event for item in found if (recorded := recorded_of(item)) is not None]
    held = sum(isinstance(event, StockReserved) for event in events)
    refused = sum(isinstance(event, StockReservationRejected) for event in events)
    assert held + refused == len(events) == len(numbers), "an answer is missing, or stands twice"
    return held, refused


async def prepared(handler: Handler, stock: int, *skus: str) -> None:
    lines = tuple(ReceiptLine(sku, "berlin", stock) for sku in skus)
    location = RegisterLocation("berlin", "Berlin", "DE", 52.5, 13.4)
    answers = await handler.handle_requests([request(location), request(ReceiveStock(f"PO-{skus[0]}", lines))])
    assert [answer.code for answer in answers] == ["", ""]


async def test_two_batches_on_one_sku_never_oversell(inventories: list[Handler]) -> None:
    one, two = inventories
    for round_ in range(25):
        sku, numbers = f"HOT-{round_}", range(round_ * 100, round_ * 100 + 40)
        await prepared(one, 30, sku)
        batches = [[request(reserve(number, sku)) for number in numbers[start::4]] for start in range(4)]
        await asyncio.gather(
            *(handler.handle_requests(batch) for handler, batch in zip([one, two, one, two], batches, strict=True))
        )
        assert await outcomes(one.storage, numbers) == (30, 10)


async def test_batches_over_crossing_skus_neither_deadlock_nor_oversell(inventories: list[Handler]) -> None:
    """Each order wants three of five SKUs, in an order of its own: heads are locked sorted, whatever was asked."""
    storage, skus, stock = inventories[0].storage, [f"X{n}" for n in range(5)], 30
    await prepared(inventories[0], stock, *skus)
    numbers = range(10_000, 10_120)
    requests = []
    for number in numbers:
        wanted = [skus[(number + step) % 5] for step in range(3)]
        requests.append(request(reserve(number, *(wanted if number % 2 else wanted[::-1]))))
    async with asyncio.timeout(30):
        await asyncio.gather(
            *(inventories[part % 2].handle_requests(requests[part * 10 : part * 10 + 10]) for part in range(12))
        )
    held, refused = await outcomes(storage, numbers)
    assert refused > 0, "there was no want: the test shows nothing"
    by_sku = [await storage.read_streams([f"stock-{sku}"]) for sku in skus]
    counts = [sum(item.envelope.event_type.endswith(".StockHeld") for item in stored) for stored in by_sku]
    assert sum(counts) == held * 3
    assert max(counts) <= stock


async def test_lock_and_read_in_one_statement_would_see_the_old_events(inventories: list[Handler]) -> None:
    """Why heads are locked in one statement and events read in the next: the forbidden way, reproduced."""
    storage = inventories[0].storage
    assert isinstance(storage, PostgresStorage)
    await prepared(inventories[0], 1, "FORBIDDEN")
    async with storage._connection() as writer, storage._connection() as reader:
        async with writer.transaction():
            await writer.execute("SELECT FROM stream_head WHERE stream_id = 'stock-FORBIDDEN' FOR UPDATE")
            await writer.execute(
                """INSERT INTO events (stream_id, stream_version, event_id, event_type, schema_version, data, metadata,
                                       recorded_at)
                   VALUES ('stock-FORBIDDEN', 2, $1, 'x', 1, '', '', now())""",
                new_id(),
            )
            await writer.execute("UPDATE stream_head SET stream_version = 2 WHERE stream_id = 'stock-FORBIDDEN'")
            both = asyncio.create_task(
                reader.fetchrow(
                    """SELECT stream_version,
                              (SELECT max(e.stream_version) FROM events e WHERE e.stream_id = h.stream_id) AS events
                       FROM stream_head h WHERE stream_id = 'stock-FORBIDDEN' FOR UPDATE"""
                )
            )
            done, _ = await asyncio.wait([both], timeout=0.3)
            assert not done, "the reader did not wait for the lock"
        row = await both
    assert (row["stream_version"], row["events"]) == (2, 1), "the new head beside the old events"


# --- a stream that does not exist yet --------------------------------------------------------------------------------


def placed(number: int, partition: int, offset: int, **fields: Any) -> Record:
    value = encode(order_placed(f"W-{number}", channel="race", **fields))
    return Record(Partition(CHANNEL_ORDERS.name, partition), offset, None, [], value, AT)


async def test_same_order_on_two_partitions_at_once_is_one_order(servers: LocalCluster) -> None:
    partitions = [Partition(CHANNEL_ORDERS.name, number) for number in (0, 1)]
    made = database(order_service(), servers.admin_dsn, servers.dsn("order"), "test_race_order")
    async with made as dsn, storage_on(dsn) as left, storage_on(dsn) as right:
        handlers = [Handler(order_service(), storage) for storage in (left, right)]
        await left.ensure_positions(handlers[0].consumer, dict.fromkeys(partitions, 0))
        for round_ in range(20):
            numbers = range(round_ * 5, round_ * 5 + 5)
            await asyncio.gather(
                *(
                    handler.handle_records([placed(number, partition, number) for number in order])
                    for partition, (handler, order) in enumerate(zip(handlers, (numbers, numbers), strict=True))
                )
            )
        ids = [order_id_of("race", f"W-{number}") for number in range(100)]
        stored = await left.read_streams([f"order-{order_id}" for order_id in ids])
        received = [item for item in stored if item.envelope.event_type.endswith(f".{OrderReceived.__name__}")]
        assert sorted(item.envelope.stream_id for item in received) == sorted(f"order-{i}" for i in ids)
        assert set((await left.ensure_positions(handlers[0].consumer, {})).values()) == {100}


# --- two that meet, in an order that is not left to chance -----------------------------------------------------------


class Pair:
    """Two processes of the tally on one database: what `one` does first is still uncommitted when `two` comes."""

    def __init__(self, dsn: str, left: PostgresStorage, right: PostgresStorage, service: Any = None) -> None:
        self.dsn, self.storage, self.sku = dsn, left, new_id()
        self.held, self.watched = Watched(left), Watched(right)
        consumer, service = f"test.{new_id()}", service or tally_service()
        self.one = Handler(service, self.held, consumer=consumer)  # type: ignore[arg-type]
        self.two = Handler(service, self.watched, consumer=consumer)  # type: ignore[arg-type]

    async def meet(self, first: Any, second: Any) -> tuple[Any, Any]:
        self.held.written.clear()
        self.watched.transactions = 0
        return await meeting(self.dsn, self.held, first, second)

    async def hear(self, *records: Record) -> Handled:
        await self.storage.ensure_positions(self.two.consumer, {P0: 0})
        return await self.two.handle_records(records)

    def told(self, version: int, does: str, qty: int, offset: int) -> Record:
        return word("O1", version, f"{does}:{self.sku}", qty, offset=offset)

    async def quantities(self) -> list[int]:
        stored = await self.storage.read_streams([f"stock-{self.sku}"])
        return [recorded.event.qty for item in stored if (recorded := recorded_of(item)) is not None]

    async def parked(self) -> tuple[int, int]:
        async with self.storage.transaction() as tx:
            keys = await tx.list_parked(self.two.consumer, ("", b""), 10)
            return len(keys), await tx.count_parked(self.two.consumer, P0.topic, b"O1")


@pytest.fixture(scope="module")
async def tallies(servers: LocalCluster) -> AsyncIterator[tuple[str, PostgresStorage, PostgresStorage]]:
    made = database(tally_service(), servers.admin_dsn, servers.dsn("inventory"), "test_race_tally")
    async with made as dsn, storage_on(dsn) as left, storage_on(dsn) as right:
        yield dsn, left, right


@pytest.fixture
def pair(tallies: tuple[str, PostgresStorage, PostgresStorage]) -> Pair:
    return Pair(*tallies)


async def test_second_owner_of_a_partition_waits_at_the_fence_and_handles_nothing_again(pair: Pair) -> None:
    await pair.two.handle_requests([request(Add(pair.sku, 100))])
    await pair.hear()
    batch = [pair.told(1, "take", 5, offset=0), pair.told(2, "take", 7, offset=1)]
    one, two = await pair.meet(pair.one.handle_records(batch), pair.two.handle_records(batch))
    assert one.counts == {"processed": 2}
    assert (two.counts, two.refused) == ({}, {P0: 2})
    assert await pair.quantities() == [100, 5, 7]


async def test_second_writer_of_a_stream_waits_and_decides_at_once_on_what_the_first_wrote(pair: Pair) -> None:
    """It does not fail and repeat: a hot stream's writers would fail more often than they may repeat."""
    await pair.two.handle_requests([request(Add(pair.sku, 10))])
    take = [request(Take(pair.sku, 6))]
    [one], [two] = await pair.meet(pair.one.handle_requests(take), pair.two.handle_requests(take))
    assert (one.code, two.code) == ("", "short")
    assert pair.watched.transactions == 1
    assert await pair.quantities() == [10, 6]


async def test_second_maker_of_a_stream_repeats_behind_the_first(pair: Pair) -> None:
    """There is no head to wait at yet: the version that is taken sends the second back."""
    [one], [two] = await pair.meet(
        pair.one.handle_requests([request(Add(pair.sku, 1))]), pair.two.handle_requests([request(Add(pair.sku, 2))])
    )
    assert (one.stream_version, two.stream_version) == (1, 2)
    assert pair.watched.transactions == 2
    assert await pair.quantities() == [1, 2]


async def test_same_request_at_two_processes_at_once_has_one_effect(pair: Pair) -> None:
    await pair.two.handle_requests([request(Add(pair.sku, 1))])
    asked = [Request(command=Add(pair.sku, 5), cause=request(None).cause, key=new_id(), body_hash=b"h")]
    one, two = await pair.meet(pair.one.handle_requests(asked), pair.two.handle_requests(asked))
    assert one == two
    assert await pair.quantities() == [1, 5]


async def test_view_row_made_of_two_streams_keeps_what_both_wrote_at_once(
    tallies: tuple[str, PostgresStorage, PostgresStorage],
) -> None:
    key, other = new_id(), new_id()
    service = tally_service()
    pair = Pair(*tallies, replace(service, projections=[replace(TALLIES, key=lambda _recorded: key)]))
    await pair.two.handle_requests([request(Add(pair.sku, 1))])
    await pair.meet(
        pair.one.handle_requests([request(Add(pair.sku, 10))]), pair.two.handle_requests([request(Add(other, 100))])
    )
    row = await pair.storage.read_view("tally", key)
    assert row is not None
    assert TallyView.model_validate_json(row.data).total == 111
    assert row.versions == {f"stock-{pair.sku}": 2, f"stock-{other}": 1}
    assert pair.watched.transactions == 1


async def healable(pair: Pair) -> None:
    """Key O1 is parked with versions 1 and 2, and nothing is wrong with them."""
    await pair.two.handle_requests([request(Add(pair.sku, 100))])
    await pair.hear(pair.told(2, "take", 2, offset=0), pair.told(1, "take", 1, offset=1))
    assert await pair.parked() == (1, 2)


async def test_record_that_arrives_during_a_release_waits_and_is_handled_behind_it(pair: Pair) -> None:
    await healable(pair)
    left, handled = await pair.meet(
        pair.one.release(P0.topic, b"O1"), pair.two.handle_records([pair.told(3, "take", 3, offset=2)])
    )
    assert (left, handled.counts) == (2, {"processed": 1})
    assert await pair.parked() == (0, 0)
    assert await pair.quantities() == [100, 1, 2, 3]


async def test_release_that_begins_while_a_record_arrives_takes_it_along(pair: Pair) -> None:
    await healable(pair)
    handled, left = await pair.meet(
        pair.one.handle_records([pair.told(3, "take", 3, offset=2)]), pair.two.release(P0.topic, b"O1")
    )
    assert (handled.counts, left) == ({"parked": 1}, 3)
    assert await pair.parked() == (0, 0)
    assert await pair.quantities() == [100, 1, 2, 3]


async def test_two_releases_of_a_key_at_once_handle_its_records_once(pair: Pair) -> None:
    await healable(pair)
    left = await pair.meet(pair.one.release(P0.topic, b"O1"), pair.two.release(P0.topic, b"O1"))
    assert left == (2, 0)
    assert await pair.parked() == (0, 0)
    assert await pair.quantities() == [100, 1, 2]
