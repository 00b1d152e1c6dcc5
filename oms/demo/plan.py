"""What the demo is going to do, decided before anything starts: orders, stock, and the ways out that it plays."""

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import orjson

from libs.events.channel import (
    OrderCancellationRequested,
    OrderPlaced,
    PlacedDestination,
    PlacedLine,
    PlacedPayment,
    PlacedPii,
    PlacedTotals,
    order_id_of,
)
from oms.demo.chance import share
from oms.demo.day import Basket
from oms.demo.network import Store, near, store

CURRENCY = "USD"
TWENTIETH = 0.05
CANCELLED = 0.01  # at once, before the order can be released
CANCELLED_LATE = 0.01  # some seconds later, most often too late
REPEATED = 0.01
CHANGED = 0.003  # the same order again with other content
LATE_SECONDS = 3.0

CANCELLATION_TYPE = "oms.channel.OrderCancellationRequested"

Kind = Literal["order", "bad", "repeat", "changed", "cancellation"]


@dataclass(frozen=True, kw_only=True)
class Message:
    """A record for the channel topic; `after` seconds after its turn."""

    kind: Kind
    order_id: str
    key: bytes
    value: bytes
    type: str | None = None
    after: float = 0.0

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """An order is bare JSON; what is no order must say so."""
        return [("ce_type", self.type.encode())] if self.type else []


