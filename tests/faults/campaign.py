"""`make faults`: orders flow, faults strike by seed, and an oracle that shares no code with the product judges.

SEED chooses the order of everything; MINUTES (10) how long, and so how many kinds; KINDS (names, * at an end) which.
"""

import asyncio
import fnmatch
import logging
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil  # type: ignore[import-untyped]

from tests.faults.arena import SERVICES, Arena, arena
from tests.faults.driver import NODES, Driver
from tests.faults.journal import Journal
from tests.faults.kinds.catalogue import KINDS
from tests.faults.kinds.kind import Kind, Scene
from tests.faults.oracle import collect
from tests.faults.oracle.calls import bounded
from tests.faults.oracle.history import OWNERS, History, Usage
from tests.faults.oracle.verdict import LEFT_OUT, judge
from tests.faults.report import Report, Struck

KINDS_A_MINUTE = 2.5
AT_ONCE = 2
ALONE = 0.3
PROBE_SKU = "SKU-PROBE"
PROBE_SECONDS = 90.0
REST_SECONDS = 240.0
IDLE_SECONDS = 45.0
REBUILD_SECONDS = 900.0
TELL_SECONDS = 60.0
TELL_REST_SECONDS = 15.0
AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, httpx.HTTPError, ValueError)
OUT = Path("build/faults.json")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    seed: int
    minutes: float
    kinds: tuple[str, ...]
    rate: float = 5.0

    @staticmethod
    def drawn(seed: int, minutes: float, wanted: str = "", rate: float = 5.0) -> "Plan":
        """By name, or as many kinds as there is time for, in an order that the seed chooses."""
        patterns = [pattern for pattern in wanted.replace(",", " ").split() if pattern]
        known = [name for name in KINDS if not patterns or any(fnmatch.fnmatch(name, p) for p in patterns)]
        if not known:
            raise SystemExit(f"KINDS={wanted!r} names no kind. There are: {', '.join(KINDS)}")
        random.Random(seed).shuffle(known)
        count = len(known) if patterns else max(1, round(KINDS_A_MINUTE * minutes))
        if not patterns:  # what takes 90 s has its place in a long run
            known = [name for name in known if minutes >= 20 or not name.endswith(("_90s", "_long"))]
        return Plan(seed, minutes, tuple(known[:count]), rate)


