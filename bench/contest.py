"""The contenders, a round each and interleaved, so that the machine's moods hit all alike."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.closed import Load, Rate, channel_and_tracking, drained, saturate
from bench.figures import Figures
from bench.fill import Told
from bench.fleet import TEXTBOOK, Fleet
from bench.floor import Floor, floor_databases
from bench.journey import Journey, capture
from bench.orders import baskets, one_line
from bench.paced import pace
from bench.peer import PEERS, environment, peer_database, peer_rate
from bench.plan import Plan
from bench.rig import Rig


@dataclass
class Contest:
    """`shape` is the headline's: until one is chosen, the best of the first round."""

    rig: Rig
    plan: Plan
    figures: Figures
    told: Told
    stack: AsyncExitStack
    shape: str = ""
    journey: Journey | None = None
    failed: dict[str, str] = field(default_factory=dict)
    _dsns: Mapping[str, str] | None = None
    _floor: Floor | None = None
    _python: Path | None = None
    _peers: dict[str, str] = field(default_factory=dict)

    async def recorded_journey(self) -> Journey:
        """One order's way through all five services, as it was stored."""
        if self.journey is None:
            self.told("recording one order's journey")
            async with (
                Fleet(self.rig, "one") as fleet,
                channel_and_tracking(self.rig, one_line()) as (channel, tracking),
            ):
                await channel.place(5)
                await drained(fleet, channel, tracking, 60)
                # not the first one, and once nothing of it is under way any more
                order_id = channel.order_id(2)
            self.journey = await capture(self.rig, order_id)
        return self.journey

    async def run(self, sections: frozenset[str]) -> None:
        contenders: Mapping[str, Callable[[int], Awaitable[None]]] = {
            "whole": self._whole,
            "floor": self._replayed,
            "textbook": self._textbook,
            "peers": self._peers_round,
        }
        for number in range(self.plan.rounds):
            for section, contender in contenders.items():
                if section in sections:
                    await self.attempt(section, partial(contender, number))
        if "whole" in sections:
            await self.attempt("whole", self._beside)
        if "paced" in sections:
            await self.attempt("paced", self._paced)

    async def attempt(self, section: str, work: Callable[[], Awaitable[None]]) -> None:
        """What fails is told and remembered; it must not cost the figures that others have found in an hour."""
        if section in self.failed:
            return
        try:
            await work()
        except Exception as error:  # noqa: BLE001  whatever it is
            self.failed[section] = f"{type(error).__name__}: {error}"
            self.told(f"{section} failed: {self.failed[section]}")

    def load(self, **fields: float) -> Load:
        plan = self.plan
        usual = {"in_flight": plan.in_flight, "seconds": plan.seconds, "orders": plan.orders}
        return Load(bodies=one_line(), **{**usual, **fields})  # type: ignore[arg-type]

    async def _whole(self, number: int) -> None:
        for shape in [self.shape] if self.shape else self.plan.shapes:
            self.told(f"round {number + 1}: whole orders, {shape} process{'es' if shape != 'one' else ''}")
            async with Fleet(self.rig, shape) as fleet:
                self._note(f"shape_{shape}_", await saturate(fleet, self.load()))
        self.shape = self.shape or max(self.plan.shapes, key=lambda shape: self.figures[f"shape_{shape}_orders_per_s"])

    def _note(self, prefix: str, rate: Rate) -> None:
        self.figures.add(f"{prefix}orders_per_s", rate.orders_per_s)
        self.figures.add(f"{prefix}events_per_s", rate.events_per_s)
        self.figures.add(f"{prefix}events_per_order", rate.events_per_order)
        for group, microseconds in rate.cpu_us.items():
            self.figures.add(f"{prefix}cpu_{group}_us", microseconds)

    async def _replayed(self, number: int) -> None:
        journey = await self.recorded_journey()
        if self._dsns is None:
            self._dsns = await self.stack.enter_async_context(floor_databases(self.rig))
        self._floor = self._floor or Floor(self.rig, dict(self._dsns), journey, self.shape or "two")
        self.told(f"round {number + 1}: the floor")
        async with self._floor as floor:
            self._note("floor_", await floor.saturate(self.plan.in_flight, self.plan.seconds))

    async def _textbook(self, number: int) -> None:
        if number >= self.plan.textbook_rounds:
            return
        self.told(f"round {number + 1}: textbook, one transaction and one send a message")
        async with Fleet(self.rig, self.shape or "two", settings=TEXTBOOK) as fleet:
            load = self.load(in_flight=self.plan.textbook_in_flight, orders=0)
            self._note("textbook_", await saturate(fleet, load))

    async def _peers_round(self, number: int) -> None:
        self._python = self._python or environment(self.rig, self.told)
        for peer in PEERS:
            if peer.name not in self._peers:
                self._peers[peer.name] = await self.stack.enter_async_context(peer_database(self.rig, peer))
            self.told(f"round {number + 1}: {peer.name}")
            rate = await peer_rate(self._python, peer, self._peers[peer.name], self.plan.seconds)
            self.figures.add(f"{peer.name}_orders_per_s", rate)
            self.figures.add(f"{peer.name}_events_per_s", rate * peer.events)

    async def _beside(self) -> None:
        self.told("beside it: one to five lines an order")
        async with Fleet(self.rig, self.shape) as fleet:
            rate = await saturate(
                fleet, Load(bodies=baskets(), in_flight=self.plan.in_flight, seconds=self.plan.seconds)
            )
            self._note("baskets_", rate)
        self.told("beside it: PSP, carrier and warehouse over HTTP")
        async with Fleet(self.rig, self.shape, over_http=True) as fleet:
            load = self.load(in_flight=self.plan.in_flight // 4, orders=0)
            self._note("http_", await saturate(fleet, load))

    async def _paced(self) -> None:
        for rate in self.plan.rates:
            self.told(f"open loop: {rate} orders a second")
            async with Fleet(self.rig, self.shape or "two") as fleet:
                latency = await pace(fleet, one_line(), rate, self.plan.paced_seconds)
            self.figures.update(
                {
                    f"p50_confirmed_ms_{rate}": latency.p50_ms,
                    f"p90_confirmed_ms_{rate}": latency.p90_ms,
                    f"p99_confirmed_ms_{rate}": latency.p99_ms,
                    f"max_confirmed_ms_{rate}": latency.max_ms,
                    f"late_confirmed_{rate}": latency.late,
                }
            )


def derive(figures: Figures, shape: str) -> None:
    """The figures of the table, from the contenders' medians."""
    if shape and f"shape_{shape}_orders_per_s" in figures:
        figures.notes["headline_shape"] = shape
        prefix = f"shape_{shape}_"
        figures.derive("whole_orders_per_s", (f"{prefix}orders_per_s",), lambda value: value)
        figures.derive("events_per_order", (f"{prefix}events_per_order",), lambda value: value)
        for name in ("events_per_s", "cpu_python_us", "cpu_postgres_us", "cpu_kafka_us"):
            figures.derive(name, (prefix + name,), lambda value: value)
    ours = "whole_orders_per_s"
    for name, other in (
        ("floor_share", "floor_orders_per_s"),
        ("x_textbook", "textbook_orders_per_s"),
        ("x_dbos", "dbos_orders_per_s"),
    ):
        figures.derive(name, (ours, other), lambda mine, theirs: mine / theirs)
    figures.derive("x_pyeventsourcing", ("events_per_s", "pyeventsourcing_events_per_s"), lambda ours, its: ours / its)
