"""deploy/k8s, checked without a cluster. Everything that a check is there for is broken below, to see it caught."""

import re
from collections.abc import Callable
from textwrap import dedent
from typing import Any

import pytest
import yaml

from libs.events.topics import TOPICS
from libs.runtime.api import Ports
from libs.runtime.http import create_app
from libs.testing.memory import MemoryStorage
from services.tracking.service import service as tracking
from tests.deploy.k8s import network, policies, schema
from tests.deploy.k8s.manifests import (
    OVERLAYS,
    ROOT,
    Manifest,
    Objects,
    container,
    named,
    objects,
    of,
    pod,
)

Break = Callable[[Objects], Any]

CORE = {"v1", "apps/v1", "batch/v1", "policy/v1", "scheduling.k8s.io/v1"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_is_known_to_the_api_server(overlay: str) -> None:
    assert list(schema.problems(objects(f"overlays/{overlay}"))) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_is_as_it_must_be(overlay: str) -> None:
    assert policies.problems(objects(f"overlays/{overlay}")) == []


def test_base_needs_no_operator() -> None:
    base = objects("base")
    assert {one["apiVersion"] for one in base} == CORE
    assert list(schema.problems(base)) == []


def test_probed_routes_are_served() -> None:
    async def health() -> dict[str, bool]:
        return {"ready": True}

    app = create_app(tracking(), Ports(MemoryStorage(), None, ""), health)
    assert {*policies.PROBES.values(), "/metrics"} <= {getattr(route, "path", "") for route in app.routes}


def _manual() -> str:
    return (ROOT / "docs/operations.md").read_text()


def test_cluster_restored_as_the_manual_says_is_as_it_must_be() -> None:
    (told,) = re.findall(r"^( +)spec:\n((?:\1 .*\n)+)", _manual(), re.MULTILINE)
    found = objects("overlays/prod")
    named(found, "Cluster", "order-db")["spec"].update(yaml.safe_load(dedent(told[1])))
    assert policies.problems(found) == []
    assert list(schema.problems(found)) == []


def test_what_the_manual_commands_is_there() -> None:
    found = objects("overlays/prod")
    kinds = {"deployment/": "Deployment", "scaledobject ": "ScaledObject", "kafkatopic ": "KafkaTopic", "job ": "Job"}
    told = re.findall(r"(deployment/|scaledobject |kafkatopic |get job )([a-z][a-z.-]+)", _manual())
    there = {(one["kind"], one["metadata"]["name"]) for one in found}
    assert told
    assert {(kinds[kind.removeprefix("get ")], name) for kind, name in told} <= there
    selectors = re.findall(r"-l (app\.kubernetes\.io/\w+)=([a-z]+)", _manual())
    assert selectors
    assert set(selectors) <= {pair for one in found for pair in one["metadata"].get("labels", {}).items()}


def _order(found: Objects, role: str = "api") -> Manifest:
    return named(found, "Job" if role == "migrate" else "Deployment", f"order-{role}")


def _settings(found: Objects, name: str = "common-settings") -> dict[str, str]:
    (one,) = [one for one in of(found, "ConfigMap") if one["metadata"]["name"].startswith(name)]
    return one["data"]


def _policy(found: Objects, name: str) -> dict[str, Any]:
    return named(found, "NetworkPolicy", name)["spec"]


def _without(found: Objects, kind: str, name: str) -> None:
    found.remove(named(found, kind, name))


def _add_rule(found: Objects, peer: dict[str, Any], selector: dict[str, Any]) -> None:
    """One policy that lets pods out and in."""
    spec = {
        "podSelector": selector,
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [peer]}],
        "egress": [{"to": [peer]}],
    }
    found.append({"kind": "NetworkPolicy", "metadata": {"name": "careless", "namespace": "orderloom"}, "spec": spec})


ALL_OF_ORDER = {"matchLabels": {"app.kubernetes.io/name": "order"}}
API = {"matchLabels": {"app.kubernetes.io/component": "api"}}

