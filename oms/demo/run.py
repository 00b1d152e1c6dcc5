"""The demo from beginning to end: a cluster of its own, a real day of orders, the audit, and nothing left behind."""

import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import httpx
from rich.console import Console

from oms.audit.books import audit
from oms.audit.evidence import WRITING, Evidence, Sources, collect
from oms.cluster.cluster import LocalCluster
from oms.cluster.process import Report
from oms.cluster.settings import ClusterSettings
from oms.cluster.startup import ClusterSpec
from oms.demo import behaviour, people, screen, watch
from oms.demo.channel import Journal, publish
from oms.demo.day import Day, load_day
from oms.demo.plan import Plan, plan
from oms.demo.summary import Seconds, Summary, summarise

T = TypeVar("T")

REST_SECONDS = 30.0
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True)
class Options:
    """`patience`: seconds without any movement after which orders that are still open are given up."""

    orders: int | None = None
    seed: int = 1
    pace: float = 50.0
    patience: float = 60.0
    json_path: Path = Path("build/demo.json")
    keep: bool = False


@dataclass(slots=True)
class Clock:
    """Seconds of each part, in the order in which they were taken."""

    began: float = field(default_factory=time.monotonic)
    laps: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.laps[name] = round(time.monotonic() - began, 1)

    def seconds(self) -> Seconds:
        return Seconds(**self.laps, total=round(time.monotonic() - self.began, 1))


def run(options: Options, settings: ClusterSettings, console: Console, report: Report) -> bool:
    """Whether the books balance. Stops and deletes what it made, however it ends; logs stay if they do not."""
    clock = Clock()
    path = Path(tempfile.mkdtemp(prefix="orderloom-demo-"))
    path.chmod(0o711)  # as root, PostgreSQL passes through as another account
    clean = False
    with _ended_by_signals():
        try:
            clean = _with_cluster(
                LocalCluster(_own(settings, options, path), ClusterSpec(), report), options, console, clock
            )
        except KeyboardInterrupt:
            clean = True
            raise
        finally:
            with _undisturbed():
                _remove(path, console, keep_logs=not clean)
    return clean


def _own(settings: ClusterSettings, options: Options, path: Path) -> ClusterSettings:
    """Servers that the environment names belong to somebody, and the demo's books would find their orders too."""
    own = {"state_dir": path / "state", "seed": options.seed, "kafka_bootstrap": None, "postgres_host": None}
    return settings.model_copy(update=own)


def _with_cluster(cluster: LocalCluster, options: Options, console: Console, clock: Clock) -> bool:
    behaviour.set_environment()
    try:
        with clock.lap("start"), ThreadPoolExecutor(1) as pool:
            loading = pool.submit(load_day)
            cluster.start()
            day = loading.result()
        summary = asyncio.run(_interruptible(_Demo(cluster, options, console, day, clock).play()))
        if options.keep:
            _keep_up(cluster, console)
        return summary.balanced
    finally:
        with _undisturbed():
            cluster.stop()


def _keep_up(cluster: LocalCluster, console: Console) -> None:
    console.print("\nStill running:")
    for name, app in {**cluster.state.services, **cluster.state.simulators}.items():
        console.print(f"  {name:<12} {app.url}/docs" if name in cluster.state.services else f"  {name:<12} {app.url}")
    console.print(f"  kafka        {cluster.kafka_bootstrap}")
    console.print(f"OMS_STATE_DIR={cluster.directory.path} oms status  shows it; Ctrl-C ends it.", soft_wrap=True)
    with suppress(KeyboardInterrupt):
        cluster.wait()


