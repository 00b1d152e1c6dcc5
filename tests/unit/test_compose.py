"""docker-compose.yml against the code: names, ports, variables, secrets, topics. No Docker is needed for any of it."""

import base64
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from libs.events.topics import TOPIC_BY_NAME
from libs.runtime.configuration import check_links, check_settings
from libs.runtime.preflight import unsafe
from libs.runtime.settings import Settings
from oms.cluster import postgres
from oms.cluster.apps import CALLBACKS, SERVICES, SIMULATORS
from oms.cluster.kafka import KafkaServer
from oms.cluster.settings import ClusterSettings
from simulators.carrier import CARRIER
from simulators.process import Simulator
from simulators.psp import PSP
from simulators.server import Settings as SimulatorSettings
from simulators.warehouse import WAREHOUSE
from tests.compose import COMPOSE, CONTAINERS, FILE, ROOT, SECRETS, environment, image

ROLES = ("api", "worker")
PROCESSES = {f"{service}-{role}": (service, role) for service in SERVICES for role in ROLES}
MIGRATIONS = {f"{service}-migrate": service for service in SERVICES}
ONCE = {"topics", "databases", *MIGRATIONS}
SERVERS = {"kafka", "postgres"}
OBSERVABILITY = {"jaeger", "prometheus", "grafana"}
LASTING = {*PROCESSES, *SIMULATORS, *SERVERS, *OBSERVABILITY}
OURS = {*PROCESSES, *ONCE, *SIMULATORS}
RECORDS: dict[str, Simulator[Any]] = {"psp": PSP, "carrier": CARRIER, "warehouse": WAREHOUSE}


def each(names: Any) -> Any:
    return pytest.mark.parametrize("name", sorted(names))


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every secret as secrets.sh makes it."""
    target = tmp_path_factory.mktemp("checkout")
    (target / "deploy/compose").mkdir(parents=True)
    shutil.copy(FILE, target)
    shutil.copy(ROOT / "deploy/compose/secrets.sh", target / "deploy/compose")
    subprocess.run(["sh", target / "deploy/compose/secrets.sh"], check=True)
    return target / "deploy/compose/secrets"


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, secrets: Path) -> Any:
    """A process's settings from the variables that its container has, and from no others."""

    def read(container: str, model: Any) -> Any:
        for name in [name for name in os.environ if name.startswith(("OMS_", "SIM_"))]:
            monkeypatch.delenv(name)
        for name, value in environment(container).items():
            monkeypatch.setenv(name, value.replace(SECRETS, str(secrets)))
        return model()

    return read


def test_every_part_of_the_system_is_there_and_nothing_else() -> None:
    assert set(CONTAINERS) == LASTING | ONCE
    profiles = {name: container.get("profiles") for name, container in CONTAINERS.items()}
    assert {name for name, of in profiles.items() if of == ["demo"]} == set(SIMULATORS)
    assert {name for name, of in profiles.items() if of == ["observability"]} == OBSERVABILITY
    assert {name for name, of in profiles.items() if of is None} == {*SERVERS, *PROCESSES, *ONCE}


def test_commands_are_those_of_the_image() -> None:
    commands = {name: CONTAINERS[name]["command"] for name in OURS}
    assert commands == {
        **{name: [f"services.{service}", role] for name, (service, role) in PROCESSES.items()},
        **{name: [f"services.{service}", "migrate"] for name, service in MIGRATIONS.items()},
        **{name: [f"simulators.{name}"] for name in SIMULATORS},
        "topics": ["oms", "topics"],
        "databases": ["oms", "databases", "--passwords", SECRETS],
    }


def test_the_image_is_built_once_and_never_asked_for_elsewhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {image(name) for name in OURS} == {f"orderloom:{version}"}
    assert [name for name in OURS if "build" in CONTAINERS[name]] == ["topics"]
    assert {CONTAINERS[name]["pull_policy"] for name in OURS - {"topics"}} == {"never"}


