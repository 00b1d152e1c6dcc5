"""The relay and the consumer, each alone with Kafka."""

import asyncio
import time
from itertools import islice

from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.parts.bed import Bed, new_events
from libs.runtime.consumer import Consumer
from libs.runtime.handler import Handler
from libs.runtime.relay import KafkaPublisher, Relay
from libs.runtime.storage import Changes, NewHead

_START_SECONDS = 15.0


async def relay_rate(bed: Bed, events: int) -> float:
    """Events a second from a full outbox to Kafka's acknowledgement."""
    storage, stream = bed.storage, new_events(bed)
    for _ in range(events // 500):
        batch = list(islice(stream, 500))
        heads = {event.envelope.stream_id: event.envelope.stream_version for event in batch}
        async with storage.transaction() as tx:
            new = [NewHead(stream_id, version, False, None) for stream_id, version in heads.items()]
            await tx.write(Changes(now=await tx.now(), heads=new, events=batch))
    publisher = KafkaPublisher(bed.settings)
    relay = Relay(bed.name, storage, publisher, bed.settings)
    await publisher.start()
    published, began = 0, time.monotonic()
    while done := await relay.publish():
        published += done
    rate = published / (time.monotonic() - began)
    await publisher.close()
    return rate


async def consumer_rate(bed: Bed, seconds: float) -> float:
    """Records a second from Kafka into tracking's log and views: of what its topics hold, so many seconds' worth."""
    topics = [topic.name for topic in bed.service.subscribes]
    end = await _ends(bed, topics)
    stop = asyncio.Event()
    running = asyncio.create_task(Consumer(Handler(bed.service, bed.storage), bed.settings).run(stop))
    began = time.monotonic() + _START_SECONDS  # it joins its group, plans its statements
    first, base = 0.0, 0
    done = 0
    while done < end and time.monotonic() - (first or began) < seconds:
        await asyncio.sleep(0.05)
        if running.done():
            await running
        done = int(await bed.pool.fetchval("SELECT COALESCE(sum(next_offset), 0) FROM consumer_position"))
        if not first and done:
            first, base = time.monotonic(), done
    rate = (done - base) / (time.monotonic() - first)
    stop.set()
    await running
    return rate


async def _ends(bed: Bed, topics: list[str]) -> int:
    async with AIOKafkaConsumer(bootstrap_servers=bed.settings.kafka_bootstrap) as consumer:
        partitions = [TopicPartition(topic, number) for topic in topics for number in range(6)]
        return sum((await consumer.end_offsets(partitions)).values())
