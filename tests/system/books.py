"""What must be true of the whole system once it rests, checked from its logs, its views and the PSP's own ledger.

The sums and the table of legal paths are written here anew, and share nothing with the services but the events.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from libs.events.envelope import Recorded
from libs.events.fulfillment import FulfillmentAccepted, FulfillmentRejected
from libs.events.inventory import (
    ReservationConsumed,
    ReservationReleased,
    StockAdjusted,
    StockHeld,
    StockHoldReleased,
    StockReceived,
    StockReservationRejected,
    StockReserved,
    StockShipped,
)
from libs.events.order import (
    FulfillmentRequested,
    OrderReceived,
    PaymentAuthorizationRequested,
    PaymentCaptureRequested,
    PaymentVoidRequested,
    ReservationReleaseRequested,
    StockReservationRequested,
    StockShipmentConfirmed,
)
from libs.events.payment import (
    PaymentAuthorizationVoided,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentCaptureFailed,
    PaymentDeclined,
    PaymentVoidFailed,
)
from libs.events.topics import CATEGORIES
from libs.runtime.decider import Stream
from libs.testing.world import Node, World
from services.order.views import OrderView
from services.tracking.views.model import OrderTracking
from tests.system.shop import Shop

Events = list[Recorded[Any]]

PATHS: Mapping[str, Mapping[str, str]] = {
    "NEW": {"OrderReceived": "RECEIVED", "OrderRejected": "REJECTED", "OrderCancellationStarted": "AHEAD"},
    "AHEAD": {"OrderReceived": "AHEAD_RECEIVED", "OrderRejected": "AHEAD"},
    "AHEAD_RECEIVED": {"OrderCancelled": "CANCELLED"},
    "REJECTED": {"OrderReceived": "RECEIVED", "OrderRejected": "REJECTED"},
    "RECEIVED": {"OrderAccepted": "ACCEPTED"},
    "ACCEPTED": {
        "StockReservationRequested": "ACCEPTED",
        "PaymentAuthorizationRequested": "PAYING",
        "OrderStuckDetected": "ACCEPTED",
        "OrderCancelled": "CANCELLED",
    },
    "PAYING": {
        "PaymentAuthorizationRequested": "PAYING",
        "PaymentMethodUpdateRequested": "DECLINED",
        "OrderStuckDetected": "PAYING",
        "OrderConfirmed": "CONFIRMED",
        "ReservationReleaseRequested": "ENDING",
    },
    "DECLINED": {
        "PaymentAuthorizationRequested": "PAYING",
        "OrderConfirmed": "CONFIRMED",
        "ReservationReleaseRequested": "ENDING",
    },
    "CONFIRMED": {"FulfillmentRequested": "RELEASED", "ReservationReleaseRequested": "ENDING"},
    "ENDING": {"PaymentVoidRequested": "ENDING", "OrderCancelled": "CANCELLED"},
    "RELEASED": {
        "FulfillmentRequested": "RELEASED",
        "OrderStuckDetected": "RELEASED",
        "OrderCancellationRefused": "RELEASED",
        "StockShipmentConfirmed": "LEAVING",
    },
    "LEAVING": {"PaymentCaptureRequested": "SHIPPING"},
    "SHIPPING": {
        "StockShipmentConfirmed": "LEAVING",
        "OrderPaymentCaptured": "SHIPPING",
        "OrderShipmentDelivered": "SHIPPING",
        "OrderStuckDetected": "SHIPPING",
        "OrderCancellationRefused": "SHIPPING",
        "OrderCompleted": "COMPLETED",
    },
    "COMPLETED": {"OrderCancellationRefused": "COMPLETED"},
    "CANCELLED": {"ReservationReleaseRequested": "CANCELLED", "PaymentVoidRequested": "CANCELLED"},
}
ANYWHERE = {"OrderHoldPlaced", "OrderHoldReleased", "OrderDuplicateDetected"}
ENDS = {"COMPLETED", "CANCELLED", "REJECTED"}
HOLDS: Mapping[str, set[str]] = {
    "CONFIRMED": {"release"},
    "IN_FULFILLMENT": {"release", "lost", "returned", "capture"},
}
"""What may keep an order from its end: its view's status, and the trouble that a hold names."""


