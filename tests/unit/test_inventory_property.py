"""Whatever happens in whatever order: nothing is promised that is not there, and nothing is lost."""

from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from libs.events.base import Destination, Event, ReservedLine
from libs.events.inventory import LocationRegistered, StockReceived, StockReservationRejected, StockReserved
from libs.events.order import RequestedLine
from libs.runtime.decider import CommandRejected, States
from libs.testing.scenario import NOW, history
from services.inventory.domain.command import (
    AdjustStock,
    ConsumeReservation,
    DisableNode,
    EnableNode,
    ReceiptLine,
    ReceiveStock,
    ReleaseReservation,
    ReserveStock,
)
from services.inventory.domain.decider import DECIDER
from services.inventory.domain.reservation import Reservation
from services.inventory.domain.stock import StockItem
from services.inventory.views import AVAILABILITY, RESERVATIONS

SKUS, LOCATIONS, IDS = ("X", "Y"), ("A", "B", "C"), ("O1-r1", "O2-r1", "O3-r1", "O4-r1")
HERE = Destination(country="DE", lat=50.0, lon=10.0)

sku, location, qty = st.sampled_from(("X", "X", "Y")), st.sampled_from(LOCATIONS), st.integers(1, 5)
reservation_id = st.sampled_from(IDS)
asked = st.builds(RequestedLine, line_id=st.just(""), sku=sku, qty=qty, node=st.none() | st.none() | location)
held = st.builds(ReservedLine, line_id=st.sampled_from("123"), sku=sku, location=location, qty=qty)
helds = st.lists(held, min_size=1, max_size=4).map(tuple)


def numbered(lines: list[RequestedLine]) -> tuple[RequestedLine, ...]:
    return tuple(line.model_copy(update={"line_id": str(number)}) for number, line in enumerate(lines, 1))


def _reserve(reservation: str, lines: list[RequestedLine], split: Any) -> ReserveStock:
    return ReserveStock(reservation, reservation[:2], f"res:{reservation}", numbered(lines), split, HERE, NOW)


def _release(reservation: str, number: int, lines: Any) -> ReleaseReservation:
    return ReleaseReservation(reservation, reservation[:2], f"rel:{reservation}:{number}", "CUSTOMER", lines)


def _consume(reservation: str, number: int, lines: Any) -> ConsumeReservation:
    return ConsumeReservation(reservation, reservation[:2], f"ship:{number}", f"S{number}", lines)


few = st.integers(1, 3)
whole = st.none()
"""A release or shipment of what some open reservation holds: the world fills it in."""

receives = st.builds(
    ReceiveStock, few.map("PO-{}".format), st.lists(st.builds(ReceiptLine, sku, location, qty), min_size=1).map(tuple)
)
adjusts = st.builds(AdjustStock, sku, location, st.integers(-5, 5), st.just("count"), st.just("ann"))
reserves = st.builds(
    _reserve, reservation_id, st.lists(asked, min_size=1, max_size=3), st.sampled_from(["ALLOW", "ALLOW", "NO"])
)
releases = st.builds(_release, reservation_id, few, whole | helds)
consumes = st.builds(_consume, reservation_id, few, whole | helds)
switches = st.one_of(
    st.builds(DisableNode, location, st.just("ann"), st.just("x")),
    st.builds(EnableNode, location, st.just("ann"), st.just("x")),
)
histories = st.lists(
    st.one_of(reserves, reserves, reserves, releases, consumes, consumes, receives, adjusts, switches),
    min_size=10,
    max_size=30,
)


