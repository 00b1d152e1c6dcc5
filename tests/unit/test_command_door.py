"""A request's headers on their way to the one road of writing, over a storage in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends

from libs.runtime.api import CommandDoor, Ports, Receipt, command_door
from libs.runtime.commit import GroupCommit
from libs.runtime.handler import Handler
from libs.runtime.http import create_app
from libs.runtime.keys import Keys, new_key, write_keys
from libs.runtime.scope import may
from libs.testing.memory import MemoryStorage
from libs.testing.tally import Add, tally_service

router = APIRouter()


@router.post("/units", openapi_extra=may("operator"))
async def add_unit(door: Annotated[CommandDoor, Depends(command_door)]) -> Receipt:
    return await door.handle(Add("A", 1))


@asynccontextmanager
async def door(keys: Keys | None = None) -> AsyncIterator[tuple[httpx.AsyncClient, Handler]]:
    async def health() -> dict[str, Any]:
        return {"ready": True}

    handler = Handler(replace(tally_service(), router=router), MemoryStorage())
    commit = GroupCommit(handler)
    committing = asyncio.create_task(commit.run())
    app = create_app(handler.service, Ports(handler.storage, commit, "secret", keys=keys), health)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://inventory") as client:
        yield client, handler
    committing.cancel()
    with suppress(asyncio.CancelledError):
        await committing


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with door() as (client, _):
        yield client


async def test_who_writes_is_the_client_of_the_key_whatever_its_headers_say(tmp_path: Path) -> None:
    key, text = new_key("warehouse-app", ["operator"])
    write_keys(tmp_path / "keys.json", [key])
    async with door(Keys(tmp_path / "keys.json")) as (client, handler):
        headers = {"idempotency-key": "k1", "x-actor": "somebody-else", "authorization": f"Bearer {text}"}
        assert (await client.post("/units", json={}, headers=headers)).status_code == 200
        (event,) = await handler.storage.read_streams(["stock-A"])
        assert event.envelope.actor == "warehouse-app"


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
