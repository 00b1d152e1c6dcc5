"""What the benchmark says: a table on the screen, RESULTS.md, and pictures; all from the flat figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.figures import GOALS, shown
from bench.journey import Journey, readers
from bench.rig import Rig

Flat = Mapping[str, Any]

CONTENDERS = (
    ("whole orders, as shipped", "", "whole_orders_per_s"),
    ("  all in one process", "shape_one_", "shape_one_orders_per_s"),
    ("  two processes", "shape_two_", "shape_two_orders_per_s"),
    ("  five processes", "shape_five_", "shape_five_orders_per_s"),
    ("  one to five lines", "baskets_", "baskets_orders_per_s"),
    ("  gateways over HTTP", "http_", "http_orders_per_s"),
    ("the floor", "floor_", "floor_orders_per_s"),
    ("textbook", "textbook_", "textbook_orders_per_s"),
    ("DBOS, 12 steps", "dbos_", "dbos_orders_per_s"),
    ("pyeventsourcing, 12 commands", "pyeventsourcing_", "pyeventsourcing_orders_per_s"),
)
CPU = ("cpu_python_us", "cpu_postgres_us", "cpu_kafka_us")


def goal_rows(flat: Flat) -> list[tuple[str, str, str, str, str]]:
    rows = []
    for goal in GOALS:
        value = flat.get(goal.key)
        met = "not measured" if value is None else "yes" if goal.met(value) else "no"
        rows.append((goal.what, goal.key, "" if value is None else shown(value), goal.words, met))
    return rows


def rate_rows(flat: Flat) -> list[tuple[str, ...]]:
    rows = []
    for name, prefix, key in CONTENDERS:
        if key in flat:
            events = flat.get(f"{prefix}events_per_s")
            costs = [flat.get(prefix + group) for group in CPU]
            rows.append((name, *(shown(value) if value is not None else "" for value in (flat[key], events, *costs))))
    return rows


def other_rows(flat: Flat) -> list[tuple[str, str]]:
    """Every other figure, by name."""
    told = {goal.key for goal in GOALS} | {"events_per_order"}
    known = (*(prefix for _, prefix, _ in CONTENDERS if prefix), "cpu_")
    return [
        (key, shown(value))
        for key, value in flat.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in told
        if not key.startswith(known)
    ]


GOAL_HEAD = ("figure", "key", "measured", "goal", "met")
RATE_HEAD = ("contender", "orders/s", "events/s", "Python µs", "PostgreSQL µs", "Kafka µs")


def show(console: Console, flat: Flat) -> None:
    for title, head, rows in (
        ("Whole orders: rates, and CPU an order", RATE_HEAD, rate_rows(flat)),
        ("Parts, latency, growth, memory", ("figure", "measured"), other_rows(flat)),
        ("Figures and goals", GOAL_HEAD, goal_rows(flat)),
    ):
        if rows:
            table = Table(title=title, title_justify="left")
            for place, name in enumerate(head):
                table.add_column(name, justify="left" if place == 0 or name in ("key", "met") else "right")
            for row in rows:
                table.add_row(*row)
            console.print(table)


def write_results(path: Path, flat: Flat, rig: Rig, journey: Journey) -> None:
    quick = "\n**A quick run: small stores and short rounds. It shows that all works, not how fast it is.**\n"
    pictures = {"latency.svg": "Placed to confirmed", "growth.svg": "With full stores"}
    further = "".join(f"![{what}]({name})\n" for name, what in pictures.items() if (path.parent / name).exists())
    machine = [(name, flat[name]) for name in ("machine", "system", "python", "postgres", "kafka", "load_before")]
    text = f"""# Results of the benchmark

Each section with the command that measured it last; the same figures by key in [results.json](results.json).

{_table(("sections", "measured by"), run_rows(flat))}{quick if flat.get("quick") else ""}
{_table(("machine", ""), machine)}
## Figures and goals

{_table(GOAL_HEAD, goal_rows(flat))}
The headline ran in the shape `{flat.get("headline_shape", "not chosen")}` (which services share a process; the best of
one, two and five). Medians of the rounds. `_5m` and `_full` are at {flat.get("order_events_full", 0):,.0f} events in
the store. [Why it is as fast as it is](../docs/performance.md) explains the goals that are missed.

## Whole orders

{_table(RATE_HEAD, rate_rows(flat))}
CPU is that of one order, by process group; the load generator is not in it.

![Orders a second](orders.svg)
![CPU of one order](cpu.svg)
{further}
## All other figures

{_table(("key", "measured"), other_rows(flat))}
## The events of one order

{len(journey.steps)} events of one order of one line, by name, as they were recorded, with everybody who reads each.

{_table(("#", "service", "event", "bytes", "read by"), journey_rows(rig, journey))}"""
    path.write_text(text)


def run_rows(flat: Flat) -> list[tuple[str, str]]:
    """The sections that a command measured last, and the command."""
    sections: dict[str, list[str]] = {}
    for key, ran in flat.items():
        if key.startswith("run_"):
            sections.setdefault(ran, []).append(key.removeprefix("run_"))
    return [(", ".join(names), ran) for ran, names in sections.items()]


def journey_rows(rig: Rig, journey: Journey) -> list[tuple[str, ...]]:
    return [
        (str(number), step.service, step.name, str(len(step.data)), readers(rig, step))
        for number, step in enumerate(journey.steps, start=1)
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"
