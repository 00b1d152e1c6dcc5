"""The benchmark: whole orders, the floor below them, others beside them, and the parts they are made of."""

import json
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console
from rich.markup import escape

from bench.contest import Contest, derive
from bench.figures import Figures
from bench.fleet import SHAPES
from bench.growth import grow
from bench.machine import described
from bench.memory import resident
from bench.parts.run import measure_parts
from bench.plan import FULL, QUICK, Plan
from bench.plots import draw
from bench.report import show, write_results
from bench.rig import Rig, rig
from bench.workers import shared
from libs.runtime import telemetry
from libs.runtime.garbage import tune_garbage_collector

SECTIONS = ("whole", "floor", "textbook", "peers", "paced", "workers", "growth", "memory", "parts")
console = Console()


def main(
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"Run this section alone; may be repeated. One of: {', '.join(SECTIONS)}."),
    ] = None,
    quick: Annotated[bool, typer.Option(help="All sections in five minutes: small stores, short rounds.")] = False,
    orders: Annotated[int, typer.Option(help="Measure so many whole orders a round, not so many seconds.")] = 0,
    seconds: Annotated[float, typer.Option(help="How long a round is measured; 0: as planned.")] = 0,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds; the median counts. 0: as planned.")] = 0,
    in_flight: Annotated[int, typer.Option(help="Orders under way in the closed loop; 0: as planned.")] = 0,
    shape: Annotated[
        str, typer.Option(help=f"Which services share a process: {', '.join(SHAPES)}. Empty: the best of them.")
    ] = "",
    processes: Annotated[bool, typer.Option(help="The same as --shape five: a process a service.")] = False,
    full_events: Annotated[int, typer.Option(help="Events in the full store of `parts`; 0: as planned.")] = 0,
    growth_orders: Annotated[
        str, typer.Option(help="Orders in the stores of `growth`, as 0,10000; empty: as planned.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Where results go. Default: bench/, of a quick run build/bench/.")
    ] = None,
) -> None:
    """Measures the system as it ships, on real Kafka and PostgreSQL that are started for it and gone afterwards.

    Sections: `whole` saturates the five services with orders (closed loop), in one, two and five processes, with bigger
    baskets and with HTTP gateways beside it. `floor` replays the same records and rows by the barest code. `textbook`
    is one transaction and one send a message. `peers` are pyeventsourcing and DBOS on the same server. `paced` places
    orders at a given pace and measures how long they take to be confirmed. `workers` lets two worker processes of one
    service share its partitions, and one alone. `growth` fills the stores and measures
    again. `memory` watches each service's process. `parts` measures append, commit, relay, consumer, hot SKU, rebuild.

    Examples: `--only whole --orders 3000`; `--only floor --only whole --shape five --rounds 1`; `--only parts --quick`.
    Sections that are not run keep the figures that results.json has of them. It takes both cores:
    run nothing beside it.
    """
    sections = frozenset(only or SECTIONS)
    if unknown := sections - set(SECTIONS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: choose from {', '.join(SECTIONS)}")
    shape = "five" if processes else shape
    if shape and shape not in SHAPES:
        raise typer.BadParameter(f"{shape}: choose from {', '.join(SHAPES)}")
    given: dict[str, Any] = {
        "orders": orders,
        "seconds": seconds,
        "rounds": rounds,
        "in_flight": in_flight,
        "full_events": full_events,
    }
    plan = replace(QUICK if quick else FULL, **{name: value for name, value in given.items() if value})
    if growth_orders:
        plan = replace(plan, growth_orders=tuple(int(number) for number in growth_orders.split(",")))
    tune_garbage_collector()  # parts run in this process as they do in the services'
    telemetry.configure("bench", log_level="ERROR", trace_ratio=0)
    folder = out or Path("build/bench" if quick else "bench")
    folder.mkdir(parents=True, exist_ok=True)
    with console.status("starting Kafka and PostgreSQL"), rig() as started:
        sound = uvloop.run(_measure(started, plan, sections, shape, folder))
    raise typer.Exit(0 if sound else 1)


async def _measure(rig: Rig, plan: Plan, sections: frozenset[str], shape: str, folder: Path) -> bool:
    began = time.monotonic()

    def told(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.0f} s[/dim]  {text}")

    figures = Figures(notes=dict(await described(rig, sys.argv[1:])))
    figures.notes["quick"] = plan.quick
    ran = f"`{figures.notes['command']}` at {figures.notes['measured_at']}"
    figures.notes |= {f"run_{section}": ran for section in sections}
    await rig.prepare()
    async with AsyncExitStack() as stack:
        contest = Contest(rig, plan, figures, told, stack, shape)
        journey = await contest.recorded_journey()
        await contest.run(sections)
        shape = contest.shape or "two"

    async def memory() -> None:
        seen = await resident(rig, contest.load(orders=plan.memory_orders, patience=7_200), told)
        figures.update({"rss_max_mb": seen.max_mb, "rss_growth": seen.growth, "rss_orders": seen.orders})
        figures.update({f"rss_{name}_mb": max(sizes) for name, sizes in seen.samples.items()})

    async def growth() -> None:
        sizes = plan.growth_orders
        async for grown in grow(rig, journey, plan, shape, contest.load(), told):
            figures.add(f"growth_orders_per_s_{grown.orders}", grown.rate.orders_per_s)
            figures.add(f"growth_cpu_us_{grown.orders}", sum(grown.rate.cpu_us.values()))
        rates = (f"growth_orders_per_s_{sizes[-1]}", f"growth_orders_per_s_{sizes[0]}")
        figures.derive("growth_ratio", rates, lambda full, empty: full / empty)

    async def workers() -> None:
        rates = await shared(rig, plan.worker_orders, plan.worker_rounds, told)
        for count, samples in rates.items():
            for rate in samples:
                figures.add(f"workers_{count}_per_s", rate)
        figures.derive("workers_ratio", ("workers_2_per_s", "workers_1_per_s"), lambda two, one: two / one)

    async def parts() -> None:
        figures.update(await measure_parts(rig, journey, plan, told))

    # `workers` empties tracking, which the others take an order's rows from.
    for section, work in (("memory", memory), ("growth", growth), ("parts", parts), ("workers", workers)):
        if section in sections:
            await contest.attempt(section, work)
    derive(figures, shape)
    figures.notes["seconds"] = round(time.monotonic() - began)
    figures.write(folder / "results.json")
    flat = json.loads((folder / "results.json").read_text())
    draw(folder, flat)
    write_results(folder / "RESULTS.md", flat, rig, journey)
    show(console, flat)
    console.print(f"{folder}/RESULTS.md, results.json and pictures; {time.monotonic() - began:.0f} s")
    for section, reason in contest.failed.items():
        console.print(f"[red]{section} failed: {escape(reason)}")
    return not contest.failed


if __name__ == "__main__":
    typer.run(main)