def audit(shop: Shop) -> None:
    world = shop.world
    for node in world.nodes.values():
        deliveries_are_accounted_for(world, node)
        projections_are_folds(node)
        if node.service.decider is None:
            everything_is_kept_once(world, node)
        else:
            everything_is_published_in_order(world, node)
            deadlines_are_those_of_the_states(node)
    requests_are_answered_once(world)
    stock_is_conserved(world)
    money_is_right(shop)
    orders_have_ended(shop)


# --- the machine --------------------------------------------------------------------------------------------------


def deliveries_are_accounted_for(world: World, node: Node) -> None:
    tables, consumer = node.storage.tables, node.handler.consumer
    assert not tables.parked, f"{node.service.name} parked {list(tables.parked.values())}"
    assert not tables.parked_keys
    for partition in node.partitions:
        counts = tables.counts.get((consumer, partition), {})
        read = tables.positions[consumer, partition]
        assert read == len(world.log[partition]), f"{consumer} stopped at {read} of {partition}"
        assert sum(counts.values()) == read, f"{consumer} read {read} of {partition}: {counts}"
        assert counts.keys() <= {"processed", "duplicate", "skipped"}


def everything_is_published_in_order(world: World, node: Node) -> None:
    """Of each stream the topic shows versions 1 to n, first occurrences in order, with the bytes of the store."""
    assert not node.storage.tables.outbox
    stored = {(e.envelope.stream_id, e.envelope.stream_version): e.data for e in node.storage.tables.events}
    versions = Counter(stream_id for stream_id, _ in stored)
    assert all((stream_id, n) in stored for stream_id, last in versions.items() for n in range(1, last + 1))
    published: Counter[str] = Counter()
    for records in world.log.values():
        for record in records:
            headers = dict(record.headers)
            if headers.get("ce_source") != f"/{node.service.name}-service".encode():
                continue
            stream_id, version = headers["ce_subject"].decode(), int(headers["ce_aggregateversion"])
            assert record.value == stored[stream_id, version]
            assert version <= published[stream_id] + 1, f"{stream_id}@{version} after {published[stream_id]}"
            published[stream_id] = max(published[stream_id], version)
    assert published == versions


def everything_is_kept_once(world: World, listener: Node) -> None:
    """Who only listens has in its store what its topics tell, in the order of each stream."""
    topics = {topic.name for topic in listener.service.subscribes}
    told = [
        (event.envelope.stream_id, event.envelope.stream_version, event.data)
        for node in world.nodes.values()
        for event in node.storage.tables.events
        if node is not listener and CATEGORIES[event.envelope.stream_id.partition("-")[0]].topic.name in topics
    ]
    kept = [(e.envelope.stream_id, e.envelope.stream_version, e.data) for e in listener.storage.tables.events]
    assert sorted(kept) == sorted(told)
    assert sorted(kept, key=lambda it: it[0]) == sorted(kept), "a stream is out of order"


def deadlines_are_those_of_the_states(node: Node) -> None:
    decider = node.service.decider
    assert decider is not None
    for stream_id, state in states_of(node).items():
        due = decider.aggregate_of(stream_id).due(state)
        assert node.storage.tables.heads[stream_id][1] == due, f"{stream_id} is due {due}"


def states_of(node: Node) -> dict[str, Any]:
    decider = node.service.decider
    assert decider is not None
    states: dict[str, Any] = {}
    for recorded in node.events():
        stream: Stream[Any] = Stream(decider.aggregate_of(recorded.stream_id), recorded.stream_id)
        before = states.get(recorded.stream_id, stream.aggregate.initial_state())
        states[recorded.stream_id] = stream.aggregate.evolve(before, recorded.event)
    return states


def projections_are_folds(node: Node) -> None:
    events = node.events()
    for projection in node.service.projections:
        folded: dict[str, Any] = {}
        for recorded in events:
            if (key := projection.key(recorded)) is not None:
                folded[key] = projection.evolve(folded.get(key), recorded)
        assert views(node, projection.name) == {k: v.model_dump_json() for k, v in folded.items() if v is not None}


def views(node: Node, name: str) -> dict[str, str]:
    return {key: row.data.decode() for key, row in node.storage.tables.views.get(name, {}).items()}


def requests_are_answered_once(world: World) -> None:
    """However often a request is sent, it has one answer; and no answer comes without its request."""
    asked = {request for event in story(world, "order") if (request := _request(event.event))}
    answers = [event.event for name in ("inventory", "payment", "fulfillment") for event in story(world, name)]
    assert Counter(answer for event in answers if (answer := _answer(event))) == Counter(asked)


