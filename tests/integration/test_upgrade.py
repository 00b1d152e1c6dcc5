"""The last release's services, then this one's beside them and instead of them, and back: orders flow all the while."""

import asyncio
import itertools
import re
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from libs.testing.deadline import eventually
from libs.testing.outside import ENDED, Outside, outside
from oms.audit.evidence import Sources
from oms.audit.finding import Finding
from oms.audit.verify import Asked, verify
from oms.cluster import apps
from oms.cluster.apps import SERVICES, SIMULATORS, Addresses
from oms.cluster.cluster import INFRASTRUCTURE, LocalCluster
from oms.cluster.health import wait_ready
from tests.cluster import QUICK, started
from tests.release import Release, last_release, this_release

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

TOKENS = ("tok_visa", "tok_visa", "tok_timeout_after", "tok_visa", "tok_error_once")


class Front:
    """The one address of a service that others know, whichever processes answer behind it: a load balancer."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.behind: list[str] = []
        self._port = port
        self._turn = itertools.count()

    async def listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", self._port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        with suppress(OSError, asyncio.CancelledError):
            url = self.behind[next(self._turn) % len(self.behind)]
            answers, there = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            ends.append(there)
            pumps = {asyncio.create_task(_pump(reader, there)), asyncio.create_task(_pump(answers, writer))}
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
        for end in ends:
            end.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@dataclass
class Place:
    """Servers, simulators and the fronts of the services: what stays while releases come and go."""

    cluster: LocalCluster
    fronts: Mapping[str, Front]
    urls: Mapping[str, str]

    @property
    def kafka_bootstrap(self) -> str:
        return self.cluster.kafka_bootstrap

    def url(self, name: str) -> str:
        return self.urls[name]

    def dsn(self, service: str, role: str = "app") -> str:
        return self.cluster.dsn(service, role)

    def addresses(self, urls: Mapping[str, str]) -> dict[str, Any]:
        """Of a process that listens at `urls` and reaches the simulators."""
        state = self.cluster.state
        return {
            "kafka_bootstrap": state.kafka_bootstrap,
            "urls": {**self.urls, **urls},
            "dsns": {name: dict(state.services[name].dsn) for name in SERVICES},
            "callback_secret_file": state.callback_secret_file,
            "ledgers": str(self.cluster.directory.path / "simulators"),
        }


@dataclass
class Fleet:
    """The services of one release, a process each, in the consumer groups that all releases share."""

    place: Place
    release: Release
    label: str
    environments: Mapping[str, dict[str, str]] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        ports = self.place.cluster.directory.ports([self._name(service) for service in SERVICES])
        self.urls = {service: f"http://127.0.0.1:{ports[self._name(service)]}" for service in SERVICES}
        self.environments = self.release.environments(self.place.addresses(self.urls))

    def _name(self, service: str) -> str:
        return f"{service}-{self.label}"

    async def migrate(self) -> None:
        await asyncio.gather(*(self._once(service, "migrate") for service in SERVICES))

    async def rebuild(self, service: str, view: str) -> None:
        await self._once(service, "rebuild", view)

    async def _once(self, service: str, *arguments: str) -> None:
        env = {**self.environments[service], "OMS_POSTGRES_OWNER_DSN": self.place.dsn(service, "owner")}
        command = self.release.command(f"{self._name(service)}-{arguments[0]}", service, *arguments, env=env)
        await asyncio.to_thread(self.place.cluster.supervisor.run, command, 60)

    async def start(self, services: Sequence[str] = SERVICES) -> None:
        """Beside whatever runs; returns when every process has its share of the partitions."""
        for service in services:
            self.running.append(service)
            env = self.environments[service]
            command = self.release.command(self._name(service), service, "api", "worker", env=env)
            self.place.cluster.supervisor.start(command)
        await wait_ready({service: self.urls[service] for service in services}, self.check, 60)
        for service in services:
            self.place.fronts[service].behind.append(self.urls[service])

    async def stop(self, services: Sequence[str]) -> None:
        self.check()
        for service in services:
            self.running.remove(service)
            self.place.fronts[service].behind.remove(self.urls[service])
        names = [self._name(service) for service in services]
        await asyncio.to_thread(self.place.cluster.supervisor.stop, names)

    def check(self) -> None:
        """None of its processes may have ended by itself."""
        supervisor = self.place.cluster.supervisor
        for service in self.running:
            if supervisor.child(self._name(service)).failures:
                raise supervisor.failure(self._name(service), f"{self._name(service)} ended by itself")

    async def statuses(self) -> Mapping[str, Mapping[str, Any]]:
        async with httpx.AsyncClient(trust_env=False) as client:
            return {name: (await client.get(f"{self.urls[name]}/status")).json() for name in self.running}

    async def takes_part(self) -> bool:
        with suppress(httpx.TransportError):
            return all(status["ready"] and status["lag"] for status in (await self.statuses()).values())
        return False

    async def halted(self) -> dict[str, Any]:
        return {service: status["halted"] for service, status in (await self.statuses()).items() if status["halted"]}


@dataclass
class Flow:
    """Orders by Kafka and by HTTP in turns, for as long as it runs. What is asked twice is answered the same twice."""

    shop: Outside
    sku: str
    placed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            for number, token in enumerate(itertools.cycle(TOKENS)):
                order = self.shop.order(self.sku, token)
                if number % 2:
                    await self.shop.place(order)
                else:
                    await self._ask_twice(client, order.model_dump(mode="json"))
                self.placed.append(order.order_id)
                await asyncio.sleep(0.1)  # not a wait: the pace at which customers come

    async def _ask_twice(self, client: httpx.AsyncClient, body: Any) -> None:
        headers = {"Idempotency-Key": str(uuid.uuid4())}

        async def answered() -> Any:
            # On a connection of its own each time, so that the front chooses anew.
            with suppress(httpx.TransportError):
                answer = await client.post(
                    f"{self.shop.cluster.url('order')}/orders", json=body, headers={**headers, "Connection": "close"}
                )
                return (answer.status_code, answer.text) if answer.status_code != 503 else None

        first = await eventually(answered, "an order is taken")
        assert first[0] == 201, first
        assert await eventually(answered, "an order is asked for again") == first

    async def more(self, count: int) -> list[str]:
        """The next orders that are placed."""
        first = len(self.placed)

        async def enough() -> bool:
            if self.running.done():
                self.running.result()
            return len(self.placed) >= first + count

        await eventually(enough, f"{count} more orders are placed", 60)
        return self.placed[first:]

    async def end(self, orders: Sequence[str], *, or_halted: Fleet | None = None) -> None:
        """Returns when they have ended, or a process of `or_halted` waits for its successor."""
        asked, left = list(orders), set(orders)

        async def done() -> bool:
            statement = "SELECT key FROM view_order_view WHERE key = ANY($1) AND status = ANY($2)"
            left.difference_update(row["key"] for row in await self.shop.sql("order", statement, asked, list(ENDED)))
            return not left or (or_halted is not None and bool(await or_halted.halted()))

        try:
            await eventually(done, f"{len(asked)} orders end", 60)
        except AssertionError as late:
            raise AssertionError(f"{late}; open: {sorted(left)[:5]} of {len(left)}") from None


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return last_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def cluster(last: Release) -> Iterator[LocalCluster]:  # after what may skip
    with started(INFRASTRUCTURE) as servers:
        yield servers


@pytest.fixture
async def place(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    ports = cluster.directory.ports([*(f"{name}-front" for name in SERVICES), *SIMULATORS])
    fronts = {name: Front(ports[f"{name}-front"]) for name in SERVICES}
    urls = {name: f"http://127.0.0.1:{ports[name]}" for name in SIMULATORS}
    place = Place(cluster, fronts, {**urls, **{name: front.url for name, front in fronts.items()}})
    addresses = place.addresses({})
    known = Addresses(**{**addresses, **{name: Path(addresses[name]) for name in ("callback_secret_file", "ledgers")}})
    known.ledgers.mkdir(exist_ok=True)
    for name in SIMULATORS:
        cluster.supervisor.start(apps.simulator(name, known))
    await wait_ready(urls, lambda: None, 30)
    servers = [await front.listen() for front in fronts.values()]
    yield place
    for server in servers:
        server.close()
    # Before the servers that they use: without those they would take their time to stop.
    left = [child.name for child in cluster.supervisor.children if child.name not in ("kafka", "postgres")]
    await asyncio.to_thread(cluster.supervisor.stop, left)


@asynccontextmanager
async def orders(shop: Outside, sku: str) -> AsyncIterator[Flow]:
    flow = Flow(shop, sku)
    try:
        yield flow
    finally:
        flow.running.cancel()
        with suppress(asyncio.CancelledError):
            await flow.running
    await flow.end(flow.placed)


async def replaced(flow: Flow, before: Fleet, after: Fleet) -> None:
    """As operators do it: migrate, start beside, stop what was there; who writes a new event comes last."""
    await after.migrate()
    await flow.end(await flow.more(5))  # on the other release's schema
    writers = {name.split(".")[1] for name in after.release.published() - before.release.published()}
    waves = [[name for name in SERVICES if (name in writers) is last] for last in (False, True)]
    for wave in filter(None, waves):
        await after.start(wave)
        for fleet in (before, after):
            await eventually(fleet.takes_part, f"{fleet.label} shares every group with the other", 30)
        await flow.end(await flow.more(10), or_halted=before)
        await before.stop(wave)
    await flow.end(flow.placed)
    await eventually(after.takes_part, f"{after.label} has every partition", 30)
    assert await after.halted() == {}


async def unreadable(shop: Outside, release: Release) -> set[str]:
    """What stands in the log by now and this release cannot read: there is no way back to it."""
    written: set[str] = set()
    for service in SERVICES:
        rows = await shop.sql(service, "SELECT DISTINCT event_type || '.v' || schema_version AS name FROM events")
        written |= {row["name"] for row in rows}
    return written - release.published()


async def unsound(place: Place) -> list[Finding]:
    sources = Sources(dsns={name: place.dsn(name, "owner") for name in SERVICES}, psp_url=place.url("psp"))
    asked = Asked(sources=sources, bootstrap=place.kafka_bootstrap, wait_seconds=60, all_ended=True)
    return [one async for one in verify(asked, lambda _doing: None) if not one.sound]


async def assert_sound(place: Place, running: Fleet, *, views_differ: bool) -> None:
    """Where releases make views differently, what each left behind is rebuilt by the one that stays."""
    found = await unsound(place)
    if views_differ:
        for service, view in [
            m.groups() for one in found if (m := re.fullmatch(r"(\w+)'s (\w+) = its log", one.check))
        ]:
            await running.rebuild(service, view)
        by_this_code = running.release.tree == this_release().tree
        found = await unsound(place) if by_this_code else [one for one in found if " = its log" not in one.check]
    assert found == []


async def test_release_is_rolled_out_and_back_while_orders_flow_and_none_is_lost(place: Place, last: Release) -> None:
    old, new = Fleet(place, last, "last"), Fleet(place, this_release(), "this")
    differ = last.reading() != new.release.reading()
    await old.migrate()
    await old.start()
    secret = Path(place.cluster.state.callback_secret_file).read_text().strip()
    async with outside(place, secret) as shop:
        sku = f"SKU-{uuid.uuid4().hex[:8]}"
        await shop.stock(sku, qty=100_000)
        async with orders(shop, sku) as flow:
            await flow.end(await flow.more(5))
            await replaced(flow, old, new)
        way_back = not await unreadable(shop, last)
        if differ or not way_back:
            await assert_sound(place, new, views_differ=differ)
        if way_back:
            async with orders(shop, sku) as flow:
                await replaced(flow, new, old)
            await assert_sound(place, old, views_differ=differ)
            old.check()
