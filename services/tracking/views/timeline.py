"""One order's story over all services: every event once, and no event before what caused it."""

import heapq
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict

from libs.events.envelope import Recorded
from services.tracking.views.summary import summary

Heard: TypeAlias = Recorded[Any]

WITHHELD = {"pii", "token"}
"""Fields of events that a timeline does not show: personal data, and what a payment could be made with."""


class TimelineEntry(BaseModel):
    """One event. `causation_id` is the `event_id` of its cause where that is an event; `summary` says it in words."""

    model_config = ConfigDict(frozen=True)

    occurred_at: datetime
    recorded_at: datetime
    service: str
    type: str
    summary: str
    stream_id: str
    stream_version: int
    event_id: str
    causation_id: str
    data: dict[str, Any]


def timeline(heard: Iterable[Heard]) -> list[TimelineEntry]:
    return [_entry(item) for item in in_causal_order(heard)]


def _entry(recorded: Heard) -> TimelineEntry:
    _, service, name = recorded.event_type.split(".", 2)
    return TimelineEntry(
        occurred_at=recorded.occurred_at,
        recorded_at=recorded.recorded_at,
        service=service,
        type=name,
        summary=summary(recorded.event),
        stream_id=recorded.stream_id,
        stream_version=recorded.stream_version,
        event_id=recorded.event_id,
        causation_id=recorded.causation_id,
        data=recorded.event.model_dump(mode="json", exclude=WITHHELD),
    )


def in_causal_order(heard: Iterable[Heard]) -> Sequence[Heard]:
    """By `recorded_at`, but an event after its cause and after its stream's version before.

    Each service's database stamps by its own clock, so the times alone may show an answer before its question.
    """
    story = _Story(heard)
    ready = [_moment(item) for item in story.events.values() if not story.waits_for[item.event_id]]
    heapq.heapify(ready)
    told: list[Heard] = []
    while ready:
        event = story.events[heapq.heappop(ready)[-1]]
        told.append(event)
        for freed in story.freed_by(event):
            heapq.heappush(ready, _moment(freed))
    return told + story.untold(told)


Moment: TypeAlias = tuple[datetime, str, int, str]


def _moment(recorded: Heard) -> Moment:
    return recorded.recorded_at, recorded.stream_id, recorded.stream_version, recorded.event_id


class _Story:
    """Which event waits for which: causes outside of the story are not waited for."""

    def __init__(self, heard: Iterable[Heard]) -> None:
        self.events = {item.event_id: item for item in heard}
        self.versions = {(item.stream_id, item.stream_version): item.event_id for item in self.events.values()}
        self.waits_for = {item.event_id: self._causes(item) for item in self.events.values()}
        self.awaited_by: dict[str, list[str]] = {event_id: [] for event_id in self.events}
        for event_id, causes in self.waits_for.items():
            for cause in causes:
                self.awaited_by[cause].append(event_id)

    def _causes(self, item: Heard) -> set[str]:
        before = self.versions.get((item.stream_id, item.stream_version - 1), "")
        return {cause for cause in (item.causation_id, before) if cause in self.events and cause != item.event_id}

    def freed_by(self, told: Heard) -> list[Heard]:
        freed = []
        for event_id in self.awaited_by[told.event_id]:
            self.waits_for[event_id].discard(told.event_id)
            if not self.waits_for[event_id]:
                freed.append(self.events[event_id])
        return freed

    def untold(self, told: Sequence[Heard]) -> list[Heard]:
        """What causes itself in a circle, which only forged ids can do: shown all the same, by time."""
        seen = {item.event_id for item in told}
        return sorted((item for item in self.events.values() if item.event_id not in seen), key=_moment)