@dataclass(frozen=True, slots=True)
class _Demo:
    cluster: LocalCluster
    options: Options
    console: Console
    day: Day
    clock: Clock

    async def play(self) -> Summary:
        planned = plan(self.day.first(self.options.orders), self.options.seed)
        journal, problems = Journal(), list[str]()
        with self.clock.lap("prepare"), self.console.status("Receiving stock"):
            await behaviour.misbehave(self.cluster.url)
            await people.prepare(planned, self.cluster.url("inventory"))
        self.console.print(
            f"  [green]✓[/] {len(planned.stores)} stores, {len(planned.stock):,} stock lines "
            f"in {self.clock.laps['prepare']} s"
        )
        with self.clock.lap("until_ended"):
            try:
                await self._place_and_watch(planned, journal)
            except watch.Stalled as stalled:
                problems.append(str(stalled))
        sources = Sources(
            dsns={name: self.cluster.dsn(name, "owner") for name in (*WRITING, "tracking")},
            psp_url=self.cluster.url("psp"),
        )
        with self.console.status("Checking the books"):
            if not await watch.until_rest(sources, REST_SECONDS):
                problems.append(f"The services did not come to rest within {REST_SECONDS:.0f} s.")
            evidence = await collect(sources)
        return await self._tell(planned, journal, evidence, problems)

    async def _place_and_watch(self, planned: Plan, journal: Journal) -> None:
        bars = screen.OrderProgress(self.console, len(planned.orders), len(planned.expected))
        began = asyncio.get_running_loop().time()
        customers = asyncio.create_task(
            people.answer_payment_requests(
                self.cluster.dsn("order", "owner"), self.cluster.url("order"), self.options.seed
            )
        )
        placing = asyncio.create_task(
            publish(self.cluster.kafka_bootstrap, planned.messages, self.options.pace, journal)
        )
        placing.add_done_callback(
            lambda _: self.clock.laps.setdefault("publish", round(asyncio.get_running_loop().time() - began, 1))
        )
        watching = asyncio.create_task(
            watch.until_ended(
                self.cluster.dsn("tracking", "read"),
                len(planned.expected),
                self.options.patience,
                placing.done,
                lambda counts: bars.show(len(journal.placed_at), counts),
            )
        )
        with bars:
            await _all_of(placing, watching, beside=customers)

    async def _tell(self, planned: Plan, journal: Journal, evidence: Evidence, problems: list[str]) -> Summary:
        outcomes = await watch.outcomes(self.cluster.dsn("tracking", "read"))
        summary = summarise(
            day=self.day,
            plan=planned,
            seed=self.options.seed,
            journal=journal,
            outcomes=outcomes,
            evidence=evidence,
            findings=audit(evidence, planned.expected),
            problems=problems,
            seconds=self.clock.seconds(),
        )
        screen.print_summary(self.console, summary)
        if shown := _most_told(outcomes):
            screen.print_timeline(
                self.console, f"{shown.channel} {shown.external_order_id}", await self._timeline(shown.order_id)
            )
        screen.print_books(self.console, summary)
        self.options.json_path.parent.mkdir(parents=True, exist_ok=True)
        self.options.json_path.write_text(summary.model_dump_json(indent=2) + "\n")
        return summary

    async def _timeline(self, order_id: str) -> list[dict[str, Any]]:
        async with httpx.AsyncClient(base_url=self.cluster.url("tracking"), timeout=10.0) as http:
            answer = await http.get(f"/orders/{order_id}/timeline")
            answer.raise_for_status()
            story: list[dict[str, Any]] = answer.json()
            return story


async def _all_of(*tasks: "asyncio.Task[None]", beside: "asyncio.Task[None]") -> None:
    """Until all tasks are done, or one (or the one beside them, which never ends by itself) has failed."""
    everything = {*tasks, beside}
    try:
        waiting = set(tasks)
        while waiting:
            done, _ = await asyncio.wait({*waiting, beside}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            waiting -= done
    finally:
        for task in everything:
            task.cancel()
        await asyncio.gather(*everything, return_exceptions=True)


def _most_told(outcomes: list[watch.Outcome]) -> watch.Outcome | None:
    """A completed order that shows most: paid at another attempt, sent in two parcels, with few lines."""
    completed = [one for one in outcomes if one.status == "COMPLETED"]
    return min(completed, key=lambda one: (-one.attempts, abs(one.parcels - 2), one.lines, one.order_id), default=None)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does: with everything stopped and deleted."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """While the demo cleans up, a second Ctrl-C does not leave half of it behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _interruptible(playing: Coroutine[Any, Any, T]) -> T:
    """A signal ends the coroutine by cancelling it: raised in the midst of the loop it would leave tasks torn."""
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(playing)
    before = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    for number in ENDING_SIGNALS:
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _remove(path: Path, console: Console, *, keep_logs: bool) -> None:
    logs = path / "state" / "logs"
    if keep_logs and logs.is_dir():
        kept = Path(tempfile.mkdtemp(prefix="orderloom-demo-logs-"))
        shutil.copytree(logs, kept, dirs_exist_ok=True)
        console.print(f"The logs are kept in {kept}", soft_wrap=True)
    shutil.rmtree(path, ignore_errors=True)
