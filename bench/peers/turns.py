"""A worker process of a peer: says `ready`, waits for a line, works so many seconds, says how many orders a second."""

import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

COMMANDS = (
    "receive", "accept", "request_stock", "reserve", "request_payment", "authorize",
    "confirm", "release", "pack", "dispatch", "capture", "complete",
)  # fmt: skip
"""The twelve of one order, in the order of its journey."""


def work(one_order: Callable[[str], None], threads: int, seconds: float) -> None:
    one_order(str(uuid.uuid4()))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    until = time.monotonic() + seconds

    def orders() -> int:
        done = 0
        while time.monotonic() < until:
            one_order(str(uuid.uuid4()))
            done += 1
        return done

    began = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        done = sum(future.result() for future in [pool.submit(orders) for _ in range(threads)])
    sys.stdout.write(f"{done / (time.monotonic() - began)}\n")
    sys.stdout.flush()