BREAKS: list[tuple[policies.Check, str, Break, str]] = [
    (
        policies.every_service_has_its_roles,
        "a role is missing",
        lambda f: _without(f, "Deployment", "order-worker"),
        "order has no worker",
    ),
    (
        policies.every_service_has_its_roles,
        "wrong command",
        lambda f: container(_order(f)).update(command=["python", "-m", "services.payment"]),
        "something else",
    ),
    (
        policies.labels_are_whole,
        "old version",
        lambda f: _order(f)["spec"]["template"]["metadata"]["labels"].update({"app.kubernetes.io/version": "0.0.9"}),
        "another version",
    ),
    (
        policies.probes_ask_the_right_routes,
        "liveness asks the database",
        lambda f: container(_order(f))["livenessProbe"]["httpGet"].update(path="/readyz"),
        "livenessProbe is not /livez",
    ),
    (
        policies.probes_ask_the_right_routes,
        "no startup probe",
        lambda f: container(_order(f)).pop("startupProbe"),
        "startupProbe is not /startupz",
    ),
    (
        policies.ports_are_those_of_the_settings,
        "other port",
        lambda f: container(_order(f))["ports"][0].update(containerPort=8081),
        "not OMS_HTTP_PORT",
    ),
    (
        policies.ports_are_those_of_the_settings,
        "other port of all",
        lambda f: _settings(f).update(OMS_HTTP_PORT="9000"),
        "opens another port",
    ),
    (
        policies.ports_are_those_of_the_settings,
        "port by number",
        lambda f: named(f, "Service", "order-api")["spec"]["ports"][0].update(targetPort=9),
        "than http",
    ),
    (
        policies.resources_are_named,
        "CPU limit",
        lambda f: container(_order(f))["resources"]["limits"].update(cpu="1"),
        "the limit is on memory",
    ),
    (
        policies.resources_are_named,
        "no requests",
        lambda f: container(_order(f))["resources"].pop("requests"),
        "requests no CPU",
    ),
    (
        policies.pods_are_restricted,
        "namespace is not restricted",
        lambda f: of(f, "Namespace")[0]["metadata"].update(labels={}),
        "is not restricted",
    ),
    (
        policies.pods_are_restricted,
        "root",
        lambda f: pod(_order(f))["securityContext"].update(runAsUser=0),
        "may run as root",
    ),
    (
        policies.pods_are_restricted,
        "no seccomp",
        lambda f: pod(_order(f))["securityContext"].pop("seccompProfile"),
        "no seccomp profile",
    ),
    (
        policies.pods_are_restricted,
        "capabilities",
        lambda f: container(_order(f))["securityContext"].pop("capabilities"),
        "keeps privileges",
    ),
    (
        policies.pods_are_restricted,
        "writable root",
        lambda f: container(_order(f))["securityContext"].update(readOnlyRootFilesystem=False),
        "its root is writable",
    ),
    (
        policies.pods_are_restricted,
        "a token",
        lambda f: pod(_order(f)).update(automountServiceAccountToken=True),
        "gets a token",
    ),
    (
        policies.pods_are_restricted,
        "another's account",
        lambda f: pod(_order(f)).update(serviceAccountName="payment-service"),
        "under its own account",
    ),
    (
        policies.images_are_pinned,
        "latest",
        lambda f: container(_order(f)).update(image="registry.example.com:5000/orderloom:latest"),
        "not pinned",
    ),
    (
        policies.images_are_pinned,
        "tag in prod",
        lambda f: container(_order(f)).update(image="orderloom:0.1.0"),
        "not pinned",
    ),
    (
        policies.settings_are_known,
        "unknown setting",
        lambda f: _settings(f).update(OMS_HTTP_PROT="8080"),
        "OMS_HTTP_PROT is no setting",
    ),
    (
        policies.settings_are_known,
        "bad value",
        lambda f: _settings(f).update(OMS_ALLOW_UNSAFE="everything"),
        "OMS_ALLOW_UNSAFE",
    ),
    (
        policies.settings_are_known,
        "another service's",
        lambda f: _settings(f).update(OMS_PSP_CONNECT_SECONDS="1"),
        "OMS_PSP_CONNECT_SECONDS is no",
    ),
    (
        policies.links_are_safe,
        "plaintext",
        lambda f: _settings(f).update(OMS_KAFKA_SECURITY_PROTOCOL="PLAINTEXT"),
        "plaintext_kafka",
    ),
    (
        policies.links_are_safe,
        "no database's CA",
        lambda f: _settings(f).pop("OMS_POSTGRES_CA_FILE"),
        "unverified_postgres",
    ),
    (policies.links_are_safe, "no API keys", lambda f: _settings(f).pop("OMS_API_KEYS_FILE"), "no_api_keys"),
    (
        policies.secrets_are_files,
        "secret in the environment",
        lambda f: container(_order(f)).update(
            env=[{"name": "OMS_POSTGRES_DSN", "valueFrom": {"secretKeyRef": {"name": "order-db-app", "key": "dsn"}}}]
        ),
        "has a secret in its environment",
    ),
    (
        policies.secrets_are_files,
        "password in a DSN",
        lambda f: _settings(f, "order-settings").update(OMS_POSTGRES_DSN="postgresql://a:b@order-db-rw/oms_order"),
        "holds a password",
    ),
    (
        policies.secrets_are_files,
        "no such file",
        lambda f: _settings(f).update(OMS_KAFKA_CA_FILE="/etc/ca.crt"),
        "which no secret fills",
    ),
    (
        policies.secrets_are_files,
        "idle secret",
        lambda f: pod(_order(f))["volumes"][0]["projected"]["sources"][0]["secret"]["items"][0].update(path="pw"),
        "nothing reads",
    ),
    (
        policies.secrets_are_made,
        "secret that nothing makes",
        lambda f: _without(f, "ExternalSecret", "order-callback"),
        "order-callback, which nothing",
    ),
    (
        policies.selectors_find_something,
        "budget of nothing",
        lambda f: named(f, "PodDisruptionBudget", "order-api")["spec"].update(selector={"matchLabels": {"a": "b"}}),
        "PodDisruptionBudget order-api selects nothing",
    ),
    (
        policies.selectors_find_something,
        "service of nothing",
        lambda f: named(f, "Service", "order-api")["spec"].update(selector={"a": "b"}),
        "selects nothing",
    ),
    (
        policies.references_lead_somewhere,
        "another Kafka",
        lambda f: _settings(f).update(OMS_KAFKA_BOOTSTRAP="kafka:9093"),
        "another Kafka than",
    ),
    (
        policies.references_lead_somewhere,
        "scales what is not there",
        lambda f: named(f, "ScaledObject", "order-worker")["spec"]["scaleTargetRef"].update(name="order"),
        "names Deployment order",
    ),
    (
        policies.references_lead_somewhere,
        "topic that is not there",
        lambda f: _without(f, "KafkaTopic", "oms.order.events"),
        "names KafkaTopic oms.order.events",
    ),
    (
        policies.references_lead_somewhere,
        "account that is not there",
        lambda f: _without(f, "ServiceAccount", "order-service"),
        "names ServiceAccount",
    ),
    (
        policies.doors_are_public_ones,
        "door to nothing",
        lambda f: _without(f, "Service", "tracking-api"),
        "leads to tracking-api",
    ),
    (
        policies.doors_are_public_ones,
        "operators' door is public",
        lambda f: named(f, "Ingress", "orders")["spec"]["rules"][0]["http"]["paths"][0].update(path="/internal"),
        "opens /internal",
    ),
    (
        policies.doors_are_public_ones,
        "everything is public",
        lambda f: named(f, "Ingress", "orders")["spec"]["rules"][0]["http"]["paths"][0].update(path="/"),
        "opens /",
    ),
    (
        policies.processes_have_time_to_stop,
        "killed at once",
        lambda f: pod(_order(f)).update(terminationGracePeriodSeconds=20),
        "is killed before",
    ),
    (
        policies.processes_have_time_to_stop,
        "longer stop",
        lambda f: _settings(f).update(OMS_STOP_SECONDS="60"),
        "is killed before",
    ),
    (
        policies.processes_have_time_to_stop,
        "no preStop",
        lambda f: container(_order(f)).pop("lifecycle"),
        "while requests are still sent",
    ),
    (
        policies.one_may_be_taken_at_a_time,
        "no budget",
        lambda f: _without(f, "PodDisruptionBudget", "order-worker"),
        "has no budget",
    ),
    (
        policies.one_may_be_taken_at_a_time,
        "budget that drains nothing",
        lambda f: named(f, "PodDisruptionBudget", "order-api")["spec"].update(maxUnavailable=0),
        "drains nothing",
    ),
    (
        policies.one_may_be_taken_at_a_time,
        "not spread",
        lambda f: pod(_order(f)).pop("topologySpreadConstraints"),
        "is not spread",
    ),
    (
        policies.workers_are_no_more_than_partitions,
        "more workers than partitions",
        lambda f: named(f, "ScaledObject", "order-worker")["spec"].update(maxReplicaCount=TOPICS[0].partitions + 1),
        "more pods than there are partitions",
    ),
    (
        policies.workers_are_no_more_than_partitions,
        "surging workers",
        lambda f: _order(f, "worker")["spec"]["strategy"]["rollingUpdate"].update(maxSurge=1),
        "more pods than there are partitions",
    ),
    (
        policies.workers_are_no_more_than_partitions,
        "scaled to none",
        lambda f: named(f, "ScaledObject", "order-worker")["spec"].update(minReplicaCount=0),
        "may be scaled to none",
    ),
    (
        policies.workers_are_no_more_than_partitions,
        "replicas beside KEDA",
        lambda f: _order(f, "worker")["spec"].update(replicas=2),
        "an apply sets back",
    ),
    (
        policies.workers_are_no_more_than_partitions,
        "api with fewer pods",
        lambda f: _order(f)["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1),
        "fewer pods while",
    ),
    (
        policies.databases_are_the_services_own,
        "another's database",
        lambda f: _settings(f, "order-settings").update(
            OMS_POSTGRES_DSN="postgresql://oms_payment_app@payment-db-rw/oms_payment"
        ),
        "is not its own",
    ),
    (
        policies.databases_are_the_services_own,
        "another's Kafka user",
        lambda f: _settings(f, "order-settings").update(OMS_KAFKA_SASL_USERNAME="oms-payment"),
        "another Kafka user's password",
    ),
    (
        policies.databases_are_the_services_own,
        "other roles",
        lambda f: named(f, "Cluster", "order-db")["spec"]["managed"]["roles"][0].update(name="app"),
        "other roles than",
    ),
    (
        policies.databases_are_the_services_own,
        "asynchronous standby",
        lambda f: named(f, "Cluster", "order-db")["spec"]["postgresql"].pop("synchronous"),
        "commits wait for no standby",
    ),
    (
        policies.databases_are_the_services_own,
        "few connections",
        lambda f: named(f, "Cluster", "order-db")["spec"]["postgresql"]["parameters"].update(max_connections="90"),
        "fewer connections",
    ),
    (
        policies.databases_are_the_services_own,
        "small WAL volume",
        lambda f: named(f, "Cluster", "order-db")["spec"]["walStorage"].update(size="5Gi"),
        "may fill its WAL volume",
    ),
    (
        policies.topics_are_kept_safe,
        "one copy",
        lambda f: named(f, "KafkaTopic", "oms.order.events")["spec"].update(replicas=1),
        "has not the copies",
    ),
    (
        policies.topics_are_kept_safe,
        "too few brokers",
        lambda f: named(f, "KafkaNodePool", "broker")["spec"].update(replicas=2),
        "than there are brokers",
    ),
    (
        policies.migrations_come_before,
        "migration after the processes",
        lambda f: _order(f, "migrate")["metadata"]["annotations"].update({"argocd.argoproj.io/sync-wave": "1"}),
        "does not run between",
    ),
    (
        policies.everything_is_in_the_namespace,
        "no namespace",
        lambda f: _order(f)["metadata"].pop("namespace"),
        "is in no namespace",
    ),
    (
        network.problems,
        "nothing is denied",
        lambda f: _without(f, "NetworkPolicy", "default-deny"),
        "nothing denies Ingress",
    ),
    (
        network.problems,
        "all may talk",
        lambda f: _add_rule(f, {"podSelector": {}}, {}),
        "order-worker must not reach payment-api",
    ),
    (
        network.problems,
        "api to api",
        lambda f: _add_rule(f, {"podSelector": API}, API),
        "order-api must not reach tracking-api",
    ),
    (
        network.problems,
        "own namespace by name",
        lambda f: _add_rule(
            f, {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "orderloom"}}}, {}
        ),
        "must not reach",
    ),
    (
        network.problems,
        "all addresses",
        lambda f: _add_rule(f, {"ipBlock": {"cidr": "0.0.0.0/0"}}, {}),
        "must not reach",
    ),
    (
        network.problems,
        "another's database by network",
        lambda f: (
            _add_rule(f, {"podSelector": {}}, {"matchExpressions": [{"key": "cnpg.io/cluster", "operator": "Exists"}]})
            or _policy(f, "order-to-its-database")["egress"][0].pop("to")
        ),
        "order-api must not reach payment-db",
    ),
    (
        network.problems,
        "no way to Kafka",
        lambda f: _without(f, "NetworkPolicy", "services-to-kafka"),
        "order-api must reach kafka",
    ),
    (
        network.problems,
        "order calls outside",
        lambda f: _policy(f, "payment-to-psp").update(podSelector=ALL_OF_ORDER),
        "order-worker must not reach partners",
    ),
    (
        network.problems,
        "no way to the PSP",
        lambda f: _without(f, "NetworkPolicy", "payment-to-psp"),
        "payment-worker must reach partners",
    ),
]


