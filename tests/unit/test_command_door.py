"""A request's headers on their way to the one road of writing, over a storage in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends

from libs.runtime.api import CommandDoor, Ports, Receipt, command_door
from libs.runtime.commit import GroupCommit
from libs.runtime.handler import Handler
from libs.runtime.http import create_app
from libs.testing.memory import MemoryStorage
from libs.testing.tally import Add, tally_service

router = APIRouter()


@router.post("/units")
async def add_unit(door: Annotated[CommandDoor, Depends(command_door)]) -> Receipt:
    return await door.handle(Add("A", 1))


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async def health() -> dict[str, Any]:
        return {"ready": True}

    handler = Handler(replace(tally_service(), router=router), MemoryStorage())
    commit = GroupCommit(handler)
    committing = asyncio.create_task(commit.run())
    app = create_app(handler.service, Ports(handler.storage, commit, "secret"), health)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://inventory") as client:
        yield client
    committing.cancel()
    with suppress(asyncio.CancelledError):
        await committing


async def test_write_that_names_another_version_is_refused_and_one_that_names_this_is_not(
    client: httpx.AsyncClient,
) -> None:
    async def add(key: str, **headers: str) -> tuple[int, Any]:
        answer = await client.post("/units", json={}, headers={"idempotency-key": key, **headers})
        return answer.status_code, answer.json()

    assert (await add("k1"))[1]["stream_version"] == 1
    status, problem = await add("k2", **{"if-match": '"0"'})
    assert (status, problem["code"], problem["current_version"]) == (412, "stale_version", 1)
    assert (await add("k3", **{"if-match": '"1"'}))[1]["stream_version"] == 2
