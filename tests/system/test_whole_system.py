"""The whole system in memory: Hypothesis writes what happens, and whatever it was, the books must balance at rest."""

import asyncio
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.system.books import audit, views_bear_another_order
from tests.system.shop import (
    Call,
    CallBack,
    Cancel,
    Consume,
    Forget,
    Go,
    NewMethod,
    Order,
    Pass,
    Place,
    Plan,
    Relay,
    Resend,
    Rewind,
    Shop,
    Step,
    WakeUp,
)

EXAMPLES = int(os.environ.get("OMS_SYSTEM_EXAMPLES", "200"))
settings.register_profile(
    "system",
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

WRITERS = ("order", "inventory", "payment", "fulfillment")
ALL = (*WRITERS, "tracking")
TOKENS = ("tok_visa", "tok_decline", "tok_decline_retryable", "tok_timeout_before", "tok_timeout_after")
MOODS = ("tok_visa", "tok_visa", "tok_visa", *TOKENS, "tok_capture_fails")


def mostly(usual: object, *unusual: object) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual] * 4 + list(unusual))


few = st.integers(0, 7)
crashes = mostly(None, "before_commit", "after_commit")
limits = mostly(500, 1, 2, 5)
lines = st.lists(st.tuples(st.sampled_from(["S1", "S2"]), st.integers(1, 3)), min_size=1, max_size=3).map(tuple)
orders = st.builds(
    Order,
    lines,
    token=st.sampled_from(MOODS),
    second_token=st.sampled_from(["", "tok_visa", "tok_decline"]),
    adds_up=mostly(True, True, True, False),
    fate=mostly("delivered", "lost", "return_to_sender"),
)
shelves = [
    st.tuples(st.just(sku), st.just(at), mostly(4, 0, 1, 2)) for sku in ("S1", "S2") for at in ("berlin", "hamburg")
]
plans = st.builds(
    Plan,
    st.lists(orders, min_size=1, max_size=3).map(tuple),
    st.tuples(*shelves),
    remorse=st.sampled_from([0, 30]),
    refusing=mostly((), ("hamburg",)),
    parcels=st.sampled_from([1, 2]),
)
going_on = st.builds(Go, st.integers(0, 30), st.integers(1, 10), limits)
disturbances = st.one_of(
    st.builds(Consume, st.sampled_from(ALL), few, limits, crashes),
    st.builds(
        Call,
        st.sampled_from(["payment", "fulfillment"]),
        few,
        st.sampled_from(["once", "twice", "crash"]),
        st.sampled_from([None, "lost_before", "lost_after", "refused", "declined"]),
        crashes,
    ),
    st.builds(Place, few, st.integers(0, 1), st.booleans()),
    st.builds(Cancel, few, st.integers(0, 1)),
    st.builds(Relay, st.sampled_from(WRITERS), st.sampled_from([1000, 1, 2]), st.just(True)),
    st.builds(CallBack, few, st.booleans()),
    st.builds(Pass, st.sampled_from([1, 30, 130, 1000, 90_000])),
    st.builds(WakeUp, st.sampled_from(WRITERS), few, crashes),
    st.builds(Rewind, st.sampled_from(ALL), st.integers(1, 20)),
    st.builds(Forget, st.sampled_from(WRITERS)),
    st.builds(Resend, st.integers(0, 50), st.integers(1, 5)),
    st.builds(NewMethod, few, st.sampled_from(TOKENS)),
)


@st.composite
def steps(draw: st.DrawFn) -> Step | None:
    """Mostly things go on; what shrinks away becomes nothing."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return None
    return draw(going_on if kind <= 6 else disturbances)


# Left to itself a list rarely grows long. This one has to; what shrank to nothing is then left out of it.
scripts = st.lists(steps(), min_size=30, max_size=60).map(lambda script: [step for step in script if step is not None])


async def rested(plan: Plan, script: list[Step]) -> Shop:
    shop = Shop(plan)
    await shop.open()
    await shop.play(script)
    return shop


ONE = Plan((Order((("S1", 2), ("S2", 1))),), (("S1", "berlin", 1), ("S1", "hamburg", 1), ("S2", "hamburg", 1)))


@pytest.mark.timeout(600)
@settings(settings.get_profile("system"))
@given(plans, scripts)
@example(ONE, []).via("all goes well")
@example(ONE, [Place(0), Cancel(0)]).via("the stock answers an order that is cancelled already")
@example(ONE, [Place(0), Consume("order"), Relay("order", lost=True)]).via("the relay sends twice")
@example(ONE, [Place(0), Consume("order", crash="after_commit")]).via("the consumer does not know that it committed")
def test_whatever_happens_the_books_balance_at_rest(plan: Plan, script: list[Step]) -> None:
    async def play() -> None:
        shop = await rested(plan, script)
        audit(shop)
        await views_bear_another_order(shop)

    asyncio.run(play())


@pytest.mark.timeout(600)
@settings(settings.get_profile("system"), max_examples=EXAMPLES // 5)
@given(plans, scripts)
@example(ONE, []).via("all goes well")
def test_everything_told_once_more_changes_nothing(plan: Plan, script: list[Step]) -> None:
    """Without the machine's books of what was handled the domain alone must know a repeat."""

    async def play() -> None:
        shop = await rested(plan, script)
        before = {name: len(node.events()) for name, node in shop.world.nodes.items()}
        for name in WRITERS:
            shop.world.forget(name)
        await shop.play([])
        for name, node in shop.world.nodes.items():
            assert [told.event for told in node.events()[before[name] :]] == [], name
        audit(shop)

    asyncio.run(play())
