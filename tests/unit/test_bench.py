"""The benchmark's own arithmetic: what its figures rest on, and what no run would show to be wrong."""

import json
from dataclasses import replace

from bench.figures import GOALS, Figures
from bench.floor_template import PLACED, Template
from bench.journey import Journey, Step
from bench.orders import Channel, one_line
from libs.events.channel import OrderPlaced

STEP = Step(
    service="order",
    event_type="oms.order.OrderReceived",
    schema_version=1,
    stream_id="order-O1",
    stream_version=1,
    data=b"{}",
    metadata=b"{}",
    headers=(("ce_subject", b"order-O1"), ("ce_type", b"oms.order.OrderReceived")),
    key="O1",
    topic="oms.order.events",
    cause=None,
    called="",
    decision=0,
    views=(("order_view", "O1"),),
    wanted_by=(),
)


def test_events_decided_together_are_answered_together_on_the_floor():
    answered = replace(STEP, service="payment", stream_id="payment-O1", cause=0, called="effect", decision=2)
    stock = replace(STEP, service="inventory", stream_id="stock-SKU-9", cause=0, decision=1)
    journey = Journey(
        order_id="O1", channel="web", external_id="1", steps=[STEP, stock, answered, answered], view_bytes={}
    )
    template = Template(journey)
    assert template.followers[("order", PLACED)] == [0]
    assert template.followers[("inventory", 0)] == [1]
    assert template.answers[("payment", 0)] == {2: [2, 3]}
    assert [step.stream for step in template.steps] == ["order-{order}", "stock-SKU-{sku}", *["payment-{order}"] * 2]
    assert template.views[("tracking", 1)] == []  # it does not hear of stock


def test_figure_is_the_median_of_its_rounds_and_keeps_what_was_not_run(tmp_path):
    path = tmp_path / "results.json"
    earlier = Figures({"rss_max_mb": [90]}, {"quick": True})
    earlier.write(path)
    figures = Figures({"whole_orders_per_s": [700, 100, 800]}, {"quick": True})
    figures.derive("floor_share", ("whole_orders_per_s", "floor_orders_per_s"), lambda ours, floor: ours / floor)
    figures.write(path)
    assert json.loads(path.read_text()) == {"rss_max_mb": 90, "whole_orders_per_s": 700, "quick": True}
    Figures({"rss_max_mb": [120]}, {"quick": False}).write(path)
    assert json.loads(path.read_text()) == {"rss_max_mb": 120, "quick": False}


def test_goal_names_its_direction():
    by_key = {goal.key: goal for goal in GOALS}
    assert by_key["whole_orders_per_s"].met(750)
    assert not by_key["whole_orders_per_s"].met(749)
    assert by_key["hot_oversold"].met(0)
    assert not by_key["hot_oversold"].met(1)


def test_orders_of_one_run_are_distinct_and_known_by_their_ids():
    channel = Channel(None, one_line())  # type: ignore[arg-type]
    numbers = range(4)
    placed = [OrderPlaced.model_validate_json(channel._body(number)) for number in numbers]
    assert [order.order_id for order in placed] == [channel.order_id(number) for number in numbers]
    assert len({order.order_id for order in placed}) == len(numbers)
    assert {order.channel for order in placed} == {channel.name}
