"""Who reaches whom under the network policies: both sides must let it through, as Kubernetes has it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.deploy.k8s.manifests import SERVICES, Objects, matches, of, pods

Labels = Mapping[str, str]
PORTS = (5432, 8080, 9093, 443)
CLUSTERS = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}
"""Where pods have their addresses: a rule for addresses must leave these out, or it is one for pods too."""
HERE = {"kubernetes.io/metadata.name": "orderloom"}


def problems(found: Objects) -> Iterator[str]:
    everybody = dict(pods(found))
    ours = {name: these for name, these in everybody.items() if these.get("app.kubernetes.io/name") in SERVICES}
    yield from _defaults(found)
    for name, these in ours.items():
        service, role = these["app.kubernetes.io/name"], these["app.kubernetes.io/component"]
        reached = {other for other in everybody if other != name and _open(found, these, everybody[other])}
        wanted = {f"{service}-db"} | ({"kafka"} if role != "migrate" else set())
        yield from (f"{name} must not reach {other}" for other in sorted(reached - wanted))
        yield from (f"{name} must reach {other}" for other in sorted(wanted - reached))
        calls = role == "worker" and service in ("payment", "fulfillment")
        if _lets_out(found, these, None, 443) is not calls:
            yield f"{name} must {'' if calls else 'not '}reach partners outside"


def _defaults(found: Objects) -> Iterator[str]:
    for direction in ("Ingress", "Egress"):
        if not any(
            policy["spec"]["podSelector"] == {}
            and direction in policy["spec"]["policyTypes"]
            and direction.lower() not in policy["spec"]
            for policy in of(found, "NetworkPolicy")
        ):
            yield f"nothing denies {direction} by default"


def _open(found: Objects, source: Labels, target: Labels) -> bool:
    return any(_lets_out(found, source, target, port) and _lets_in(found, source, target, port) for port in PORTS)


def _lets_out(found: Objects, source: Labels, target: Labels | None, port: int) -> bool:
    return any(_allows(rule, "to", target, port) for rule in _rules(found, source, "egress"))


def _lets_in(found: Objects, source: Labels, target: Labels, port: int) -> bool:
    return any(_allows(rule, "from", source, port) for rule in _rules(found, target, "ingress"))


def _rules(found: Objects, these: Labels, direction: str) -> Iterator[Mapping[str, Any]]:
    for policy in of(found, "NetworkPolicy"):
        if matches(policy["spec"]["podSelector"], these):
            yield from policy["spec"].get(direction, ())


def _allows(rule: Mapping[str, Any], side: str, peer: Labels | None, port: int) -> bool:
    """`peer` None is anybody outside the cluster. A rule without ports or peers means all of them."""
    if "ports" in rule and not any(_covers(one, port) for one in rule["ports"]):
        return False
    peers: Sequence[Mapping[str, Any]] = rule.get(side, ())
    if not peers:
        return True
    return any(_is_peer(one, peer) for one in peers)


def _covers(one: Mapping[str, Any], port: int) -> bool:
    first = one.get("port", port)
    return first <= port <= one.get("endPort", first)


def _is_peer(one: Mapping[str, Any], peer: Labels | None) -> bool:
    if "ipBlock" in one:
        return peer is None or not CLUSTERS.issubset(one["ipBlock"].get("except", ()))
    if peer is None:
        return False
    here = matches(one.get("namespaceSelector", {}), HERE)
    return here and matches(one.get("podSelector", {}), peer)
