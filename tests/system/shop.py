"""The world around Orderloom: channels that repeat themselves, customers, a PSP, warehouses and carriers with moods."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import httpx

from libs.events.channel import OrderCancellationRequested, OrderPlaced, PlacedLine, order_id_of
from libs.events.fulfillment import FulfillmentOrderCreated, Package
from libs.events.topics import CHANNEL_ORDERS
from libs.runtime.handler import Answer
from libs.runtime.storage import Partition
from libs.testing.builders import order_placed, placed_line
from libs.testing.fulfillment_gateway import InMemoryCarrier, InMemoryWarehouse
from libs.testing.payment_gateway import Fault, PspDouble, callback, lost_after, lost_before, refused
from libs.testing.world import Crash, Performed, World
from services.fulfillment import service as fulfillment
from services.fulfillment.domain.command import RecordPacked, RecordPicked, RecordTracking
from services.fulfillment.gateway import Gateways
from services.inventory import service as inventory
from services.inventory.domain.command import ReceiptLine, ReceiveStock, RegisterLocation
from services.order import service as order
from services.order.domain.command import UpdatePaymentMethod
from services.order.domain.timers import OrderTimers
from services.payment import service as payment
from services.payment.domain.command import RecordAnswer
from services.payment.gateway import HttpPaymentGateway, PspCallback, PspSettings, Unknown
from services.tracking import service as tracking

CHANNEL = "web"
NODES = {"berlin": (52.5, 13.4), "hamburg": (53.6, 10.0)}
Mishap = Literal["lost_before", "lost_after", "refused", "declined"]
Fate = Literal["delivered", "lost", "return_to_sender"]


@dataclass(frozen=True)
class Order:
    """`second_token` is what its customer answers when asked for another payment method (empty: nothing)."""

    lines: tuple[tuple[str, int], ...]
    token: str = "tok_visa"
    second_token: str = ""
    adds_up: bool = True
    fate: Fate = "delivered"


@dataclass(frozen=True)
class Plan:
    orders: tuple[Order, ...]
    stock: tuple[tuple[str, str, int], ...]
    remorse: int = 0
    refusing: tuple[str, ...] = ()
    parcels: Literal[1, 2] = 1


# --- what may happen next: Hypothesis writes these down, `Shop.do` plays them -------------------------------------


@dataclass(frozen=True)
class Place:
    """A channel publishes order `n`, perhaps again, perhaps on another partition, perhaps with other content."""

    n: int
    partition: int = 0
    changed: bool = False


@dataclass(frozen=True)
class Cancel:
    n: int
    partition: int = 0


@dataclass(frozen=True)
class Relay:
    who: str
    limit: int = 1000
    lost: bool = False


@dataclass(frozen=True)
class Resend:
    pick: int
    count: int


@dataclass(frozen=True)
class Consume:
    who: str
    pick: int = 0
    limit: int = 500
    crash: Crash | None = None


@dataclass(frozen=True)
class Rewind:
    who: str
    by: int


@dataclass(frozen=True)
class Forget:
    who: str


@dataclass(frozen=True)
class Call:
    who: str
    pick: int = 0
    how: Performed = "once"
    mishap: Mishap | None = None
    crash: Crash | None = None


@dataclass(frozen=True)
class CallBack:
    """The outside tells of something; `again`: and will tell once more."""

    pick: int = 0
    again: bool = False


@dataclass(frozen=True)
class NewMethod:
    n: int
    token: str


@dataclass(frozen=True)
class WakeUp:
    who: str
    pick: int = 0
    crash: Crash | None = None


@dataclass(frozen=True)
class Pass:
    seconds: int


@dataclass(frozen=True)
class Go:
    """Some of those who have something to do go on, each by one undisturbed move of at most `limit` records."""

    pick: int
    times: int = 1
    limit: int = 500


Step = Go | Place | Cancel | Relay | Resend | Consume | Rewind | Forget | Call | CallBack | NewMethod | WakeUp | Pass


@dataclass(frozen=True)
class News:
    """Something that the outside has to tell a service."""

    id: str
    to: str
    command: Any


@dataclass
class Shop:
    plan: Plan
    psp: PspDouble = field(default_factory=PspDouble)
    warehouse: InMemoryWarehouse = field(default_factory=InMemoryWarehouse)
    carrier: InMemoryCarrier = field(default_factory=InMemoryCarrier)
    placed: set[int] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    world: World = field(init=False)

    def __post_init__(self) -> None:
        self.warehouse.refuses.update(dict.fromkeys(self.plan.refusing, "closed"))
        gateway = HttpPaymentGateway("http://psp", PspSettings(), self.psp.transport)
        self.world = World(
            [
                order.service(OrderTimers(remorse=timedelta(seconds=self.plan.remorse))),
                inventory.service(),
                payment.service(gateway),
                fulfillment.service(Gateways(warehouse=self.warehouse, carrier=self.carrier)),
                tracking.service(),
            ]
        )

    async def open(self) -> None:
        await self.world.start()
        for node, (lat, lon) in NODES.items():
            await self.world.tell("inventory", RegisterLocation(node, node, "DE", lat, lon))
        lines = tuple(ReceiptLine(sku, node, qty) for sku, node, qty in self.plan.stock if qty)
        if lines:
            await self.world.tell("inventory", ReceiveStock("opening", lines))

    async def play(self, steps: list[Step]) -> None:
        for step in steps:
            await self.do(step)
        for n in range(len(self.plan.orders)):
            if n not in self.placed:
                self._place(Place(n))
        await self.world.rest(self._live_on)

    async def do(self, step: Step) -> None:
        world = self.world
        match step:
            case Go(pick, times, limit):
                for turn in range(times):
                    await self._go(pick + 7 * turn, limit)
            case Place():
                self._place(step)
            case Cancel(n, partition):
                self._cancel(n, partition)
            case Relay(who, limit, lost):
                await world.relay(who, limit, lost=lost)
            case Resend(pick, count):
                world.resend(pick, count)
            case Consume(who, pick, limit, crash):
                await world.consume(who, pick, limit, crash)
            case Rewind(who, by):
                world.rewind(who, by)
            case Forget(who):
                world.forget(who)
            case Call(who, pick, how, mishap, crash):
                self.psp.faults.extend([MISHAPS[mishap]] if mishap else [])
                await world.perform(who, pick, how, crash)
                self.psp.faults.clear()
            case CallBack(pick, again):
                await self._call_back(pick, again=again)
            case NewMethod(n, token):
                await world.tell("order", UpdatePaymentMethod(self.order_id(n), token))
            case WakeUp(who, pick, crash):
                await world.wake(who, pick, crash)
            case Pass(seconds):
                world.clock.advance(timedelta(seconds=seconds))

    async def _go(self, pick: int, limit: int) -> None:
        world = self.world
        moves: list[Step] = [Place(n) for n in range(len(self.plan.orders)) if n not in self.placed]
        moves += [Relay(who, limit) for who in world.relaying()]
        moves += [Consume(who, pick, limit) for who in world.consuming()]
        moves += [Call(who, pick) for who in world.calling()]
        moves += [WakeUp(who, pick) for who in world.waking()]
        moves += [CallBack(pick)] if self._untold() else []
        if moves:
            await self.do(moves[pick % len(moves)])

    # channels and customers

    def order_id(self, n: int) -> str:
        return order_id_of(CHANNEL, f"W-{n % len(self.plan.orders)}")

    def _place(self, step: Place) -> None:
        n = step.n % len(self.plan.orders)
        self.placed.add(n)
        placed = self.placed_order(n)
        if step.changed:
            placed = placed.model_copy(update={"destination": placed.destination.model_copy(update={"lat": 48.1})})
        self.world.publish(Partition(CHANNEL_ORDERS.name, step.partition), placed.model_dump_json().encode())

    def placed_order(self, n: int) -> OrderPlaced:
        wanted = self.plan.orders[n]
        lines = [self._line(index, sku, qty) for index, (sku, qty) in enumerate(wanted.lines)]
        placed = order_placed(f"W-{n}", *lines, channel=CHANNEL, shipping=495, token=wanted.token)
        if wanted.adds_up:
            return placed
        return placed.model_copy(update={"totals": placed.totals.model_copy(update={"grand": 1})})

    def _line(self, index: int, sku: str, qty: int) -> PlacedLine:
        # A total that its quantity does not divide: only whole shipments may add up to it.
        return placed_line(sku, qty, 100 * qty + 1, line_id=str(index), tax=19 * qty)

    def _cancel(self, n: int, partition: int) -> None:
        n %= len(self.plan.orders)
        cancelled = OrderCancellationRequested(channel=CHANNEL, external_order_id=f"W-{n}")
        headers = [("ce_type", b"oms.channel.OrderCancellationRequested")]
        where = Partition(CHANNEL_ORDERS.name, partition)
        self.world.publish(where, cancelled.model_dump_json().encode(), headers)

    async def _customers(self) -> bool:
        moved = False
        for n, wanted in enumerate(self.plan.orders):
            if wanted.second_token:
                command = UpdatePaymentMethod(self.order_id(n), wanted.second_token)
                moved |= bool((await self.world.tell("order", command)).events)
        return moved

    # the outside's own news

    async def _live_on(self) -> bool:
        asked = await self._customers()
        return await self._call_back(0, again=False) or asked

    async def _call_back(self, pick: int, *, again: bool) -> bool:
        news = self._untold()
        if not news:
            return False
        item = news[pick % len(news)]
        answer: Answer = await self.world.tell(item.to, item.command)
        if answer.code == "label_unknown":
            return True  # as the carrier's callback is answered: tell it again
        if not again:
            self.told.add(item.id)
        return True

    def _untold(self) -> list[News]:
        news = (*self._from_warehouse(), *self._from_carrier(), *self._from_psp())
        return [item for item in news if item.id not in self.told]

    def _from_warehouse(self) -> Iterator[News]:
        for key, refusal in self.warehouse.kept.answers.items():
            (asked,) = self.warehouse.kept.asked[key]
            assert isinstance(asked, FulfillmentOrderCreated)
            if refusal is None:
                yield News(f"{key}:picked", "fulfillment", RecordPicked(asked.release_id, asked.lines))
                yield News(f"{key}:packed", "fulfillment", RecordPacked(asked.release_id, self._packed(asked)))

    def _packed(self, asked: FulfillmentOrderCreated) -> tuple[Package, ...]:
        first, rest = asked.lines[:1], asked.lines[1:]
        contents = [first, rest] if self.plan.parcels == 2 and rest else [asked.lines]
        return tuple(
            Package(package_id=f"{asked.release_id}-p{n}", weight=500, lines=lines) for n, lines in enumerate(contents)
        )

    def _from_carrier(self) -> Iterator[News]:
        fates = {self.order_id(n): wanted.fate for n, wanted in enumerate(self.plan.orders)}
        for key, label in self.carrier.kept.answers.items():
            shipment, package = self.carrier.kept.asked[key]
            for status in ("picked_up", "in_transit", "delivery_failed", fates[shipment.order_id]):
                told = f"{label.tracking_number}:{status}"
                ids = (shipment.shipment_id, package.package_id, label.tracking_number)
                yield News(told, "fulfillment", RecordTracking(*ids, status, told, self.world.clock.now))

    def _from_psp(self) -> Iterator[News]:
        for key in self.psp.operations:
            if f"psp:{key}" in self.told:
                continue
            told = PspCallback.model_validate(callback(self.psp, key))
            reply = told.reply(PspSettings())
            if told.payment_id and not isinstance(reply, Unknown):
                yield News(f"psp:{key}", "payment", RecordAnswer(told.payment_id, key, reply, "CALLBACK"))


def declined(psp: PspDouble, request: httpx.Request) -> httpx.Response:
    """The issuer says no this once; anything but an authorisation goes its way."""
    key = request.headers.get("Idempotency-Key", "")
    if not request.url.path.endswith("/authorizations") or key in psp.operations:
        return psp.answer(request)
    body = {"status": "declined", "code": "issuer_unavailable", "retryable": True}
    reference = key.split(":")[1] + "-p"
    psp.operations[key] = ("authorize", reference, (402, body))
    return httpx.Response(402, json=body)


MISHAPS: dict[Mishap, Fault] = {
    "lost_before": lost_before,
    "lost_after": lost_after,
    "refused": refused,
    "declined": declined,
}
