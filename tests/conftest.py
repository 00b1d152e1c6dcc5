"""The two clusters that tests share: servers alone, and the whole system with services and simulators."""

from collections.abc import Iterator

import pytest

from oms.cluster.cluster import INFRASTRUCTURE, LocalCluster
from tests.cluster import quick_system, started


@pytest.fixture(scope="session")
def servers() -> Iterator[LocalCluster]:
    """Kafka and PostgreSQL with empty databases, no services."""
    with started(INFRASTRUCTURE) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def system() -> Iterator[LocalCluster]:
    """The whole system as processes."""
    with quick_system() as cluster:
        yield cluster
