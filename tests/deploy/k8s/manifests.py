"""Overlays as kubectl renders them, and the questions that checks ask of a rendered one."""

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from oms.cluster.apps import SERVICES

ROOT = Path(__file__).parents[3]
K8S = ROOT / "deploy/k8s"
OVERLAYS = ("dev", "staging", "prod")

Manifest = dict[str, Any]
Objects = list[Manifest]

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def rendered(place: str) -> str:
    """The text of `overlays/prod`, `base` and the like."""
    tool = shutil.which("kubectl", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
    if tool is None:
        pytest.skip("kubectl is not there: make install")
    done = subprocess.run([tool, "kustomize", str(K8S / place)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def _parsed(place: str) -> Objects:
    return list(yaml.load_all(rendered(place), Loader))


def objects(place: str) -> Objects:
    """A copy at each call: a test may break it."""
    return deepcopy(_parsed(place))


def of(found: Objects, *kinds: str, name: str | None = None) -> Objects:
    return [one for one in found if one["kind"] in kinds and name in (None, one["metadata"]["name"])]


def named(found: Objects, kind: str, name: str) -> Manifest:
    (one,) = of(found, kind, name=name)
    return one


def title(one: Manifest) -> str:
    return f"{one['kind']} {one['metadata']['name']}"


def workloads(found: Objects) -> Objects:
    """Every one that is ours: those of the services, and the operator's."""
    return of(found, "Deployment", "Job")


def of_services(found: Objects) -> Objects:
    return [one for one in workloads(found) if service_of(one) in SERVICES]


def processes(found: Objects) -> Objects:
    return [one for one in of_services(found) if one["kind"] == "Deployment"]


def pod(workload: Manifest) -> Manifest:
    return workload["spec"]["template"]["spec"]


def container(workload: Manifest) -> Manifest:
    return pod(workload)["containers"][0]


def labels(workload: Manifest) -> Mapping[str, str]:
    return workload["spec"]["template"]["metadata"]["labels"]


def service_of(workload: Manifest) -> str:
    return labels(workload)["app.kubernetes.io/name"]


def role_of(workload: Manifest) -> str:
    return labels(workload)["app.kubernetes.io/component"]


def environment(workload: Manifest, found: Objects) -> Mapping[str, str]:
    """What the container's process finds: ConfigMaps in their order, then what is said by name."""
    env: dict[str, str] = {}
    for source in container(workload).get("envFrom", ()):
        if "configMapRef" in source:
            env |= named(found, "ConfigMap", source["configMapRef"]["name"])["data"]
    return env | {one["name"]: one.get("value", "") for one in container(workload).get("env", ())}


def mounted(workload: Manifest) -> Mapping[str, str]:
    """Path of every file that comes from a secret: the secret's name."""
    places = {mount["name"]: mount["mountPath"] for mount in container(workload).get("volumeMounts", ())}
    return {
        f"{places[volume['name']]}/{item['path']}": source["secret"]["name"]
        for volume in pod(workload).get("volumes", ())
        for source in volume.get("projected", {}).get("sources", ())
        for item in source["secret"]["items"]
    }


def matches(selector: Mapping[str, Any], these: Mapping[str, str]) -> bool:
    """A label selector as Kubernetes reads it: an empty one matches everything."""
    exact = all(these.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return exact and all(_expression(one, these) for one in selector.get("matchExpressions", ()))


def _expression(one: Mapping[str, Any], these: Mapping[str, str]) -> bool:
    value = these.get(one["key"])
    return {
        "In": lambda: value in one["values"],
        "NotIn": lambda: value not in one["values"],
        "Exists": lambda: value is not None,
        "DoesNotExist": lambda: value is None,
    }[one["operator"]]()


def pods(found: Objects) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Every pod that will be there with its labels: ours, and those that operators make of their kinds."""
    for one in workloads(found):
        yield one["metadata"]["name"], labels(one)
    for one in of(found, "Cluster"):
        yield one["metadata"]["name"], {"cnpg.io/cluster": one["metadata"]["name"], "cnpg.io/podRole": "instance"}
    for one in of(found, "Kafka"):
        yield "kafka", {"strimzi.io/cluster": one["metadata"]["name"], "strimzi.io/kind": "Kafka"}


def login(dsn: str) -> tuple[str, str, str]:
    """User, host and database."""
    parts = urlsplit(dsn)
    return parts.username or "", parts.hostname or "", parts.path.removeprefix("/")


def replicas(deployment: Manifest, found: Objects) -> Sequence[int]:
    """The fewest and the most that there may be."""
    for scaled in of(found, "ScaledObject"):
        if scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]:
            return scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"]
    told = deployment["spec"].get("replicas", 1)
    return told, told
