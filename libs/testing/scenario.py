"""Given / when / then: the only shape of a domain test. Comparison is exact and in order."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from libs.events.base import Event
from libs.events.codec import event_type
from libs.events.envelope import Recorded
from libs.runtime.decider import CommandRejected, Decider, States
from libs.runtime.projection import Projection, V

NOW = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)


def recorded(event: Event, *, stream_version: int = 1, at: datetime = NOW, **envelope: Any) -> Recorded[Any]:
    """An event as `react`, `follow` and views get it."""
    fields = {
        "event_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{event.stream_id}@{stream_version}")),
        "correlation_id": str(getattr(event, "order_id", event.stream_id)),
        "causation_id": "cause",
        "source": "/test",
        "occurred_at": at,
        "recorded_at": at,
        **envelope,
    }
    return Recorded(
        event=event,
        event_type=event_type(type(event)),
        schema_version=event.schema_version,
        stream_id=event.stream_id,
        stream_version=stream_version,
        **fields,
    )


def history(events: Sequence[Event], at: datetime = NOW) -> list[Recorded[Any]]:
    """Events as recorded ones, with versions counted per stream."""
    versions: dict[str, int] = {}
    out = []
    for event in events:
        versions[event.stream_id] = versions.get(event.stream_id, 0) + 1
        out.append(recorded(event, stream_version=versions[event.stream_id], at=at))
    return out


def fold(decider: Decider[Any], events: Sequence[Event], streams: Sequence[Any]) -> States:
    states = {stream.stream_id: stream.aggregate.initial_state() for stream in streams}
    for event in events:
        if event.stream_id in states:
            evolve = decider.aggregate_of(event.stream_id).evolve
            states[event.stream_id] = evolve(states[event.stream_id], event)
    return States(states)


def projected(projection: Projection[V], *events: Event, at: datetime = NOW) -> V | None:
    """The view's row after these events (of one key)."""
    view: V | None = None
    for item in history(events, at):
        if projection.key(item) is not None:
            view = projection.evolve(view, item)
    return view


@dataclass(frozen=True)
class Scenario:
    decider: Decider[Any]
    past: tuple[Event, ...] = ()
    command: Any = None
    now: datetime = NOW

    def given(self, *events: Event) -> "Scenario":
        return Scenario(self.decider, self.past + events)

    def when(self, command: Any, now: datetime = NOW) -> "Scenario":
        return Scenario(self.decider, self.past, command, now)

    def decide(self) -> list[Event]:
        streams = [*self.decider.streams(self.command), *self.decider.reads(self.command)]
        states = fold(self.decider, self.past, streams)
        return list(self.decider.decide(self.command, states, self.now))

    def then(self, *events: Event) -> None:
        """Exactly these events, in this order."""
        assert self.decide() == list(events)

    def then_nothing(self) -> None:
        self.then()

    def then_rejected(self, code: str) -> None:
        try:
            events = self.decide()
        except CommandRejected as rejection:
            if rejection.code != code:
                raise AssertionError(f"rejected as {rejection.code}, not {code}") from rejection
        else:
            raise AssertionError(f"not rejected, decided {events}")

    def then_nothing_when_repeated(self) -> None:
        """The same command after its own events decides nothing."""
        first = self.decide()
        assert first, "the first time must decide something"
        again = Scenario(self.decider, (*self.past, *first), self.command, self.now)
        assert again.decide() == []


def scenario(decider: Decider[Any]) -> Scenario:
    return Scenario(decider)
