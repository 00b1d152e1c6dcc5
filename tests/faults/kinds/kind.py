"""What a kind of fault is, and what it may touch."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.faults.arena import Arena
from tests.faults.driver import Driver
from tests.faults.journal import Journal


@dataclass(frozen=True)
class Need:
    """A tool that a kind cannot do without; `install` is the command that brings it."""

    tool: str
    install: str
    there: Callable[[], bool]


@dataclass
class Scene:
    """Where a strike takes place."""

    arena: Arena
    driver: Driver
    journal: Journal
    random: random.Random


@dataclass
class Kind:
    """One strike of a kind: `strike`, then after `lasts` seconds `heal`. A new instance for each strike.

    `target` is what it hits: two strikes on one target never overlap. `bound`: seconds until orders go on again.
    """

    name: str
    target: str
    lasts: float = 0.0
    bound: float = 15.0
    need: Need | None = None
    notes: list[str] = field(default_factory=list)
    over_at: float = 0.0
    """From when recovery counts, where that is before the strike returns (a process died, and was waited for)."""
    took_over: float | None = None
    """Seconds until others had done the work of what was struck: then this is what its bound is for."""

    async def strike(self, scene: Scene) -> None:
        raise NotImplementedError

    async def heal(self, scene: Scene) -> None:
        """What ends by itself needs no healing."""


class NeverHit(Exception):
    """What was armed was not passed: the strike proves nothing."""


Make = Callable[[random.Random], Kind]
Step = Callable[[Scene], Awaitable[None]]
