"""What leaves the outbox: what Kafka has acknowledged, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from aiokafka.errors import KafkaTimeoutError

from libs.events.codec import encode
from libs.events.inventory import StockReceived
from libs.runtime.relay import Relay
from libs.runtime.settings import Settings
from libs.runtime.storage import Changes, Partition, Storage, StoredEvent
from libs.testing.tally import AT, envelope


@dataclass
class Broker:
    """Takes `limit` records a partition and round; the partitions that it has seen first fail `failures` times."""

    limit: int = 1_000
    failures: int = 0
    failing: Partition | None = None
    waiting: list[int] = field(default_factory=list)
    taken: dict[Partition, list[StoredEvent]] = field(default_factory=dict)

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def send(self, partition: Partition, records: Sequence[StoredEvent]) -> int:
        self.failing = self.failing or partition
        if partition == self.failing and self.failures:
            self.failures -= 1
            raise KafkaTimeoutError
        self.taken.setdefault(partition, []).extend(records[: self.limit])
        return min(self.limit, len(records))


def received(sku: str, version: int) -> StoredEvent:
    event = StockReceived(sku=sku, location="main", qty=1, receipt_id="r")
    return StoredEvent(envelope(event.stream_id, version, "oms.inventory.StockReceived"), encode(event), sku)


async def outbox(storage: Storage) -> list[StoredEvent]:
    return [event for _, event in await storage.read_outbox(1_000)]


async def filled(storage: Storage) -> list[StoredEvent]:
    """Three versions each of streams in several partitions."""
    events = [received(f"S{number}", version) for version in (1, 2, 3) for number in range(9)]
    async with storage.transaction() as tx:
        await tx.write(Changes(now=AT, events=events))
    return events


async def test_partition_that_was_not_acknowledged_stays_and_the_others_leave(storage: Storage) -> None:
    events = await filled(storage)
    broker = Broker(failures=1)
    relay = Relay("inventory", storage, broker, Settings())
    with pytest.raises(KafkaTimeoutError):
        await relay.publish()
    taken = [event for some in broker.taken.values() for event in some]
    left = await outbox(storage)
    assert 0 < len(left) < len(events), "only some of the partitions failed"
    assert left == [event for event in events if event not in taken]
    assert await relay.publish() == len(left)
    assert await outbox(storage) == []


async def test_records_beyond_what_one_batch_held_stay_for_the_next_round(storage: Storage) -> None:
    events = await filled(storage)
    broker = Broker(limit=2)
    relay = Relay("inventory", storage, broker, Settings())
    rounds = 0
    while published := await relay.publish():
        rounds += 1
        taken = [event for some in broker.taken.values() for event in some]
        left = await outbox(storage)
        assert published > 0
        assert left == [event for event in events if event not in taken]
    assert rounds > 1
    for number in range(9):
        versions = [
            event.envelope.stream_version
            for some in broker.taken.values()
            for event in some
            if event.key == f"S{number}"
        ]
        assert versions == [1, 2, 3]


class Looks(Broker):
    """Looks at the outbox in the middle of a send."""

    storage: Storage

    async def send(self, partition: Partition, records: Sequence[StoredEvent]) -> int:
        self.waiting.append(len(await outbox(self.storage)))
        return await super().send(partition, records)


async def test_nothing_leaves_the_outbox_before_it_is_acknowledged(storage: Storage) -> None:
    events = await filled(storage)
    broker = Looks()
    broker.storage = storage
    assert await Relay("inventory", storage, broker, Settings()).publish() == len(events)
    assert set(broker.waiting) == {len(events)}


async def test_second_relay_sends_nothing_while_the_first_holds_the_lease(storage: Storage) -> None:
    events = await filled(storage)
    brokers = Broker(limit=1), Broker()
    one, two = [Relay("inventory", storage, broker, Settings(lease_seconds=60)) for broker in brokers]
    assert await one.publish() > 0
    assert await two.publish() == 0
    assert brokers[1].taken == {}
    while await one.publish():
        pass
    assert sum(map(len, brokers[0].taken.values())) == len(events)
