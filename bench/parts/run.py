"""All parts, once on empty stores and once on full ones."""

from bench.fill import Told, rows_of
from bench.journey import Journey
from bench.parts.append import append_rate, load_rate
from bench.parts.bed import Bed, bed
from bench.parts.commit import group_commit
from bench.parts.hot import hot_sku
from bench.parts.stream import consumer_rate, relay_rate
from bench.parts.view import fold_rate, rebuild_rate
from bench.parts.view_rows import view_rows_rates
from bench.plan import Plan
from bench.rig import Rig

Figures = dict[str, float]


async def measure_parts(rig: Rig, journey: Journey, plan: Plan, told: Told) -> Figures:
    figures: Figures = {}
    sizes = {"tracking": plan.rebuild_events}
    for name, part in (("order", _order), ("inventory", _inventory), ("tracking", _tracking)):
        rows = await rows_of(rig, name, journey.order_id)
        async with bed(rig, name, journey, rows) as place:
            for suffix, events in (("", 0), ("_full", sizes.get(name, plan.full_events))):
                told(f"parts: {name}, {events:,} events in the store")
                figures[f"{name}_events{suffix}"] = await place.fill_to(events, told)
                figures |= {key + suffix: value for key, value in (await part(place, plan, told)).items()}
    figures["rebuild_per_s"] = figures.pop("rebuild_per_s_full")
    figures["append_5m_ratio"] = figures["append_500_per_s_full"] / figures["append_500_per_s"]
    return figures


async def _order(place: Bed, plan: Plan, told: Told) -> Figures:
    figures = {}
    for size in (1, 50, 500):
        told(f"parts: append by {size}")
        figures[f"append_{size}_per_s"] = await append_rate(place, size, plan.part_seconds)
    told("parts: append by 500, two writers at once")
    figures["append_500_by_two_per_s"] = await append_rate(place, 500, plan.part_seconds, writers=2)
    told("parts: relay")
    figures["relay_per_s"] = await relay_rate(place, plan.relay_events)
    told("parts: load of 500 streams")
    figures["load_500_streams_per_s"] = await load_rate(place, plan.part_seconds)
    return figures


async def _inventory(place: Bed, plan: Plan, told: Told) -> Figures:
    told("parts: group commit against a pool")
    grouped, alone = await group_commit(place, plan.part_seconds)
    figures = {
        "group_commit_per_s": grouped.per_s,
        "group_commit_p99_ms": grouped.p99_ms,
        "pool_commit_per_s": alone.per_s,
        "pool_commit_p99_ms": alone.p99_ms,
    }
    oversold = 0
    for callers in (32, 256):
        told(f"parts: hot SKU, {callers} at once")
        hot = await hot_sku(place, callers, plan.part_seconds)
        oversold += hot.oversold
        figures |= {
            f"hot_{callers}_per_s": hot.one_per_s,
            f"hot_{callers}_many_per_s": hot.many_per_s,
            f"hot_{callers}_optimistic_per_s": hot.optimistic_per_s,
        }
    figures["hot_oversold"] = oversold
    figures["hot_ratio"] = figures["hot_256_per_s"] / figures["hot_256_many_per_s"]
    figures["hot_x_optimistic"] = figures["hot_256_per_s"] / figures["hot_256_optimistic_per_s"]
    return figures


async def _tracking(place: Bed, plan: Plan, told: Told) -> Figures:
    if not place.filled:
        told("parts: consumer, view fold and view rows")
        as_bytes, as_jsonb = await view_rows_rates(place, plan.part_seconds)
        return {
            "view_rows_per_s": as_bytes,
            "view_rows_jsonb_per_s": as_jsonb,
            "consumer_per_s": await consumer_rate(place, plan.part_seconds * 5),
            "fold_per_s": fold_rate(place, plan.part_seconds),
        }
    told("parts: rebuild of a view")
    return {"rebuild_per_s": await rebuild_rate(place)}
