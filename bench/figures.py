"""The figures that count, with their goals; and every sample behind them."""

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Goal:
    """`key` is the figure's name in results.json; `least` says whether more is better, or less."""

    key: str
    what: str
    bound: float
    least: bool = True

    def met(self, value: float) -> bool:
        return value >= self.bound if self.least else value <= self.bound

    @property
    def words(self) -> str:
        return f"{'≥' if self.least else '≤'} {shown(self.bound)}"


GOALS = (
    Goal("whole_orders_per_s", "whole orders a second", 750),
    Goal("events_per_s", "events a second in that run", 20_000),
    Goal("floor_share", "share of the floor", 0.5),
    Goal("x_textbook", "orders/s against textbook", 20),
    Goal("x_dbos", "orders/s against DBOS", 20),
    Goal("x_pyeventsourcing", "events/s against pyeventsourcing", 12),
    Goal("p99_confirmed_ms_300", "p99 placed → confirmed at 300 orders/s, ms", 250, least=False),
    Goal("append_500_per_s", "append by 500, events a second", 60_000),
    Goal("append_5m_ratio", "the same at 5 million rows against empty", 0.9),
    Goal("hot_oversold", "hot SKU: units oversold", 0, least=False),
    Goal("hot_ratio", "hot SKU: rate against many SKUs", 0.5),
    Goal("hot_x_optimistic", "hot SKU: rate against optimistic retry", 20),
    Goal("rebuild_per_s", "rebuild of a view, events a second", 100_000),
    Goal("growth_ratio", "orders/s with full stores against empty", 0.9),
    Goal("rss_max_mb", "largest service process, MB", 200, least=False),
    Goal("rss_growth", "its growth", 1.05, least=False),
)


def shown(value: float) -> str:
    if value >= 1_000:
        return f"{value:,.0f}"
    return f"{value:,.3g}" if value < 100 else f"{value:.0f}"


@dataclass
class Figures:
    """Samples by name, one a round; what is published is the median of each."""

    samples: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.samples.setdefault(name, []).append(float(value))

    def update(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.add(name, value)

    def __contains__(self, name: str) -> bool:
        return name in self.samples

    def __getitem__(self, name: str) -> float:
        return statistics.median(self.samples[name])

    def derive(self, name: str, parts: tuple[str, ...], value: Callable[..., float]) -> None:
        """A figure made of others, where all of them were measured."""
        if all(part in self for part in parts):
            self.samples[name] = [value(*(self[part] for part in parts))]

    def flat(self) -> dict[str, Any]:
        return {**{name: round(self[name], 4) for name in self.samples}, **self.notes}

    def write(self, path: Path) -> None:
        """Sections that were not run this time keep what an earlier run of the same size found."""
        before = json.loads(path.read_text()) if path.exists() else {}
        kept = before if before.get("quick") == self.notes.get("quick") else {}
        flat = {**kept, **self.flat()}
        first = {goal.key: flat[goal.key] for goal in GOALS if goal.key in flat}
        path.write_text(json.dumps(first | dict(sorted(flat.items())), indent=2) + "\n")
