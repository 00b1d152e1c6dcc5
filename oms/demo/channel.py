"""The sales channels' side: publishes the day's messages at a steady pace and notes when each order was placed."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer

from libs.events.topics import CHANNEL_ORDERS
from oms.demo.plan import Message


@dataclass(slots=True)
class Journal:
    """When each order was handed to the producer, in seconds since 1970; and what Kafka has acknowledged."""

    placed_at: dict[str, float] = field(default_factory=dict)
    acknowledged: int = 0


async def publish(bootstrap: str, messages: Sequence[Message], pace: float, journal: Journal) -> None:
    """`pace` messages a second, each one no earlier than its turn. Returns when Kafka has acknowledged them all."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, enable_idempotence=True, acks="all", max_request_size=2 << 20
    )
    await producer.start()
    try:
        loop = asyncio.get_running_loop()
        began = loop.time()
        turns = [(began + turn / pace + message.after, message) for turn, message in enumerate(messages)]
        async with asyncio.TaskGroup() as sending:
            for at, message in sorted(turns, key=lambda turn: turn[0]):
                if (wait := at - loop.time()) > 0:
                    await asyncio.sleep(wait)
                sending.create_task(_send(producer, message, journal))
                await asyncio.sleep(0)  # the send of this one begins before that of the next: a key keeps its order
    finally:
        await producer.stop()


async def _send(producer: AIOKafkaProducer, message: Message, journal: Journal) -> None:
    journal.placed_at.setdefault(message.order_id, time.time())
    await producer.send_and_wait(CHANNEL_ORDERS.name, message.value, message.key, headers=message.headers)
    journal.acknowledged += 1
