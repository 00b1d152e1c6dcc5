"""What every section stands on: the local cluster's servers, migrated databases, and stock to sell."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from libs.events.topics import TOPICS
from libs.runtime.event_store import PostgresStorage
from libs.runtime.handler import Handler, Request
from libs.runtime.identity import Cause, new_id
from libs.runtime.migrate import migrate
from libs.runtime.service import Service
from libs.runtime.settings import Settings
from oms.catalogue import catalogue
from oms.cluster.apps import SERVICES
from oms.cluster.cluster import LocalCluster
from oms.cluster.settings import ClusterSettings
from oms.cluster.startup import ClusterSpec
from oms.cluster.state import temporary_folder
from services.inventory.domain.command import ReceiptLine, ReceiveStock, RegisterLocation

SKUS = 1_000
PLENTY = 100_000_000


@dataclass(frozen=True, slots=True)
class BenchTopic:
    """A topic that only the benchmark uses."""

    name: str
    partitions: int = 6
    retention_ms: int | None = 3_600_000
    cleanup_policy: str = "delete"


FLOOR_TOPICS = tuple(BenchTopic(topic.name.replace("oms.", "floor.")) for topic in TOPICS)


@dataclass
class Rig:
    cluster: LocalCluster
    services: Mapping[str, Service[Any]] = field(default_factory=catalogue)

    @property
    def folder(self) -> Path:
        return self.cluster.directory.path

    def settings(self, name: str, **fields: Any) -> Settings:
        return Settings(
            kafka_bootstrap=self.cluster.kafka_bootstrap,
            postgres_dsn=self.cluster.dsn(name, "app"),
            postgres_owner_dsn=self.cluster.dsn(name, "owner"),
            postgres_read_dsn=self.cluster.dsn(name, "read"),
            allow_unsafe=frozenset({"single_replica"}),
            **fields,
        )

    async def prepare(self) -> None:
        """Migrates the five databases and fills the shelves."""
        for name, service in self.services.items():
            await migrate(service, self.settings(name))
        async with asyncpg.create_pool(self.cluster.dsn("inventory"), min_size=1, max_size=2) as pool:
            handler = Handler(self.services["inventory"], PostgresStorage(pool, "/inventory-service"))
            await stocked(handler, [f"SKU-{n}" for n in range(SKUS)], PLENTY)


async def stocked(handler: Handler, skus: Sequence[str], qty: int) -> None:
    """A location, and so many of each SKU in it."""
    await handler.handle_requests([request(RegisterLocation("BER", "Berlin", "DE", 52.5, 13.4))])
    for start in range(0, len(skus), 500):
        lines = tuple(ReceiptLine(sku, "BER", qty) for sku in skus[start : start + 500])
        answers = await handler.handle_requests([request(ReceiveStock(f"R-{new_id()}", lines))])
        assert not answers[0].code, answers[0]


def request(command: Any) -> Request:
    return Request(command=command, cause=Cause(causation_id=new_id(), at=datetime.now(UTC)))


@contextmanager
def rig() -> Iterator[Rig]:
    """Kafka and PostgreSQL of this benchmark's own, gone when it ends."""
    with ExitStack() as stack:
        path = stack.enter_context(temporary_folder("bench"))
        spec = ClusterSpec(services=(), simulators=(), databases=SERVICES, topics=(*TOPICS, *FLOOR_TOPICS))
        yield Rig(stack.enter_context(LocalCluster(ClusterSettings(state_dir=path / "state"), spec)))
