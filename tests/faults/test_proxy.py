"""The proxy does what its modes say: what it lets through unharmed would prove nothing."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.proxy import CUT_AFTER, Proxies

ANSWER = b"x" * 4000


@pytest.fixture
def proxies() -> Iterator[Proxies]:
    made = Proxies()
    yield made
    made.close()


@asynccontextmanager
async def server(proxies: Proxies) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answers each line with 4000 bytes; what it heard."""
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            heard.append(line)
            writer.write(ANSWER)
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    await asyncio.to_thread(proxies.add, "wire", port, listening.sockets[0].getsockname()[:2])
    yield port, heard
    listening.close()


async def ask(port: int, seconds: float = 5.0) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"hello\n")
        return await asyncio.wait_for(reader.readexactly(len(ANSWER)), seconds)
    finally:
        writer.close()


async def test_passing_proxy_changes_nothing(proxies: Proxies) -> None:
    async with server(proxies) as (port, heard):
        assert await ask(port) == ANSWER
        assert heard == [b"hello\n"]


async def test_dropping_proxy_lets_nothing_through(proxies: Proxies) -> None:
    async with server(proxies) as (port, heard):
        proxies.turn("wire", "drop")
        with pytest.raises(TimeoutError):
            await ask(port, 0.5)
        assert heard == []


async def test_half_open_proxy_lets_the_request_arrive_and_no_answer(proxies: Proxies) -> None:
    async with server(proxies) as (port, heard):
        proxies.turn("wire", "half_open")
        with pytest.raises(TimeoutError):
            await ask(port, 0.5)
        assert heard == [b"hello\n"]


async def test_refusing_proxy_resets(proxies: Proxies) -> None:
    async with server(proxies) as (port, _):
        proxies.turn("wire", "refuse")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await ask(port)


async def test_cutting_proxy_resets_in_the_middle_of_an_answer(proxies: Proxies) -> None:
    async with server(proxies) as (port, heard):
        proxies.turn("wire", "cut")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello\n")
        got = bytearray()
        with pytest.raises(ConnectionError):
            while piece := await asyncio.wait_for(reader.read(100), 5):
                got += piece
            raise ConnectionError("ended without a reset")
        assert len(got) < len(ANSWER)
        assert len(ANSWER) > CUT_AFTER
        assert heard == [b"hello\n"]
        writer.close()


async def test_healed_proxy_passes_again(proxies: Proxies) -> None:
    async with server(proxies) as (port, _):
        proxies.turn("wire", "refuse")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await ask(port)
        proxies.turn("wire", "pass")
        assert await ask(port) == ANSWER