@each(SERVERS | OBSERVABILITY)
def test_images_of_others_are_pinned(name: str) -> None:
    digest = "" if name == "kafka" else "@sha256:[0-9a-f]{64}"  # 4.4.0's digest was not to be had when this was written
    assert re.fullmatch(rf"[a-z/]+:v?\d+\.\d+(\.\d+)?(-[a-z]+)?{digest}", image(name))


@each(CONTAINERS)
def test_container_may_do_no_more_than_it_must(name: str) -> None:
    container = CONTAINERS[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert "cap_add" not in container
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert set(container["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert all(port.startswith("127.0.0.1:") for port in container.get("ports", []))


@each(LASTING)
def test_what_lasts_is_watched_and_restarted(name: str) -> None:
    assert CONTAINERS[name]["healthcheck"]["test"][0] == "CMD"
    assert CONTAINERS[name]["restart"] == "unless-stopped"


def test_ports_of_the_host_are_given_once() -> None:
    ports = [port for container in CONTAINERS.values() for port in container.get("ports", [])]
    assert len({port.split(":")[1] for port in ports}) == len(ports)


def test_services_wait_until_everything_is_prepared() -> None:
    done, healthy = {"condition": "service_completed_successfully"}, {"condition": "service_healthy"}
    waits = {name: CONTAINERS[name].get("depends_on") for name in {*PROCESSES, *ONCE}}
    assert waits == {
        **{name: {"topics": done, f"{service}-migrate": done} for name, (service, _) in PROCESSES.items()},
        **{name: {"databases": done} for name in MIGRATIONS},
        "topics": {"kafka": healthy},
        "databases": {"postgres": healthy},
    }


@each(PROCESSES)
def test_process_would_start_with_its_variables_and_secrets(name: str, settings: Any) -> None:
    service, role = PROCESSES[name]
    read = settings(name, Settings)
    known = {f"OMS_{field.upper()}" for field in Settings.model_fields}
    assert set(environment(name)) <= known
    findings = check_settings(read)
    assert unsafe(findings, read.allow_unsafe) == []
    # and nothing is allowed that need not be; one broker cannot be seen from here
    assert {finding.name for finding in findings} | {"single_replica"} == read.allow_unsafe
    assert read.postgres_dsn == f"postgresql://oms_{service}_app@postgres:5432/oms_{service}?sslmode=disable"
    assert read.kafka_bootstrap in CONTAINERS["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert str(read.http_port) in CONTAINERS[name]["healthcheck"]["test"][-1]
    ports = [port.split(":")[2] for port in CONTAINERS[name].get("ports", [])]
    assert ports == ([str(read.http_port)] if role == "api" else [])
    assert float(CONTAINERS[name]["stop_grace_period"].removesuffix("s")) > read.stop_seconds


@each(MIGRATIONS)
def test_migration_would_start_as_the_owner(name: str, settings: Any) -> None:
    service, read = MIGRATIONS[name], settings(name, Settings)
    assert unsafe(check_links(read), read.allow_unsafe) == []
    dsns = {"app": read.postgres_dsn, "owner": read.postgres_owner_dsn, "read": read.postgres_read_dsn}
    assert dsns == {
        role: f"postgresql://oms_{service}_{role}@postgres:5432/oms_{service}?sslmode=disable" for role in dsns
    }


def test_gateways_lead_to_the_simulators() -> None:
    urls = {f"OMS_{name.upper()}_URL": f"http://{name}:{record.port}" for name, record in RECORDS.items()}
    given = {}
    for name in PROCESSES:
        given |= {key: value for key, value in environment(name).items() if key in urls}
    assert given == urls
    for name, (service, _) in PROCESSES.items():
        wanted = {f"OMS_{simulator.upper()}_URL" for simulator in SIMULATORS if CALLBACKS[simulator] == service}
        assert {key for key in environment(name) if key in urls} == wanted


@each(SIMULATORS)
def test_simulator_would_start_and_calls_back_who_asked(name: str, settings: Any) -> None:
    read, record = settings(name, SimulatorSettings), RECORDS[name]
    known = {f"SIM_{field.upper()}" for field in SimulatorSettings.model_fields | record.behaviour.model_fields}
    assert set(environment(name)) <= known
    assert read.port == record.port
    assert str(read.callback_url) == f"http://{CALLBACKS[name]}-api:8080/callbacks/{name}"
    assert CONTAINERS[name]["ports"] == [f"127.0.0.1:{record.port}:{record.port}"]
    assert f"127.0.0.1:{record.port}/readyz" in CONTAINERS[name]["healthcheck"]["test"][-1]
    assert CONTAINERS[name]["volumes"] == [f"{name}:{Path(read.ledger).parent}"]


def test_each_container_sees_its_own_secrets_only() -> None:
    every_role = [role for service in SERVICES for role in postgres.roles_of(service)]
    expected = {
        **{name: {"callback", f"oms_{service}_app"} for name, (service, _) in PROCESSES.items()},
        **{name: {f"oms_{service}_owner"} for name, service in MIGRATIONS.items()},
        **{name: {"callback"} for name in SIMULATORS},
        "databases": {"postgres", *every_role},
        "postgres": {"postgres"},
        "grafana": {"grafana"},
    }
    assert {name: set(one["secrets"]) for name, one in CONTAINERS.items() if "secrets" in one} == expected
    for name in expected:
        files = {value for key, value in environment(name).items() if key.endswith("_FILE")}
        assert files <= {f"{SECRETS}/{secret}" for secret in expected[name]}
    assert COMPOSE["secrets"] == {
        secret: {"file": f"./deploy/compose/secrets/{secret}"} for secret in set().union(*expected.values())
    }


def test_no_variable_holds_a_secret() -> None:
    for name in CONTAINERS:
        for key, value in environment(name).items():
            assert not re.search(r"PASSWORD|SECRET|TOKEN", key) or key.endswith("_FILE"), (name, key)
            assert not re.search(r"://[^/]*:[^/]*@", value), (name, key)


def test_secrets_are_made_once_and_seen_by_nobody_else(secrets: Path) -> None:
    made = {file.name: file.read_text() for file in secrets.iterdir()}
    assert set(made) == set(COMPOSE["secrets"])
    assert len(set(made.values())) == len(made)
    assert all(len(text) == 48 for name, text in made.items() if name != "callback")
    assert len(base64.b64decode(made["callback"].removeprefix("whsec_"), validate=True)) == 32
    assert (
        secrets.stat().st_mode & 0o777 == 0o700
    )  # the folder keeps others out: a container's user must read the files
    assert {file.stat().st_mode & 0o777 for file in secrets.iterdir()} == {0o644}
    subprocess.run(["sh", secrets.parent / "secrets.sh"], check=True)
    assert {file.name: file.read_text() for file in secrets.iterdir()} == made


def test_databases_are_made_by_an_administrator_that_the_server_has(settings: Any) -> None:
    read = settings("databases", ClusterSettings)
    assert {key.removeprefix("OMS_").lower() for key in environment("databases")} <= set(ClusterSettings.model_fields)
    assert (read.postgres_host, read.postgres_port, read.postgres_user) == ("postgres", 5432, "postgres")
    assert environment("databases")["OMS_POSTGRES_PASSWORD_FILE"] == environment("postgres")["POSTGRES_PASSWORD_FILE"]
    assert CONTAINERS["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]


def test_postgres_is_set_up_as_on_a_laptop() -> None:
    options = [option.removeprefix("-c").partition("=") for option in CONTAINERS["postgres"]["command"][1:]]
    elsewhere = {"listen_addresses", "unix_socket_directories"}
    assert {name: value for name, _, value in options} == {
        name: value for name, value in postgres.SETTINGS.items() if name not in elsewhere
    }


def test_kafka_is_set_up_as_on_a_laptop(tmp_path: Path) -> None:
    local = KafkaServer(directory=tmp_path, port=9092, controller_port=9093, jars=(), env={})
    lines = dict(line.split("=", 1) for line in local.properties(tmp_path).splitlines())
    # addresses, and what only makes a broker that a test kills come back sooner
    own = {"listen", "advertised", "controller.quorum", "log.dirs", "inter.broker.listener", "broker.", "heap."}
    given = {
        key.removeprefix("KAFKA_").lower().replace("_", "."): value
        for key, value in environment("kafka").items()
        if key.startswith("KAFKA_")
    }
    alike = {key: value for key, value in lines.items() if not key.startswith(tuple(own))}
    assert {key: value for key, value in given.items() if not key.startswith(tuple(own))} == alike


def test_kafka_advertises_each_listener_where_its_clients_find_it() -> None:
    variables = environment("kafka")
    listeners = dict(one.split("://") for one in variables["KAFKA_LISTENERS"].split(","))
    advertised = dict(one.split("://") for one in variables["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert {name: address.rpartition(":")[0] for name, address in advertised.items()} == {
        "PLAINTEXT": "kafka",
        "HOST": "127.0.0.1",
    }
    assert all(listeners[name].rpartition(":")[2] == one.rpartition(":")[2] for name, one in advertised.items())
    outside = advertised["HOST"].rpartition(":")[2]
    assert CONTAINERS["kafka"]["ports"] == [f"127.0.0.1:{outside}:{outside}"]
    assert set(variables["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")) == {
        f"{one}:PLAINTEXT" for one in listeners
    }
    voter = f"1@kafka:{listeners[variables['KAFKA_CONTROLLER_LISTENER_NAMES']].rpartition(':')[2]}"
    assert variables["KAFKA_CONTROLLER_QUORUM_VOTERS"] == voter


def test_topics_come_from_the_table_alone() -> None:
    assert environment("kafka")["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    named = re.findall(r"\boms\.[a-z]+\.[a-z]+\b", FILE.read_text())
    assert set(named) <= set(TOPIC_BY_NAME)
    assert environment("topics")["OMS_KAFKA_BOOTSTRAP"] in environment("kafka")["KAFKA_ADVERTISED_LISTENERS"]


def test_prometheus_scrapes_every_process_and_finds_its_files() -> None:
    scraped = yaml.safe_load((ROOT / "deploy/compose/prometheus.yml").read_text())
    targets = [
        target for job in scraped["scrape_configs"] for one in job["static_configs"] for target in one["targets"]
    ]
    assert sorted(targets) == sorted(f"{name}:{environment(name)['OMS_HTTP_PORT']}" for name in PROCESSES)
    places = {inside: ROOT / source for source, inside, *_ in _mounts("prometheus")}
    patterns = [Path(pattern) for pattern in scraped["rule_files"]]
    read = {file for pattern in patterns for file in places[str(pattern.parent)].glob(pattern.name)}
    assert read == {file for file in (ROOT / "deploy/prometheus/rules").iterdir() if file.suffix in (".yaml", ".yml")}


def test_grafana_finds_its_dashboards_and_whom_it_asks() -> None:
    places = {inside for _, inside, *_ in _mounts("grafana")}
    for file in (ROOT / "deploy/grafana/provisioning").glob("*/*.yaml"):
        provided = yaml.safe_load(file.read_text())
        assert {one["options"]["path"] for one in provided.get("providers", [])} <= places
        for source in provided.get("datasources", []):
            host, port = source["url"].removeprefix("http://").split(":")
            assert f"127.0.0.1:{port}:{port}" in CONTAINERS[host]["ports"]


def _mounts(name: str) -> list[list[str]]:
    return [volume.split(":") for volume in CONTAINERS[name].get("volumes", [])]


def test_what_is_mounted_is_there() -> None:
    mounts = [mount for name in CONTAINERS for mount in _mounts(name)]
    bound = [mount for mount in mounts if mount[0].startswith(".")]
    assert bound
    for source, *_, mode in bound:
        assert mode == "ro"
        assert (ROOT / source).exists(), source
    assert {source for source, *_ in mounts if not source.startswith(".")} == set(COMPOSE["volumes"])


@pytest.mark.parametrize(
    "command",
    [
        ["check_jsonschema", "--builtin-schema", "vendor.compose-spec"],
        ["compose_lint", "--fail-on", "low"],
    ],
    ids=["schema", "lint"],
)
def test_compose_file_is_valid_and_safe(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command, FILE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