@dataclass(frozen=True, kw_only=True)
class Received:
    sku: str
    location: str
    qty: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`short` are the orders whose stock is withheld; every order id that must come to an end is in `expected`."""

    stores: tuple[Store, ...]
    stock: tuple[Received, ...]
    messages: tuple[Message, ...]
    orders: frozenset[str]
    bad: frozenset[str]
    short: frozenset[str]

    @property
    def expected(self) -> frozenset[str]:
        return self.orders | self.bad

    def count(self, kind: Kind) -> int:
        return sum(message.kind == kind for message in self.messages)


def plan(baskets: Sequence[Basket], seed: int) -> Plan:
    stores = {number: store(seed, number) for number in sorted({basket.store for basket in baskets})}
    withheld = one_in_twenty(baskets, seed, "short")
    elsewhere = one_in_twenty(baskets, seed, "elsewhere", but=withheld)
    placed = {basket.basket_id: _placed(basket, stores[basket.store], seed) for basket in baskets}
    bad = list(_bad(next(iter(placed.values())))) if placed else []
    messages = [message for order in placed.values() for message in _messages(order, seed)]
    return Plan(
        stores=tuple(stores.values()),
        stock=tuple(_stock(baskets, stores, withheld, elsewhere)),
        messages=_mixed(messages, bad),
        orders=frozenset(order.order_id for order in placed.values()),
        bad=frozenset(message.order_id for message in bad),
        short=frozenset(placed[basket_id].order_id for basket_id in withheld),
    )


def one_in_twenty(
    baskets: Sequence[Basket], seed: int, why: str, but: Container[str] = frozenset()
) -> Mapping[str, str]:
    """About one basket in twenty, and a SKU of it that nobody else wants: so nobody else feels what is done to it."""
    wanted = Counter(line.sku for basket in baskets for line in basket.lines)
    rare = {basket.basket_id: line.sku for basket in baskets for line in basket.lines if wanted[line.sku] == 1}
    free = [basket_id for basket_id in rare if basket_id not in but]
    by_chance = sorted(free, key=lambda basket_id: share(seed, why, basket_id))
    return {basket_id: rare[basket_id] for basket_id in by_chance[: round(TWENTIETH * len(baskets))]}


def _stock(
    baskets: Sequence[Basket], stores: Mapping[str, Store], withheld: Mapping[str, str], elsewhere: Mapping[str, str]
) -> Iterator[Received]:
    """What the day sells, where it sells it; but some is withheld, and some lies at another store: two parcels."""
    numbers = list(stores)
    needed: Counter[tuple[str, str]] = Counter()
    for basket in baskets:
        here = numbers.index(basket.store)
        for line in basket.lines:
            if withheld.get(basket.basket_id) != line.sku:
                away = elsewhere.get(basket.basket_id) == line.sku
                at = stores[numbers[(here + away) % len(numbers)]].location
                needed[line.sku, at] += line.qty
    for (sku, location), qty in sorted(needed.items()):
        yield Received(sku=sku, location=location, qty=qty)


def _placed(basket: Basket, here: Store, seed: int) -> OrderPlaced:
    amount, discount = (sum(getattr(line, name) for line in basket.lines) for name in ("amount", "discount"))
    lat, lon = near(seed, here, basket.basket_id)
    return OrderPlaced(
        channel=here.channel,
        external_order_id=basket.basket_id,
        placed_at=basket.placed_at,
        currency=CURRENCY,
        lines=tuple(
            PlacedLine(
                line_id=str(number),
                sku=line.sku,
                qty=line.qty,
                unit_price=line.amount // line.qty,
                amount=line.amount,
                discount=line.discount,
            )
            for number, line in enumerate(basket.lines, start=1)
        ),
        totals=PlacedTotals(items=amount, discount=discount, grand=amount - discount),
        payment=PlacedPayment(psp="sim", token="tok_visa"),
        destination=PlacedDestination(country="US", lat=lat, lon=lon),
        pii=PlacedPii(customer_id=f"household-{basket.household}"),
    )


def _messages(order: OrderPlaced, seed: int) -> Iterator[Message]:
    def chosen(what: str, rate: float) -> bool:
        return share(seed, what, order.order_id) < rate

    yield _message("order", order)
    if chosen("cancel", CANCELLED):
        yield _cancellation(order, after=0.0)
    elif chosen("cancel late", CANCELLED_LATE):
        yield _cancellation(order, after=LATE_SECONDS)
    if chosen("repeat", REPEATED):
        yield _message("repeat", order, after=1.0)
    if chosen("change", CHANGED):
        other = order.destination.model_copy(update={"postal_code": "00000"})
        yield _message("changed", order.model_copy(update={"destination": other}), after=1.0)


def _message(kind: Kind, order: OrderPlaced, after: float = 0.0) -> Message:
    return Message(
        kind=kind, order_id=order.order_id, key=_key(order), value=order.model_dump_json().encode(), after=after
    )


def _cancellation(order: OrderPlaced, after: float) -> Message:
    asked = OrderCancellationRequested(channel=order.channel, external_order_id=order.external_order_id)
    return Message(
        kind="cancellation",
        order_id=order.order_id,
        key=_key(order),
        value=asked.model_dump_json().encode(),
        type=CANCELLATION_TYPE,
        after=after,
    )


def _key(order: OrderPlaced | OrderCancellationRequested) -> bytes:
    return f"{order.channel}:{order.external_order_id}".encode()


def _bad(sample: OrderPlaced) -> Iterator[Message]:
    """Orders that no channel should send: each must be answered with OrderRejected, and hold up nothing."""
    good = sample.model_dump(mode="json")
    wrong = [
        ("total", good | {"totals": good["totals"] | {"grand": good["totals"]["grand"] + 1}}),
        ("pickup", good | {"lines": [good["lines"][0] | {"fulfillment": "PICKUP"}, *good["lines"][1:]]}),
        ("currency", good | {"currency": "XXQ"}),
        ("field", good | {"gift_wrap": True}),
    ]
    for name, body in wrong:
        body["external_order_id"] = f"demo-bad-{name}"
        yield _bad_message(body, orjson.dumps(body))
    body = good | {"external_order_id": "demo-bad-json"}
    yield _bad_message(body, orjson.dumps(body)[:-1] + b',"weight":NaN}')


def _bad_message(body: Mapping[str, str], value: bytes) -> Message:
    channel, external = body["channel"], body["external_order_id"]
    return Message(
        kind="bad", order_id=order_id_of(channel, external), key=f"{channel}:{external}".encode(), value=value
    )


def _mixed(messages: Sequence[Message], bad: Sequence[Message]) -> tuple[Message, ...]:
    """The bad ones spread evenly among the others."""
    step = len(messages) // (len(bad) + 1) + 1
    mixed: list[Message] = []
    rest = iter(bad)
    for number, message in enumerate(messages, start=1):
        mixed.append(message)
        if number % step == 0:
            mixed.extend(one for one in [next(rest, None)] if one)
    return (*mixed, *rest)
