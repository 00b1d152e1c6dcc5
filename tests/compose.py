"""docker-compose.yml as tests read it: the one place where images, names, ports and variables of Compose stand."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docker-compose.yml"
COMPOSE: Mapping[str, Any] = yaml.safe_load(FILE.read_text())
CONTAINERS: Mapping[str, Mapping[str, Any]] = COMPOSE["services"]
SECRETS = "/run/secrets"


def environment(container: str) -> dict[str, str]:
    """Its variables where nobody has set any: `${NAME:-default}` is the default."""
    variables = CONTAINERS[container].get("environment", {})
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in variables.items()}


def image(container: str) -> str:
    return str(CONTAINERS[container]["image"])