@dataclass
class Campaign:
    plan: Plan
    arena: Arena
    say: Say
    report: Report = field(init=False)
    _samples: list[dict[tuple[str, str, int], int]] = field(default_factory=list)
    _usage: list[Usage] = field(default_factory=list)
    _under_way: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)
    _unhealed: int = 0
    _last_healed: float = 0.0

    def __post_init__(self) -> None:
        self.report = Report(self.plan.seed, self.plan.kinds, left_out=dict(LEFT_OUT))
        self._random = random.Random(self.plan.seed)

    async def run(self) -> Report:
        began = time.monotonic()
        journal = Journal(self.arena.state_dir / "journal.jsonl")
        urls = {name: self.arena.url(name) for name in SERVICES}
        driver = Driver(urls, self.arena.places.kafka, journal, self.plan.seed, self.plan.rate)
        self._scene = Scene(self.arena, driver, journal, self._random)
        try:
            await driver.open_shop()
            await self._stock_of_probes(driver)
            driving, sampling = asyncio.create_task(driver.run()), asyncio.create_task(self._sample())
            telling = asyncio.create_task(self._tell(driver, began))
            await self._probe("order", time.monotonic())  # warm: an order has gone through
            self._usage = await self._measured(warm=True)
            await self._strike_all(began + self.plan.minutes * 60)
            self.say("the driver stops")
            await driver.stop()
            await driving
            await self._rest()
            sampling.cancel()
            telling.cancel()
            history = await self._evidence(journal)
            history.usage = await self._settled()
            self.say(f"judges {len(history.records)} records, {sum(1 for _ in history.all())} events")
            self.report.violations = judge(history)
            self.say(f"judged, with {psutil.Process().memory_info().rss >> 20} MiB of evidence")
        finally:
            await driver.close()
            journal.close()
        self.report.orders = driver.orders
        self.report.seconds = time.monotonic() - began
        return self.report

    # --- strikes -------------------------------------------------------------------------------------------------

    async def _strike_all(self, until: float) -> None:
        """Each drawn kind once, then again in another order while there is time; at most two at once.

        Some have the system to themselves: how long recovery takes can be said of those only.
        """
        round_ = 0
        while round_ == 0 or time.monotonic() < until:
            names = list(self.plan.kinds)
            self._random.shuffle(names)
            for name in names:
                if round_ and time.monotonic() > until:
                    break
                alone = self._random.random() < ALONE
                if alone:
                    await self._quiet()
                await self._strike(name)
                if alone:
                    await self._quiet()
                await asyncio.sleep(self._random.uniform(0.5, 4.0))
            round_ += 1
            if not any(name not in self.report.skipped for name in names):
                break
        await self._quiet()

    async def _quiet(self) -> None:
        """Until nothing is under way."""
        while self._under_way:
            await asyncio.wait(self._under_way.values())

    async def _strike(self, name: str) -> None:
        kind = KINDS[name](self._random)
        if kind.need is not None and not kind.need.there():
            self.report.skipped[name] = f"{kind.need.tool} is not there: {kind.need.install}"
            return
        while len(self._under_way) >= AT_ONCE or self._busy(kind.target):
            await asyncio.wait(self._under_way.values(), return_when=asyncio.FIRST_COMPLETED)
        struck = Struck(name, kind.target, time.monotonic(), bound=kind.bound)
        self._overlap(struck)
        self.report.strikes.append(struck)
        task = asyncio.create_task(self._struck(kind, struck))
        self._under_way[kind.target] = task
        task.add_done_callback(lambda _: self._under_way.pop(kind.target, None))

    def _busy(self, target: str) -> bool:
        """A target is free when nothing that is under way hits it, or a part of it."""
        parts = set(target.replace(":", "+").split("+"))
        return any(parts & set(other.replace(":", "+").split("+")) for other in self._under_way)

    def _overlap(self, struck: Struck) -> None:
        for other in self.report.strikes:
            if other.target in self._under_way and other.recovery is None and not other.error:
                other.alone = struck.alone = False

    async def _struck(self, kind: Kind, struck: Struck) -> None:
        self.say(f"strikes {kind.name} on {kind.target}")
        self._unhealed += 1
        try:
            await kind.strike(self._scene)
            if kind.lasts:
                await asyncio.sleep(kind.lasts)
        except Exception as error:  # noqa: BLE001  a strike that fails is told, and the campaign goes on
            struck.error = f"{type(error).__name__}: {error}"
        try:
            await kind.heal(self._scene)
        except Exception as error:  # noqa: BLE001
            struck.error = struck.error or f"{type(error).__name__}: {error}"
        struck.healed, struck.notes = kind.over_at or time.monotonic(), kind.notes
        self._unhealed -= 1
        self._last_healed = time.monotonic()
        struck.recovery = await self._probe(kind.target.partition(":")[0], struck.healed)
        if struck.recovery is not None and kind.took_over is not None:
            struck.recovery = kind.took_over
        took = "never went on" if struck.recovery is None else f"{struck.recovery:.1f} s"
        self.say(f"  {kind.name} on {kind.target}: {struck.error or took} {' '.join(kind.notes)}")

    # --- probes --------------------------------------------------------------------------------------------------

    async def _stock_of_probes(self, driver: Driver) -> None:
        lines = [{"sku": PROBE_SKU, "location": node, "qty": 100_000} for node in NODES]
        await driver._post("receipt", "inventory", "/stock/receipts", {"receipt_id": "probes", "lines": lines})

    async def _probe(self, target: str, since: float) -> float | None:
        """Seconds until an order placed from now on gets as far as it cannot without the target.

        None if that takes too long, not counting while something else is struck: then nobody can say what it waits for.
        Orders are placed all the time, and looked at until they end: those of an outage expire, and never arrive.
        """
        driver = self._scene.driver
        placing: set[asyncio.Task[Any]] = set()
        orders: list[dict[str, Any]] = []
        placed_at = 0.0
        try:
            while self._may_still_come(since):
                if time.monotonic() > placed_at + 2:
                    placed_at = time.monotonic()
                    orders.append(order := driver.order("tok_visa", PROBE_SKU))
                    placing.add(asyncio.create_task(driver.place_http(order)))
                views = await asyncio.gather(*map(driver.view, orders))
                if any(await asyncio.gather(*(self._arrived(target, view) for view in views if view))):
                    return time.monotonic() - since
                orders = [
                    order
                    for order, view in zip(orders, views, strict=True)
                    if view is None or view["status"] not in ("REJECTED", "CANCELLED")
                ]
                await asyncio.sleep(0.25)
            return None
        finally:
            await asyncio.gather(*placing, return_exceptions=True)

    def _may_still_come(self, since: float) -> bool:
        now = time.monotonic()
        calm_since = now if self._unhealed else max(since, self._last_healed)
        return now < calm_since + PROBE_SECONDS and now < since + 3 * PROBE_SECONDS

    async def _arrived(self, target: str, view: dict[str, Any]) -> bool:
        if target in ("fulfillment", "warehouse", "carrier"):
            return view["status"] in ("IN_FULFILLMENT", "COMPLETED")
        if view["status"] not in ("CONFIRMED", "IN_FULFILLMENT", "COMPLETED"):
            return False
        return target != "tracking" or await self._scene.driver.tracked(view["order_id"])

    # --- measures ------------------------------------------------------------------------------------------------

    async def _tell(self, driver: Driver, began: float) -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            minutes, strikes = (time.monotonic() - began) / 60, len(self.report.strikes)
            self.say(f"-- {minutes:.0f} of {self.plan.minutes:g} min · {driver.orders} orders · {strikes} strikes")

    async def _sample(self) -> None:
        while True:
            with suppress(*AWAY):
                self._samples.append(await asyncio.wait_for(collect.positions(self.arena.places), 10))
            await asyncio.sleep(2)

    async def _settled(self) -> list[Usage]:
        """Once more when all is quiet: idle connections are kept for half a minute, and may have that long."""
        deadline = time.monotonic() + IDLE_SECONDS
        while True:
            usage = [*self._usage, *await self._measured(warm=False)]
            if not [*bounded(History(now=datetime.now(UTC), usage=usage))] or time.monotonic() > deadline:
                return usage
            await asyncio.sleep(3)

    async def _measured(self, *, warm: bool) -> list[Usage]:
        usage = []
        for service in SERVICES:
            process = psutil.Process(self.arena.pid(service))
            connection = await asyncpg.connect(self.arena.places.dsns[service], timeout=10)
            try:
                sessions = await connection.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", f"oms_{service}_app"
                )
                outbox = await connection.fetchval("SELECT count(*) FROM outbox") if service in OWNERS else 0
            finally:
                await connection.close()
            figures = (process.memory_info().rss, process.num_fds(), sessions, outbox)
            usage.append(Usage(service, *figures, warm=warm, sockets=self._sockets(process)))
        return usage

    def _sockets(self, process: psutil.Process) -> str:
        """How many connections, by state and by where they lead."""
        ports = {port: name for name, port in self.arena.ports.items()}
        counts = Counter(
            f"{one.status} {ports.get(one.laddr.port) or ports.get(one.raddr.port if one.raddr else 0, 'elsewhere')}"
            for one in process.net_connections("tcp")
        )
        return ", ".join(f"{number} {what}" for what, number in counts.most_common())

    # --- rest ----------------------------------------------------------------------------------------------------

    async def _rest(self) -> None:
        """Until nothing moves: lags 0, nothing in an outbox, no effect, no timer of the next 10 s, no callback due."""
        deadline, quiet, why = time.monotonic() + REST_SECONDS, 0, "nothing was asked yet"
        told_at = time.monotonic()
        while quiet < 3:
            try:
                why = await self._moving()
            except AWAY as error:
                why = f"{type(error).__name__}: {error}"
            quiet = 0 if why else quiet + 1
            if why and time.monotonic() > told_at + TELL_REST_SECONDS:
                told_at = time.monotonic()
                self.say(f"  no rest yet: {why}")
            if time.monotonic() > deadline:
                self.say(f"no rest after {REST_SECONDS:.0f} s: {why}")
                return
            await asyncio.sleep(1)
        self.say("at rest")

    async def _moving(self) -> str:
        """What still moves, in words; empty when nothing does."""
        ends = await collect.ends(self.arena.places.kafka)
        for service in SERVICES:
            connection = await asyncpg.connect(self.arena.places.dsns[service], timeout=5)
            try:
                for row in await connection.fetch("SELECT topic, partition, next_offset FROM consumer_position"):
                    lag = ends[row["topic"], row["partition"]] - row["next_offset"]
                    if lag:
                        return f"{service} is {lag} behind on {row['topic']}/{row['partition']}"
                if service in OWNERS:
                    for table, where in (("outbox", ""), ("effect", ""), ("stream_head", DUE)):
                        if count := await connection.fetchval(f"SELECT count(*) FROM {table} {where}"):
                            return f"{service} has {count} in {table}"
            finally:
                await connection.close()
        return await self._callbacks()

    async def _callbacks(self) -> str:
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            for name in ("psp", "carrier", "warehouse"):
                states = (await client.get(f"{self.arena.url(name)}/ledger/summary")).json()["callbacks"]
                if left := states.get("due", 0) + states.get("waiting", 0):
                    return f"{name} has {left} callbacks to make"
        return ""

    # --- evidence ------------------------------------------------------------------------------------------------

    async def _evidence(self, journal: Journal) -> History:
        places = self.arena.places
        history = await collect.collect(places)
        history.journal, history.samples = journal.read(), self._samples
        before = {name: len(history.facts[name]) for name in OWNERS}
        for service in SERVICES:
            self.say(f"rebuilds the views of {service}")
            await self.arena.run(service, "rebuild", seconds=REBUILD_SECONDS)
        for service in SERVICES:
            connection = await asyncpg.connect(places.dsns[service], timeout=10)
            try:
                history.rebuilt[service] = await collect.read_views(connection)
                if service in OWNERS:
                    after = await connection.fetchval("SELECT count(*) FROM events")
                    history.appended_by_rebuild[service] = after - before[service]
            finally:
                await connection.close()
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            history.attempts_after = await collect.attempts(client, places)
        return history


