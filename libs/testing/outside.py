"""A running system as those around it know it: channels and callers by HTTP and Kafka, partners by signed callbacks,
and auditors by SQL. Everything it makes has a name of its own, so that tests can share one system."""

import json
import re
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import asyncpg
import httpx
from aiokafka import AIOKafkaProducer
from standardwebhooks import Webhook

from libs.events.channel import OrderPlaced
from libs.events.topics import CHANNEL_ORDERS
from libs.testing.builders import order_placed, placed_line
from libs.testing.deadline import eventually

SERVICES = ("order", "inventory", "payment", "fulfillment", "tracking")
ENDED = ("COMPLETED", "CANCELLED", "REJECTED")


class Cluster(Protocol):
    @property
    def kafka_bootstrap(self) -> str: ...

    def url(self, name: str) -> str: ...

    def dsn(self, service: str, role: str = "app") -> str: ...


class Contract:
    """What a service's openapi.json says it may answer; every answer of a test is held against it (I-24)."""

    def __init__(self, openapi: Mapping[str, Any]) -> None:
        self._paths = [
            (re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path)), operations)
            for path, operations in sorted(openapi["paths"].items(), key=lambda item: item[0].count("{"))
        ]

    def check(self, response: httpx.Response) -> None:
        request, status = response.request, response.status_code
        if status >= 400:
            problem = response.json()
            assert response.headers["content-type"] == "application/problem+json", response.text
            assert problem["status"] == status
            assert re.fullmatch("[A-Za-z_]+", problem["code"]), problem
        if status >= 500:
            assert status in (503, 504), response.text
            assert "retry-after" in response.headers
        path = request.url.raw_path.decode().partition("?")[0]
        for pattern, operations in self._paths:
            if pattern.fullmatch(path) and request.method.lower() in operations:
                documented = operations[request.method.lower()]["responses"]
                assert str(status) in documented, f"{request.method} {path} answers {status}: not in openapi.json"
                return
        assert status in (404, 405), f"{request.method} {path} answers {status}: no such path in openapi.json"


