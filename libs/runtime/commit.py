"""Group commit: callers that arrive while a commit is under way share the next one."""

import asyncio
import time

from libs.runtime import telemetry
from libs.runtime.errors import Unavailable
from libs.runtime.handler import Answer, Handler, Request
from libs.runtime.waiting import pause


class GroupCommit:
    """Gathers requests into batches for the handler; one batch is under way at a time."""

    def __init__(self, handler: Handler, *, limit: int = 500) -> None:
        self._handler = handler
        self._limit = limit
        self._waiting: asyncio.Queue[tuple[Request, asyncio.Future[Answer]]] = asyncio.Queue(maxsize=10_000)

    async def submit(self, request: Request) -> Answer:
        """The answer, after its transaction has committed."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        await self._waiting.put((request, answer))
        return await answer

    async def run(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self._limit and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            began = time.monotonic()
            answers = await self._decided([request for request, _ in batch])
            telemetry.observe("oms.batch.size", len(batch), source="requests")
            telemetry.observe("oms.batch.duration", time.monotonic() - began, source="requests")
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def _decided(self, requests: list[Request]) -> list[Answer]:
        # If the outcome of a commit is unknown, the same batch finds its own answers when it is repeated.
        delay = 0.05
        while True:
            try:
                return await self._handler.handle_requests(requests)
            except Unavailable:
                telemetry.count("oms.retries", why="unavailable")
                await pause(delay)
                delay = min(delay * 2, 2.0)
