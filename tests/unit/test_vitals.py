"""What a process shows between orders, and that it shows nothing that it does not know."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from libs.runtime import telemetry, vitals
from libs.runtime.errors import Unavailable
from libs.runtime.storage import Changes, NewHead, ParkedRecord, Partition, ViewChange, ViewRow
from libs.runtime.vitals import Vitals
from libs.testing.deadline import eventually
from libs.testing.memory import MemoryStorage
from libs.testing.tally import AT, tally_service

P0 = Partition("oms.order.events", 0)
PAST = datetime(2020, 1, 1, tzinfo=UTC)


class Reader:
    """A consumer as far as Vitals asks it; `behind_by` None: Kafka is away."""

    def __init__(self, behind_by: Mapping[Partition, int] | None) -> None:
        self.behind_by = behind_by
        self.halted = {P0: "park limit reached"}

    async def behind(self) -> Mapping[Partition, int] | None:
        return self.behind_by

    def late(self, behind: Mapping[Partition, int]) -> Mapping[Partition, float]:
        return dict.fromkeys(behind, 12.5)


@pytest.fixture(autouse=True)
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    gauges: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    monkeypatch.setattr(telemetry, "_shown", gauges)
    return gauges


def watching(storage: MemoryStorage, reader: Any = None) -> Vitals:
    return Vitals(tally_service(), storage, lambda: reader)


async def test_figures_of_the_database_and_of_topics_are_shown(shown: dict[str, Any]) -> None:
    storage = MemoryStorage()
    parked = ParkedRecord(P0, 1, b"O1", "bad", b"[]", b"{}", AT, "order-O1", 1)
    async with storage.transaction() as tx:
        head = NewHead("stock-A", 1, existed=False, due_at=PAST)
        await tx.write(Changes(now=AT, consumer="c", parked=[parked], heads=[head]))
    await watching(storage, Reader({P0: 7})).look()
    of_p0 = (("topic", "oms.order.events"), ("partition", "0"))
    assert shown["oms.parked.keys"] == {(): 1}
    assert shown["oms.wakes.due"] == {(): 1}
    assert shown["oms.wakes.late"][()] > 0
    assert shown["oms.outbox.pending"] == {(): 0}
    assert shown["oms.consumer.lag.records"] == {of_p0: 7}
    assert shown["oms.consumer.lag"] == {of_p0: 12.5}
    assert shown["oms.consumer.halted"] == {of_p0: 1}
    up = {(("dependency", "postgres"),): 1, (("dependency", "kafka"),): 1}
    assert shown["oms.dependency.up"] == up


async def test_what_is_not_known_now_is_not_shown(shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    storage, reader = MemoryStorage(), Reader({P0: 7})
    vital = watching(storage, reader)
    await vital.look()

    async def away() -> Mapping[str, Any]:
        raise Unavailable("postgres is away")

    monkeypatch.setattr(storage, "figures", away)
    reader.behind_by = None
    await vital.look()
    assert set(shown["oms.dependency.up"].values()) == {0}
    assert not any(series for name, series in shown.items() if name != "oms.dependency.up")


async def test_rows_of_views_that_are_done_with_are_counted_and_shown_also_when_none_is_left(
    shown: dict[str, Any],
) -> None:
    storage = MemoryStorage()
    service = tally_service()
    counted = replace(service.projections[0], counted_by="total")
    vital = Vitals(replace(service, projections=[counted]), storage, lambda: None)
    await vital.look()
    assert shown["oms.view.rows"] == {(("view", "tally"), ("value", "")): 0}
    async with storage.transaction() as tx:
        row = ViewChange("tally", "A", ViewRow(b'{"total": 3}', {}), existed=False)
        await tx.write(Changes(now=AT, consumer="c", views=[row]))
    await vital.look()
    assert shown["oms.view.rows"] == {(("view", "tally"), ("value", "3")): 1}


async def test_loop_that_is_held_up_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    lags: list[float] = []
    monkeypatch.setattr(vitals, "_LOOP_SECONDS", 0.01)
    monkeypatch.setattr(telemetry, "observe", lambda name, value: lags.append(value))
    stop = asyncio.Event()
    measuring = asyncio.create_task(watching(MemoryStorage()).measure_loop(stop))

    async def measured() -> bool:
        return len(lags) > 1

    await eventually(measured, "the loop is measured")
    quiet = max(lags)
    time.sleep(quiet + 0.2)  # holds the loop up: that is the point
    lags.clear()
    await eventually(measured, "the loop is measured again")
    stop.set()
    await measuring
    assert max(lags) > quiet + 0.1
