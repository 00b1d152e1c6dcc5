"""PSP, carrier and warehouse in their moods."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.faults.arena import SIMULATORS
from tests.faults.kinds.kind import Kind, Make, Scene

MOODS: Mapping[str, Mapping[str, Any]] = {
    "timeout_before": {"timeout_before_rate": 0.5},
    "timeout_after": {"timeout_after_rate": 0.5},
    "errors": {"error_rate": 0.6},
    "rate_limits": {"rate_limit_rate": 0.6},
    "garbage": {"garbage_rate": 0.5, "garbage": "any"},
    "slow": {"delay_ms": 900},
    "away": {"away": True},
    "repeats": {"repeat_rate": 0.9, "reorder_rate": 0.7},
}
PSP_REPEATS = {"callback_rate": 0.9, "callback_repeat_rate": 0.9}
LONG_AWAY = 120.0


@dataclass
class Mood(Kind):
    mood: Mapping[str, Any] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)

    async def strike(self, scene: Scene) -> None:
        mood = PSP_REPEATS if self.name == "outside_repeats" and self.target == "psp" else self.mood
        async with httpx.AsyncClient(base_url=scene.arena.url(self.target), timeout=10, trust_env=False) as client:
            now = (await client.get("/behaviour")).json()
            self.before = {name: now[name] for name in mood}
            answer = await client.put("/behaviour", json=dict(mood))
            assert answer.status_code == 200, answer.text

    async def heal(self, scene: Scene) -> None:
        async with httpx.AsyncClient(base_url=scene.arena.url(self.target), timeout=10, trust_env=False) as client:
            assert (await client.put("/behaviour", json=self.before)).status_code == 200


def _mood(name: str, lasts: tuple[float, float]) -> Make:
    return lambda dice: Mood(
        name=f"outside_{name}", target=dice.choice(SIMULATORS), mood=MOODS[name], lasts=dice.uniform(*lasts), bound=30
    )


KINDS: dict[str, Make] = {
    **{f"outside_{name}": _mood(name, (10, 20)) for name in MOODS},
    "outside_away_long": lambda dice: Mood(
        name="outside_away_long", target=dice.choice(SIMULATORS), mood=MOODS["away"], lasts=LONG_AWAY, bound=60
    ),
}
