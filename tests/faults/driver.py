"""Customers and channels: a bounded stream of orders, each step written down before it is made."""

import asyncio
import contextlib
import hashlib
import json
import random
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import httpx
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.faults.journal import Journal

CHANNEL_TOPIC = "oms.channel.orders"
NODES = {"node-a": (52.5, 13.4), "node-b": (48.1, 11.6), "node-c": (53.6, 10.0)}
SKUS = 40
TOKENS = (
    ("tok_visa", 74),
    ("tok_decline", 4),
    ("tok_decline_once", 4),
    ("tok_decline_retryable", 3),
    ("tok_insufficient_once", 3),
    ("tok_timeout_before", 3),
    ("tok_timeout_after", 4),
    ("tok_error_once", 3),
    ("tok_garbage_once", 2),
)
TRIES = 6
KAFKA_SECONDS = 8.0


@dataclass
class Driver:
    """Sends about `rate` orders a second until stopped. What it remembers only shapes the traffic."""

    urls: dict[str, str]
    kafka: str
    journal: Journal
    seed: int
    rate: float = 5.0
    orders: int = 0
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=60))
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _producer: AIOKafkaProducer | None = None

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._client = httpx.AsyncClient(timeout=6, trust_env=False, limits=httpx.Limits(max_connections=100))
        self._run = f"{self.seed}-{uuid.uuid4().hex[:6]}"
        self._weights = [1 / (rank + 1) for rank in range(SKUS)]  # Zipf: the first SKUs are hot, and scarce

    # --- the run -------------------------------------------------------------------------------------------------

    async def open_shop(self) -> None:
        """The network, and stock: plenty of the cold SKUs, little of the hot ones."""
        for node, (lat, lon) in NODES.items():
            body = {"location": node, "name": node, "country": "DE", "lat": lat, "lon": lon}
            await self._post("location", "inventory", "/locations", body)
        lines = [
            {"sku": self._sku(rank), "location": node, "qty": 40 if rank < 4 else 400}
            for rank in range(SKUS)
            for node in NODES
        ]
        await self._post("receipt", "inventory", "/stock/receipts", {"receipt_id": f"r-{self._run}", "lines": lines})

    async def run(self) -> None:
        began, made = time.monotonic(), 0
        while not self._stop.is_set():
            made += 1
            if len(self._tasks) < 80:  # what is away makes callers wait, not multiply
                self._spawn(self._customer())
            wait = began + made / self.rate - time.monotonic()
            try:
                await asyncio.wait_for(self._stop.wait(), max(wait, 0.001))
            except TimeoutError:
                if wait < -5:
                    began, made = time.monotonic(), 0

    async def stop(self) -> None:
        self._stop.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=60)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._drop_producer()
        await self._client.aclose()

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- what customers do ---------------------------------------------------------------------------------------

    async def _customer(self) -> None:
        dice = self._random.random()
        if dice < 0.03:
            await self._restock()
        elif dice < 0.05:
            await self._bad_order()
        elif dice < 0.08:
            await self._cancel_ahead()
        else:
            await self._order()

    async def _order(self) -> None:
        order = self.order()
        await (self.place_http(order) if self._random.random() < 0.6 else self.place_kafka(order))
        self.recent.append(order)
        token = order["payment"]["token"]
        if token in ("tok_decline", "tok_insufficient_once") and self._random.random() < 0.7:
            self._spawn(self._later(self._random.uniform(1, 6), self._new_method(order)))
        dice = self._random.random()
        if dice < 0.10:
            self._spawn(self._later(self._random.uniform(0, 4), self._cancel(order)))
        elif dice < 0.20:
            self._spawn(self._later(self._random.choice((0, 0.5, 5, 20)), self.place_kafka(order)))
        elif dice < 0.24:
            changed = order | {"placed_at": "2026-02-02T02:02:02Z"}
            self._spawn(self._later(2, self.place_kafka(changed, expect="any")))
        elif dice < 0.27:
            self._spawn(self._later(self._random.uniform(8, 14), self._refund(order)))

    async def _later(self, seconds: float, work: Any) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        await work

    async def _restock(self) -> None:
        """A little of a hot SKU, and of any other enough to last for an hour."""
        skus = {self._sku(self._random.randrange(4)): 30, self._sku(self._random.randrange(4, SKUS)): 60}
        lines = [
            {"sku": sku, "location": node, "qty": self._random.randint(5, most)}
            for sku, most in skus.items()
            for node in NODES
        ]
        body = {"receipt_id": f"r-{uuid.uuid4().hex}", "lines": lines}
        await self._post("receipt", "inventory", "/stock/receipts", body)

    async def _bad_order(self) -> None:
        order = self.order()
        order["totals"]["grand"] += 1
        if self._random.random() < 0.5:
            await self.place_kafka(order, expect="rejection")
        else:
            await self.place_http(order, expect="none")

    async def _cancel_ahead(self) -> None:
        """The cancellation overtakes its order."""
        order = self.order()
        await self._cancel(order)
        await self._later(self._random.uniform(0, 3), self.place_kafka(order))

    async def _cancel(self, order: dict[str, Any]) -> None:
        body = {"channel": order["channel"], "external_order_id": order["external_order_id"]}
        if self._random.random() < 0.5:
            await self._post("cancel", "order", "/cancellations", body)
        else:
            await self._publish("cancel", body, {"ce_type": "oms.channel.OrderCancellationRequested"}, order)

    async def _new_method(self, order: dict[str, Any]) -> None:
        if found := await self.view(order):
            await self._post("method", "order", f"/orders/{found['order_id']}/payment-method", {"token": "tok_visa"})

    async def _refund(self, order: dict[str, Any]) -> None:
        found = await self.view(order)
        if found and found["captured"]:
            refund_id = f"rf-{uuid.uuid4().hex[:12]}"
            body = {"refund_id": refund_id, "amount": 100, "by": "driver", "reason": "goodwill"}
            await self._post("refund", "order", f"/orders/{found['order_id']}/refunds", body)

    # --- orders --------------------------------------------------------------------------------------------------

    def order(self, token: str = "", sku: str = "") -> dict[str, Any]:
        self.orders += 1
        skus = [sku] if sku else self._basket()
        lines = [self._line(place, sku) for place, sku in enumerate(skus, start=1)]
        items, tax = sum(line["amount"] for line in lines), sum(line["tax"] for line in lines)
        lat, lon = self._random.choice([*NODES.values()])
        return {
            "channel": f"web-{self._random.randrange(3)}",
            "external_order_id": f"F-{self._run}-{self.orders}",
            "external_revision": 1,
            "placed_at": "2026-01-05T10:00:00Z",
            "currency": "EUR",
            "lines": lines,
            "shipping": {"method": "STD", "price": 495},
            "totals": {"items": items, "shipping": 495, "tax": tax, "discount": 0, "grand": items + tax + 495},
            "payment": {"mode": "AUTHORIZE", "psp": "sim", "token": token or self._token()},
            "destination": {"country": "DE", "postal_code": "10115", "lat": lat, "lon": lon},
        }

    def _basket(self) -> list[str]:
        count = self._random.choices((1, 2, 3, 5), (60, 22, 12, 6))[0]
        return [*dict.fromkeys(self._sku(rank) for rank in self._random.choices(range(SKUS), self._weights, k=count))]

    def _line(self, place: int, sku: str) -> dict[str, Any]:
        qty = self._random.choices((1, 2, 3, 7), (60, 25, 10, 5))[0]
        amount = self._random.randint(100, 9_999)
        return {"line_id": str(place), "sku": sku, "qty": qty, "amount": amount, "tax": amount // 19}

    def _token(self) -> str:
        names, weights = zip(*TOKENS, strict=True)
        return str(self._random.choices(names, weights)[0])

    @staticmethod
    def _sku(rank: int) -> str:
        return f"SKU-{rank:02}"

    async def view(self, order: dict[str, Any]) -> dict[str, Any] | None:
        path = f"/orders/by-reference/{order['channel']}/{order['external_order_id']}"
        try:
            answer = await self._client.get(self.urls["order"] + path, timeout=2)
        except httpx.HTTPError:
            return None
        found: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
        return found

    async def tracked(self, order_id: str) -> bool:
        """Whether tracking knows more of the order than that it came."""
        try:
            answer = await self._client.get(f"{self.urls['tracking']}/orders/{order_id}", timeout=2)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200 and answer.json()["status"] != "RECEIVED"

    async def place_http(self, order: dict[str, Any], expect: str = "order") -> str:
        """Repeats under the same key until there is an answer; now and then once more, and once with another body."""
        what = {"channel": order["channel"], "external": order["external_order_id"], "expect": expect}
        key = str(uuid.uuid4())
        outcome = await self._post("place", "order", "/orders", order, key, **what)
        if outcome == "ok" and self._random.random() < 0.06:
            await self._post("place", "order", "/orders", order, key, **what)
        if outcome == "ok" and self._random.random() < 0.03:
            other = order | {"placed_at": "2026-03-03T03:03:03Z"}
            await self._post("place", "order", "/orders", other, key, **what | {"expect": "none"})
        return outcome

    async def place_kafka(self, order: dict[str, Any], expect: str = "order") -> str:
        return await self._publish("place", order, {}, order, expect=expect)

    # --- the wires -----------------------------------------------------------------------------------------------

    async def _post(self, do: str, service: str, path: str, body: Any, key: str = "", **what: Any) -> str:
        key, content = key or str(uuid.uuid4()), json.dumps(body).encode()
        digest = hashlib.sha256(path.encode() + content).hexdigest()
        about = {"door": "http", "service": service, "method": "POST", "path": path, "key": key, "digest": digest}
        for attempt in range(TRIES):
            n = self.journal.about(do, **about, **what)
            outcome, status = await self._sent(n, self.urls[service] + path, content, key)
            if outcome != "unknown" and (status is None or status < 500):
                return outcome
            await asyncio.sleep(min(0.3 * 2**attempt, 4) * (0.5 + random.random()))
        return "unknown"

    async def _sent(self, n: int, url: str, content: bytes, key: str) -> tuple[str, int | None]:
        headers = {"idempotency-key": key, "content-type": "application/json"}
        try:
            answer = await self._client.post(url, content=content, headers=headers)
        except httpx.ConnectError:
            # Also an unknown: that nothing was sent is what the client believes.
            self.journal.done(n, "unknown", error="connect")
            return "unknown", None
        except httpx.HTTPError as error:
            self.journal.done(n, "unknown", error=type(error).__name__)
            return "unknown", None
        outcome = "ok" if answer.is_success else "unknown" if answer.status_code >= 500 else "rejected"
        told = {name: answer.headers[name] for name in ("content-type", "retry-after") if name in answer.headers}
        self.journal.done(n, outcome, status=answer.status_code, body=answer.text, headers=told)
        return outcome, answer.status_code

    async def _publish(
        self, do: str, body: Any, headers: dict[str, str], order: dict[str, Any], expect: str = "any"
    ) -> str:
        key = f"{order['channel']}:{order['external_order_id']}"
        what = {"channel": order["channel"], "external": order["external_order_id"], "expect": expect}
        n = self.journal.about(do, door="kafka", topic=CHANNEL_TOPIC, key=key, **what)
        try:
            producer = await self._started()
            sent = [(name, value.encode()) for name, value in headers.items()]
            place = await asyncio.wait_for(
                producer.send_and_wait(CHANNEL_TOPIC, json.dumps(body).encode(), key=key.encode(), headers=sent),
                KAFKA_SECONDS,
            )
        except (KafkaError, TimeoutError, OSError) as error:
            self.journal.done(n, "unknown", error=type(error).__name__)
            await self._drop_producer()
            return "unknown"
        self.journal.done(n, "ok", place=[place.topic, place.partition, place.offset])
        return "ok"

    async def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(bootstrap_servers=self.kafka, acks="all", enable_idempotence=True, linger_ms=2)
            try:
                await asyncio.wait_for(producer.start(), KAFKA_SECONDS)
            except BaseException:
                await abandon(producer)
                raise
            if self._producer is None:
                self._producer = producer
            else:
                await producer.stop()
        return self._producer

    async def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await abandon(producer)


async def abandon(producer: AIOKafkaProducer) -> None:
    """Bounded: a producer whose broker is gone never stops by itself, and never lets itself be cancelled."""
    stopping = asyncio.ensure_future(producer.stop())
    done, _ = await asyncio.wait({stopping}, timeout=2)
    if not done:
        stopping.cancel()
        stopping = asyncio.ensure_future(producer.client.close())
        await asyncio.wait({stopping}, timeout=2)
    elif not stopping.cancelled():
        stopping.exception()
