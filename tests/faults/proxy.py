"""A TCP proxy that misbehaves on demand. All proxies run on a loop of their own, so that no strike holds them up."""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Literal

Mode = Literal["pass", "delay", "drop", "half_open", "refuse", "cut"]
CHUNK = 64 * 1024
CUT_AFTER = 700
"""Bytes of answers that come through in `cut` before the connection is reset: somewhere inside one."""


class Proxy:
    """Listens on `port` and passes on to `target`. `mode` may be changed at any time, from any thread.

    delay: each chunk waits; drop: nothing more comes through, of what is open and of what is opened; half_open: answers
    vanish, requests arrive; refuse: connections are reset at once; cut: reset in the middle of an answer.
    """

    def __init__(self, name: str, port: int, target: tuple[str, int]) -> None:
        self.name, self.port, self.target = name, port, target
        self.mode: Mode = "pass"
        self.delay_seconds = 0.15
        self._writers: set[asyncio.StreamWriter] = set()

    async def listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=256)

    def reset_all(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            if self.mode == "refuse":
                _reset(writer)
                return
            from_there, there = await asyncio.open_connection(*self.target)
            self._writers.add(there)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, there, writer, answers=False))
                group.create_task(self._pump(from_there, writer, there, answers=True))
        except* OSError:
            _reset(writer)  # what is refused behind us is refused before us
        finally:
            for one in (writer, there):
                if one is not None:
                    self._writers.discard(one)
                    one.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        came_through = 0
        while data := await reader.read(CHUNK):
            match self.mode:
                case "drop":
                    continue
                case "half_open" if answers:
                    continue
                case "delay":
                    await asyncio.sleep(self.delay_seconds)
                case "cut" if answers:
                    came_through += len(data)
                    if came_through > CUT_AFTER:
                        writer.write(data[: len(data) // 2])
                        with suppress(OSError):
                            await writer.drain()
                        _reset(writer)
                        _reset(other)
                        return
            writer.write(data)
            await writer.drain()
        with suppress(OSError, RuntimeError):
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN: what a machine that fell over says."""
    raw = writer.get_extra_info("socket")
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Proxies:
    """All proxies of a campaign, in a thread with a loop of their own."""

    def __init__(self) -> None:
        self._by_name: dict[str, Proxy] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()
        self._servers: list[asyncio.Server] = []

    def add(self, name: str, port: int, target: tuple[str, int]) -> Proxy:
        proxy = Proxy(name, port, target)
        self._servers.append(self._call(proxy.listen()))
        self._by_name[name] = proxy
        return proxy

    def __getitem__(self, name: str) -> Proxy:
        return self._by_name[name]

    def turn(self, name: str, mode: Mode) -> None:
        """What is open is reset when the proxy heals, as when a switch comes back: neither side knows what was lost."""
        proxy = self._by_name[name]
        healing = proxy.mode in ("drop", "half_open", "refuse") and mode == "pass"
        proxy.mode = mode
        if healing or mode == "refuse":
            self._loop.call_soon_threadsafe(proxy.reset_all)

    def close(self) -> None:
        async def end() -> None:
            for server in self._servers:
                server.close()
            for proxy in self._by_name.values():
                proxy.reset_all()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