DUE = "WHERE due_at < clock_timestamp() + interval '10 seconds'"


async def run(plan: Plan, made: Arena, say: Say) -> Report:
    return await Campaign(plan, made, say).run()


def main() -> int:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a broker that is away is not its news to tell
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    seed = int(os.environ.get("SEED") or random.randrange(1_000_000))
    plan = Plan.drawn(
        seed,
        float(os.environ.get("MINUTES") or 10),
        os.environ.get("KINDS") or "",
        float(os.environ.get("RATE") or 5),
    )
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:7.1f} {text}\n")
        sys.stderr.flush()

    say(f"seed {seed}, {plan.minutes:g} minutes, kinds: {', '.join(plan.kinds)}")
    with arena() as made:
        report = asyncio.run(run(plan, made, say))
        if not report.sound or report.late:
            keep = Path("build/faults-evidence")
            shutil.rmtree(keep, ignore_errors=True)
            shutil.copytree(made.state_dir / "logs", keep / "logs")
            shutil.copy(made.state_dir / "journal.jsonl", keep)
            say(f"logs and journal are in {keep}")
    report.write(OUT)
    OUT.with_suffix(".md").write_text(report.markdown())
    sys.stdout.write(report.table() + "\n")
    return 0 if report.sound and not report.late else 1


if __name__ == "__main__":
    sys.exit(main())
