"""Whatever the order and the repetition of what is told of one release: the goods stay whole and leave once."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from libs.events.base import Event, ReleaseLine
from libs.events.fulfillment import (
    Package,
    ShipmentCreated,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentLost,
    ShipmentReturnedToSender,
    ShippingLabelPurchased,
)
from libs.runtime.decider import CommandRejected
from libs.testing.fulfillment_gateway import release_created
from libs.testing.scenario import NOW, history, scenario
from services.fulfillment.domain.command import (
    AcceptRelease,
    CarrierStatus,
    Command,
    RecordLabel,
    RecordPacked,
    RecordPicked,
    RecordTracking,
)
from services.fulfillment.domain.decider import DECIDER
from services.fulfillment.effects import follow

RELEASE = "o1-berlin-1"
ENDS = (ShipmentDelivered, ShipmentLost, ShipmentReturnedToSender)
WAYS: tuple[tuple[CarrierStatus, ...], ...] = (
    ("picked_up", "in_transit", "out_for_delivery", "delivered"),
    ("picked_up", "in_transit", "out_for_delivery", "delivery_failed", "delivered"),
    ("picked_up", "in_transit", "lost"),
    ("picked_up", "out_for_delivery", "delivery_failed", "return_to_sender"),
)


@dataclass(frozen=True)
class Packing:
    packages: tuple[Package, ...]
    ways: tuple[tuple[CarrierStatus, ...], ...]

    @property
    def lines(self) -> tuple[ReleaseLine, ...]:
        units: dict[str, int] = {}
        for line in (line for package in self.packages for line in package.lines):
            units[line.sku] = units.get(line.sku, 0) + line.qty
        return tuple(ReleaseLine(line_id=sku, sku=sku, qty=qty) for sku, qty in units.items())


@st.composite
def packings(draw: st.DrawFn) -> Packing:
    line = st.builds(lambda sku, qty: ReleaseLine(line_id=sku, sku=sku, qty=qty), st.sampled_from("ABC"), st.just(2))
    contents = draw(st.lists(st.lists(line, min_size=1, max_size=3), min_size=1, max_size=3))
    packages = tuple(
        Package(package_id=f"p{number}", weight=100, lines=tuple(lines)) for number, lines in enumerate(contents)
    )
    return Packing(packages, tuple(draw(st.sampled_from(WAYS)) for _ in packages))


@dataclass
class World:
    """The release's history, and what may be told of it: a thing once told stays, to be told again at any time."""

    packing: Packing
    events: list[Event] = field(default_factory=list)
    untold: list[Command] = field(default_factory=list)
    told: list[Command] = field(default_factory=list)

    def tell(self, command: Command) -> None:
        try:
            decided = scenario(DECIDER).given(*self.events).when(command).decide()
        except CommandRejected as no:
            if no.code == "label_unknown":
                self.untold.append(command)  # answered 409: the carrier tells it again
            return
        for event in decided:
            self.events.append(event)
            self._outside_hears(event)

    def _outside_hears(self, event: Event) -> None:
        """Labels are answered, and parcels tracked, in any order from when the shipment is known."""
        if not isinstance(event, ShipmentCreated):
            return
        assert len(follow(history([event])[0])) == len(event.packages)
        for package, way in zip(event.packages, self.packing.ways, strict=True):
            key, number = package.package_id, f"T-{package.package_id}"
            self.untold.append(RecordLabel(event.shipment_id, key, "SIMEX", number, 495, "EUR"))
            self.untold += [
                RecordTracking(event.shipment_id, key, number, status, f"{key}-{status}", NOW) for status in way
            ]


@given(st.data(), packings())
def test_any_order_and_repetition_ships_whole_and_ends_once(data: st.DataObject, packing: Packing) -> None:
    world = World(packing, [release_created(lines=packing.lines)])
    world.untold = [
        AcceptRelease(RELEASE),
        RecordPicked(RELEASE, packing.lines),
        RecordPacked(RELEASE, packing.packages),
    ]
    repeats = data.draw(st.integers(0, 8), label="repeats")
    while world.untold:
        if repeats and world.told and data.draw(st.booleans(), label="repeat"):
            repeats -= 1
            world.tell(data.draw(st.sampled_from(world.told), label="again"))
            continue
        command = world.untold.pop(data.draw(st.integers(0, len(world.untold) - 1), label="next"))
        world.told.append(command)
        world.tell(command)
    _is_whole(world)


def _is_whole(world: World) -> None:
    dispatches = [place for place, event in enumerate(world.events) if isinstance(event, ShipmentDispatched)]
    ends = [place for place, event in enumerate(world.events) if isinstance(event, ENDS)]
    assert len(dispatches) == 1
    assert len(ends) == 1
    assert dispatches[0] < ends[0]
    dispatched = world.events[dispatches[0]]
    assert isinstance(dispatched, ShipmentDispatched)
    by_line = sorted((line.line_id, line.qty) for line in dispatched.lines)
    assert by_line == sorted((line.line_id, line.qty) for line in world.packing.lines)
    assert dispatched.package_ids == tuple(package.package_id for package in world.packing.packages)
    labels = [event.package_id for event in world.events if isinstance(event, ShippingLabelPurchased)]
    assert sorted(labels) == sorted(dispatched.package_ids)
    all_delivered = all(way[-1] == "delivered" for way in world.packing.ways)
    assert isinstance(world.events[ends[0]], ShipmentDelivered) == all_delivered
    before = list(world.events)
    for command in world.told:
        world.tell(command)
    assert world.events == before
    assert not world.untold