def _request(event: Any) -> tuple[str, ...] | None:
    match event:
        case StockReservationRequested() | ReservationReleaseRequested() | StockShipmentConfirmed():
            return "stock", event.request_id
        case PaymentAuthorizationRequested():
            return "authorize", event.payment_id, str(event.attempt)
        case PaymentCaptureRequested():
            return "capture", event.capture_id
        case PaymentVoidRequested():
            return "void", event.auth_id
        case FulfillmentRequested():
            return "release", event.release_id
        case _:
            return None


def _answer(event: Any) -> tuple[str, ...] | None:
    match event:
        case StockReserved() | StockReservationRejected() | ReservationReleased() | ReservationConsumed():
            return "stock", event.request_id
        case PaymentAuthorized() | PaymentDeclined():
            return "authorize", event.payment_id, str(event.attempt)
        case PaymentCaptured() | PaymentCaptureFailed():
            return "capture", event.capture_id
        case PaymentAuthorizationVoided() | PaymentVoidFailed():
            return "void", event.auth_id
        case FulfillmentAccepted() | FulfillmentRejected():
            return "release", event.release_id
        case _:
            return None


def story(world: World, name: str) -> Events:
    return world.nodes[name].events()


# --- stock --------------------------------------------------------------------------------------------------------


def stock_is_conserved(world: World) -> None:
    on_hand, reserved = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    held: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    shipped = Counter[tuple[str, str]]()
    for recorded in story(world, "inventory"):
        match recorded.event:
            case (
                StockReceived(sku=sku, location=location, qty=qty) | StockAdjusted(sku=sku, location=location, qty=qty)
            ):
                on_hand[sku, location] += qty
            case StockHeld(sku=sku, location=location, qty=qty):
                reserved[sku, location] += qty
            case StockHoldReleased(sku=sku, location=location, qty=qty):
                reserved[sku, location] -= qty
            case StockShipped(sku=sku, location=location, qty=qty):
                on_hand[sku, location] -= qty
                reserved[sku, location] -= qty
                shipped[sku, location] += qty
            case StockReserved(reservation_id=reservation_id, lines=lines):
                held[reservation_id].update(_units(lines))
            case ReservationReleased(reservation_id=reservation_id, lines=lines):
                held[reservation_id].subtract(_units(lines))
            case ReservationConsumed(reservation_id=reservation_id, lines=lines):
                held[reservation_id].subtract(_units(lines))
        for place, qty in reserved.items():
            assert 0 <= qty <= on_hand[place], f"{qty} of {on_hand[place]} promised at {place}, {recorded.event}"
    assert all(qty >= 0 for units in held.values() for qty in units.values())
    assert +sum(held.values(), Counter()) == +reserved
    left = Counter[tuple[str, str]]()
    for recorded in story(world, "order"):
        if isinstance(recorded.event, StockShipmentConfirmed):
            left.update(_units(recorded.event.lines))
    assert shipped == left
    for recorded in story(world, "order"):
        if isinstance(recorded.event, OrderReceived) and order_view(world, recorded.event.order_id).status in ENDS:
            reservation_id = f"{recorded.event.order_id}-r{recorded.event.external_revision}"
            assert not +held[reservation_id], f"an ended order holds {held[reservation_id]}"


def _units(lines: Any) -> Counter[tuple[str, str]]:
    units = Counter[tuple[str, str]]()
    for line in lines:
        units[line.sku, line.location] += line.qty
    return units


# --- money --------------------------------------------------------------------------------------------------------


def money_is_right(shop: Shop) -> None:
    received = {r.event.order_id: r.event for r in story(shop.world, "order") if isinstance(r.event, OrderReceived)}
    ledger = dict(_ledger(shop))
    accounts: dict[str, Account] = defaultdict(Account)
    for recorded in story(shop.world, "payment"):
        order_id = recorded.event.order_id
        account = accounts[order_id]
        account.enter(recorded.event)
        total = received[order_id].total
        assert account.captured <= min(total, sum(account.authorised.values())), f"{order_id}: {account}"
        assert all(amount <= total for amount in account.authorised.values())
    assert {order_id: account.summary() for order_id, account in accounts.items() if account.authorised} == ledger
    for order_id, order in received.items():
        account = accounts[order_id]
        status = order_view(shop.world, order_id).status
        if status == "COMPLETED":
            assert account.captured == order.total
            assert len(account.authorised.keys() - account.voided) == 1, f"{order_id}: {account}"
        if status == "CANCELLED":
            assert not account.captures
            assert account.voided == account.authorised.keys(), f"{order_id}: {account}"


