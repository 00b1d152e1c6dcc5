"""CPU by process group: on a shared machine rates drift, microseconds an order compare."""

from collections.abc import Iterable, Mapping

import psutil  # type: ignore[import-untyped]

from bench.rig import Rig

Spent = Mapping[str, float]


def spent(rig: Rig, python: Iterable[int]) -> Spent:
    """Seconds of CPU so far of the processes named, of PostgreSQL with its backends, and of Kafka."""
    seconds = {"python": sum(_own(psutil.Process(pid)) for pid in python)}
    for name in ("postgres", "kafka"):
        root = psutil.Process(rig.cluster.supervisor.child(name).pid)
        seconds[name] = sum(_own(process) for process in (root, *root.children(recursive=True)))
        # a backend that has ended is counted in its parent
        times = root.cpu_times()
        seconds[name] += times.children_user + times.children_system
    return seconds


def _own(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def between(before: Spent, after: Spent, orders: float) -> Mapping[str, float]:
    """Microseconds an order."""
    return {name: (after[name] - before[name]) / orders * 1e6 for name in before}
