"""What must be so in a rendered overlay. Each check yields what is wrong, in words; test_k8s.py breaks each once."""

import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from libs.events.topics import TOPICS
from libs.runtime.configuration import check_settings
from libs.runtime.door import DoorSettings
from libs.runtime.settings import Settings
from libs.runtime.worker import ENDING_SECONDS
from oms.settings_page import OTHERS
from services.order.domain.timers import OrderTimers
from services.payment.domain.decider import PaymentTerms
from services.payment.gateway import PspSettings
from tests.deploy.k8s import network
from tests.deploy.k8s.manifests import (
    ROOT,
    SERVICES,
    Manifest,
    Objects,
    container,
    environment,
    labels,
    login,
    matches,
    mounted,
    of,
    of_services,
    pod,
    pods,
    processes,
    replicas,
    role_of,
    service_of,
    title,
    workloads,
)

Problems = Iterator[str]
Check = Callable[[Objects], Problems]

CLOSING_SECONDS = 3.0
"""What the pool is given to close: libs/runtime/worker.py."""
PROBES = {"startupProbe": "/startupz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
MORE_SETTINGS: dict[str, dict[str, type[BaseModel]]] = {
    "order": {"OMS_ORDER_": OrderTimers},
    "payment": {"OMS_PSP_": PspSettings, "OMS_PAYMENT_": PaymentTerms},
    "fulfillment": {"OMS_WAREHOUSE_": DoorSettings, "OMS_CARRIER_": DoorSettings},
}
LABELS = {"name", "instance", "version", "component", "part-of", "managed-by"}


def every_service_has_its_roles(found: Objects) -> Problems:
    there = {(service_of(one), role_of(one)): one for one in of_services(found)}
    wanted = {(service, role) for service in SERVICES for role in ("api", "worker", "migrate")}
    yield from (f"{service} has no {role}" for service, role in sorted(wanted - there.keys()))
    for (service, role), one in there.items():
        if [*container(one)["command"], *container(one)["args"]] != ["python", "-m", f"services.{service}", role]:
            yield f"{title(one)} starts something else"


def labels_are_whole(found: Objects) -> Problems:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for one in workloads(found):
        known = labels(one)
        yield from (f"{title(one)} lacks {name}" for name in sorted(LABELS) if f"app.kubernetes.io/{name}" not in known)
        if known.get("app.kubernetes.io/version") != version:
            yield f"{title(one)} says another version than pyproject.toml"


def probes_ask_the_right_routes(found: Objects) -> Problems:
    for one in processes(found):
        for probe, path in PROBES.items():
            if container(one).get(probe, {}).get("httpGet") != {"path": path, "port": "http"}:
                yield f"{title(one)}: {probe} is not {path}"


def ports_are_those_of_the_settings(found: Objects) -> Problems:
    for one in processes(found):
        if {port["name"]: port["containerPort"] for port in container(one).get("ports", ())} != {
            "http": _port(one, found)
        }:
            yield f"{title(one)}: its port is not OMS_HTTP_PORT"
    for one in of(found, "Service"):
        if [port["targetPort"] for port in one["spec"]["ports"]] != ["http"]:
            yield f"{title(one)} leads to another port than http"
    for name in ("callers-to-api", "prometheus-to-services"):
        for one in of(found, "NetworkPolicy", name=name):
            opened = [port["port"] for rule in one["spec"]["ingress"] for port in rule["ports"]]
            if opened != [_port(processes(found)[0], found)]:
                yield f"{title(one)} opens another port than OMS_HTTP_PORT"


def _port(one: Manifest, found: Objects) -> int:
    return int(environment(one, found).get("OMS_HTTP_PORT", Settings.model_fields["http_port"].default))


def resources_are_named(found: Objects) -> Problems:
    for one in workloads(found):
        named_ones = container(one).get("resources", {})
        if not {"cpu", "memory"} <= named_ones.get("requests", {}).keys():
            yield f"{title(one)} requests no CPU or memory"
        if named_ones.get("limits", {}).keys() != {"memory"}:
            yield f"{title(one)}: the limit is on memory and on nothing else"


def pods_are_restricted(found: Objects) -> Problems:
    for space in of(found, "Namespace"):
        if space["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{title(space)} is not restricted"
    for one in workloads(found):
        spec, inside = pod(one), container(one)
        context = spec.get("securityContext", {})
        own = inside.get("securityContext", {})
        if not context.get("runAsNonRoot") or context.get("runAsUser", 0) < 10_000:
            yield f"{title(one)} may run as root, or as a user of the node"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{title(one)} has no seccomp profile"
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{title(one)} keeps privileges"
        if own.get("readOnlyRootFilesystem") is not True or not _has_tmp(one):
            yield f"{title(one)}: its root is writable, or it has no /tmp"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{title(one)} gets a token of the API server"
        if spec.get("serviceAccountName") != f"{service_of(one)}-service" or len(spec["containers"]) != 1:
            yield f"{title(one)} is not alone under its own account"


def _has_tmp(one: Manifest) -> bool:
    empty = {volume["name"] for volume in pod(one)["volumes"] if volume.get("emptyDir", {}).get("sizeLimit")}
    return any(mount["mountPath"] == "/tmp" and mount["name"] in empty for mount in container(one)["volumeMounts"])


def images_are_pinned(found: Objects) -> Problems:
    in_prod = any(one["metadata"]["labels"].get("orderloom/environment") == "prod" for one in workloads(found))
    for one in workloads(found):
        image = container(one)["image"]
        tag = image.rpartition("/")[2].partition(":")[2]
        by_digest = re.search(r"@sha256:[0-9a-f]{64}$", image) is not None
        if not by_digest and (in_prod or tag in ("", "latest")):
            yield f"{title(one)}: {image} is not pinned"


def settings_are_known(found: Objects) -> Problems:
    """Names are of the settings classes, and what they say is valid there."""
    for one in workloads(found):
        env = environment(one, found)
        models = {"OMS_": Settings, **MORE_SETTINGS.get(service_of(one), {})}
        for name in env.keys() - OTHERS.keys():
            names = {prefix: name.removeprefix(prefix).lower() for prefix in models}
            if not any(names[prefix] in models[prefix].model_fields for prefix in models):
                yield f"{title(one)}: {name} is no setting"
        for prefix, model in models.items():
            values = {
                name.removeprefix(prefix).lower(): value for name, value in env.items() if name.startswith(prefix)
            }
            try:
                model.model_validate({key: value for key, value in values.items() if key in model.model_fields})
            except ValidationError as error:
                yield from (
                    f"{title(one)}: {prefix}{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors()
                )


def links_are_safe(found: Objects) -> Problems:
    """What a process would refuse of these settings at its start. The files are not here, and so not looked into."""
    for one in of_services(found):
        env = {name.removeprefix("OMS_").lower(): value for name, value in environment(one, found).items()}
        settings = Settings.model_validate({name: env[name] for name in env.keys() & Settings.model_fields.keys()})
        yield from (f"{title(one)}: {said}" for said in check_settings(settings) if said.name is not None)


def secrets_are_files(found: Objects) -> Problems:
    """Every file that a setting names is mounted from a secret, and no secret is anywhere else."""
    for one in workloads(found):
        files, env = mounted(one), environment(one, found)
        if any("secretRef" in source for source in container(one).get("envFrom", ())) or any(
            "valueFrom" in each for each in container(one).get("env", ())
        ):
            yield f"{title(one)} has a secret in its environment"
        for name, value in env.items():
            if re.search(r"://[^/@]*:[^/@]*@|password=", value):
                yield f"{title(one)}: {name} holds a password"
            if name.endswith("_FILE") and value not in files and not _is_of_another_role(name, role_of(one)):
                yield f"{title(one)}: {name} names {value}, which no secret fills"
        yield from (f"{title(one)}: nothing reads {path}" for path in sorted(files.keys() - set(env.values())))


def _is_of_another_role(name: str, role: str) -> bool:
    owner = name == "OMS_POSTGRES_OWNER_PASSWORD_FILE"
    return owner if role != "migrate" else not (owner or name == "OMS_POSTGRES_CA_FILE")


def secrets_are_made(found: Objects) -> Problems:
    """By External Secrets, or by the operator whose own they are. An overlay without External Secrets is not asked."""
    if not of(found, "ExternalSecret"):
        return
    made = {one["metadata"]["name"] for one in of(found, "ExternalSecret", "KafkaUser")}
    made |= {f"{one['metadata']['name']}-ca" for one in of(found, "Cluster")}
    made |= {f"{one['metadata']['name']}-cluster-ca-cert" for one in of(found, "Kafka")}
    wanted = {secret: title(one) for one in workloads(found) for secret in mounted(one).values()}
    for one in of(found, "Cluster"):
        roles = [role["passwordSecret"]["name"] for role in one["spec"]["managed"]["roles"]]
        wanted |= {secret: title(one) for secret in (*roles, _beginning(one)["secret"]["name"])}
    for one in of(found, "TriggerAuthentication"):
        wanted |= {each["name"]: title(one) for each in one["spec"]["secretTargetRef"]}
    yield from (f"{user} needs {secret}, which nothing makes" for secret, user in wanted.items() if secret not in made)


def selectors_find_something(found: Objects) -> Problems:
    everybody = [these for _, these in pods(found)]
    for one in of(found, "NetworkPolicy", "PodMonitor", "PodDisruptionBudget", "Service"):
        spec = one["spec"]
        selector: Any = spec.get("podSelector", spec.get("selector"))
        selector = {"matchLabels": selector} if one["kind"] == "Service" else selector
        if not any(matches(selector, these) for these in everybody):
            yield f"{title(one)} selects nothing"
    for one in processes(found):
        if not matches(one["spec"]["selector"], labels(one)):
            yield f"{title(one)} does not select its own pods"


def references_lead_somewhere(found: Objects) -> Problems:
    there = {(one["kind"], one["metadata"]["name"]) for one in found}
    wanted = [(one, "ServiceAccount", pod(one)["serviceAccountName"]) for one in workloads(found)]
    wanted += [(one, "PriorityClass", pod(one)["priorityClassName"]) for one in workloads(found)]
    wanted += [(one, "Cluster", one["spec"]["cluster"]["name"]) for one in of(found, "ScheduledBackup", "Database")]
    for one in of(found, "ScaledObject"):
        wanted.append((one, "Deployment", one["spec"]["scaleTargetRef"]["name"]))
        wanted += [(one, "KafkaTopic", each["metadata"]["topic"]) for each in one["spec"]["triggers"]]
        wanted += [
            (one, "TriggerAuthentication", each["authenticationRef"]["name"]) for each in one["spec"]["triggers"]
        ]
    for one in of(found, "KafkaTopic", "KafkaUser", "KafkaNodePool"):
        wanted.append((one, "Kafka", one["metadata"]["labels"]["strimzi.io/cluster"]))
    for one in of(found, "TriggerAuthentication"):
        wanted += [(one, "ConfigMap", each["name"]) for each in one["spec"]["configMapTargetRef"]]
    for one in of(found, "Cluster"):
        stores = [each["parameters"]["barmanObjectName"] for each in one["spec"].get("plugins", ())]
        wanted += [(one, "ObjectStore", store) for store in stores]
    kafka = {environment(one, found)["OMS_KAFKA_BOOTSTRAP"] for one in workloads(found)}
    for one in of(found, "ScaledObject"):
        if {each["metadata"]["bootstrapServers"] for each in one["spec"]["triggers"]} != kafka:
            yield f"{title(one)} asks another Kafka than the services do"
    for one, kind, name in wanted:
        if (kind, name) not in there:
            yield f"{title(one)} names {kind} {name}, which is not there"


def doors_are_public_ones(found: Objects) -> Problems:
    """An Ingress leads to a Service that is there, and not to what only operators may see."""
    for one in of(found, "Ingress"):
        for path in [path for rule in one["spec"]["rules"] for path in rule["http"]["paths"]]:
            target = path["backend"]["service"]
            if not of(found, "Service", name=target["name"]) or target["port"] != {"name": "http"}:
                yield f"{title(one)} leads to {target['name']}, which is not there"
            if not re.match(r"/(orders|cancellations|exceptions|callbacks/[a-z]+)$", path["path"]):
                yield f"{title(one)} opens {path['path']}"


def processes_have_time_to_stop(found: Objects) -> Problems:
    for one in processes(found):
        wait = container(one).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        stop = float(environment(one, found).get("OMS_STOP_SECONDS", Settings.model_fields["stop_seconds"].default))
        if pod(one).get("terminationGracePeriodSeconds", 30) < wait + stop + CLOSING_SECONDS + ENDING_SECONDS:
            yield f"{title(one)} is killed before it may have stopped"
        if role_of(one) == "api" and wait < 1:
            yield f"{title(one)} stops while requests are still sent to it"


def one_may_be_taken_at_a_time(found: Objects) -> Problems:
    for one in processes(found):
        budgets = [each for each in of(found, "PodDisruptionBudget") if matches(each["spec"]["selector"], labels(one))]
        if [each["spec"].get("maxUnavailable") for each in budgets] != [1]:
            yield f"{title(one)} has no budget, more than one, or one that drains nothing"
        if len(pod(one).get("topologySpreadConstraints", ())) != 2:
            yield f"{title(one)} is not spread over zones and nodes"


def workers_are_no_more_than_partitions(found: Objects) -> Problems:
    partitions = {one["metadata"]["name"]: one["spec"]["partitions"] for one in of(found, "KafkaTopic")}
    most = min(partitions.values(), default=min(topic.partitions for topic in TOPICS))
    for one in processes(found):
        fewest, at_most = replicas(one, found)
        rolling = one["spec"]["strategy"]["rollingUpdate"]
        if role_of(one) == "worker" and (at_most > most or rolling["maxSurge"] != 0):
            yield f"{title(one)} may have more pods than there are partitions"
        if role_of(one) == "api" and rolling["maxUnavailable"] != 0:
            yield f"{title(one)} has fewer pods while it is rolled out"
        if fewest < 1:
            yield f"{title(one)} may be scaled to none, and nobody would wake what is due"
        if of(found, "ScaledObject", name=one["metadata"]["name"]) and "replicas" in one["spec"]:
            yield f"{title(one)}: an apply sets back what KEDA counts"


def databases_are_the_services_own(found: Objects) -> Problems:
    for one in of_services(found):
        env, service = environment(one, found), service_of(one)
        for role in ("app", "owner", "read"):
            dsn = env[f"OMS_POSTGRES_{'' if role == 'app' else role.upper() + '_'}DSN"]
            if login(dsn) != (f"oms_{service}_{role}", f"{service}-db-rw", f"oms_{service}"):
                yield f"{title(one)}: {dsn} is not its own"
        if mounted(one).get(env["OMS_KAFKA_SASL_PASSWORD_FILE"], f"oms-{service}") != env["OMS_KAFKA_SASL_USERNAME"]:
            yield f"{title(one)} has another Kafka user's password"
    for one in of(found, "Cluster"):
        yield from _cluster(one, found)


def _beginning(cluster: Manifest) -> Manifest:
    """A database begins empty, or from a backup."""
    (beginning,) = cluster["spec"]["bootstrap"].values()
    return beginning


def _cluster(one: Manifest, found: Objects) -> Problems:
    spec, service = one["spec"], one["metadata"]["name"].removesuffix("-db")
    made = {_beginning(one)["owner"], *(role["name"] for role in spec["managed"]["roles"])}
    if made != {f"oms_{service}_{role}" for role in ("owner", "app", "read")}:
        yield f"{title(one)} has other roles than its service logs in with"
    if spec["instances"] > 1 and spec["postgresql"].get("synchronous", {}).get("dataDurability") != "required":
        yield f"{title(one)}: commits wait for no standby, and no process would start"
    own = [each for each in processes(found) if service_of(each) == service]
    most = sum(replicas(each, found)[1] + each["spec"]["strategy"]["rollingUpdate"]["maxSurge"] for each in own)
    pool = Settings.model_fields["postgres_pool"].default
    if most * pool > int(spec["postgresql"]["parameters"]["max_connections"]) - 20:
        yield f"{title(one)} has fewer connections than its service may open"
    if 2 * _mebibytes(spec["postgresql"]["parameters"]["max_wal_size"]) > _mebibytes(spec["walStorage"]["size"]):
        yield f"{title(one)} may fill its WAL volume before a checkpoint frees it"


def _mebibytes(size: str) -> int:
    """Of Kubernetes (Gi) and of PostgreSQL (GB), which means the same by it."""
    return int(size[:-2]) * {"Mi": 1, "MB": 1, "Gi": 1024, "GB": 1024}[size[-2:]]


def topics_are_kept_safe(found: Objects) -> Problems:
    copies = 1 if "single_replica" in environment(workloads(found)[0], found).get("OMS_ALLOW_UNSAFE", "") else 3
    brokers = sum(one["spec"]["replicas"] for one in of(found, "KafkaNodePool") if "broker" in one["spec"]["roles"])
    for one in of(found, "KafkaTopic"):
        if (one["spec"]["replicas"], one["spec"]["config"]["min.insync.replicas"]) != (copies, max(1, copies - 1)):
            yield f"{title(one)} has not the copies that a service asks for"
        if one["spec"]["replicas"] > brokers:
            yield f"{title(one)} has more copies than there are brokers"


def migrations_come_before(found: Objects) -> Problems:
    def wave(one: Manifest) -> int:
        return int(one["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-wave", "0"))

    for one in of(found, "Job"):
        if not max(map(wave, of(found, "Cluster")), default=-9) < wave(one) < min(map(wave, processes(found))):
            yield f"{title(one)} does not run between databases and processes"
        if one["metadata"]["annotations"].get("argocd.argoproj.io/hook-delete-policy") != "BeforeHookCreation":
            yield f"{title(one)} stands in the way of the next one"


def everything_is_in_the_namespace(found: Objects) -> Problems:
    for one in found:
        if one["kind"] not in ("Namespace", "PriorityClass") and one["metadata"].get("namespace") != "orderloom":
            yield f"{title(one)} is in no namespace of ours"


CHECKS: tuple[Check, ...] = (
    every_service_has_its_roles,
    labels_are_whole,
    probes_ask_the_right_routes,
    ports_are_those_of_the_settings,
    resources_are_named,
    pods_are_restricted,
    images_are_pinned,
    settings_are_known,
    links_are_safe,
    secrets_are_files,
    secrets_are_made,
    selectors_find_something,
    references_lead_somewhere,
    doors_are_public_ones,
    processes_have_time_to_stop,
    one_may_be_taken_at_a_time,
    workers_are_no_more_than_partitions,
    databases_are_the_services_own,
    topics_are_kept_safe,
    migrations_come_before,
    everything_is_in_the_namespace,
    network.problems,
)


def problems(found: Objects) -> list[str]:
    return [said for check in CHECKS for said in check(found)]
