from collections import Counter
from datetime import UTC, datetime

import pytest

from libs.events.channel import OrderCancellationRequested, OrderPlaced, UnreadableOrder
from libs.events.inbound import read_channel_record
from oms.demo.day import Basket, Line
from oms.demo.network import CHANNELS, near, store
from oms.demo.plan import Message, Plan, one_in_twenty, plan
from services.order.domain.validation import validate

SEED = 1
AT = datetime(2017, 12, 24, 8, 30, tzinfo=UTC)


def basket(number: int, *skus: str) -> Basket:
    """Of milk, which everybody buys, and of something that nobody else does."""
    lines = tuple(Line(sku=sku, qty=2, amount=100, discount=10) for sku in skus or ("milk", f"rare-{number}"))
    return Basket(basket_id=str(number), store=str(number % 7), household="64", placed_at=AT, lines=lines)


BASKETS = [basket(number) for number in range(1000)]


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan(BASKETS, SEED)


def placed(message: Message) -> OrderPlaced | OrderCancellationRequested | UnreadableOrder:
    event = read_channel_record(message.headers, message.value)
    assert isinstance(event, OrderPlaced | OrderCancellationRequested | UnreadableOrder)
    return event


def test_every_basket_is_placed_as_an_order_without_fault(planned: Plan) -> None:
    orders = [placed(message) for message in planned.messages if message.kind == "order"]
    assert len(orders) == len(planned.orders) == len(BASKETS)
    for order in orders:
        assert isinstance(order, OrderPlaced)
        assert validate(order) == ()


def test_totals_are_what_the_customer_paid(planned: Plan) -> None:
    order = placed(next(message for message in planned.messages if message.kind == "order"))
    assert isinstance(order, OrderPlaced)
    assert (order.totals.items, order.totals.discount, order.totals.grand) == (200, 20, 180)


def test_every_bad_order_can_be_told_and_is_at_fault(planned: Plan) -> None:
    bad = [placed(message) for message in planned.messages if message.kind == "bad"]
    assert {order.order_id for order in bad} == planned.bad
    assert len(bad) == 5
    for order in bad:
        assert isinstance(order, UnreadableOrder) or (isinstance(order, OrderPlaced) and validate(order))


def test_one_order_in_twenty_runs_short(planned: Plan) -> None:
    assert len(planned.short) == len(BASKETS) // 20


def test_stock_is_what_the_day_sells_but_for_what_is_withheld(planned: Plan) -> None:
    sold = Counter({line.sku: 0 for one in BASKETS for line in one.lines})
    for one in BASKETS:
        for line in one.lines:
            sold[line.sku] += line.qty
    for order in planned.messages:
        if order.kind == "order" and order.order_id in planned.short:
            sold[f"rare-{placed(order).external_order_id}"] = 0
    received = Counter[str]()
    for line in planned.stock:
        received[line.sku] += line.qty
    assert received == +sold


def test_stock_lies_where_it_is_sold_but_for_a_few_lines_at_another_store(planned: Plan) -> None:
    places = {(line.sku, line.location) for line in planned.stock}
    homes = {(line.sku, f"store-{one.store}") for one in BASKETS for line in one.lines}
    assert len(places - homes) == len(BASKETS) // 20


def test_short_orders_lack_a_sku_that_nobody_else_wants() -> None:
    chosen = one_in_twenty(BASKETS, SEED, "short")
    assert len(chosen) == len(BASKETS) // 20
    assert all(sku == f"rare-{basket_id}" for basket_id, sku in chosen.items())


def test_no_order_is_made_short_where_every_sku_is_wanted_by_several() -> None:
    assert one_in_twenty([basket(1, "milk"), basket(2, "milk")] * 20, SEED, "short") == {}


def test_some_customers_cancel_and_some_channels_repeat_themselves(planned: Plan) -> None:
    assert 5 < planned.count("cancellation") < 40
    assert 3 < planned.count("repeat") < 30
    assert planned.count("changed") > 0


def test_repeat_is_the_same_to_the_byte_and_a_changed_one_is_not(planned: Plan) -> None:
    first = {message.order_id: message.value for message in planned.messages if message.kind == "order"}
    for message in planned.messages:
        if message.kind == "repeat":
            assert message.value == first[message.order_id]
        if message.kind == "changed":
            assert message.value != first[message.order_id]


def test_every_message_of_an_order_has_its_key(planned: Plan) -> None:
    for message in planned.messages:
        event = placed(message)
        assert message.key == f"{event.channel}:{event.external_order_id}".encode()
        assert message.order_id == event.order_id


def test_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    assert plan(BASKETS[:50], 1) == plan(BASKETS[:50], 1)
    assert plan(BASKETS[:50], 1) != plan(BASKETS[:50], 2)


def test_a_destination_lies_near_its_store_to_a_tenth_of_a_degree() -> None:
    here = store(SEED, "340")
    lat, lon = near(SEED, here, "41366246803")
    assert abs(lat - here.lat) < 0.5
    assert abs(lon - here.lon) < 0.5
    assert (lat, lon) == (round(lat, 1), round(lon, 1))


def test_stores_lie_in_the_country() -> None:
    stores = [store(SEED, str(number)) for number in range(500)]
    assert all(30 <= one.lat <= 47 and -120 <= one.lon <= -76 for one in stores)
    assert {one.channel for one in stores} == set(CHANNELS)
