"""A real Prometheus of this machine (Debian's package) that scrapes running services under the rules of deploy/."""

import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from libs.testing.deadline import eventually
from oms.cluster.state import pick_ports

INSTALL = "prometheus is not there: apt-get install -y prometheus"
RULES = Path(__file__).parents[1] / "deploy/prometheus/rules"


def binary() -> str | None:
    return shutil.which("prometheus")


class Prometheus:
    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """The series of an instant query. Raises AssertionError with Prometheus' words where it is refused."""
        answer = await self._client.get("/api/v1/query", params={"query": expr})
        assert answer.status_code == 200, f"{expr}\n{answer.text}"
        series: list[dict[str, Any]] = answer.json()["data"]["result"]
        return series

    async def values(self, label: str) -> set[str]:
        return set((await self._client.get(f"/api/v1/label/{label}/values")).json()["data"])

    async def ready(self) -> bool:
        try:
            return (await self._client.get("/-/ready")).status_code == 200
        except httpx.TransportError:
            return False


def _config(targets: Mapping[str, str], rules: Sequence[Path]) -> dict[str, Any]:
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [
            {
                "job_name": "orderloom",
                "static_configs": [{"targets": [url.removeprefix("http://") for url in targets.values()]}],
            }
        ],
    }


@asynccontextmanager
async def scraping(targets: Mapping[str, str], folder: Path) -> AsyncIterator[Prometheus]:
    """Once it has scraped each target (a service's URL by its name) and evaluated the rules."""
    path = binary()
    assert path is not None
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(_config(targets, sorted(RULES.glob("*.yaml")))))
    port = pick_ports(["prometheus"])["prometheus"]
    command = [path, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "prometheus.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10) as client:
                prometheus = Prometheus(client)
                await eventually(prometheus.ready, f"Prometheus is ready: {folder / 'prometheus.log'}")
                yield prometheus
        finally:
            process.terminate()
