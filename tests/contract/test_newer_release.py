"""An old worker beside a newer release: what that wrote to a stream of ours is left to it, and nothing is lost."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from libs.events.topics import ORDER_EVENTS
from libs.runtime import telemetry, timers
from libs.runtime.commit import GroupCommit
from libs.runtime.handler import BROKEN, Answer, Handler, Request
from libs.runtime.identity import Cause, new_id
from libs.runtime.settings import Settings
from libs.runtime.storage import Changes, NewHead, Partition, Storage
from libs.runtime.timers import Timers
from libs.testing.tally import AT, LONG_AGO, Add, tally_service, word

P0, P1 = Partition(ORDER_EVENTS.name, 0), Partition(ORDER_EVENTS.name, 1)
NEWER = {
    "unknown type": {"event_type": "oms.inventory.StockBlessed"},
    "newer schema": {"schema_version": 9},
}


@pytest.fixture(params=NEWER)
async def old(request: pytest.FixtureRequest, storage: Storage) -> Handler:
    """A worker whose stream stock-A a newer release has gone on with; it is due."""
    handler = Handler(tally_service(), storage)
    await storage.ensure_positions(handler.consumer, {P0: 0, P1: 0})
    await handler.handle_records([word("O1", 1, "add:A", offset=0)])
    await go_on_with(storage, NEWER[request.param])
    return handler


async def go_on_with(storage: Storage, changed: Mapping[str, Any]) -> None:
    [ours] = await storage.read_streams(["stock-A"])
    envelope = replace(ours.envelope, event_id=new_id(), stream_version=2, **changed)
    async with storage.transaction() as tx:
        head = NewHead("stock-A", 2, existed=True, due_at=LONG_AGO)
        await tx.write(Changes(now=AT, heads=[head], events=[ours._replace(envelope=envelope)]))


@pytest.fixture
def alarms(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    raised: list[str] = []
    monkeypatch.setattr(telemetry, "alarm", lambda what, **details: raised.append(what))
    return raised


def request(command: Any) -> Request:
    return Request(command=command, cause=Cause(causation_id=new_id(), at=AT))


async def test_record_for_the_stream_halts_its_partition_and_parks_nothing(old: Handler) -> None:
    handled = await old.handle_records(
        [
            word("O2", 1, "add:B", offset=1),
            word("O3", 1, "add:A", offset=2),
            word("O4", 1, "add:B", offset=3),
            word("O5", 1, "add:B", offset=0, partition=1),
        ]
    )
    assert handled.halted.keys() == {P0}
    assert "stock-A@2" in handled.halted[P0]
    assert handled.counts == Counter(processed=2)
    assert await old.storage.ensure_positions(old.consumer, {}) == {P0: 2, P1: 1}
    assert (await old.storage.figures())["parked_records"] == 0


async def test_command_for_the_stream_is_not_handled_and_others_are(old: Handler) -> None:
    answers = await old.handle_requests([request(Add("A", 1)), request(Add("B", 1))])
    assert [answer.code for answer in answers] == [BROKEN, ""]
    assert len(await old.storage.read_streams(["stock-A"])) == 2


async def test_deadline_of_the_stream_stays_for_the_newer_release(
    old: Handler, alarms: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[float] = []

    async def pause(seconds: float = 1.0) -> None:
        paused.append(seconds)

    monkeypatch.setattr(timers, "pause", pause)
    commit = GroupCommit(old)
    committing = asyncio.create_task(commit.run())
    try:
        await Timers(old.storage, commit, Settings()).wake_due()
    finally:
        committing.cancel()
    assert await old.storage.due_streams(10) == ["stock-A"]
    assert paused == [1.0], "it would be woken again and again"
    assert alarms == []


def test_answer_that_a_newer_release_stored_is_given_again() -> None:
    answer = Answer("stock-A", 1, ("StockReceived",))
    assert Answer.from_json(answer.to_json().replace(b"{", b'{"since_next_release":[1],', 1)) == answer
