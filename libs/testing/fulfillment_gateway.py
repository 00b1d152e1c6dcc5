"""A warehouse and a carrier in memory, that keep what they did under a key; and releases and shipments to give them.

Both pass tests/contract/test_fulfillment_gateway.py, as the simulators do.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from libs.events.base import Event, Pii, ReleaseLine
from libs.events.fulfillment import FulfillmentOrderCreated, Package, ShipmentCreated
from libs.runtime.effect import GatewayUnavailable
from libs.testing.builders import BERLIN

A = TypeVar("A")

Fault = Literal["before_effect", "answer_lost"]

LINES = (ReleaseLine(line_id="1", sku="SKU-1", qty=2), ReleaseLine(line_id="2", sku="SKU-2", qty=1))


def release_created(release_id: str = "o1-berlin-1", **fields: Any) -> FulfillmentOrderCreated:
    return FulfillmentOrderCreated(
        **{
            "release_id": release_id,
            "order_id": "o1",
            "node": "berlin",
            "lines": LINES,
            "shipping_method": "STD",
            "destination": BERLIN,
            "pii": Pii(email="ada@example.org"),
            **fields,
        }
    )


def package(package_id: str = "p1", *lines: ReleaseLine, weight: int = 500) -> Package:
    return Package(package_id=package_id, weight=weight, lines=lines or LINES)


def shipment_created(*packages: Package, release_id: str = "o1-berlin-1") -> ShipmentCreated:
    return ShipmentCreated(
        shipment_id=f"{release_id}-1",
        order_id="o1",
        release_id=release_id,
        node="berlin",
        packages=packages or (package(),),
        destination=BERLIN,
        pii=Pii(email="ada@example.org"),
    )


@dataclass
class Kept(Generic[A]):
    """What was asked and answered under each key. `faults` strike the next calls, one each; `away` strikes all."""

    answers: dict[str, A] = field(default_factory=dict)
    asked: dict[str, Sequence[Event | Package]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    away: bool = False

    def answer(self, key: str, asked: Sequence[Event | Package], effect: Callable[[], A]) -> A:
        fault = self.faults.pop(0) if self.faults else None
        if self.away or fault == "before_effect":
            raise GatewayUnavailable("away")
        if self.asked.setdefault(key, asked) != asked:
            raise GatewayUnavailable("another request under the same key")
        if key not in self.answers:
            self.answers[key] = effect()
        if fault == "answer_lost":
            raise GatewayUnavailable("the answer was lost")
        return self.answers[key]


@dataclass(frozen=True)
class InMemoryWarehouse:
    """`refuses` names the nodes that refuse releases, and why."""

    kept: Kept[str | None] = field(default_factory=Kept)
    refuses: dict[str, str] = field(default_factory=dict)

    async def submit(self, release: FulfillmentOrderCreated, key: str) -> str | None:
        return self.kept.answer(key, (release,), lambda: self.refuses.get(release.node))


@dataclass(frozen=True, slots=True)
class BoughtLabel:
    carrier: str
    tracking_number: str
    cost: int
    currency: str


@dataclass(frozen=True)
class InMemoryCarrier:
    kept: Kept[BoughtLabel] = field(default_factory=Kept)

    async def buy_label(self, shipment: ShipmentCreated, package: Package, key: str) -> BoughtLabel:
        number = f"T{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"
        return self.kept.answer(key, (shipment, package), lambda: BoughtLabel("SIMEX", number, 495, "EUR"))
