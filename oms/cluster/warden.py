"""Ends the cluster's processes when their supervisor is gone, however it went: kill -9 closes its pipe too.

Run as a script of its own, standard library only. Reads lines on stdin and answers each with a line on stdout:

    + PGID SIGNAL    guard a process group; SIGNAL asks it to end
    - PGID           it has ended, forget it

At end of file every guarded group gets its signal, and after a grace SIGKILL.
"""

import os
import signal
import sys
import time

GRACE_SECONDS = 3.0


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    guarded: dict[int, int] = {}
    for line in sys.stdin:
        match line.split():
            case ["+", group, number]:
                guarded[int(group)] = int(number)
            case ["-", group]:
                guarded.pop(int(group), None)
        try:
            print("ok", flush=True)
        except OSError:
            break  # nobody reads the answers: the supervisor is gone, what remains is the end of file
    end(guarded)


def end(guarded: dict[int, int]) -> None:
    for group, number in guarded.items():
        send(group, number)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and any(send(group, 0) for group in guarded):
        time.sleep(0.05)
    for group in guarded:
        send(group, signal.SIGKILL)


def send(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        return False
    return True


if __name__ == "__main__":
    main()
