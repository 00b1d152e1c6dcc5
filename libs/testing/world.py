"""The whole system in one process: real services, handlers and relays; Kafka as lists; one clock; every fault a move.

A move is one step of one part (a relay sends, a consumer takes a batch, a call is made, a stream is woken), so that a
test decides who goes next and what breaks. `rest` then lets all of them go on fairly until nothing is left to do.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from libs.events.envelope import Recorded, to_headers
from libs.events.topics import TOPICS
from libs.runtime.decider import Wake
from libs.runtime.effect import Effect, GatewayUnavailable
from libs.runtime.handler import Answer, Handler, Request
from libs.runtime.identity import Cause
from libs.runtime.intake import Record, recorded_of
from libs.runtime.relay import Relay
from libs.runtime.service import Service
from libs.runtime.settings import Settings
from libs.runtime.storage import DueEffect, Partition, StoredEvent
from libs.testing.memory import MemoryStorage, MemoryTransaction
from libs.testing.scenario import NOW

Crash = Literal["before_commit", "after_commit"]
Performed = Literal["once", "twice", "crash"]


_SETTINGS = Settings()


class Crashed(Exception):
    """The process died; what it had committed stays."""


class Unacknowledged(Exception):
    """Kafka has the records, and the relay does not know."""


@dataclass
class Clock:
    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        self.now += by


class FragileStorage(MemoryStorage):
    """The next transaction dies as `crash` says."""

    crash: Crash | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryTransaction]:
        crash, self.crash = self.crash, None
        async with super().transaction() as tx:
            yield tx
            if crash == "before_commit":
                raise Crashed
        if crash == "after_commit":
            raise Crashed


Log = dict[Partition, list[Record]]


@dataclass
class Broker:
    """What a relay sends to. Takes so many records a partition and round; `lost` are the acknowledgements."""

    log: Log
    clock: Clock
    limit: int = 1_000
    lost: bool = False

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def send(self, partition: Partition, records: Sequence[StoredEvent]) -> int:
        taken = records[: self.limit]
        for event in taken:
            append(self.log, partition, event.key.encode(), to_headers(event.envelope), event.data, self.clock.now)
        if self.lost:
            raise Unacknowledged
        return len(taken)


def append(
    log: Log,
    partition: Partition,
    key: bytes | None,
    headers: Sequence[tuple[str, bytes]],
    value: bytes,
    at: datetime,
) -> None:
    log[partition].append(Record(partition, len(log[partition]), key, headers, value, at))


@dataclass
class Node:
    """One service with its database; `fetch` is where its consumer reads on, whatever the database says."""

    service: Service[Any]
    storage: FragileStorage
    broker: Broker
    relay: Relay
    partitions: list[Partition]
    handler: Handler = field(init=False)
    fetch: dict[Partition, int] = field(init=False)

    def __post_init__(self) -> None:
        self.fetch = dict.fromkeys(self.partitions, 0)
        self.restart()

    def restart(self) -> None:
        self.handler = Handler(self.service, self.storage, snapshot_every=5)

    def events(self) -> list[Recorded[Any]]:
        """The log of its store, decoded, in order of position."""
        decoded = (recorded_of(stored) for stored in self.storage.tables.events)
        return [recorded for recorded in decoded if recorded is not None]


class World:
    def __init__(self, services: Sequence[Service[Any]]) -> None:
        self.clock = Clock()
        self.log: Log = {Partition(topic.name, n): [] for topic in TOPICS for n in range(topic.partitions)}
        self.nodes = {service.name: self._node(service) for service in services}
        self._requests = 0

    def _node(self, service: Service[Any]) -> Node:
        storage = FragileStorage(self.clock)
        broker = Broker(self.log, self.clock)
        relay = Relay(service.name, storage, broker, _SETTINGS)
        partitions = [Partition(topic.name, n) for topic in service.subscribes for n in range(topic.partitions)]
        return Node(service, storage, broker, relay, partitions)

    async def start(self) -> None:
        for node in self.nodes.values():
            await node.storage.ensure_positions(node.handler.consumer, dict.fromkeys(node.partitions, 0))

    def publish(self, partition: Partition, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """A record of a channel."""
        append(self.log, partition, None, headers, value, self.clock.now)

    # --- who has something to do ---------------------------------------------------------------------------------

    def relaying(self) -> list[str]:
        return [name for name, node in self.nodes.items() if node.storage.tables.outbox]

    def consuming(self) -> list[str]:
        return [name for name in self.nodes if self._unread(name)]

    def calling(self) -> list[str]:
        now, nodes = self.clock.now, self.nodes.items()
        return [name for name, node in nodes if any(it.due_at <= now for it in node.storage.tables.effects.values())]

    def waking(self) -> list[str]:
        now, nodes = self.clock.now, self.nodes.items()
        return [name for name, node in nodes if any(at and at <= now for _, at in node.storage.tables.heads.values())]

    def _unread(self, name: str) -> list[Partition]:
        node = self.nodes[name]
        return [partition for partition, offset in node.fetch.items() if len(self.log[partition]) > offset]

    # --- moves ---------------------------------------------------------------------------------------------------

    async def relay(self, name: str, limit: int = 1_000, *, lost: bool = False) -> bool:
        """One round of a service's relay; says whether there was anything to send."""
        node = self.nodes[name]
        if not node.storage.tables.outbox:
            return False
        node.broker.limit, node.broker.lost = limit, lost
        try:
            await node.relay.publish()
        except Unacknowledged:
            return True
        return True

    def resend(self, pick: int, count: int) -> None:
        """A relay that thought it still held the lease sends once more what was sent long ago."""
        sent = [partition for partition, records in self.log.items() if records and records[0].key is not None]
        if sent:
            partition = sent[pick % len(sent)]
            first = pick % len(self.log[partition])
            for old in self.log[partition][first : first + count]:
                append(self.log, partition, old.key, old.headers, old.value or b"", self.clock.now)

    def rewind(self, name: str, by: int) -> None:
        """The consumer reads again what it has read: a rebalance, a reset, an owner that woke up late."""
        fetch = self.nodes[name].fetch
        for partition, offset in fetch.items():
            fetch[partition] = max(0, offset - by)

    def forget(self, name: str) -> None:
        """The books of what was handled are lost, and all is told anew: now the domain alone must know its repeats."""
        node = self.nodes[name]
        tables = node.storage.tables
        node.fetch = dict.fromkeys(node.partitions, 0)
        tables.positions = {(node.handler.consumer, partition): 0 for partition in node.partitions}
        tables.seen, tables.counts = {}, {}

    async def consume(self, name: str, pick: int = 0, limit: int = 500, crash: Crash | None = None) -> bool:
        """One batch of a service's consumer, over any partitions; says whether there was one."""
        node = self.nodes[name]
        ready = self._unread(name)
        if not ready:
            return False
        turn = pick % len(ready)
        waiting = [
            it for partition in ready[turn:] + ready[:turn] for it in self.log[partition][node.fetch[partition] :]
        ]
        batch = waiting[:limit]
        node.storage.crash = crash
        try:
            handled = await node.handler.handle_records(batch)
        except Crashed:
            node.restart()  # it reads on where it was: only the fence knows whether the batch was committed
            return True
        assert not handled.halted, handled.halted
        node.fetch |= {record.partition: record.offset + 1 for record in batch}
        node.fetch |= handled.refused
        for topic, key in handled.healed:
            await node.handler.release(topic, key)
        return True

    async def perform(self, name: str, pick: int = 0, how: Performed = "once", crash: Crash | None = None) -> bool:
        """One call to the outside; says whether one was due. `twice`: its lease had ended and another made it, too."""
        node = self.nodes[name]
        due = await node.storage.lease_effects(1_000, 0)
        if not due:
            return False
        effect = due[pick % len(due)]
        answers = [await self._called(node, effect) for _ in range(2 if how == "twice" else 1)]
        if how != "crash":
            await self.submit(name, [answer for answer in answers if answer is not None], crash)
        return True

    async def _called(self, node: Node, due: DueEffect) -> Request | None:
        effects, intent = node.service.effects, recorded_of(due.intent)
        assert effects is not None
        assert intent is not None
        try:
            command = await effects.perform(Effect(kind=due.kind, key=due.key, intent=intent.event), effects.gateway)
        except GatewayUnavailable:
            await node.storage.postpone_effect(due.id, 2.0 ** min(due.attempts, 6))
            return None
        cause = Cause(causation_id=due.id, at=intent.recorded_at, correlation_id=intent.correlation_id)
        return Request(command=command, cause=cause, effect_id=due.id)

    async def wake(self, name: str, pick: int = 0, crash: Crash | None = None) -> bool:
        due = await self.nodes[name].storage.due_streams(1_000)
        if due:
            await self.tell(name, Wake(due[pick % len(due)]), crash)
        return bool(due)

    async def tell(self, name: str, command: Any, crash: Crash | None = None, key: str = "") -> Answer:
        """A command from outside: a caller's, a callback's or a timer's."""
        self._requests += 1
        cause = Cause(causation_id=f"{name}:{self._requests}", at=self.clock.now)
        return (await self.submit(name, [Request(command=command, cause=cause, key=key)], crash))[0]

    async def submit(self, name: str, requests: Sequence[Request], crash: Crash | None = None) -> Sequence[Answer]:
        """As group commit does it: if the outcome of a commit is unknown, the same requests are made again."""
        node = self.nodes[name]
        if not requests:
            return []
        node.storage.crash = crash
        try:
            return await node.handler.handle_requests(requests)
        except Crashed:
            return await node.handler.handle_requests(requests)

    # --- rest ----------------------------------------------------------------------------------------------------

    async def rest(self, outside: Callable[[], Awaitable[bool]], rounds: int = 300) -> None:
        """Everyone in turn until nobody has anything to do. Time passes only when nothing else can move."""
        for _ in range(rounds):
            if not await self._round(outside) and not self._until_next_deadline():
                return
        raise AssertionError(f"no rest after {rounds} rounds: {self.clock.now}")

    async def _round(self, outside: Callable[[], Awaitable[bool]]) -> bool:
        busy = [*self.relaying(), *self.consuming(), *self.calling(), *self.waking()]
        for name in self.relaying():
            await self.relay(name)
        for name in self.consuming():
            await self.consume(name)
        for name in self.calling():
            await self.perform(name)
        for name in self.waking():
            await self.wake(name)
        return await outside() or bool(busy)

    def _until_next_deadline(self) -> bool:
        """What is due now and did not move is due for ever: the rounds run out over it."""
        deadlines = [
            due_at for node in self.nodes.values() for _, due_at in node.storage.tables.heads.values() if due_at
        ]
        deadlines += [effect.due_at for node in self.nodes.values() for effect in node.storage.tables.effects.values()]
        if deadlines:
            self.clock.now = max(self.clock.now, min(deadlines))
        return bool(deadlines)
