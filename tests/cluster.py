"""The clusters that tests start.

Local by default: Kafka and PostgreSQL as processes of this machine. Where a Docker engine answers,
`OMS_TEST_CLUSTER=docker` takes containers instead, as docker-compose.yml sets them up; everything else is the same.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from pydantic import SecretStr

from oms.cluster.cluster import LocalCluster
from oms.cluster.settings import ClusterSettings
from oms.cluster.startup import ClusterSpec
from oms.cluster.state import pick_ports, temporary_folder
from tests.compose import CONTAINERS, environment, image

QUICK = {
    "SIM_PICK_MS": "50",
    "SIM_PACK_MS": "50",
    "SIM_STEP_MS": "50",
    "OMS_POLL_MS": "50",
    "OMS_ORDER_REMORSE": "PT0S",
    "OMS_ORDER_PAYMENT_BACKOFF": "PT0.2S",
    "OMS_PAYMENT_FIRST_LOOK_UP": "PT0.3S",
}


@contextmanager
def docker_servers() -> Iterator[dict[str, object]]:
    """Kafka and PostgreSQL in containers, as ClusterSettings names outside servers."""
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    port = pick_ports(["kafka"])["kafka"]  # inside and outside the same: clients are sent to the advertised one
    listeners = {
        "KAFKA_LISTENERS": f"PLAINTEXT://:{port},CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@127.0.0.1:9093",
    }
    kafka = (
        DockerContainer(image("kafka"))
        .with_bind_ports(port, port)
        .with_envs(**environment("kafka") | listeners)
        .waiting_for(LogMessageWaitStrategy("Kafka Server started"))
    )
    server = PostgresContainer(image("postgres"), username="postgres").with_command(CONTAINERS["postgres"]["command"])
    with kafka, server as postgres:
        yield {
            "kafka_bootstrap": f"127.0.0.1:{port}",
            "postgres_host": postgres.get_container_host_ip(),
            "postgres_port": int(postgres.get_exposed_port(5432)),
            "postgres_user": postgres.username,
            "postgres_password": SecretStr(postgres.password),
            "postgres_sslmode": "disable",
        }


@contextmanager
def started(spec: ClusterSpec) -> Iterator[LocalCluster]:
    with ExitStack() as stack:
        path = stack.enter_context(temporary_folder("test"))
        outside = stack.enter_context(docker_servers()) if os.environ.get("OMS_TEST_CLUSTER") == "docker" else {}
        yield stack.enter_context(LocalCluster(ClusterSettings(state_dir=path / "state", **outside), spec))


@contextmanager
def quick_system(**environment: str) -> Iterator[LocalCluster]:
    """Servers, five services and three simulators as processes, with quick simulators."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # what is started keeps it; the tests' own process does not
            for name, value in {**QUICK, **environment}.items():
                patch.setenv(name, value)
            cluster = stack.enter_context(started(ClusterSpec()))
        yield cluster