@pytest.mark.parametrize(("check", "breaks", "said"), [pytest.param(c, b, s, id=name) for c, name, b, s in BREAKS])
def test_break_is_seen(check: policies.Check, breaks: Break, said: str) -> None:
    found = objects("overlays/prod")
    breaks(found)
    assert [one for one in check(found) if said in one]


def test_every_check_is_broken() -> None:
    assert {check for check, *_ in BREAKS} == set(policies.CHECKS)


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (lambda f: container(_order(f))["securityContext"].update(privilegd=True), "privilegd"),
        (lambda f: _order(f)["spec"].update(replicas="3"), "spec.replicas"),
        (lambda f: named(f, "NetworkPolicy", "dns").update(apiVersion="networking.k8s.io/v1beta1"), "known to nobody"),
        (
            lambda f: named(f, "KafkaTopic", "oms.order.events").update(apiVersion="kafka.strimzi.io/v1beta2"),
            "known to nobody",
        ),
        (lambda f: named(f, "KafkaTopic", "oms.order.events")["spec"].pop("partitions"), "spec lacks partitions"),
        (lambda f: named(f, "Cluster", "order-db")["spec"].update(instance=3), "spec.instance is no field"),
        (
            lambda f: named(f, "ScaledObject", "order-worker")["spec"]["triggers"][0]["metadata"].update(
                lagThreshold=5
            ),
            "is no str",
        ),
        (
            lambda f: named(f, "KafkaUser", "oms-order")["spec"]["authorization"]["acls"][0].update(operation="All"),
            "is no field",
        ),
        (lambda f: named(f, "ObjectStore", "backups")["spec"].update(retention="30d"), "spec.retention is no field"),
    ],
)
def test_object_that_its_api_would_refuse_is_seen(breaks: Break, said: str) -> None:
    found = objects("overlays/prod")
    breaks(found)
    assert [one for one in schema.problems(found) if said in one]
