"""Gathers the evidence: raw rows by asyncpg, raw records by aiokafka, ledgers and contracts by HTTP."""

import asyncio
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.faults.oracle.history import (
    CHANNEL_TOPIC,
    LISTENERS,
    MARK,
    OWN_TOPICS,
    OWNERS,
    READ_HEADERS,
    Counters,
    Fact,
    Head,
    History,
    Parked,
    Sent,
)

SIMULATORS = ("psp", "carrier", "warehouse")
TOPICS = (CHANNEL_TOPIC, *OWN_TOPICS)


@dataclass(frozen=True)
class Places:
    """Where the evidence lies: direct addresses, past any proxy."""

    dsns: Mapping[str, str]
    urls: Mapping[str, str]
    kafka: str


async def collect(places: Places) -> History:
    """Everything but the journal, the samples and the rebuild, which others bring."""
    order = await asyncpg.connect(places.dsns["order"], timeout=10)
    try:
        history = History(now=await order.fetchval("SELECT clock_timestamp()"))
    finally:
        await order.close()
    for service in LISTENERS:
        await _database(places.dsns[service], service, history)
    await _topics(places.kafka, history)
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        for simulator in SIMULATORS:
            history.ledgers[simulator] = await _paged(client, f"{places.urls[simulator]}/ledger")
        history.balances = await _paged(client, f"{places.urls['psp']}/ledger/balances")
        history.attempts = await attempts(client, places)
        for service in LISTENERS:
            history.openapi[service] = (await client.get(f"{places.urls[service]}/openapi.json")).json()
    return history


async def attempts(client: httpx.AsyncClient, places: Places) -> dict[str, int]:
    return {
        simulator: (await client.get(f"{places.urls[simulator]}/ledger/summary")).json()["attempts"]["requests"]
        for simulator in SIMULATORS
    }


async def _paged(client: httpx.AsyncClient, url: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page = (await client.get(url, params={"after": after, "limit": 1000})).json()
        rows += page["rows"]
        after = page["next_after"]
    return rows


async def _database(dsn: str, service: str, history: History) -> None:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await _rows(connection, service, history)
    finally:
        await connection.close()


async def _rows(connection: Any, service: str, history: History) -> None:
    events = await connection.fetch("SELECT * FROM events ORDER BY global_position")
    if service in OWNERS:
        history.facts[service] = [_fact(service, row) for row in events]
        history.heads[service] = [
            Head(row["stream_id"], row["stream_version"], row["due_at"])
            for row in await connection.fetch("SELECT stream_id, stream_version, due_at FROM stream_head")
        ]
        history.outbox[service] = {row[0] for row in await connection.fetch("SELECT global_position FROM outbox")}
        history.effects[service] = await connection.fetchval("SELECT count(*) FROM effect")
    else:
        history.heard = {(row["stream_id"], row["stream_version"]): bytes(row["data"]) for row in events}
    positions = await connection.fetch("SELECT * FROM consumer_position")
    history.counters[service] = {
        (row["topic"], row["partition"]): Counters(*(row[name] for name in Counters._fields)) for row in positions
    }
    history.seen[service] = {
        row["stream_id"]: row["stream_version"] for row in await connection.fetch("SELECT * FROM seen")
    }
    history.parked[service] = [
        Parked(row["topic"], row["partition"], row["record_offset"], bytes(row["key"]), row["reason"])
        for row in await connection.fetch("SELECT * FROM parked_record")
    ]
    history.operator += [
        (service, row["action"], row["topic"])
        for row in await connection.fetch("SELECT action, topic FROM operator_action ORDER BY id")
    ]
    history.views[service] = await read_views(connection)


def _fact(service: str, row: Any) -> Fact:
    return Fact(
        service=service,
        position=row["global_position"],
        stream=row["stream_id"],
        version=row["stream_version"],
        id=str(row["event_id"]),
        type=row["event_type"],
        raw=bytes(row["data"]),
        meta=json.loads(row["metadata"]),
        recorded_at=row["recorded_at"],
    )


async def read_views(connection: Any) -> dict[str, dict[str, Any]]:
    """Every view table as it stands: view, key, document."""
    tables = await connection.fetch(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_name LIKE 'view\\_%'"
        " AND table_type = 'BASE TABLE' ORDER BY 1"
    )
    views: dict[str, dict[str, Any]] = {}
    for (table,) in tables:
        rows = await connection.fetch(f"SELECT key, data FROM {table}")
        views[table.removeprefix("view_")] = {row["key"]: json.loads(row["data"]) for row in rows}
    return views


async def _topics(bootstrap: str, history: History) -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        client_id=f"oracle-{uuid.uuid4().hex[:6]}",
        fetch_max_bytes=8 * 2**20,
        max_partition_fetch_bytes=4 * 2**20,
    )
    await consumer.start()
    try:
        places = [
            TopicPartition(topic, number)
            for topic in TOPICS
            for number in sorted(consumer.partitions_for_topic(topic) or await _partitions(consumer, topic))
        ]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        history.ends = {(place.topic, place.partition): end for place, end in ends.items()}
        # Sought, not left to a reset: that runs in the background, and may set what was sought back to the end.
        for place, beginning in (await consumer.beginning_offsets(places)).items():
            consumer.seek(place, beginning)
        while [place for place in places if await consumer.position(place) < ends[place]]:
            for items in (await consumer.getmany(timeout_ms=500, max_records=5_000)).values():
                history.records += [
                    _sent(item) for item in items if item.offset < ends[TopicPartition(item.topic, item.partition)]
                ]
    finally:
        await asyncio.wait_for(consumer.stop(), 10)


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    await consumer._client.add_topic(topic)
    found: set[int] = consumer.partitions_for_topic(topic) or set()
    return found


async def ends(bootstrap: str) -> dict[tuple[str, int], int]:
    """Where each partition ends now."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=None)
    await asyncio.wait_for(consumer.start(), 10)
    try:
        places = [TopicPartition(topic, number) for topic in TOPICS for number in range(6)]
        found = await asyncio.wait_for(consumer.end_offsets(places), 10)
        return {(place.topic, place.partition): end for place, end in found.items()}
    finally:
        await asyncio.wait_for(consumer.stop(), 10)


def _sent(item: Any) -> Sent:
    """With the headers that are looked at: an hour's records are to stay in memory."""
    headers = tuple((key, value) for key, value in item.headers if key in READ_HEADERS or MARK in value)
    return Sent(item.topic, item.partition, item.offset, item.key, item.value, headers)


async def positions(places: Places) -> dict[tuple[str, str, int], int]:
    """One sample of every stored position."""
    sample: dict[tuple[str, str, int], int] = {}
    for service in LISTENERS:
        connection = await asyncpg.connect(places.dsns[service], timeout=2)
        try:
            for row in await connection.fetch("SELECT topic, partition, next_offset FROM consumer_position"):
                sample[service, row["topic"], row["partition"]] = row["next_offset"]
        finally:
            await connection.close()
    return sample
