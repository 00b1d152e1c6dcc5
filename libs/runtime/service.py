"""The record that lists everything one service is made of: the first thing a reader of a service opens."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fastapi import APIRouter

from libs.events.base import Event
from libs.events.envelope import Recorded
from libs.events.topics import Topic
from libs.runtime.decider import Decider
from libs.runtime.effect import Effect
from libs.runtime.projection import Projection

C = TypeVar("C")


async def _nothing_to_close() -> None:
    return None


def _reacts_to_nothing(_recorded: Recorded[Any]) -> Sequence[Any]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Effects(Generic[C]):
    """`follow` says which calls an own event intends; `perform` makes one and says what it means as a command.

    `close` lets the gateway's connections go when the process stops.
    """

    follow: Callable[[Recorded[Any]], Sequence[Effect]]
    perform: Callable[[Effect, Any], Awaitable[C]]
    gateway: Any
    concurrency: int = 32
    close: Callable[[], Awaitable[None]] = _nothing_to_close


@dataclass(frozen=True, kw_only=True)
class Service(Generic[C]):
    """One service. With a decider it reacts to what it hears; without one it only stores and projects what it hears.

    `wants` are the event classes that `react` does something with: only those are decoded.
    """

    name: str
    subscribes: Sequence[Topic] = ()
    wants: frozenset[type[Event]] = frozenset()
    decider: Decider[C] | None = None
    react: Callable[[Recorded[Any]], Sequence[C]] = field(default=_reacts_to_nothing)
    effects: Effects[C] | None = None
    projections: Sequence[Projection[Any]] = ()
    router: APIRouter | None = None

    @property
    def source(self) -> str:
        """What its events name as theirs."""
        return f"/{self.name}-service"

    @property
    def consumer(self) -> str:
        """The name of its consumer group on Kafka, and of its positions."""
        return f"oms.{self.name}.{'policy' if self.decider else 'views'}"
