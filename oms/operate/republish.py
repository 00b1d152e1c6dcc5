"""`oms republish`: makes a topic anew that was deleted, lost or damaged on Kafka, from its owner's event store."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code

from libs.events.topics import TOPIC_BY_NAME, Topic
from libs.runtime.link import link_to
from oms.cluster.kafka import create_topics
from oms.operate.doors import Door, DoorError

PAUSE_SECONDS = 300
CATCH_UP_SECONDS = 300.0
FRESH_SECONDS = 5.0
TELL_SECONDS = 2.0
THERE = "is there"

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Who writes the topic, who reads it."""

    topic: Topic
    owner: Door
    readers: Sequence[Door]
    bootstrap: str

    def __str__(self) -> str:
        readers = ", ".join(door.service for door in self.readers)
        return (
            f"{self.topic.name} will be deleted on {self.bootstrap} and made anew with {self.topic.partitions} "
            f"partitions. {self.owner.service} publishes all of its events once more; {readers} read it from the "
            "beginning and drop what they have heard. Records parked from it are dropped too: they come again."
        )


def plan(topic: str, doors: Sequence[Door], bootstrap: str) -> Plan:
    known = TOPIC_BY_NAME.get(topic)
    if known is None:
        raise DoorError(f"There is no topic {topic!r}; there are {', '.join(sorted(TOPIC_BY_NAME))}.")
    if not known.versioned:
        raise DoorError(f"What was in {topic} is in no store here: {known.owner}s publish to it. Ask them to repeat.")
    owner = next((door for door in doors if topic in door.owned), None)
    if owner is None:
        raise DoorError(f"None of these services writes {topic}: {known.owner} does, and it does not answer.")
    return Plan(topic=known, owner=owner, readers=[one for one in doors if topic in one.topics], bootstrap=bootstrap)


def republish(plan: Plan, by: str, reason: str, tell: Tell) -> dict[str, Any]:
    """Does it; every step may be repeated, so a command that failed half way is simply given again."""
    word = {"topic": plan.topic.name, "by": by, "reason": reason}
    pause = plan.owner.post("/internal/relay/pause", {**word, "seconds": PAUSE_SECONDS})
    paused_at = time.monotonic()
    tell(f"{plan.owner.service} publishes nothing for now; what it writes waits in its outbox")
    try:
        _wait(pause["quiet_after_seconds"], tell)
        asyncio.run(_made_anew(plan))
        tell(f"{plan.topic.name} is made anew, empty")
        dropped = 0
        for door in plan.readers:
            done = door.post("/internal/positions/reset", word)
            dropped += done["parked_records"]
            tell(f"{door.service} reads it from the beginning ({done['positions']} positions)")
        again = plan.owner.post("/internal/relay/republish", {**word, "holder": pause["holder"]})
    except BaseException:
        tell(f"Not finished. {_resumed(plan, {**word, 'holder': pause['holder']}, paused_at)}")
        raise
    tell(f"{again['events']} events are back in the outbox of {plan.owner.service}, and its relay goes on")
    return {
        "topic": plan.topic.name,
        "owner": plan.owner.service,
        "readers": [door.service for door in plan.readers],
        "events": again["events"],
        "parked_records_dropped": dropped,
    }


def _resumed(plan: Plan, order: Mapping[str, Any], paused_at: float) -> str:
    """Lets the relay go: whatever became of this topic, all else that the service writes must not wait for it."""
    relay = f"The relay of {plan.owner.service}"
    try:
        plan.owner.post("/internal/relay/resume", order)
    except DoorError:
        left = max(0, int(paused_at + PAUSE_SECONDS - time.monotonic()))
        return f"{relay} goes on by itself in {left} s; repeat the command then."
    return f"{relay} goes on; repeat the command."


def wait_until_heard(plan: Plan, tell: Tell) -> None:
    """Until the outbox has let go of what is old and every reader was at the topic's end after that.

    Orders flow meanwhile, so they need not all be there at one moment. Raises DoorError when it takes too long.
    """
    deadline, told_at = time.monotonic() + CATCH_UP_SECONDS, 0.0
    drained = False
    waiting = {door.service: door for door in plan.readers}
    while waiting:
        status = plan.owner.get("/status")
        if not drained and not (drained := status["outbox_oldest_age_seconds"] < FRESH_SECONDS):
            now = f"{status['outbox_pending']} in the outbox"
        else:
            states = {name: _state(door, plan.topic.name) for name, door in waiting.items()}
            waiting = {name: waiting[name] for name, state in states.items() if state != THERE}
            now = "; ".join(f"{name} {state}" for name, state in states.items())
        if not waiting or time.monotonic() - told_at > TELL_SECONDS:
            told_at = time.monotonic()
            tell(now)
        if waiting and time.monotonic() > deadline:
            raise DoorError(f"Not heard by all after {CATCH_UP_SECONDS:.0f} s: {now}")
        time.sleep(0.5 if waiting else 0)


def _state(reader: Door, topic: str) -> str:
    status = reader.get("/status")
    halted = [why for place, why in status["halted"].items() if place.startswith(f"{topic}/")]
    if halted:
        return f"is halted: {halted[0]}"
    if topic not in status["lag"]:
        return "does not read it yet"
    return f"is {status['lag'][topic]} behind" if status["lag"][topic] else THERE


def _wait(seconds: float, tell: Tell) -> None:
    tell(f"Waiting {seconds:.0f} s until nothing that its relay had begun can arrive any more")
    time.sleep(seconds)


async def _made_anew(plan: Plan) -> None:
    admin = AIOKafkaAdminClient(**link_to(plan.bootstrap), request_timeout_ms=15_000)
    await admin.start()
    try:
        if plan.topic.name in await admin.list_topics():
            answer = await admin.delete_topics([plan.topic.name])
            for name, code, *_ in answer.topic_error_codes:
                if code:
                    raise DoorError(f"Kafka does not delete {name}: {for_code(code).__name__}")
        deadline = time.monotonic() + 30
        while plan.topic.name in await admin.list_topics():
            if time.monotonic() > deadline:
                raise DoorError(f"Kafka has not deleted {plan.topic.name} within 30 s.")
            await asyncio.sleep(0.2)
    finally:
        await admin.close()
    await create_topics(plan.bootstrap, [plan.topic], link=link_to(plan.bootstrap))
