"""Whole orders a second: the five services as they ship, on real Kafka and PostgreSQL, gateways answering in-process.

One line an order. Counted when tracking shows COMPLETED. CPU is measured per process group, since rates drift on shared
machines: microseconds an order compare. Run: .venv/bin/python -m bench.whole_orders --orders 3000
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import asyncpg
import psutil
import typer
import uvloop
from aiokafka import AIOKafkaProducer

from libs.events.fulfillment import FulfillmentOrderCreated, Package, ShipmentCreated
from libs.events.payment import (
    PaymentAuthorizationSubmitted,
    PaymentCaptureSubmitted,
    PaymentOutcomeUnknown,
    PaymentVoidSubmitted,
    RefundSubmitted,
)
from libs.runtime import telemetry
from libs.runtime.commit import GroupCommit
from libs.runtime.consumer import Consumer
from libs.runtime.effects import EffectWorker
from libs.runtime.event_store import PostgresStorage
from libs.runtime.handler import Handler, Request
from libs.runtime.identity import Cause, new_id
from libs.runtime.migrate import migrate
from libs.runtime.relay import KafkaPublisher, Relay
from libs.runtime.service import Service
from libs.runtime.settings import Settings
from libs.runtime.timers import Timers
from libs.testing.builders import order_placed, placed_line
from oms.cluster.cluster import INFRASTRUCTURE, LocalCluster
from oms.cluster.settings import ClusterSettings
from oms.cluster.state import temporary_folder
from services.fulfillment.domain.command import RecordPacked, RecordTracking
from services.fulfillment.gateway import Gateways, LabelBought
from services.fulfillment.service import service as fulfillment
from services.inventory.domain.command import ReceiptLine, ReceiveStock, RegisterLocation
from services.inventory.service import service as inventory
from services.order.service import service as order
from services.payment.gateway import Approved, NotFound, Reply
from services.payment.service import service as payment
from services.tracking.service import service as tracking

SKUS = 1_000


class YesPsp:
    """Says yes at once."""

    async def authorize(self, intent: PaymentAuthorizationSubmitted) -> Reply:
        until = datetime.now(UTC) + timedelta(days=7)
        return Approved(f"auth-{intent.order_id}", intent.amount, intent.currency, until)

    async def capture(self, intent: PaymentCaptureSubmitted) -> Reply:
        return Approved(f"cap-{intent.shipment_id}", intent.amount, intent.currency)

    async def void(self, intent: PaymentVoidSubmitted) -> Reply:
        return Approved(intent.auth_id)

    async def refund(self, intent: RefundSubmitted) -> Reply:
        return Approved(intent.refund_id, intent.amount, intent.currency)

    async def lookup(self, lost: PaymentOutcomeUnknown) -> Reply | NotFound:
        return NotFound()

    async def close(self) -> None:
        return None


class PromptParties:
    """Warehouse and carrier: say yes, and play the callbacks that follow as commands, without HTTP."""

    commit: GroupCommit

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def _later(self, *commands: Any) -> None:
        task = asyncio.ensure_future(self._told(commands))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _told(self, commands: tuple[Any, ...]) -> None:
        for command in commands:
            cause = Cause(causation_id=new_id(), at=datetime.now(UTC))
            while (await self.commit.submit(Request(command=command, cause=cause))).code == "label_unknown":
                await asyncio.sleep(0.005)  # as the carrier does: told again until the label is known

    async def submit(self, release: FulfillmentOrderCreated, key: str) -> str | None:
        package = Package(package_id=f"{release.release_id}-p1", weight=500, lines=release.lines)
        self._later(RecordPacked(release.release_id, (package,)))
        return None

    async def buy_label(self, shipment: ShipmentCreated, package: Package, key: str) -> LabelBought:
        number = f"T{package.package_id}"
        self._later(
            *(
                RecordTracking(
                    shipment.shipment_id, package.package_id, number, status, f"{number}-{status}", datetime.now(UTC)
                )
                for status in ("picked_up", "in_transit", "out_for_delivery", "delivered")
            )
        )
        return LabelBought(carrier="BENCH", tracking_number=number, cost=500, currency="EUR")


@dataclass
class Running:
    """One service's loops in this process."""

    service: Service[Any]
    settings: Settings
    pool: asyncpg.Pool
    handler: Handler
    commit: GroupCommit | None

    @staticmethod
    async def start(service: Service[Any], settings: Settings) -> "Running":
        await migrate(service, settings)
        pool = await asyncpg.create_pool(settings.postgres_dsn, min_size=2, max_size=settings.postgres_pool)
        handler = Handler(service, PostgresStorage(pool, f"/{service.name}-service"))
        return Running(service, settings, pool, handler, GroupCommit(handler) if service.decider else None)

    def loops(self, stop: asyncio.Event) -> list[Any]:
        loops: list[Any] = [Consumer(self.handler, self.settings).run(stop)]
        if self.commit is not None:
            storage = self.handler.storage
            relay = Relay(self.service.name, storage, KafkaPublisher(self.settings), self.settings)
            loops += [relay.run(self.handler.committed, stop), Timers(storage, self.commit, self.settings).run(stop)]
            if self.service.effects is not None:
                worker = EffectWorker(self.service.effects, storage, self.commit, self.settings)
                loops.append(worker.run(self.handler.effects_added, stop))
        return loops


