"""The state directory: its lock, the state file, the secrets, and the ports."""

import base64
import fcntl
import json
import os
import random
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, Field

from oms.cluster.guard import same_process
from oms.cluster.process import ClusterError

# Below the ports that Linux (32768) and macOS (49152) give to outgoing connections: a client that keeps knocking at a
# dead server's port from that range can be given that very port, and then the server cannot come back.
PORT_RANGE = range(20000, 32000)
DATA = ("postgres", "kafka", "simulators", "cluster.json", "secrets.json", "callback.secret", "ports.json")


@contextmanager
def temporary_folder(purpose: str, *, ignore_cleanup_errors: bool = False) -> Iterator[Path]:
    """A folder that goes with the block. No private one: as root, PostgreSQL passes through it as another account."""
    with tempfile.TemporaryDirectory(
        prefix=f"orderloom-{purpose}-", ignore_cleanup_errors=ignore_cleanup_errors
    ) as path:
        Path(path).chmod(0o711)
        yield Path(path)


class ProcessState(BaseModel):
    name: str
    pid: int
    started: float
    restarts: int = 0
    alive: bool = True


class ServiceState(BaseModel):
    url: str = ""
    dsn: dict[str, str] = Field(default_factory=dict)


class ClusterState(BaseModel):
    """cluster.json: what another process needs to find this cluster. It holds passwords, hence mode 0600."""

    format: int = 1
    phase: str = "starting"  # starting, ready, stopping, stopped, failed
    error: str | None = None
    supervisor: ProcessState
    kafka_bootstrap: str = ""
    kafka_external: bool = False
    postgres_address: str = ""
    postgres_external: bool = False
    postgres_admin_dsn: str = ""
    callback_secret_file: str = ""
    apps: list[str] = Field(default_factory=list)  # those it was asked to run
    services: dict[str, ServiceState] = Field(default_factory=dict)
    simulators: dict[str, ServiceState] = Field(default_factory=dict)
    children: list[ProcessState] = Field(default_factory=list)

    @property
    def running(self) -> bool:
        return same_process(self.supervisor.pid, self.supervisor.started)


class StateDirectory:
    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self._lock_fd: int | None = None
        self._claims: dict[int, int] = {}  # a descriptor for each port

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def create(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        # Root's PostgreSQL passes through as another account: it may enter, not list; each file has its own mode.
        self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)
        self.logs.mkdir(exist_ok=True, mode=0o700)

    def lock(self) -> bool:
        """Take the lock that a supervisor holds while it lives; False if another has it."""
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._lock_fd = fd
        return True

    def unlock(self) -> None:
        while self._claims:
            os.close(self._claims.popitem()[1])
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def purge(self, *, everything: bool = False) -> None:
        """Delete the cluster's data, by name: the directory is the user's and may hold other things."""
        for name in (*DATA, "logs", "programs") if everything else DATA:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def read(self) -> ClusterState | None:
        try:
            return ClusterState.model_validate_json((self.path / "cluster.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            raise ClusterError(f"The cluster on {self.path} belongs to another account.") from None
        except ValueError as error:
            raise ClusterError(f"{self.path / 'cluster.json'} is not a cluster's state file: {error}") from None

    def write(self, state: ClusterState) -> None:
        write_private(self.path / "cluster.json", state.model_dump_json(indent=2))

    def passwords(self, names: Iterable[str]) -> Mapping[str, str]:
        """Passwords by role, made once and kept."""
        path = self.path / "secrets.json"
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        missing = [name for name in names if name not in known]
        if missing:
            known |= {name: secrets.token_hex(24) for name in missing}
            write_private(path, json.dumps(known, indent=2))
        return known

    def callback_secret(self) -> Path:
        path = self.path / "callback.secret"
        if not path.exists():
            write_private(path, "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
        return path

    def ports(self, names: Iterable[str]) -> Mapping[str, int]:
        """A free port for each name, until `unlock` no other cluster's: the one it had last time if that is free."""
        path = self.path / "ports.json"
        before: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        chosen = pick_ports(names, before, self._claim)
        write_private(path, json.dumps({**before, **chosen}, indent=2))
        return chosen

    def _claim(self, port: int) -> bool:
        """Whether no other cluster of this account has chosen it: a server takes a while to bind what was chosen."""
        if port in self._claims:
            return True
        folder = Path(tempfile.gettempdir()) / f"orderloom-ports-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(folder / str(port), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._claims[port] = fd
        return True


def pick_ports(
    names: Iterable[str],
    preferred: Mapping[str, int] | None = None,
    claim: Callable[[int], bool] = lambda _port: True,
) -> dict[str, int]:
    preferred = preferred or {}
    held: dict[str, socket.socket] = {}
    try:
        for name in names:  # hold each until all are chosen: no two get the same
            candidates = [port for port in random.sample(PORT_RANGE, 200) if port not in preferred.values()]
            for port in [preferred[name], *candidates] if name in preferred else candidates:
                if claim(port) and (listener := _bind(port)) is not None:
                    held[name] = listener
                    break
            else:
                raise ClusterError(
                    f"No free port on the loopback interface between {PORT_RANGE[0]} and {PORT_RANGE[-1]}."
                )
        return {name: listener.getsockname()[1] for name, listener in held.items()}
    finally:
        for listener in held.values():
            listener.close()


def _bind(port: int) -> socket.socket | None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # As the servers do: connections of an earlier server that only wait out their time do not occupy the port.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(1)
    except OSError:
        listener.close()
        return None
    return listener


def write_private(path: Path, text: str) -> None:
    """Replace a file at once, readable by its owner only from its first byte on."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
