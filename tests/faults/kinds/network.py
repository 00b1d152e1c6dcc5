"""The wires between a service and what it depends on: slow, silent, half open, refused, cut in the middle."""

from dataclasses import dataclass

from tests.faults.arena import PARTNERS, SERVICES
from tests.faults.kinds.kind import Kind, Make, Scene
from tests.faults.proxy import Mode

MODES: dict[str, Mode] = {"delay": "delay", "drop": "drop", "half_open": "half_open", "reset": "refuse", "cut": "cut"}
WIRES = {
    "postgres": tuple(f"{service}:postgres" for service in SERVICES),
    "kafka": ("kafka",),
    "partner": tuple(f"{service}:{partner}" for service, partners in PARTNERS.items() for partner in partners),
}


@dataclass
class Wire(Kind):
    mode: Mode = "pass"

    async def strike(self, scene: Scene) -> None:
        scene.arena.proxies.turn(self.target, self.mode)

    async def heal(self, scene: Scene) -> None:
        scene.arena.proxies.turn(self.target, "pass")


def wire(name: str, wires: tuple[str, ...], mode: Mode) -> Make:
    return lambda dice: Wire(
        name=name,
        target=dice.choice(wires),
        mode=mode,
        lasts=dice.uniform(5, 12),
        bound=15 if "postgres" in name else 30,
    )


KINDS: dict[str, Make] = {
    f"wire_{to}_{said}": wire(f"wire_{to}_{said}", wires, mode)
    for to, wires in WIRES.items()
    for said, mode in MODES.items()
}
