"""What a process shows of itself between orders: figures of its database, lag of its topics, lag of its event loop."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from libs.runtime import telemetry
from libs.runtime.consumer import Consumer
from libs.runtime.errors import Unavailable
from libs.runtime.instruments import GaugeName
from libs.runtime.service import Service
from libs.runtime.storage import Storage
from libs.runtime.waiting import until

_EVERY_SECONDS = 5.0
_LOOP_SECONDS = 0.5
_FIGURES: Mapping[str, GaugeName] = {
    "outbox_pending": "oms.outbox.pending",
    "outbox_oldest_age_seconds": "oms.outbox.oldest.age",
    "parked_keys": "oms.parked.keys",
    "parked_records": "oms.parked.records",
    "parked_oldest_age_seconds": "oms.parked.oldest.age",
    "effects_open": "oms.effects.open",
    "effects_due": "oms.effects.due",
    "effects_late_seconds": "oms.effects.late",
    "wakes_due": "oms.wakes.due",
    "wakes_late_seconds": "oms.wakes.late",
}


class Vitals:
    """Looks every few seconds, whether anyone asks or not: a scrape waits for no database.

    What is not known now is not shown: an old figure would look like a good one.
    """

    def __init__(self, service: Service[Any], storage: Storage, consumer: Callable[[], Consumer | None]) -> None:
        self._counted = [projection for projection in service.projections if projection.counted_by]
        self._storage = storage
        self._consumer = consumer

    async def show_figures(self, stop: asyncio.Event) -> None:
        never = asyncio.Event()
        while not stop.is_set():
            await self.look()
            await until(never, stop, _EVERY_SECONDS)

    async def look(self) -> None:
        await asyncio.gather(self._look_at_database(), self._look_at_topics())

    async def _look_at_database(self) -> None:
        figures: Mapping[str, float] = {}
        rows: dict[tuple[str, ...], float] = {}
        try:
            figures = await self._storage.figures()
            for projection in self._counted:
                counts = await self._storage.count_rows(projection.name, projection.counted_by) or {"": 0}
                rows |= {(projection.name, value): number for value, number in counts.items()}
        except Unavailable:
            figures, rows = {}, {}
        telemetry.show("oms.dependency.up", float(bool(figures)), dependency="postgres")
        telemetry.show_all("oms.view.rows", rows)
        for name, gauge in _FIGURES.items():
            telemetry.show_all(gauge, {(): figures[name]} if figures else {})

    async def _look_at_topics(self) -> None:
        consumer = self._consumer()
        if consumer is None:
            return
        behind = await consumer.behind()
        telemetry.show("oms.dependency.up", float(behind is not None), dependency="kafka")
        telemetry.show_all("oms.consumer.lag.records", _placed(behind or {}))
        telemetry.show_all("oms.consumer.lag", _placed(consumer.late(behind or {})))
        telemetry.show_all("oms.consumer.halted", _placed({one: one in consumer.halted for one in behind or ()}))

    async def measure_loop(self, stop: asyncio.Event) -> None:
        """A loop that is held up makes heartbeats late, and whoever waits for an answer."""
        while not stop.is_set():
            began = time.monotonic()
            await asyncio.sleep(_LOOP_SECONDS)
            telemetry.observe("oms.event_loop.lag", max(time.monotonic() - began - _LOOP_SECONDS, 0.0))


def _placed(values: Mapping[Any, float]) -> Mapping[tuple[str, ...], float]:
    return {(partition.topic, str(partition.number)): float(value) for partition, value in values.items()}
