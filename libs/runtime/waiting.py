"""Waiting for whichever comes first."""

import asyncio


async def until(wake: asyncio.Event, stop: asyncio.Event, seconds: float) -> None:
    """Returns when woken, asked to stop, or after `seconds`; the wake is used up."""
    waits = [asyncio.ensure_future(wake.wait()), asyncio.ensure_future(stop.wait())]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    wake.clear()