@dataclass
class Outside:
    cluster: Cluster
    secret: str
    producer: AIOKafkaProducer
    doors: Mapping[str, httpx.AsyncClient]
    databases: Mapping[str, asyncpg.Connection]
    simulators: Mapping[str, httpx.AsyncClient]
    places: list[Any] = field(default_factory=list)
    node: str = field(default_factory=lambda: f"node-{uuid.uuid4().hex[:8]}")
    channel: str = field(default_factory=lambda: f"web-{uuid.uuid4().hex[:8]}")

    # --- HTTP ----------------------------------------------------------------------------------------------------

    async def post(self, service: str, path: str, body: Any, key: str | None = None, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.doors[service].post(
            path, json=body, headers={"Idempotency-Key": key or str(uuid.uuid4()), **names}
        )

    async def get(self, service: str, path: str, **query: Any) -> httpx.Response:
        return await self.doors[service].get(path, params=query)

    async def aside(self, service: str, path: str) -> httpx.Response:
        """What is no part of the contract: /status and /metrics."""
        async with httpx.AsyncClient(base_url=self.cluster.url(service), trust_env=False, timeout=30) as plain:
            return await plain.get(path)

    async def counted(self, service: str, metric: str, **labels: str) -> float:
        """A counter of a service, summed over the labels that are not named."""
        named = [f'{name}="{value}"' for name, value in labels.items()]
        lines = (await self.aside(service, "/metrics")).text.splitlines()
        found = [line for line in lines if line.startswith(metric) and all(name in line for name in named)]
        return sum(float(line.split()[-1]) for line in found)

    async def call_back(self, service: str, path: str, body: Any, id_: str = "", secret: str = "") -> httpx.Response:
        return await self.doors[service].post(path, **self.signed(body, id_, secret))

    def signed(self, body: Any, id_: str = "", secret: str = "", at: datetime | None = None) -> dict[str, Any]:
        """Content and headers of a callback as Standard Webhooks signs it."""
        id_, at = id_ or f"evt_{uuid.uuid4().hex}", at or datetime.now(UTC)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        signature = Webhook(secret or self.secret).sign(id_, at, content.decode(errors="surrogateescape"))
        headers = {
            "webhook-id": id_,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": signature,
            "content-type": "application/json",
        }
        return {"content": content, "headers": headers}

    # --- orders --------------------------------------------------------------------------------------------------

    async def stock(self, *skus: str, qty: int = 1_000) -> None:
        """Puts units of each SKU at this test's own node; no other test's order can take them."""
        at_berlin = {"location": self.node, "name": "Berlin", "country": "DE", "lat": 52.5, "lon": 13.4}
        receipt = {"receipt_id": str(uuid.uuid4()), "lines": [self._receipt(sku, qty) for sku in skus]}
        for path, body in (("/locations", at_berlin), ("/stock/receipts", receipt)):
            answer = await self.post("inventory", path, body)
            assert answer.status_code in (200, 201), answer.text

    def _receipt(self, sku: str, qty: int) -> dict[str, Any]:
        return {"sku": sku, "location": self.node, "qty": qty}

    def order(self, sku: str, token: str = "tok_visa", **fields: Any) -> OrderPlaced:
        """An order of one line of a SKU, under an external id of its own."""
        lines = fields.pop("lines", None) or (placed_line(sku, qty=2, amount=3998),)
        return order_placed(
            f"W-{uuid.uuid4().hex}", *lines, **{"channel": self.channel, "token": token, "shipping": 495, **fields}
        )

    async def place(self, placed: OrderPlaced, **headers: str) -> OrderPlaced:
        """Publishes an order as bare JSON."""
        await self.publish(placed.model_dump_json().encode(), headers=[(k, v.encode()) for k, v in headers.items()])
        return placed

    async def publish(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        topic: str = CHANNEL_ORDERS.name,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Any:
        """What Kafka says of the record: its partition and offset."""
        place = await self.producer.send_and_wait(
            topic, value, key=key, headers=list(headers), partition=partition, timestamp_ms=timestamp_ms
        )
        self.places.append(place)
        return place

    async def tracked(self, order_id: str, *statuses: str, seconds: float = 30.0, **fields: Any) -> dict[str, Any]:
        """The tracking row of an order, once it has one of these statuses and these fields."""
        last: dict[str, Any] = {}

        async def found() -> dict[str, Any] | None:
            answer = await self.doors["tracking"].get(f"/orders/{order_id}")
            if answer.status_code != 200:
                return None
            last.clear()
            last.update(answer.json())
            right = not statuses or last["status"] in statuses
            return last if right and all(last[name] == value for name, value in fields.items()) else None

        try:
            return await eventually(found, f"{order_id} in tracking as {statuses} {fields}", seconds)
        except AssertionError as late:
            raise AssertionError(f"{late}; it is {last}") from None

    async def seen_by(self, service: str, path: str, **fields: Any) -> dict[str, Any]:
        """A row of a service's API, once it has these fields."""

        async def found() -> dict[str, Any] | None:
            answer = await self.doors[service].get(path)
            row: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
            return row if row and all(row[name] == value for name, value in fields.items()) else None

        return await eventually(found, f"{service}{path} with {fields}", 30)

    # --- the books -----------------------------------------------------------------------------------------------

    async def sql(self, service: str, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self.databases[service].fetch(statement, *arguments)
        return rows

    async def events(self, service: str, order_id: str) -> list[str]:
        """The names of the events of an order's streams in a service's store, in order of position."""
        rows = await self.sql(
            service,
            "SELECT event_type FROM events WHERE convert_from(metadata, 'UTF8')::jsonb->>'correlation_id' = $1"
            " ORDER BY global_position",
            order_id,
        )
        return [row["event_type"].rpartition(".")[2] for row in rows]


@asynccontextmanager
async def outside(cluster: Cluster, secret: str, simulators: Sequence[str] = ("psp",)) -> AsyncIterator[Outside]:
    """Connects to a running system. Every HTTP answer is held against the service's own openapi.json."""
    producer = AIOKafkaProducer(bootstrap_servers=cluster.kafka_bootstrap, max_request_size=2**20)
    await producer.start()
    doors = {name: await _door(cluster.url(name)) for name in SERVICES}
    partners = {name: httpx.AsyncClient(base_url=cluster.url(name), trust_env=False) for name in simulators}
    databases = {name: await asyncpg.connect(cluster.dsn(name, "app")) for name in SERVICES}
    try:
        yield Outside(cluster, secret, producer, doors, databases, partners)
    finally:
        for client in (*doors.values(), *partners.values()):
            await client.aclose()
        for connection in databases.values():
            await connection.close()
        await producer.stop()


async def _door(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as plain:
        contract = Contract((await plain.get("/openapi.json")).json())

    async def check(response: httpx.Response) -> None:
        await response.aread()
        contract.check(response)

    return httpx.AsyncClient(
        base_url=url, trust_env=False, timeout=30, limits=limits, event_hooks={"response": [check]}
    )
