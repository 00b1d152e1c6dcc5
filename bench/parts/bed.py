"""A test bed for one part: a service's database of the benchmark's own, empty or filled."""

import hashlib
import itertools
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import asyncpg

from bench.fill import Rows, Told, fill
from bench.journey import Journey
from bench.rig import Rig
from libs.events.envelope import from_headers, headers_of
from libs.runtime.event_store import PostgresStorage
from libs.runtime.link import nothing_to_reset
from libs.runtime.settings import Settings
from libs.runtime.storage import StoredEvent
from libs.testing.database import database, in_database


@dataclass
class Bed:
    name: str
    rig: Rig
    pool: asyncpg.Pool
    settings: Settings
    journey: Journey
    rows: Rows
    filled: int = 0

    @property
    def service(self) -> Any:
        return self.rig.services[self.name]

    @property
    def storage(self) -> PostgresStorage:
        return PostgresStorage(self.pool, f"/{self.name}-service")

    async def fill_to(self, events: int, told: Told) -> int:
        """Fills the store up to so many events; says how many it holds."""
        orders = max(0, events // len(self.rows.events) - self.filled)
        if orders:
            await fill(self.settings.postgres_owner_dsn, self.rows, self.filled, orders, told)
            self.filled += orders
        return self.filled * len(self.rows.events)

    def filled_stream(self, category: str, number: int) -> str:
        """The id of a stream of the filling, as fill.py composes it."""
        order_id = random_id(f"fill{number}")
        like = next(stream for stream, _ in self.rows.heads if stream.startswith(f"{category}-"))
        return like.replace(self.rows.order_id, order_id)


def random_id(text: str) -> str:
    return str(UUID(hashlib.md5(text.encode()).hexdigest()))


@asynccontextmanager
async def bed(rig: Rig, name: str, journey: Journey, rows: Rows) -> AsyncIterator[Bed]:
    admin, service = rig.cluster.admin_dsn, rig.services[name]
    async with database(service, admin, rig.cluster.dsn(name), f"bench_{name}") as dsn:
        settings = Settings(
            kafka_bootstrap=rig.cluster.kafka_bootstrap,
            postgres_dsn=dsn,
            postgres_owner_dsn=in_database(admin, f"bench_{name}"),
        )
        async with asyncpg.create_pool(dsn, min_size=8, max_size=8, reset=nothing_to_reset) as pool:
            yield Bed(name, rig, pool, settings, journey, rows)


def new_events(bed: Bed) -> Iterator[StoredEvent]:
    """Events of new streams without end, two a stream as a batch of whole orders has them, bytes of real ones."""
    steps = [step for step in bed.journey.steps if step.service == bed.name][:2]
    templates = [StoredEvent(from_headers(headers_of(step.headers)), step.data, step.key) for step in steps]
    salt = secrets.token_hex(4)
    for number in itertools.count(1):
        key = random_id(f"{salt}{number}")  # as random as an order's id is: the index is hit all over
        for version, template in enumerate(templates, start=1):
            envelope = replace(
                template.envelope,
                event_id=str(UUID(int=number << 8 | version)),
                stream_id=f"order-{key}",
                stream_version=version,
            )
            yield StoredEvent(envelope, template.data.replace(bed.journey.order_id.encode(), key.encode()), key)
