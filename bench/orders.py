"""The orders that channels place here: prepared bytes, so that the load costs the machine as little as can be."""

import asyncio
import itertools
import random
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer

from bench.rig import SKUS
from libs.events.channel import order_id_of
from libs.events.topics import CHANNEL_ORDERS
from libs.testing.builders import order_placed, placed_line

_CHANNEL, _ID = b"the-channel", b"the-order"


def one_line() -> list[bytes]:
    """A body for each SKU, of one line; the order's own id still to be filled in."""
    return [_body(placed_line(f"SKU-{number}")) for number in range(SKUS)]


def baskets(seed: int = 1) -> list[bytes]:
    """Bodies of one to five lines, their SKUs drawn by Zipf's law: the k-th is asked for 1/k as often as the first."""
    chance = random.Random(seed)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, SKUS + 1)))
    bodies = []
    for _ in range(2_000):
        count = chance.randint(1, 5)
        skus: set[int] = set()
        while len(skus) < count:
            skus.update(chance.choices(range(SKUS), cum_weights=weights))
        bodies.append(_body(*(placed_line(f"SKU-{sku}") for sku in sorted(skus))))
    return bodies


def _body(*lines: Any) -> bytes:
    return order_placed(_ID.decode(), *lines, channel=_CHANNEL.decode()).model_dump_json().encode()


class Channel:
    """The sales channel of one run."""

    def __init__(self, producer: AIOKafkaProducer, bodies: Sequence[bytes]) -> None:
        self.name = f"run{secrets.token_hex(4)}"
        self.sent = 0
        self._producer = producer
        self._bodies = bodies

    def order_id(self, number: int) -> str:
        return order_id_of(self.name, self._external_id(number))

    def _external_id(self, number: int) -> str:
        return f"{self.name}-{number}"

    def _body(self, number: int) -> bytes:
        body = self._bodies[number % len(self._bodies)]
        return body.replace(_CHANNEL, self.name.encode()).replace(_ID, self._external_id(number).encode())

    async def place(self, count: int) -> None:
        """Publishes the next `count` orders, one record batch a partition."""
        numbers: Iterator[int] = iter(range(self.sent, self.sent + count))
        self.sent += count
        while chunk := list(itertools.islice(numbers, 500)):
            parts = [chunk[partition :: CHANNEL_ORDERS.partitions] for partition in range(CHANNEL_ORDERS.partitions)]
            await asyncio.gather(*(self._send(partition, part) for partition, part in enumerate(parts) if part))

    async def _send(self, partition: int, numbers: Sequence[int]) -> None:
        batch = self._producer.create_batch()
        for number in numbers:
            taken = batch.append(key=None, value=self._body(number), timestamp=None)
            assert taken is not None
        batch.close()
        await (await self._producer.send_batch(batch, CHANNEL_ORDERS.name, partition=partition))
