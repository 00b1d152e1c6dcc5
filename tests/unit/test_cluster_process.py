import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oms.cluster.guard import WARDEN, same_process, start_time
from oms.cluster.process import GATE, ClusterError, Command, Supervisor, open_log, trim_log

SLEEP = ("sleep", "600")


def eventually(done: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.02)


def command(name: str, *argv: str, grace_seconds: float = 5.0) -> Command:
    return Command(name=name, argv=argv, env=dict(os.environ), grace_seconds=grace_seconds)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path, lambda event, **fields: None)
    yield supervisor
    supervisor.close()


def test_dead_child_is_restarted(supervisor: Supervisor) -> None:
    child = supervisor.start(command("sleeper", *SLEEP))
    first = child.pid
    os.kill(first, signal.SIGKILL)
    eventually(lambda: child.restarts == 1 and child.alive)
    assert child.pid != first


def test_stopped_child_stays_stopped(supervisor: Supervisor) -> None:
    child = supervisor.start(command("sleeper", *SLEEP))
    supervisor.stop(["sleeper"])
    assert not child.alive
    assert not supervisor.children


def test_child_deaf_to_its_signal_is_killed_with_its_own_children(supervisor: Supervisor, tmp_path: Path) -> None:
    script = "trap '' TERM; sleep 600 & echo $! > grandchild; echo ready > ready; while :; do wait; done"
    child = supervisor.start(
        Command(name="deaf", argv=("/bin/sh", "-c", script), env=dict(os.environ), cwd=tmp_path, grace_seconds=0.2)
    )
    eventually((tmp_path / "ready").exists)
    pid = int((tmp_path / "grandchild").read_text())
    started = start_time(pid)
    supervisor.stop(["deaf"])
    assert not child.alive
    eventually(lambda: not same_process(pid, started))


def test_failed_task_shows_the_end_of_its_log(supervisor: Supervisor) -> None:
    with pytest.raises(ClusterError, match="no such luck"):
        supervisor.run(command("task", "/bin/sh", "-c", "echo no such luck; exit 3"), timeout=10)


def test_nothing_starts_once_stopping(supervisor: Supervisor) -> None:
    supervisor.interrupt()
    with pytest.raises(ClusterError):
        supervisor.start(command("late", *SLEEP))


def test_warden_ends_the_groups_when_its_pipe_closes() -> None:
    victim = subprocess.Popen(SLEEP, start_new_session=True)
    forgotten = subprocess.Popen(SLEEP, start_new_session=True)
    try:
        with subprocess.Popen(
            [sys.executable, "-I", "-S", str(WARDEN)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as warden:
            assert warden.stdin is not None
            assert warden.stdout is not None
            warden.stdin.write(f"+ {victim.pid} 15\n+ {forgotten.pid} 15\n- {forgotten.pid}\n")
            warden.stdin.close()
            assert victim.wait(10) == -signal.SIGTERM
            assert warden.stdout.read() == "ok\n" * 3
        assert forgotten.poll() is None
    finally:
        forgotten.kill()
        forgotten.wait()


def test_killed_warden_is_replaced(supervisor: Supervisor) -> None:
    supervisor.start(command("sleeper", *SLEEP))
    first = supervisor.warden_pid
    os.kill(first, signal.SIGKILL)
    eventually(lambda: supervisor.warden_pid != first)
    supervisor.start(command("another", *SLEEP))


def test_child_whose_supervisor_died_before_it_was_guarded_never_starts(tmp_path: Path) -> None:
    done = subprocess.run((*GATE, "touch", str(tmp_path / "started")), input=b"", timeout=10)
    assert done.returncode != 0
    assert not list(tmp_path.iterdir())


def test_large_log_is_put_aside_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "child.log"
    with open_log(path) as log:
        log.write(b"x" * 100)
        log.flush()
        trim_log(path, limit=50)
        log.write(b"after")
    assert path.read_bytes() == b"after"
    assert (tmp_path / "child.log.1").read_bytes() == b"x" * 100
