"""Memory: the resident size of each service's own process while many orders pass through it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]

from bench.closed import Load, saturate
from bench.fill import Told
from bench.fleet import SHAPES, Fleet
from bench.rig import Rig

SHAPE = "five"
_LOOK_SECONDS = 1.0
_TOLD_EVERY = 30


@dataclass(frozen=True)
class Memory:
    """Megabytes by service, one sample a second. `orders` passed through all of them."""

    orders: int
    samples: Mapping[str, Sequence[float]]

    @property
    def max_mb(self) -> float:
        return max(max(sizes) for sizes in self.samples.values())

    @property
    def growth(self) -> float:
        """The worst of them: the last tenth against what it had once a fifth had passed and its caches were full."""
        return max(_mean(sizes[-len(sizes) // 10 :]) / _mean(_early(sizes)) for sizes in self.samples.values())


def _early(sizes: Sequence[float]) -> Sequence[float]:
    fifth = len(sizes) // 5
    return sizes[fifth : fifth + max(1, len(sizes) // 10)]


def _mean(sizes: Sequence[float]) -> float:
    return sum(sizes) / len(sizes)


async def resident(rig: Rig, load: Load, told: Told) -> Memory:
    """Runs `load.orders` through one process a service."""
    async with Fleet(rig, SHAPE) as fleet:
        services = [names[0] for names in SHAPES[SHAPE]]
        processes = dict(zip(services, map(psutil.Process, fleet.pids()), strict=True))
        samples: dict[str, list[float]] = {name: [] for name in services}
        running = asyncio.create_task(saturate(fleet, load))
        while not running.done():
            for name, process in processes.items():
                samples[name].append(process.memory_info().rss / 1e6)
            if len(samples[services[0]]) % _TOLD_EVERY == 1:
                told(f"memory: {max(sizes[-1] for sizes in samples.values()):.0f} MB the largest")
            await asyncio.wait([running], timeout=_LOOK_SECONDS)
        await running
    return Memory(load.orders, samples)
