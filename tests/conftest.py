"""The two clusters that tests share: servers alone, and the whole system with services and simulators."""

import os
import uuid
from collections.abc import AsyncIterator, Generator, Iterator
from typing import TypeVar

import pytest

from libs.testing.outside import Outside, outside
from oms.cluster.cluster import INFRASTRUCTURE, LocalCluster
from tests.cluster import quick_system, started
from tests.collector import Collector, collecting


@pytest.fixture(scope="session")
def servers() -> Iterator[LocalCluster]:
    """Kafka and PostgreSQL with empty databases, no services."""
    with started(INFRASTRUCTURE) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where the spans of the whole system go."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="session")
def system(collector: Collector) -> Iterator[LocalCluster]:
    """The whole system as processes. It logs all that it ever logs, so that a test can see that no person is in it."""
    told = {"OMS_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200", "OMS_LOG_LEVEL": "DEBUG"}
    with quick_system(**told) as cluster:
        yield cluster


@pytest.fixture(scope="module")
async def shop(system: LocalCluster) -> AsyncIterator[Outside]:
    """The running system as partners and customers have it before them."""
    async with outside(system, system.directory.callback_secret().read_text().strip()) as opened:
        yield opened


@pytest.fixture
async def sku(shop: Outside) -> str:
    """An article of this test alone: 10 units at one node."""
    name = f"SKU-{uuid.uuid4().hex[:8]}"
    await shop.stock(name, qty=10)
    return name


@pytest.fixture
def canary() -> str:
    """What is nowhere unless it got there from this test; too short for its digits to pass for a card number."""
    return f"canary{uuid.uuid4().hex[:8]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With OMS_NO_SKIPS=1 a skip fails: what was not run proves nothing, and the machine is to bring every tool."""
    del item
    return _unskipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _unskipped((yield))


Told = TypeVar("Told", pytest.TestReport, pytest.CollectReport)


def _unskipped(report: Told) -> Told:
    if os.environ.get("OMS_NO_SKIPS") == "1" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped, and OMS_NO_SKIPS is set: {report.longreprtext}"
    return report
