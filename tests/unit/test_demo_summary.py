from datetime import UTC, datetime, timedelta

import pytest

from oms.demo.summary import Latency, latency, percentile

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.mark.parametrize(("part", "expected"), [(50, 50), (99, 99), (100, 100), (0.1, 1)])
def test_percentile_is_a_value_that_was_measured(part: float, expected: float) -> None:
    assert percentile(range(1, 101), part) == expected


def test_latency_counts_every_order_that_got_there() -> None:
    placed = {"a": NOON.timestamp(), "b": NOON.timestamp(), "c": NOON.timestamp()}
    reached = {"a": NOON + timedelta(milliseconds=120), "b": NOON + timedelta(seconds=3), "c": None, "unknown": NOON}
    assert latency(placed, reached) == Latency(orders=2, p50_ms=120, p99_ms=3000, max_ms=3000)


def test_no_order_got_there_is_no_latency() -> None:
    assert latency({"a": 1.0}, {"a": None}) is None
