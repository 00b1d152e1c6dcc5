"""How each service and simulator is started: its command, and its environment."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from oms.cluster.process import Command

SERVICES = ("order", "inventory", "payment", "fulfillment", "tracking")
SIMULATORS = ("psp", "carrier", "warehouse")

# Whom each simulator calls back, at POST /callbacks/<simulator>.
CALLBACKS = {"psp": "payment", "carrier": "fulfillment", "warehouse": "fulfillment"}

INHERITED = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV", "SYSTEMROOT", "LD_LIBRARY_PATH"}
INHERITED_PREFIXES = ("LC_", "PYTHON", "OTEL_", "SSL_", "COVERAGE_", "XDG_")

# What starts the cluster is not the services' business, least of all the administrator's password.
NOT_PASSED_ON = (
    "OMS_POSTGRES_",
    "OMS_KAFKA_BOOTSTRAP",
    "OMS_STATE_DIR",
    "OMS_CACHE_DIR",
    "OMS_MAVEN_",
    "OMS_PG_",
    "OMS_HTTP_",
)


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Everything that an app's environment is made from."""

    kafka_bootstrap: str
    urls: Mapping[str, str]  # of services and simulators
    dsns: Mapping[str, Mapping[str, str]]  # service -> role -> DSN
    callback_secret_file: Path
    ledgers: Path
    seed: int = 1


def base_environment() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }


def migration(name: str, addresses: Addresses) -> Command:
    env = service_environment(name, addresses) | {"OMS_POSTGRES_OWNER_DSN": addresses.dsns[name]["owner"]}
    return Command(name=f"{name}-migrate", argv=_python(f"services.{name}", "migrate"), env=env)


def service(name: str, addresses: Addresses) -> Command:
    return Command(
        name=name, argv=_python(f"services.{name}", "api", "worker"), env=service_environment(name, addresses)
    )


def simulator(name: str, addresses: Addresses) -> Command:
    return Command(
        name=name, argv=_python(f"simulators.{name}"), env=simulator_environment(name, addresses), grace_seconds=5.0
    )


def service_environment(name: str, addresses: Addresses) -> dict[str, str]:
    inherited = {
        key: value for key, value in os.environ.items() if key.startswith("OMS_") and not key.startswith(NOT_PASSED_ON)
    }
    # A cluster of one broker keeps one copy of a topic: good enough for a laptop, and said to the services by name.
    allowed = {"single_replica", *filter(None, inherited.get("OMS_ALLOW_UNSAFE", "").split(","))}
    own = {
        "OMS_ALLOW_UNSAFE": ",".join(sorted(allowed)),
        "OMS_KAFKA_BOOTSTRAP": addresses.kafka_bootstrap,
        "OMS_POSTGRES_DSN": addresses.dsns[name]["app"],
        "OMS_POSTGRES_READ_DSN": addresses.dsns[name]["read"],
        "OMS_CALLBACK_SECRET_FILE": str(addresses.callback_secret_file),
        **_listen("OMS_HTTP", addresses.urls[name]),
    }
    simulators = {f"OMS_{key.upper()}_URL": addresses.urls[key] for key in SIMULATORS if key in addresses.urls}
    # The cluster's own addresses win; a simulator's URL given from outside stays when we start no simulator.
    return {**base_environment(), **inherited, **simulators, **own}


def simulator_environment(name: str, addresses: Addresses) -> dict[str, str]:
    env = {
        **base_environment(),
        **{key: value for key, value in os.environ.items() if key.startswith("SIM_")},
        "SIM_SEED": str(addresses.seed),
        "SIM_LEDGER": str(addresses.ledgers / f"{name}.sqlite"),
        "SIM_CALLBACK_SECRET_FILE": str(addresses.callback_secret_file),
        **_listen("SIM", addresses.urls[name]),
    }
    if receiver := addresses.urls.get(CALLBACKS[name]):
        env["SIM_CALLBACK_URL"] = f"{receiver}/callbacks/{name}"
    return env


def _listen(prefix: str, url: str) -> dict[str, str]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return {f"{prefix}_HOST": host, f"{prefix}_PORT": port}


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)
