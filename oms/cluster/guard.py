"""What must hold when the supervisor is gone: the warden, and knowing a process again by more than its pid."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

WARDEN = Path(__file__).with_name("warden.py")


class Warden:
    """The supervisor's end of the warden process; starts another when it is gone."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._guarded: dict[int, int] = {}
        self._popen = self._start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def guard(self, group: int, number: int) -> None:
        with self._lock:
            self._guarded[group] = number
            self._tell(f"+ {group} {int(number)}")

    def release(self, group: int) -> None:
        with self._lock:
            if self._guarded.pop(group, None) is not None:
                self._tell(f"- {group}")

    def revive(self) -> None:
        with self._lock:
            if self._popen.poll() is not None:
                for pipe in (self._popen.stdin, self._popen.stdout):
                    with suppress(OSError):  # what was not delivered is told again below
                        pipe.close() if pipe else None
                self._popen = self._start()
                for group, number in self._guarded.items():
                    self._exchange(f"+ {group} {int(number)}")

    def close(self) -> None:
        with self._lock:
            self._popen.communicate(timeout=10)

    def _tell(self, line: str) -> None:
        try:
            self._exchange(line)
        except OSError:
            self._popen.kill()
            self._popen.wait()
            self.revive()  # tells the new one everything, this line included

    def _exchange(self, line: str) -> None:
        stdin, stdout = self._popen.stdin, self._popen.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(line.encode() + b"\n")
        stdin.flush()
        if not stdout.readline():
            raise BrokenPipeError("the warden is gone")

    @staticmethod
    def _start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(WARDEN)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )


def same_process(pid: int, started: float) -> bool:
    """Whether the process that had this pid then is still the one that has it."""
    try:
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < 1.0)
    except psutil.NoSuchProcess:
        return False


def end_leftovers(processes: Iterable[tuple[int, float]], grace: float = 5.0) -> None:
    """Kill the groups of processes that an earlier supervisor and its warden both failed to end."""
    left = [(pid, started) for pid, started in processes if same_process(pid, started)]
    for pid, _ in left:
        signal_group(pid, signal.SIGTERM)
    until(lambda: not any(same_process(*process) for process in left), grace)
    for pid, started in left:
        if same_process(pid, started):
            signal_group(pid, signal.SIGKILL)


def start_time(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return time.time()


def signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def until(done: Callable[[], bool], seconds: float) -> bool:
    """Wait until it is done; False if the time ran out."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
