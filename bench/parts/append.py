"""Appending and loading through the storage port, as batches do."""

import asyncio
import time
from collections.abc import Sequence
from itertools import islice

import asyncpg

from bench.parts.bed import Bed, new_events
from libs.events.codec import decode
from libs.runtime.storage import Changes, NewHead, StoredEvent

_EACH = 2
"""Transactions of each writer at a time: one alone would always end with the others waiting for it."""


async def append_rate(bed: Bed, size: int, seconds: float, writers: int = 1) -> float:
    """Events a second, `size` of them a transaction: with heads and outbox pointers, two events a stream.

    A service has two writers: its consumer, and the group commit of requests, wakes and answers.
    """
    events, written, spent = new_events(bed), 0, 0.0
    while spent < seconds:
        # Made before the clock runs: making them costs as much as a third of writing.
        batches = [_batch(list(islice(events, size))) for _ in range(_EACH * writers)]
        began = time.monotonic()
        await asyncio.gather(*(_append(bed, batches[writer::writers]) for writer in range(writers)))
        spent += time.monotonic() - began
        written += size * len(batches)
    await _forget(bed)
    return written / spent


Batch = tuple[list[NewHead], list[StoredEvent]]


def _batch(events: list[StoredEvent]) -> Batch:
    last = {event.envelope.stream_id: event.envelope.stream_version for event in events}
    first = {event.envelope.stream_id: event.envelope.stream_version for event in reversed(events)}
    return [NewHead(stream, version, first[stream] > 1, None) for stream, version in last.items()], events


async def _append(bed: Bed, batches: Sequence[Batch]) -> None:
    for heads, events in batches:
        async with bed.storage.transaction() as tx:
            await tx.write(Changes(now=await tx.now(), heads=heads, events=events))


async def load_rate(bed: Bed, seconds: float, streams: int = 500) -> float:
    """Streams a second, loaded and decoded by 500; of the filling, where there is one."""
    await bed.fill_to(streams * len(bed.rows.events), lambda _: None)
    wanted, loaded, number = bed.storage, 0, 0
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        # every so many-th, so that they lie far from each other
        ids = [bed.filled_stream("order", (number + place * 7919) % bed.filled) for place in range(streams)]
        async with wanted.transaction() as tx:
            heads = await tx.read_heads(sorted(set(ids)))
            events = await tx.load_events(dict.fromkeys(heads, 0))
        for event in events:
            decode(event.envelope.event_type, event.envelope.schema_version, event.data)
        loaded += len(heads)
        number += 1
    return loaded / (time.monotonic() - began)


async def _forget(bed: Bed) -> None:
    """An empty store is empty again; to a filled one, what was appended makes no difference."""
    connection = await asyncpg.connect(bed.settings.postgres_owner_dsn)
    try:
        await connection.execute("TRUNCATE outbox" if bed.filled else "TRUNCATE outbox, events, stream_head")
    finally:
        await connection.close()
