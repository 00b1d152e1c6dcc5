"""The operator's commands as one meets them, over doors that write down what they are asked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from oms.cli import app
from oms.operate import doors, republish
from oms.operate.doors import Door, DoorError

WORD = ["--by", "ann", "--reason", "ticket 7"]
HERE = ["--url", "http://order"]
KEY = ["order", "oms.payment.events", "O1"]
RECORD = {"partition": 2, "offset": 9}
CHANGED = {**RECORD, "stream_id": "payment-O1-p", "stream_version": 1, "waiting": 3}
WIRING = {"service": "order", "subscribes": ["oms.payment.events"], "publishes": ["oms.order.events"]}


class Doors:
    """Answers by path, each list in turn; the last one stays."""

    def __init__(self, **answers: Any) -> None:
        shown = {**RECORD, "stream_id": "", "stream_version": 0, "reason": "value: bad", "headers": {"ce_id": "7"}}
        detail = {"records": [{**shown, "value": None, "value_bytes": 3}], "waiting": 2}
        self.answers: dict[str, list[Any]] = {"wiring": [WIRING], "parked/records": [detail]}
        self.answers |= {name.replace("_", "/"): value for name, value in answers.items()}
        self.asked: list[tuple[str, str, dict[str, Any]]] = []

    def __call__(self, method: str, url: str, path: str, **options: Any) -> Any:
        self.asked.append((method, path, options))
        answers = self.answers[path.removeprefix("/internal/")]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def posts(self) -> list[dict[str, Any]]:
        return [options for method, _, options in self.asked if method == "POST"]


@pytest.fixture
def open_doors(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Doors]:
    def opened(**answers: Any) -> Doors:
        fake = Doors(**answers)
        monkeypatch.setattr(doors, "_asked", fake)
        return fake

    return opened


def oms(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result


def test_release_goes_on_until_the_key_is_free(open_doors: Callable[..., Doors]) -> None:
    steps = [
        {"released": 500, "waiting": 7, "stopped": ""},
        {"released": 7, "waiting": 0, "stopped": ""},
    ]
    fake = open_doors(parked_release=steps)
    assert "Released 507 record(s); the key is free." in oms("park", "release", *KEY, *WORD, *HERE).output
    keys = [post["headers"]["idempotency-key"] for post in fake.posts()]
    assert len(set(keys)) == 2


def test_release_that_is_stopped_says_why_and_fails(open_doors: Callable[..., Doors]) -> None:
    open_doors(parked_release=[{"released": 0, "waiting": 2, "stopped": "gap: x at 3 after 1"}])
    result = oms("park", "release", *KEY, *WORD, *HERE, code=1)
    assert "2 stay: gap: x at 3 after 1" in result.output


def test_lost_answer_is_asked_for_again_under_the_same_key(open_doors: Callable[..., Doors]) -> None:
    fake = open_doors(parked_skip=[DoorError("no answer", "lost"), CHANGED])
    assert "Dropped 2/9 (payment-O1-p version 1)" in oms("park", "skip", *KEY, *WORD, *HERE).output
    first, second = fake.posts()
    assert first == second


def test_change_names_the_record_that_was_looked_at(open_doors: Callable[..., Doors]) -> None:
    fake = open_doors(parked_skip=[CHANGED])
    oms("park", "skip", *KEY, *WORD, *HERE)
    oms("park", "skip", *KEY, *WORD, *HERE, "--record", "1/4")
    assert [(post["json"]["partition"], post["json"]["offset"]) for post in fake.posts()] == [(2, 9), (1, 4)]
    assert "PARTITION/OFFSET" in oms("park", "skip", *KEY, *WORD, *HERE, "--record", "first", code=2).output


def test_fix_sends_value_and_headers(open_doors: Callable[..., Doors], tmp_path: Path) -> None:
    fake = open_doors(parked_fix=[CHANGED])
    value = tmp_path / "value.json"
    value.write_text('{"a": 1}')
    oms("park", "fix", *KEY, *WORD, *HERE, "--value", str(value), "--header", "a=b=c", "--remove-header", "d")
    assert fake.posts()[0]["json"] == {
        "topic": "oms.payment.events",
        "key": "O1",
        "by": "ann",
        "reason": "ticket 7",
        "value": '{"a": 1}',
        "headers": {"a": "b=c", "d": None},
        **RECORD,
    }


@pytest.mark.parametrize("options", [[], ["--header", "a"]])
def test_fix_of_nothing_is_a_mistake_of_the_command(open_doors: Callable[..., Doors], options: list[str]) -> None:
    fake = open_doors()
    oms("park", "fix", *KEY, *WORD, *HERE, *options, code=2)
    assert fake.posts() == []


@pytest.mark.parametrize("missing", ["--by", "--reason"])
def test_change_without_who_or_why_is_refused(open_doors: Callable[..., Doors], missing: str) -> None:
    fake = open_doors()
    place = WORD.index(missing)
    oms("park", "skip", *KEY, *HERE, *WORD[:place], *WORD[place + 2 :], code=2)
    assert fake.asked == []


def test_parked_keys_are_listed_over_all_pages(open_doors: Callable[..., Doors]) -> None:
    row = {"topic": "t", "key": "[bold]k", "reason": "why", "parked_at": "2026-01-05T10:00:00Z", "records": 2}
    pages = [{"items": [row], "next_cursor": "c"}, {"items": [{**row, "key": "k2"}], "next_cursor": None}]
    open_doors(parked=list(pages))
    assert [one["key"] for one in json.loads(oms("park", "list", *HERE, "--json").output)] == ["[bold]k", "k2"]
    open_doors(parked=[pages[0] | {"next_cursor": None}])
    assert "[bold]k" in oms("park", "list", *HERE).output


def test_record_that_is_no_json_is_shown_by_its_size(open_doors: Callable[..., Doors]) -> None:
    open_doors()
    shown = oms("park", "show", *KEY, *HERE).output
    assert "3 bytes that are no JSON" in shown
    assert "1 more than shown" in shown


def test_service_that_is_not_there_is_told_with_those_that_are(open_doors: Callable[..., Doors]) -> None:
    open_doors()
    assert "there are order" in oms("park", "show", "billing", *KEY[1:], *HERE, code=1).output


@pytest.mark.parametrize("command", [["park", "list"], ["republish", "oms.order.events", *WORD], ["verify"]])
def test_without_a_cluster_the_way_to_one_is_told(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMS_STATE_DIR", str(tmp_path))
    assert "'oms up' starts one" in oms(*command, code=1).output


def test_every_change_explains_itself() -> None:
    for command in ("list", "show", "fix", "skip", "release", "history"):
        assert len(oms("park", command, "--help").output.splitlines()) > 10


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        ("oms.nothing", "There is no topic"),
        ("oms.channel.orders", "in no store here"),
        ("oms.payment.events", "payment does, and it does not answer"),
    ],
)
def test_topic_that_cannot_be_republished_is_refused_before_anything_happens(topic: str, said: str) -> None:
    order = Door("order", "http://order", ("oms.payment.events",), ("oms.order.events",))
    with pytest.raises(DoorError, match=said):
        republish.plan(topic, [order], "kafka:9092")


def test_plan_names_writer_and_readers() -> None:
    payment = Door("payment", "http://payment", ("oms.order.events",), ("oms.payment.events",))
    order = Door("order", "http://order", ("oms.payment.events",), ("oms.order.events",))
    plan = republish.plan("oms.payment.events", [order, payment], "kafka:9092")
    assert (plan.owner, list(plan.readers)) == (payment, [order])


@pytest.mark.parametrize(
    ("reached", "said"),
    [(True, "The relay of payment goes on; repeat the command."), (False, "goes on by itself in 300 s; repeat")],
)
def test_republish_that_fails_half_way_does_not_leave_the_relay_paused(
    monkeypatch: pytest.MonkeyPatch, reached: bool, said: str
) -> None:
    asked: list[tuple[str, Any]] = []

    def post(self: Door, path: str, body: Any) -> Any:
        asked.append((path, body.get("holder")))
        if path == "/internal/relay/resume" and not reached:
            raise DoorError("payment does not answer", "lost")
        return {"holder": "operator.1", "quiet_after_seconds": 0}

    async def kafka_is_away(_plan: Any) -> None:
        raise DoorError("Kafka has not deleted the topic")

    monkeypatch.setattr(Door, "post", post)
    monkeypatch.setattr(republish, "_made_anew", kafka_is_away)
    monkeypatch.setattr(republish.time, "monotonic", lambda: 0.0)
    told: list[str] = []
    plan = republish.plan(
        "oms.payment.events", [Door("payment", "http://payment", (), ("oms.payment.events",))], "kafka"
    )
    with pytest.raises(DoorError, match="has not deleted"):
        republish.republish(plan, "ann", "disk lost", told.append)
    assert asked == [("/internal/relay/pause", None), ("/internal/relay/resume", "operator.1")]
    assert said in told[-1]


def test_readers_are_waited_for_until_each_was_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    topic = "oms.payment.events"
    owner = Door("payment", "http://payment", (), (topic,))
    reader = Door("order", "http://order", (topic,), ())
    status = {
        "payment": [{"outbox_oldest_age_seconds": age, "outbox_pending": 9} for age in (99.0, 0.0)],
        "order": [
            {"halted": {}, "lag": {}},
            {"halted": {f"{topic}/1": "stored offset 9 is outside the log"}, "lag": {topic: 0}},
            {"halted": {}, "lag": {topic: 4}},
            {"halted": {}, "lag": {topic: 0}},
        ],
    }

    def get(self: Door, path: str, **query: Any) -> Any:
        answers = status[self.service]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    monkeypatch.setattr(Door, "get", get)
    monkeypatch.setattr(republish.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(republish, "TELL_SECONDS", -1.0)
    told: list[str] = []
    plan = republish.plan(topic, [owner, reader], "kafka:9092")
    republish.wait_until_heard(plan, told.append)
    assert told == [
        "9 in the outbox",
        "order does not read it yet",
        "order is halted: stored offset 9 is outside the log",
        "order is 4 behind",
        "order is there",
    ]
