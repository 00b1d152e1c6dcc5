"""Child processes: each in a group of its own, guarded by the warden, restarted when it dies."""

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from oms.cluster.guard import Warden, signal_group, start_time

MAX_LOG_BYTES = 32 * 1024 * 1024
HEALTHY_SECONDS = 30.0
MAX_BACKOFF_SECONDS = 10.0

# The child waits for a line before it becomes the command: by then the warden guards its group, so a supervisor
# killed in between leaves nothing behind.
GATE = ("/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "gate")

Report = Callable[..., None]


class ClusterError(Exception):
    """The cluster cannot do what was asked; the message says why and what to do."""


class ClusterBusy(ClusterError):
    """Another supervisor holds this state directory."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """An account of the machine to run as, when the supervisor is root and the program refuses to be."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, kw_only=True)
class Command:
    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    grace_seconds: float = 15.0
    account: Account | None = None


@dataclass
class Child:
    command: Command
    popen: subprocess.Popen[bytes]
    log: Path
    started: float  # the operating system's start time: with the pid it names one process for good
    since: float = field(default_factory=time.monotonic)
    restarts: int = 0
    failures: int = 0
    restart_at: float | None = None
    stopping: bool = False

    @property
    def name(self) -> str:
        return self.command.name

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None


class Supervisor:
    """Starts, watches, restarts and stops children. Thread-safe; one thread watches."""

    def __init__(self, logs: Path, report: Report, on_change: Callable[[], None] = lambda: None) -> None:
        self._logs = logs
        self._report = report
        self._on_change = on_change
        self._lock = threading.RLock()
        self._children: dict[str, Child] = {}
        self._tasks: set[subprocess.Popen[bytes]] = set()
        self._warden = Warden()
        self._closing = False  # a plain flag: signal handlers set it, and an Event's lock is not safe there
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    @property
    def children(self) -> list[Child]:
        with self._lock:
            return list(self._children.values())

    @property
    def closing(self) -> bool:
        return self._closing

    @property
    def warden_pid(self) -> int:
        return self._warden.pid

    def child(self, name: str) -> Child:
        with self._lock:
            return self._children[name]

    def start(self, command: Command) -> Child:
        with self._lock:
            if self.closing:
                raise ClusterError("The cluster is stopping.")
            popen = self._spawn(command)
            child = Child(command, popen, self._log_path(command), start_time(popen.pid))
            self._children[command.name] = child
        self._on_change()
        return child

    def run(self, command: Command, timeout: float) -> None:
        """Run a command to its end; a failure shows the end of its log."""
        with self._lock:
            if self.closing:
                raise ClusterError("The cluster is stopping.")
            popen = self._spawn(command)
            self._tasks.add(popen)
        deadline = time.monotonic() + timeout
        try:
            while (code := self._wait(popen, 0.2)) is None:
                if self.closing:
                    raise ClusterError("The cluster is stopping.")
                if time.monotonic() > deadline:
                    raise self.failure(command.name, f"{command.name} did not end within {timeout:.0f} s")
        finally:
            self._end([popen], signal.SIGKILL, 0)
            with self._lock:
                self._tasks.discard(popen)
        if code:
            raise self.failure(command.name, f"{command.name} failed with exit code {code}")

    def failure(self, name: str, message: str) -> ClusterError:
        path = self._logs / f"{name}.log"
        return ClusterError(f"{message}\nThe end of {path}:\n{tail(path)}")

    def stop(self, names: Iterable[str]) -> None:
        """Ask the named children to end, all at once; kill those that do not within their grace."""
        with self._lock:
            named = [self._children[name] for name in names if name in self._children]
            for child in named:
                child.stopping = True
            stopping = [child for child in named if child.restart_at is None]  # the others are dead already
        for child in stopping:
            signal_group(child.pid, child.command.stop_signal)
        asked = time.monotonic()
        for child in stopping:
            limit = asked + child.command.grace_seconds
            if self._wait(child.popen, max(0.0, limit - time.monotonic())) is None:
                self._report("cluster.killed", name=child.name, after_seconds=child.command.grace_seconds)
            self._end([child.popen], signal.SIGKILL, 0)
        with self._lock:
            for child in named:
                self._children.pop(child.name, None)
        self._on_change()

    def close(self) -> None:
        """Stop what is left and the warden. Nothing can be started afterwards."""
        with self._lock:
            self._closing = True
            tasks = list(self._tasks)
        self._end(tasks, signal.SIGTERM, 2.0)
        self.stop([child.name for child in self.children])
        self._thread.join()
        self._warden.close()

    def interrupt(self) -> None:
        """Make every start and wait give up, without stopping anything yet."""
        self._closing = True

    def _log_path(self, command: Command) -> Path:
        return self._logs / f"{command.name}.log"

    def _spawn(self, command: Command) -> subprocess.Popen[bytes]:
        account = command.account
        with open_log(self._log_path(command)) as log:
            popen = subprocess.Popen(
                (*GATE, *command.argv),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(command.env),
                cwd=command.cwd,
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        assert popen.stdin is not None
        try:
            self._warden.guard(popen.pid, command.stop_signal)
            popen.stdin.write(b"go\n")
        except BaseException:
            popen.kill()
            popen.wait()
            raise
        finally:
            popen.stdin.close()
        return popen

    @staticmethod
    def _wait(popen: subprocess.Popen[bytes], seconds: float) -> int | None:
        try:
            return popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def _end(self, popens: Iterable[subprocess.Popen[bytes]], number: signal.Signals, grace: float) -> None:
        """Signal the groups, wait, then kill whatever of them is left, grandchildren included."""
        popens = list(popens)
        for popen in popens:
            signal_group(popen.pid, number)
        for popen in popens:
            self._wait(popen, grace)
            signal_group(popen.pid, signal.SIGKILL)
            popen.wait()
            self._warden.release(popen.pid)

    def _watch(self) -> None:
        logs_due = 0.0
        while not self._closing:
            time.sleep(0.1)
            try:
                with self._lock:
                    changed = [child for child in self._children.values() if not child.stopping and self._tend(child)]
                    self._warden.revive()
                if changed:
                    self._on_change()
                if time.monotonic() > logs_due:
                    logs_due = time.monotonic() + 10
                    for child in self.children:
                        trim_log(child.log)
            except OSError as error:  # a full disk, no more processes: watching goes on, and may find it better
                self._report("cluster.watch_failed", error=str(error))

    def _tend(self, child: Child) -> bool:
        """Note a death, or restart the dead when its time has come; True if anything changed."""
        if child.alive:
            return False
        now = time.monotonic()
        if child.restart_at is None:
            self._end([child.popen], signal.SIGKILL, 0)
            child.failures = 1 if now - child.since > HEALTHY_SECONDS else child.failures + 1
            # Full jitter: children that died together (of one dead database) do not come back together.
            pause = random.uniform(0.1, min(MAX_BACKOFF_SECONDS, 0.25 * 2**child.failures))
            child.restart_at = now + pause
            self._report(
                "cluster.child_died", name=child.name, exit_code=child.popen.returncode, restart_in=round(pause, 2)
            )
            return True
        if now < child.restart_at or self.closing:
            return False
        try:
            child.popen = self._spawn(child.command)
        except OSError as error:
            child.restart_at = now + MAX_BACKOFF_SECONDS
            self._report("cluster.restart_failed", name=child.name, error=str(error))
            return False
        child.started, child.since, child.restart_at = start_time(child.popen.pid), now, None
        child.restarts += 1
        self._report("cluster.child_restarted", name=child.name, pid=child.pid, restarts=child.restarts)
        return True


def open_log(path: Path) -> BinaryIO:
    """Open for appending, readable by the owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")


def trim_log(path: Path, limit: int = MAX_LOG_BYTES) -> None:
    """Put a large log aside and empty it, so that a cluster left up for weeks does not fill the disk.

    Emptied, not renamed: the process has it open, and goes on writing at the end, which then is the beginning.
    """
    if path.stat().st_size > limit:
        shutil.copyfile(path, path.with_suffix(".log.1"))
        os.truncate(path, 0)


def tail(path: Path, lines: int = 15) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16384))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])