@dataclass
class Account:
    authorised: dict[str, int] = field(default_factory=dict)
    voided: set[str] = field(default_factory=set)
    captures: dict[str, int] = field(default_factory=dict)

    @property
    def captured(self) -> int:
        return sum(self.captures.values())

    def enter(self, event: Any) -> None:
        match event:
            case PaymentAuthorized(auth_id=auth_id, amount=amount):
                assert auth_id not in self.authorised
                self.authorised[auth_id] = amount
            case PaymentAuthorizationVoided(auth_id=auth_id):
                self.voided.add(auth_id)
            case PaymentCaptured(shipment_id=shipment_id, amount=amount):
                assert shipment_id not in self.captures, f"{shipment_id} is captured twice"
                self.captures[shipment_id] = amount

    def summary(self) -> Any:
        return self.authorised, self.voided, self.captured


def _ledger(shop: Shop) -> Iterator[tuple[str, Any]]:
    """What the PSP knows: by order, its authorisations, which of them are void, and what was captured."""
    references = {held.reference for held in shop.psp.held.values()}
    for reference in references:
        held = {auth_id: it for auth_id, it in shop.psp.held.items() if it.reference == reference}
        authorised = {auth_id: it.authorised for auth_id, it in held.items()}
        voided = {auth_id for auth_id, it in held.items() if it.voided}
        yield reference.removesuffix("-p"), (authorised, voided, sum(it.captured for it in held.values()))


# --- orders -------------------------------------------------------------------------------------------------------


def order_view(world: World, order_id: str) -> Any:
    return OrderView.model_validate_json(views(world.nodes["order"], "order_view")[order_id])


def orders_have_ended(shop: Shop) -> None:
    world = shop.world
    told = views(world.nodes["tracking"], "order_tracking")
    states = {stream_id.removeprefix("order-"): state for stream_id, state in states_of(world.nodes["order"]).items()}
    assert states.keys() == told.keys() == {shop.order_id(n) for n in range(len(shop.plan.orders))}
    for order_id, state in states.items():
        path_is_legal([it.event for it in story(world, "order") if it.event.order_id == order_id])
        view, tracking = order_view(world, order_id), OrderTracking.model_validate_json(told[order_id])
        open_troubles = {hold.hold_id.partition(":")[0] for hold in view.holds}
        if view.status in ENDS:
            assert not open_troubles, f"{order_id} is {view.status} and holds {open_troubles}"
            assert bool(view.reason) == (view.status == "CANCELLED")
        else:
            assert open_troubles, f"{order_id} rests {view.status} and nobody is told: {state.status}"
            assert open_troubles <= HOLDS[view.status], f"{order_id} is {view.status} and holds {open_troubles}"
        agree(view, tracking)


def path_is_legal(events: list[Any]) -> None:
    at, path = "NEW", ["NEW"]
    for event in events:
        name = type(event).__name__
        if name not in ANYWHERE:
            assert name in PATHS[at], f"{name} at {at} after {path}"
            at = PATHS[at][name]
            path.append(at)


def agree(view: Any, tracking: Any) -> None:
    """The order's own view and tracking's, which was told by four services."""
    assert tracking.status == tracking.order_status == view.status
    assert tracking.cancel_reason == (view.reason or None)
    assert tracking.rejections == view.rejections
    assert [hold.hold_id for hold in tracking.holds] == [hold.hold_id for hold in view.holds]
    assert tracking.amounts.captured == view.captured
    assert tracking.amounts.total == view.total
    assert not tracking.unknown_outcomes
    assert tracking.payment_status != "OVERCHARGED"
    ours = {line.line_id: (line.ordered, line.shipped + line.delivered, line.delivered) for line in view.lines}
    assert ours == {line.line_id: (line.ordered, line.shipped, line.delivered) for line in tracking.lines}


async def views_bear_another_order(shop: Shop) -> None:
    """Tracking told anew, one partition after the other: between topics there is no order that it could rely on."""
    first = shop.world.nodes["tracking"]
    again = World([first.service])
    again.log = shop.world.log
    node = again.nodes["tracking"]
    await again.start()
    for partition in reversed(first.partitions):
        await node.handler.handle_records(again.log[partition])
    for projection in first.service.projections:
        assert views(node, projection.name) == views(first, projection.name)
