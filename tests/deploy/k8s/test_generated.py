"""What follows from the topic table and the services' declarations is written down as they say it today."""

from typing import Any

import pytest
import yaml

from deploy.k8s.generate import DASHBOARDS, HERE, RULES, wanted
from libs.events.topics import TOPICS
from oms.catalogue import catalogue
from oms.cluster.databases import LIMITS
from tests.deploy.k8s.manifests import SERVICES, named, objects, of

AGAIN = "run `make k8s-generate` and review what it changes"


@pytest.mark.parametrize("path", wanted(), ids=lambda path: str(path.relative_to(HERE.parent)))
def test_generated_file_is_up_to_date(path: Any) -> None:
    assert path.exists(), AGAIN
    assert path.read_text() == wanted()[path], AGAIN


def test_generator_knows_every_service() -> None:
    assert tuple(catalogue()) == SERVICES


def _acls(user: str) -> set[tuple[str, str, str]]:
    found = named(objects("overlays/prod"), "KafkaUser", f"oms-{user}")
    return {
        (operation, acl["resource"]["type"], acl["resource"].get("name", ""))
        for acl in found["spec"]["authorization"]["acls"]
        for operation in acl["operations"]
    }


@pytest.mark.parametrize("service", catalogue().values(), ids=lambda service: service.name)
def test_service_may_write_its_own_topics_read_what_it_subscribes_to_and_join_its_group(service: Any) -> None:
    acls = _acls(service.name)
    own = {topic.name for topic in TOPICS if topic.owner == service.name}
    heard = {topic.name for topic in service.subscribes}
    assert {name for operation, kind, name in acls if (operation, kind) == ("Write", "topic")} == own
    assert {name for operation, kind, name in acls if (operation, kind) == ("Read", "topic")} == heard
    assert {(operation, name) for operation, kind, name in acls if kind == "group"} == {("Read", service.consumer)}
    assert {operation for operation, *_ in acls} <= {"Read", "Write", "Describe", "DescribeConfigs"}


def test_each_topic_has_one_writer() -> None:
    users = [*SERVICES, "channel", "operator", "keda"]
    for topic in TOPICS:
        assert [user for user in users if ("Write", "topic", topic.name) in _acls(user)] == [topic.owner]


def test_keda_sees_lags_and_nothing_else() -> None:
    assert {operation for operation, *_ in _acls("keda")} == {"Describe"}
    scaled = of(objects("overlays/prod"), "ScaledObject")
    asked = {trigger["metadata"]["consumerGroup"] for one in scaled for trigger in one["spec"]["triggers"]}
    assert asked == {name for _, kind, name in _acls("keda") if kind == "group"}


@pytest.mark.parametrize("service", SERVICES)
def test_roles_of_a_database_have_the_limits_of_the_local_cluster(service: str) -> None:
    found = named(objects("overlays/prod"), "Cluster", f"{service}-db")
    told = found["spec"]["bootstrap"]["initdb"]["postInitApplicationSQL"]
    for role, limits in LIMITS.items():
        for name, value in limits.items():
            assert f"ALTER ROLE oms_{service}_{role} SET {name} = '{value}'" in told


def test_rules_are_those_of_prometheus() -> None:
    (found,) = of(objects("overlays/prod"), "PrometheusRule")
    rules = [yaml.safe_load(path.read_text())["groups"] for path in sorted(RULES.glob("*.yaml"))]
    assert found["spec"]["groups"] == [group for groups in rules for group in groups]


def test_every_dashboard_is_taken_along() -> None:
    found = named(objects("overlays/prod"), "ConfigMap", "dashboards")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert set(found.get("data", {})) == {path.name for path in DASHBOARDS.glob("*.json")}
