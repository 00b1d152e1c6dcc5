"""The floor: one service's share of the journey by the barest code that keeps the guarantees.

The same records, headers, rows and indexes as the product's, in the same shape: a consumer whose position and `seen`
commit with what it writes, heads locked before the append, an outbox and its relay, calls to the outside as rows. No
domain, no models, no state: an event's bytes are those of a recorded order, views are rows of bytes as large as ours.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from bench.floor_template import Template
from bench.rig import SKUS

RECORDS, POINTERS = 500, 1_000
Made = tuple[int, int]
"""An order's number and a step's."""
Answer = tuple[list[Made], UUID | None]
"""What the outside makes happen, and the row of the call that asked for it."""


@dataclass
class FloorService:
    name: str
    pool: asyncpg.Pool
    consumer: AIOKafkaConsumer
    producer: AIOKafkaProducer
    template: Template

    def __post_init__(self) -> None:
        self._steps = self.template.steps
        self._called: asyncio.Queue[Answer] = asyncio.Queue()
        self._written = asyncio.Event()

    async def run(self, topics: Sequence[str]) -> None:
        partitions = [TopicPartition(topic, number) for topic in topics for number in range(6)]
        self.consumer.assign(partitions)
        async with self.pool.acquire() as connection:
            await connection.executemany(
                "INSERT INTO consumer_position VALUES ('floor', $1, $2, 0) ON CONFLICT DO NOTHING",
                [(partition.topic, partition.partition) for partition in partitions],
            )
            for row in await connection.fetch("SELECT topic, partition, next_offset FROM consumer_position"):
                self.consumer.seek(TopicPartition(row["topic"], row["partition"]), row["next_offset"])
        loops = [self._consume()]
        if self.name != "tracking":
            loops += [self._relay(), self._answer()]
        await asyncio.gather(*loops)

    async def _consume(self) -> None:
        while True:
            fetched = await self.consumer.getmany(timeout_ms=200, max_records=RECORDS)
            if fetched:
                async with self.pool.acquire() as connection, connection.transaction():
                    later = await self._heard(connection, fetched)
                self._after_commit(later)

    async def _heard(self, connection: Any, fetched: dict[TopicPartition, list[Any]]) -> list[Any]:
        places = sorted(fetched)
        rows = await connection.fetch(
            """SELECT topic, partition, next_offset FROM consumer_position WHERE (topic, partition) IN
               (SELECT * FROM unnest($1::text[], $2::int[])) ORDER BY topic, partition FOR UPDATE""",
            [place.topic for place in places],
            [place.partition for place in places],
        )
        for row in rows:
            place = TopicPartition(row["topic"], row["partition"])
            assert fetched[place][0].offset == row["next_offset"], "fenced"
        records = [record for place in places for record in fetched[place]]
        heads = [dict(record.headers) for record in records]
        streams = [head["ce_subject"].decode() if "ce_subject" in head else "" for head in heads]
        seen = dict(
            await connection.fetch(
                "SELECT stream_id, stream_version FROM seen WHERE consumer = 'floor' AND stream_id = ANY($1)",
                sorted(set(streams)),
            )
        )
        fresh: list[tuple[Made, str, int]] = []
        for head, stream in zip(heads, streams, strict=True):
            order, _, step = head["floor"].partition(b":")
            version = int(head["ce_aggregateversion"]) if stream else 0
            if stream and version <= seen.get(stream, 0):
                continue
            if stream:
                seen[stream] = version
            fresh.append(((int(order), int(step)), stream, version))
        later = await self._react(connection, fresh)
        if heard := {stream: version for _, stream, version in fresh if stream}:
            await connection.execute(
                """INSERT INTO seen SELECT 'floor', * FROM unnest($1::text[], $2::int[]) ON CONFLICT
                   (consumer, stream_id) DO UPDATE SET stream_version = EXCLUDED.stream_version""",
                *zip(*sorted(heard.items()), strict=True),
            )
        await connection.execute(
            """UPDATE consumer_position p SET next_offset = c.next_offset
               FROM unnest($1::text[], $2::int[], $3::bigint[]) AS c(topic, partition, next_offset)
               WHERE p.topic = c.topic AND p.partition = c.partition""",
            [place.topic for place in places],
            [place.partition for place in places],
            [fetched[place][-1].offset + 1 for place in places],
        )
        return later

    async def _react(self, connection: Any, fresh: Sequence[tuple[Made, str, int]]) -> list[Any]:
        if self.name == "tracking":
            await self._insert(connection, [(made, stream, version) for made, stream, version in fresh], outbox=False)
            await self._views(connection, [made for made, _, _ in fresh])
            completed = [order for (order, step), _, _ in fresh if step == self.template.last]
            await connection.execute("INSERT INTO floor_completed SELECT * FROM unnest($1::int[])", completed)
            return []
        made = [
            (order, follower)
            for (order, step), _, _ in fresh
            for follower in self.template.followers.get((self.name, step), ())
        ]
        return await self._append(connection, made)

    async def _append(self, connection: Any, made: Sequence[Made]) -> list[Answer]:
        """Events, heads, views and effects; says which steps the outside will make follow."""
        if not made:
            return []
        streams = [self._stream(order, step) for order, step in made]
        rows = await connection.fetch(
            "SELECT stream_id, stream_version FROM stream_head WHERE stream_id = ANY($1) ORDER BY stream_id FOR UPDATE",
            sorted(set(streams)),
        )
        known = dict(rows)
        version = defaultdict(int, known)
        placed = []
        for one, stream in zip(made, streams, strict=True):
            version[stream] += 1
            placed.append((one, stream, version[stream]))
        await self._insert(connection, placed, outbox=True)
        new = sorted(set(streams) - known.keys())
        await connection.execute(
            "INSERT INTO stream_head (stream_id, stream_version) SELECT * FROM unnest($1::text[], $2::int[])",
            new,
            [version[stream] for stream in new],
        )
        old = sorted(set(streams) & known.keys())
        await connection.execute(
            """UPDATE stream_head h SET stream_version = n.stream_version
               FROM unnest($1::text[], $2::int[]) AS n(stream_id, stream_version) WHERE h.stream_id = n.stream_id""",
            old,
            [version[stream] for stream in old],
        )
        await self._views(connection, made)
        return await self._effects(connection, made)

    async def _insert(self, connection: Any, placed: Sequence[tuple[Made, str, int]], *, outbox: bool) -> None:
        steps = [self._steps[step] for (_, step), _, _ in placed]
        insert = """INSERT INTO events (stream_id, stream_version, event_id, event_type, schema_version, data,
                metadata, recorded_at)
            SELECT * FROM unnest($1::text[], $2::int[], $3::uuid[], $4::text[], $5::smallint[], $6::bytea[],
                $7::bytea[], $8::timestamptz[])"""
        if outbox:
            insert = f"WITH e AS ({insert} RETURNING global_position) INSERT INTO outbox SELECT * FROM e"
        now = datetime.now(UTC)
        await connection.execute(
            insert,
            [stream for _, stream, _ in placed],
            [version for _, _, version in placed],
            [UUID(int=order << 64 | step) for (order, step), _, _ in placed],
            [step.event_type for step in steps],
            [step.schema_version for step in steps],
            [step.data for step in steps],
            [step.metadata for step in steps],
            [now] * len(placed),
        )

    async def _views(self, connection: Any, made: Sequence[Made]) -> None:
        """Each row that the batch changes, once: read under a lock, then written whole."""
        places = sorted(
            {
                (view, key.format(order=order, sku=order % SKUS))
                for order, step in made
                for view, key in self.template.views[self.name, step]
            }
        )
        names = [[view for view, _ in places], [key for _, key in places]]
        await connection.fetch(
            """SELECT data FROM floor_view JOIN unnest($1::text[], $2::text[]) AS k(view, key) USING (view, key)
               ORDER BY view, key FOR UPDATE OF floor_view""",
            *names,
        )
        await connection.execute(
            """INSERT INTO floor_view SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[])
               ON CONFLICT (view, key) DO UPDATE SET data = EXCLUDED.data""",
            *names,
            [self.template.view_bytes[f"{self.name}/{view}"] for view, _ in places],
        )

    async def _effects(self, connection: Any, made: Sequence[Made]) -> list[Answer]:
        later: list[Answer] = []
        for order, step in made:
            for first, steps in self.template.answers.get((self.name, step), {}).items():
                is_effect = self._steps[first].called == "effect"
                answer = [(order, number) for number in steps]
                later.append((answer, UUID(int=order << 64 | first) if is_effect else None))
        ids = [effect for _, effect in later if effect is not None]
        await connection.execute(
            """INSERT INTO effect (id, kind, key, stream_id, stream_version, due_at)
               SELECT id, 'floor', id::text, '', 1, now() FROM unnest($1::uuid[]) AS e(id)""",
            ids,
        )
        return later

    def _after_commit(self, later: Sequence[Answer]) -> None:
        self._written.set()
        for one in later:
            self._called.put_nowait(one)

    async def _answer(self) -> None:
        """The outside says yes at once: whatever has come by now is one transaction."""
        while True:
            batch = [await self._called.get()]
            while len(batch) < RECORDS and not self._called.empty():
                batch.append(self._called.get_nowait())
            async with self.pool.acquire() as connection, connection.transaction():
                ids = [effect for _, effect in batch if effect is not None]
                await connection.execute("DELETE FROM effect WHERE id = ANY($1)", ids)
                later = await self._append(connection, [made for answer, _ in batch for made in answer])
            self._after_commit(later)

    async def _relay(self) -> None:
        while True:
            self._written.clear()
            rows = await self.pool.fetch(
                "SELECT global_position FROM outbox ORDER BY global_position LIMIT $1", POINTERS
            )
            if not rows:
                await self._written.wait()
                continue
            positions = [row["global_position"] for row in rows]
            events = await self.pool.fetch(
                """SELECT stream_id, stream_version, event_id, data FROM events WHERE global_position = ANY($1)
                   ORDER BY global_position""",
                positions,
            )
            by_partition: dict[tuple[str, int], Any] = {}
            for stream, version, event_id, data in events:
                order, number = event_id.int >> 64, event_id.int & (1 << 64) - 1
                step = self._steps[number]
                spread = order % SKUS if step.stream.startswith("stock") else order
                place = (step.topic, spread % 6)
                batch = by_partition.get(place) or by_partition.setdefault(place, self.producer.create_batch())
                headers = [
                    *step.headers,
                    ("ce_subject", stream.encode()),
                    ("ce_aggregateversion", str(version).encode()),
                    ("floor", f"{order}:{number}".encode()),
                ]
                batch.append(key=f"{spread:036d}".encode(), value=data, timestamp=None, headers=headers)
            for batch in by_partition.values():
                batch.close()
            sent = [
                await self.producer.send_batch(batch, topic, partition=number)
                for (topic, number), batch in by_partition.items()
            ]
            await asyncio.gather(*sent)
            await self.pool.execute("DELETE FROM outbox WHERE global_position = ANY($1)", positions)

    def _stream(self, order: int, step: int) -> str:
        return self._steps[step].stream.format(order=order, sku=order % SKUS)
