"""A short campaign of a fixed seed: `make faults` in small, so that every run of the tests strikes a few times.

How long recovery took is told and not judged: beside other tests, on a small machine, it says little. `make faults`
judges it.
"""

import asyncio
import random

import pytest

from tests.faults.arena import arena
from tests.faults.campaign import Plan, run
from tests.faults.kinds.catalogue import KINDS as ALL

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(420)]

KINDS = (
    "kill_service",
    "kill_at:handler.after_commit",
    "kill_postgres",
    "kill_kafka",
    "wire_postgres_cut",
    "record_ten_times",
    "outside_timeout_after",
    "poison_own_topic",
    "statement_timeouts",
    "clock_jump",
    "disk_full",
)


def test_short_campaign_loses_and_doubles_nothing() -> None:
    said: list[str] = []
    with arena() as made:
        report = asyncio.run(run(Plan(7, 0.5, KINDS, rate=3.0), made, said.append))
    assert report.sound, "\n".join([report.table(), *said])
    assert report.orders > 50


def test_seed_and_minutes_choose_the_same_kinds_again() -> None:
    plan = Plan.drawn(7, 10)
    assert plan == Plan.drawn(7, 10)
    assert plan.kinds != Plan.drawn(8, 10).kinds
    assert len(plan.kinds) == 25


def test_kinds_are_chosen_by_name() -> None:
    assert set(Plan.drawn(1, 10, "kill_kafka freeze_service_*").kinds) == {
        "kill_kafka",
        "freeze_service_3s",
        "freeze_service_20s",
        "freeze_service_90s",
    }


@pytest.mark.parametrize("name", [name for name, make in ALL.items() if make(random.Random(0)).need])
def test_tool_that_a_kind_needs_is_there(name: str) -> None:
    need = ALL[name](random.Random(0)).need
    if need is not None and not need.there():
        pytest.skip(f"{name} is never struck here: {need.tool} is not there: {need.install}")


def test_long_run_strikes_every_kind() -> None:
    assert set(Plan.drawn(1, 60).kinds) == set(ALL)