def cpu_seconds(cluster: LocalCluster) -> Mapping[str, float]:
    """CPU so far by process group: this process, PostgreSQL with its backends, Kafka."""
    spent = {"python": time.process_time()}
    for name in ("postgres", "kafka"):
        root = psutil.Process(cluster.supervisor.child(name).pid)
        times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
        # a backend that has ended is counted in its parent's children_user and children_system
        own = root.cpu_times()
        spent[name] = sum(t.user + t.system for t in times) + own.children_user + own.children_system
    return spent


async def stock(running: Running, orders: int) -> None:
    assert running.commit is not None
    cause = Cause(causation_id=new_id(), at=datetime.now(UTC))
    await running.commit.submit(Request(command=RegisterLocation("BER", "Berlin", "DE", 52.5, 13.4), cause=cause))
    for start in range(0, SKUS, 500):
        lines = tuple(ReceiptLine(f"SKU-{n}", "BER", orders) for n in range(start, start + 500))
        cause = Cause(causation_id=new_id(), at=datetime.now(UTC))
        await running.commit.submit(Request(command=ReceiveStock(f"R-{start}", lines), cause=cause))


async def publish(bootstrap: str, orders: int, run: str, rate: float) -> None:
    """Sends orders as fast as Kafka takes them, or at `rate` a second."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True) as producer:
        began = time.monotonic()
        for number in range(orders):
            placed = order_placed(f"{run}-{number}", placed_line(f"SKU-{number % SKUS}"), channel="bench")
            await producer.send("oms.channel.orders", placed.model_dump_json().encode())
            if rate and (ahead := number / rate - (time.monotonic() - began)) > 0:
                await asyncio.sleep(ahead)
        await producer.flush()


async def completed(pool: asyncpg.Pool) -> int:
    return int(await pool.fetchval("SELECT count(*) FROM view_order_tracking WHERE status = 'COMPLETED'"))


async def measure(cluster: LocalCluster, orders: int, rate: float) -> None:
    parties = PromptParties()
    services: list[Service[Any]] = [
        order(),
        inventory(),
        payment(YesPsp()),
        fulfillment(Gateways(warehouse=parties, carrier=parties)),
        tracking(),
    ]
    stop = asyncio.Event()
    all_running = [await Running.start(service, _settings(cluster, service.name)) for service in services]
    by_name = {running.service.name: running for running in all_running}
    assert by_name["fulfillment"].commit is not None
    parties.commit = by_name["fulfillment"].commit
    commits = [asyncio.create_task(running.commit.run()) for running in all_running if running.commit]
    loops = [asyncio.create_task(loop) for running in all_running for loop in running.loops(stop)]
    await stock(by_name["inventory"], orders)
    warm = max(50, orders // 20)
    done = by_name["tracking"].pool
    await publish(cluster.kafka_bootstrap, warm, "warm", 0)
    while await completed(done) < warm:
        await asyncio.sleep(0.1)
    cpu, began = cpu_seconds(cluster), time.monotonic()
    sending = asyncio.create_task(publish(cluster.kafka_bootstrap, orders, "run", rate))
    while (count := await completed(done)) < warm + orders:
        await asyncio.sleep(0.25)
    await sending
    seconds = time.monotonic() - began
    spent = {name: value - cpu[name] for name, value in cpu_seconds(cluster).items()}
    events = sum([await running.pool.fetchval("SELECT count(*) FROM events") for running in all_running[:-1]])
    report(orders, seconds, spent, events * orders / (warm + orders))
    assert count == warm + orders
    stop.set()
    await asyncio.gather(*loops)
    for commit in commits:
        commit.cancel()
    for running in all_running:
        await running.pool.close()


def report(orders: int, seconds: float, spent: Mapping[str, float], events: float) -> None:
    typer.echo(f"{orders} whole orders in {seconds:.1f} s")
    typer.echo(f"{orders / seconds:.0f} orders/s, {events / seconds:.0f} events/s")
    typer.echo(f"{events / orders:.1f} events an order")
    for name, value in spent.items():
        typer.echo(f"{name:<9}{value / orders * 1e6:8.0f} us of CPU an order")


def _settings(cluster: LocalCluster, name: str) -> Settings:
    return Settings(
        kafka_bootstrap=cluster.kafka_bootstrap,
        postgres_dsn=cluster.dsn(name, "app"),
        postgres_owner_dsn=cluster.dsn(name, "owner"),
        postgres_read_dsn=cluster.dsn(name, "read"),
    )


def main(
    orders: Annotated[int, typer.Option(help="Orders to measure")] = 3_000,
    rate: Annotated[float, typer.Option(help="Orders a second; 0: as fast as they go")] = 0,
) -> None:
    """Runs the five services in this process on a local cluster and walks orders through them."""
    telemetry.configure("bench", log_level="WARNING", trace_ratio=0)
    with ExitStack() as stack:
        path = stack.enter_context(temporary_folder("bench"))
        cluster = stack.enter_context(LocalCluster(ClusterSettings(state_dir=path / "state"), INFRASTRUCTURE))
        uvloop.run(measure(cluster, orders, rate))


if __name__ == "__main__":
    typer.run(main)
