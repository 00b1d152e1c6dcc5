"""Whatever is told to an order, in whatever order and however often, its books balance and it comes to rest."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from libs.events.channel import Fault, UnreadableOrder
from libs.events.order import (
    OrderCancelled,
    OrderEvents,
    PaymentCaptureRequested,
    PaymentVoidRequested,
    RefundRequested,
    ReservationReleaseRequested,
)
from libs.runtime.decider import CommandRejected, Wake
from libs.testing import order_story as story
from libs.testing.order_story import ORDER, PLACED, release_line
from libs.testing.scenario import NOW, history
from services.order.domain.command import (
    CancelOrder,
    Command,
    ConfirmOrder,
    DeclinePayment,
    PlaceHold,
    RecordCapture,
    RecordDelivery,
    RecordDispatch,
    RecordReservation,
    RecordShortage,
    RefundOrder,
    RegisterOrder,
    RejectUnreadable,
    ResolveOrder,
    ResumePayment,
    SuspendPayment,
    UpdatePaymentMethod,
)
from services.order.domain.decider import decide
from services.order.domain.state import Order, Status, due, evolve, payment_holds
from services.order.domain.timers import OrderTimers
from services.order.views import OrderView
from services.order.views import evolve as evolve_view

WAKE = Wake(f"order-{ORDER}")
STATES = TypeAdapter(Order)
PARCELS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "s1": (story.BERLIN, story.BERLIN_LINES),
    "s2": (story.HAMBURG, (release_line("SKU-1", 1), release_line("SKU-2", 1))),
    "s3": (story.HAMBURG, (release_line("SKU-2", 1),)),
    "s4": (story.HAMBURG, story.HAMBURG_LINES),
}
LEGAL: dict[Status, set[Status]] = {
    "new": {"rejected", "accepted", "cancelled"},
    "rejected": {"accepted", "cancelled"},
    "accepted": {"paying", "cancelled"},
    "paying": {"awaiting_method", "confirmed", "released", "cancelled"},
    "awaiting_method": {"paying", "confirmed", "released", "cancelled"},
    "confirmed": {"released", "cancelled"},
    "released": {"in_fulfillment", "cancelled"},
    "in_fulfillment": {"completed"},
    "completed": set(),
    "cancelled": set(),
}


def dispatched(parcel: str) -> RecordDispatch:
    return RecordDispatch(ORDER, parcel, *PARCELS[parcel])


def delivered(parcel: str) -> RecordDelivery:
    return RecordDelivery(ORDER, parcel, PARCELS[parcel][1])


def captured(parcel: str) -> RecordCapture:
    amounts = {"s1": story.BERLIN_AMOUNT, "s2": 617, "s3": 250, "s4": story.HAMBURG_AMOUNT}
    return RecordCapture(ORDER, parcel, f"cap:{ORDER}:{parcel}", amounts[parcel])


HAPPY: list[Command] = [
    RegisterOrder(ORDER, PLACED),
    RecordReservation(ORDER, story.RESERVATION, story.RESERVED),
    ConfirmOrder(ORDER, story.PAYMENT, "au_1", story.TOTAL),
    WAKE,
    *(command(parcel) for parcel in ("s1", "s2", "s3") for command in (dispatched, delivered, captured)),
]
UNREADABLE = UnreadableOrder(channel="web", external_order_id="W-1", reasons=(Fault(code="json_invalid"),))
AUTHORISATIONS = st.builds(
    ConfirmOrder,
    st.just(ORDER),
    st.just(story.PAYMENT),
    st.sampled_from(["au_1", "au_2", "au_3"]),
    st.sampled_from([story.TOTAL, story.TOTAL, 5]),
)
COMMANDS = st.one_of(
    st.sampled_from(HAPPY),
    st.sampled_from(
        [
            RegisterOrder(ORDER, PLACED.model_copy(update={"currency": "EUX"})),
            RegisterOrder(ORDER, PLACED.model_copy(update={"external_revision": 2})),
            RejectUnreadable(ORDER, UNREADABLE),
            CancelOrder(ORDER, "late", "web", "W-1"),
            CancelOrder(ORDER, "late"),
            RecordShortage(ORDER),
            SuspendPayment(ORDER, f"auth:{ORDER}:1:1"),
            SuspendPayment(ORDER, f"auth:{ORDER}:1:2"),
            ResumePayment(ORDER),
            UpdatePaymentMethod(ORDER, "tok_new"),
            WAKE,
        ]
    ),
    AUTHORISATIONS,
    st.builds(DeclinePayment, st.just(ORDER), st.integers(1, 3), st.just("stolen"), st.booleans()),
    st.sampled_from(sorted(PARCELS)).map(dispatched),
    st.sampled_from(sorted(PARCELS)).map(delivered),
    st.sampled_from(sorted(PARCELS)).map(captured),
    st.builds(PlaceHold, st.just(ORDER), st.sampled_from(["lost:1", "refund:f1"]), st.just("MANUAL"), st.just("!")),
    st.builds(
        ResolveOrder,
        st.just(ORDER),
        st.sampled_from(["CANCEL", "COMPLETE", "RELEASE_HOLD"]),
        st.just("ada"),
        st.just("asked"),
    ),
    st.builds(
        RefundOrder, st.just(ORDER), st.sampled_from(["f1", "f2"]), st.integers(1, 2100), st.just("ada"), st.just("!")
    ),
)
PASSED = st.sampled_from([timedelta(0)] * 4 + [timedelta(seconds=70), timedelta(minutes=16), timedelta(days=3)])
ON = (None, timedelta(0))  # the next step of the undisturbed journey
DISTURBED = st.lists(st.tuples(st.one_of(st.none(), COMMANDS), PASSED), min_size=5, max_size=30)
TOLD = st.builds(lambda steps, told: [ON] * steps + told, st.integers(0, len(HAPPY)), DISTURBED)
TIMERS = st.sampled_from([OrderTimers(), OrderTimers(remorse=timedelta(minutes=10))])


@dataclass
class World:
    """One order as the machine would keep it, and what was told to it."""

    timers: OrderTimers
    now: datetime = NOW
    order: Order = Order()  # noqa: RUF009  frozen
    view: OrderView | None = None
    events: list[OrderEvents] = field(default_factory=list)
    heard: list[Command] = field(default_factory=list)
    path: list[Status] = field(default_factory=lambda: ["new"])

    def tell(self, command: Command) -> list[OrderEvents]:
        try:
            decided = decide(command, self.order, self.now, self.timers)
        except CommandRejected:
            return []
        self.heard.append(command)
        for event in decided:
            self.order = evolve(self.order, event)
        for item in history(decided, self.now):
            self.view = evolve_view(self.view, item)
        self.events += decided
        if self.order.status != self.path[-1]:
            self.path.append(self.order.status)
        return decided

    def of(self, *kinds: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kinds)]


def lived(timers: OrderTimers, told: list[tuple[Command | None, timedelta]]) -> World:
    world, happy = World(timers), iter(HAPPY)
    for command, passed in told:
        world.now += passed
        next_command = command or next(happy, WAKE)
        world.tell(next_command)
        again = world.tell(next_command)
        assert again == [], f"{next_command} repeated decides {again}"
    return world


@given(TIMERS, TOLD)
def test_after_any_history_the_books_balance(timers: OrderTimers, told: list[tuple[Command | None, timedelta]]) -> None:
    world = lived(timers, told)
    order = world.order
    asked = sum(event.amount for event in world.of(PaymentCaptureRequested))
    assert asked <= story.TOTAL
    if order.known and order.wholly_shipped:
        assert asked == story.TOTAL
    assert len({event.shipment_id for event in world.of(PaymentCaptureRequested)}) == len(order.captures)
    refunded = sum(
        event.amount for event in world.of(RefundRequested) if f"refund:{event.refund_id}" not in order.trouble
    )
    assert refunded <= sum(order.captured.values()) <= story.TOTAL


@given(TIMERS, TOLD)
def test_after_any_history_a_cancelled_order_has_given_everything_back(
    timers: OrderTimers, told: list[tuple[Command | None, timedelta]]
) -> None:
    world = lived(timers, told)
    releases = world.of(ReservationReleaseRequested)
    voids = [event.auth_id for event in world.of(PaymentVoidRequested)]
    assert len(releases) <= 1
    assert len(voids) == len(set(voids))
    authorised = {command.auth_id for command in world.heard if isinstance(command, ConfirmOrder)}
    if world.order.status == "cancelled":
        reserved = any(isinstance(command, RecordReservation) for command in world.heard)
        assert [event.lines for event in releases] == ([story.RESERVED] if reserved else [])
        assert set(voids) == authorised
    else:
        assert set(voids) == authorised - {world.order.auth_id}
        assert not world.of(OrderCancelled)


@given(TIMERS, TOLD)
def test_after_any_history_a_few_wakes_bring_rest(
    timers: OrderTimers, told: list[tuple[Command | None, timedelta]]
) -> None:
    world = lived(timers, told)
    for _wake in range(10):
        due_at = due(world.order)
        if due_at is None:
            break
        world.now = max(world.now, due_at)
        world.tell(WAKE)
        after = due(world.order)
        assert after is None or after > world.now
    assert due(world.order) is None


@given(TIMERS, TOLD)
def test_in_any_history_the_path_is_legal_and_nothing_waits_unseen(
    timers: OrderTimers, told: list[tuple[Command | None, timedelta]]
) -> None:
    world = lived(timers, told)
    assert all(after in LEGAL[before] for before, after in zip(world.path, world.path[1:], strict=False))
    order, view = world.order, world.view
    if order.status not in ("new", "rejected", "completed", "cancelled"):
        assert view is not None
        assert due(order) is not None or view.has_hold == "yes" or view.stuck != "no"


@given(TIMERS, TOLD)
def test_after_any_history_the_view_accounts_for_every_unit(
    timers: OrderTimers, told: list[tuple[Command | None, timedelta]]
) -> None:
    world = lived(timers, told)
    for line in world.view.lines if world.view else ():
        counts = [line.open, line.reserved, line.released, line.shipped, line.delivered, line.cancelled]
        assert sum(counts) == line.ordered
        assert min(counts) >= 0
    assert world.view is None or [hold.hold_id for hold in world.view.holds] == list(world.order.holds)


@given(TIMERS, TOLD)
def test_after_any_history_the_state_reads_back_from_a_snapshot(
    timers: OrderTimers, told: list[tuple[Command | None, timedelta]]
) -> None:
    world = lived(timers, told)
    assert STATES.validate_json(STATES.dump_json(world.order)) == world.order


def test_undisturbed_journey_is_completed() -> None:
    world = lived(OrderTimers(), [ON] * len(HAPPY))
    assert world.path == ["new", "accepted", "paying", "released", "in_fulfillment", "completed"]
    assert payment_holds(world.order) == []


def test_every_status_has_its_way_on() -> None:
    assert set(LEGAL) == set(get_args(Status))
