"""Waiting: for whichever comes first, or for a while before trying again."""

import asyncio
import random


def jittered(seconds: float) -> float:
    """Half of it to one and a half, so that those who wait for the same do not come back together."""
    return seconds * (0.5 + random.random())


async def pause(seconds: float = 1.0) -> None:
    await asyncio.sleep(jittered(seconds))


async def until(wake: asyncio.Event, stop: asyncio.Event, seconds: float) -> None:
    """Returns when woken, asked to stop, or after `seconds`; the wake is used up."""
    waits = [asyncio.ensure_future(wake.wait()), asyncio.ensure_future(stop.wait())]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    wake.clear()
