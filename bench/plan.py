"""How large everything is: the full benchmark, and the quick one that fits into five minutes."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`seconds` is how long each round of each contender is measured, once it is saturated."""

    quick: bool
    rounds: int
    seconds: float
    in_flight: int
    orders: int = 0
    shapes: tuple[str, ...] = ("one", "two", "five")
    textbook_in_flight: int = 16
    textbook_rounds: int = 3
    rates: tuple[int, ...]
    paced_seconds: float
    part_seconds: float
    relay_events: int
    full_events: int
    rebuild_events: int
    growth_orders: tuple[int, ...]
    memory_orders: int
    worker_orders: int
    worker_rounds: int = 3


FULL = Plan(
    quick=False,
    rounds=3,
    seconds=20,
    in_flight=1_000,
    rates=(50, 150, 300, 500),
    paced_seconds=30,
    part_seconds=5,
    relay_events=100_000,
    full_events=5_000_000,
    rebuild_events=1_000_000,
    growth_orders=(0, 10_000, 100_000, 1_000_000),
    memory_orders=200_000,
    worker_orders=5_000,
)

QUICK = Plan(
    quick=True,
    rounds=3,
    seconds=3,
    in_flight=200,
    shapes=("one", "five"),
    textbook_in_flight=6,
    textbook_rounds=1,
    rates=(300,),
    paced_seconds=3,
    part_seconds=0.5,
    relay_events=10_000,
    full_events=150_000,
    rebuild_events=50_000,
    growth_orders=(0, 3_000),
    memory_orders=400,
    worker_orders=1_500,
    worker_rounds=1,
)
"""Stores of a hundredth, rounds of a quarter: it shows that everything works, and roughly where the figures are."""