class World:
    """All streams and their events; checks every event as it is appended."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.states: dict[str, Any] = {}
        for number, name in enumerate(LOCATIONS):
            self.append(LocationRegistered(location=name, name=name, country="DE", lat=50.0 + number, lon=10.0))
            self.append(StockReceived(sku="X", location=name, qty=5, receipt_id="PO-0"))

    def state(self, stream_id: str) -> Any:
        initial = DECIDER.aggregate_of(stream_id).initial_state()
        return self.states.setdefault(stream_id, initial)

    def append(self, event: Event) -> None:
        self.events.append(event)
        evolve = DECIDER.aggregate_of(event.stream_id).evolve
        state = self.states[event.stream_id] = evolve(self.state(event.stream_id), event)
        if isinstance(state, StockItem):
            assert all(level.on_hand >= level.reserved >= 0 for level in state.levels.values())

    def decide(self, command: Any) -> list[Event]:
        writes = {stream.stream_id for stream in DECIDER.streams(command)}
        named = writes | {stream.stream_id for stream in DECIDER.reads(command)}
        try:
            events = list(DECIDER.decide(command, States({name: self.state(name) for name in named}), NOW))
        except CommandRejected:
            return []
        assert {event.stream_id for event in events} <= writes
        return events

    def filled(self, command: Any) -> Any:
        """Blind commands test the guards, these the way things go."""
        opened = [name for name in IDS if self.held(name)]
        match command:
            case ReleaseReservation(lines=None) if opened:
                number = int(command.request_id[-1])
                return _release(opened[0], number, self.held(opened[0])[: number + 1])
            case ConsumeReservation(lines=None) if opened:
                number = int(command.shipment_id[-1])
                return _consume(opened[-1], number, self.held(opened[-1])[:number])
            case ReleaseReservation(lines=None) | ConsumeReservation(lines=None):
                return replace(command, lines=())
            case _:
                return command

    def held(self, reservation: str) -> tuple[ReservedLine, ...]:
        state: Reservation = self.state(f"reservation-{reservation}")
        return state.held


def check_promises(world: World) -> None:
    """What stock says is reserved is what open reservations hold."""
    promised: Counter[tuple[str, str]] = Counter()
    reserved: Counter[tuple[str, str]] = Counter()
    for name in IDS:
        for line in world.held(name):
            promised[line.sku, line.location] += line.qty
    for name in SKUS:
        item: StockItem = world.state(f"stock-{name}")
        for place, level in item.levels.items():
            reserved[name, place] += level.reserved
    assert +promised == +reserved


def check_answer(command: Any, events: list[Event]) -> None:
    if not isinstance(command, ReserveStock) or not events:
        return
    answer = events[0]
    if isinstance(answer, StockReserved):
        covered: Counter[str] = Counter()
        for line in answer.lines:
            covered[line.line_id] += line.qty
        assert covered == {line.line_id: line.qty for line in command.lines}
    else:
        assert isinstance(answer, StockReservationRejected)
        assert len(events) == 1


@settings(max_examples=150, deadline=None)
@given(histories)
def test_any_history_keeps_every_promise(told: list[Any]) -> None:
    world, done = World(), []
    for command in map(world.filled, told):
        events = world.decide(command)
        check_answer(command, events)
        for event in events:
            world.append(event)
        check_promises(world)
        done.append(command)
        if not isinstance(command, AdjustStock):
            assert world.decide(command) == []
    for command in done:
        if isinstance(command, ReserveStock | ReleaseReservation | ConsumeReservation | ReceiveStock):
            assert world.decide(command) == []
    check_views(world)


def check_views(world: World) -> None:
    """The views tell what the states know."""
    rows: dict[tuple[str, str], Any] = {}
    for item in history(world.events):
        for projection in (AVAILABILITY, RESERVATIONS):
            if (key := projection.key(item)) is not None:
                rows[projection.name, key] = projection.evolve(rows.get((projection.name, key)), item)
    for name in SKUS:
        if row := rows.get(("availability", name)):
            levels = world.state(f"stock-{name}").levels
            assert {place: (level.on_hand, level.reserved) for place, level in row.locations.items()} == {
                place: (level.on_hand, level.reserved) for place, level in levels.items()
            }
            assert row.atp == row.on_hand - row.reserved == sum(level.atp for level in levels.values())
    for name in IDS:
        if row := rows.get(("reservation_view", name)):
            state = world.state(f"reservation-{name}")
            assert (row.status, row.held) == (state.status, sum(line.qty for line in state.held))
