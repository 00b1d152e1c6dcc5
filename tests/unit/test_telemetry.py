"""What a process says of itself: names and labels from one table, spans under the right trace, logs without values."""

import ast
import gc
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import asyncpg
import pytest
import structlog
from asyncpg.exceptions._base import DataError as GivenWrongly
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel

from libs.events.codec import EVENT_CLASSES
from libs.runtime import lag as lag_module
from libs.runtime import logs, telemetry
from libs.runtime.instruments import COUNTERS, CounterName, GaugeName, HistogramName
from libs.runtime.intake import Record
from libs.runtime.lag import Lag
from libs.runtime.storage import Partition
from libs.testing.metric_docs import TABLES, prometheus_name, with_metrics
from services.tracking.views.duration import durations
from services.tracking.views.model import Milestones, OrderTracking

ROOT = Path(__file__).parents[2]
IDS = {"order_id", "stream_id", "event_id", "correlation_id", "key", "sku", "trace_id", "email", "customer_id"}
SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_every_name_is_in_the_table_once_and_no_id_is_a_label() -> None:
    names = {name for kind in (CounterName, GaugeName, HistogramName) for name in get_args(kind)}
    assert names == {name for table in TABLES.values() for name in table}
    shown = [prometheus_name(name, kind, one.unit) for kind, table in TABLES.items() for name, one in table.items()]
    assert len(shown) == len(set(shown))
    for kind, table in TABLES.items():
        for name, one in table.items():
            assert one.meaning, name
            assert not IDS & one.labels.keys(), name
            assert list(one.buckets) == sorted(set(one.buckets)), name
            assert bool(one.buckets) is (kind == "histogram"), name


def test_table_in_the_docs_is_that_of_the_code() -> None:
    page = (ROOT / "docs/telemetry.md").read_text()
    assert page == with_metrics(page), "run `make golden`"


def words_given(function: str, keyword: str | None) -> Iterator[tuple[str, Any]]:
    """Where the code calls a function of telemetry: the constant given as the first argument, or by keyword."""
    gc.collect()  # a finalizer's warning in the middle of a parse ends it with a SystemError in Python 3.11
    for path in (ROOT / "libs/runtime").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == function:
                named = [word.value for word in node.keywords if word.arg == keyword]
                for given in named if keyword else node.args[:1]:
                    yield path.name, given.value if isinstance(given, ast.Constant) else None


def test_alarms_and_retries_begin_at_nothing() -> None:
    """What the table does not list would begin at 1, and an alert on its increase would miss the first."""
    for function, keyword, counter, label in (
        ("alarm", None, "oms.alarms", "what"),
        ("count", "why", "oms.retries", "why"),
    ):
        used = {word for _, word in words_given(function, keyword)}
        assert used == set(COUNTERS[counter].labels[label]), counter  # type: ignore[index]


@pytest.mark.parametrize("name", [name for name, cls in EVENT_CLASSES.items() if cls.counted_by])
def test_what_events_are_counted_by_has_few_values(name: str) -> None:
    cls = EVENT_CLASSES[name]
    annotation = cls.model_fields[cls.counted_by].annotation
    assert get_origin(annotation) is Literal
    assert 1 < len(get_args(annotation)) < 10


# --- lag and durations -----------------------------------------------------------------------------------------------

ONE, TWO = Partition("t", 0), Partition("t", 1)


class Watch:
    """The time, as lag.py asks it, and what it observes."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.observed: list[tuple[float, Mapping[str, str]]] = []

    def time(self) -> float:
        return self.now

    def observe(self, _name: str, value: float, **labels: str) -> None:
        self.observed.append((value, labels))


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr(lag_module, "time", watch)
    monkeypatch.setattr(lag_module, "telemetry", watch)
    return watch


def heard(partition: Partition, *at: float) -> list[Record]:
    return [
        Record(partition, offset, b"", (), b"", datetime.fromtimestamp(moment, UTC)) for offset, moment in enumerate(at)
    ]


def test_lag_is_nothing_without_records_to_handle_and_grows_from_the_last_time_that_was_so(watch: Watch) -> None:
    lag = Lag()
    watch.now = 1_100
    assert lag.seconds({ONE: 0}) == {ONE: 0}
    watch.now = 1_130
    assert lag.seconds({ONE: 5}) == {ONE: 30}


def test_oldest_record_is_not_older_than_the_last_one_handled(watch: Watch) -> None:
    lag = Lag()
    watch.now = 1_200
    lag.handled(heard(ONE, 1_100, 1_150))
    assert lag.seconds({ONE: 5, TWO: 1}) == {ONE: 50, TWO: 200}
    lag.handled(heard(ONE, 900))
    assert lag.seconds({ONE: 5})[ONE] == 50, "what is read again does not make the rest older"


def test_backlog_found_at_the_start_is_as_old_as_its_records(watch: Watch) -> None:
    lag = Lag()
    lag.seconds({ONE: 100})
    lag.handled(heard(ONE, 400))
    assert lag.seconds({ONE: 99}) == {ONE: 0}, "the process has only just begun to look"
    watch.now = 1_010
    assert lag.seconds({ONE: 99})[ONE] == 10


def test_partition_that_moved_to_another_member_is_forgotten(watch: Watch) -> None:
    lag = Lag()
    lag.handled(heard(ONE, 990))
    lag.seconds({})
    watch.now = 1_050
    assert lag.seconds({ONE: 1}) == {ONE: 50}, "since this process began"


def test_delay_is_that_of_the_oldest_record_of_a_topic(watch: Watch) -> None:
    Lag().handled([*heard(ONE, 990, 999), *heard(TWO, 980), *heard(Partition("u", 0), 1_001)])
    assert watch.observed == [(20, {"topic": "t"}), (0, {"topic": "u"})]


RECEIVED = datetime(2026, 1, 5, 10, tzinfo=UTC)


def tracked(**milestones: datetime) -> OrderTracking:
    return OrderTracking(order_id="O1", milestones=Milestones(**milestones))


def test_duration_is_told_once_when_both_ends_are_known() -> None:
    later = RECEIVED + timedelta(seconds=4)
    before, after = tracked(dispatched_at=later), tracked(dispatched_at=later, received_at=RECEIVED)
    assert durations(None, before) == {}, "the order itself has not been heard of yet"
    assert durations(before, after) == {"dispatched": 4}
    again = after.model_copy(update={"milestones": after.milestones.model_copy(update={"confirmed_at": later})})
    assert durations(after, again) == {"confirmed": 4}
    assert durations(again, again.model_copy(update={"exception": True})) == {}


# --- traces ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", lambda: provider.get_tracer("oms"))
    return exporter


def test_trace_that_its_beginner_did_not_sample_is_carried_on_and_not_recorded(spans: InMemorySpanExporter) -> None:
    unsampled = SAMPLED[:-1] + "0"
    with telemetry.span("decide", unsampled) as carried:
        assert carried == unsampled
    assert spans.get_finished_spans() == ()


def test_sampled_trace_goes_on_under_its_own_id(spans: InMemorySpanExporter) -> None:
    with telemetry.span("decide", SAMPLED, stream_id="order-1") as carried:
        pass
    (span,) = spans.get_finished_spans()
    assert carried == f"00-{SAMPLED[3:35]}-{span.context.span_id:016x}-01"
    assert f"{span.parent.span_id:016x}" == SAMPLED[36:52]
    assert span.attributes == {"oms.stream_id": "order-1"}


@pytest.mark.parametrize(("ratio", "recorded"), [(0.0, 0), (1.0, 50)])
def test_ratio_decides_where_a_trace_begins_and_it_always_has_a_context(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, ratio: float, recorded: int
) -> None:
    monkeypatch.setattr(telemetry, "_ratio", ratio)
    for _ in range(50):
        with telemetry.span("decide", "") as carried:
            assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", carried)
        assert int(carried[-1], 16) % 2 == bool(recorded)
    assert len(spans.get_finished_spans()) == recorded


def test_span_of_what_failed_tells_the_kind_of_error_and_not_its_words(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError), telemetry.span("decide", SAMPLED):
        raise ValueError("anna@example.org")
    (span,) = spans.get_finished_spans()
    assert (span.status.description, span.events) == ("ValueError", ())


def test_process_has_the_name_that_opentelemetry_s_variables_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert telemetry.resource_of("oms-order").attributes["service.name"] == "oms-order"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "orders-eu")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod")
    named = telemetry.resource_of("oms-order").attributes
    assert (named["service.name"], named["service.namespace"]) == ("orders-eu", "oms")
    assert named["deployment.environment.name"] == "prod"


# --- logs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged, as the process would: structlog and libraries alike."""
    gc.collect()  # what other tests have left behind has its last words now
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers, root.level
    with redirect_stdout(io.StringIO()) as text:
        logs.configure("oms-test", "INFO")
        structlog.configure(cache_logger_on_first_use=False)
        yield text
    structlog.configure(**before)
    root.handlers = handlers
    root.setLevel(level)


class Customer(BaseModel):
    age: int


def invalid() -> None:
    secret = "Anna Canary"
    Customer.model_validate({"age": secret})


def test_exception_of_a_library_is_one_json_line_without_what_was_given(lines: io.StringIO) -> None:
    try:
        invalid()
    except ValueError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    (line,) = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert (line["service"], line["level"], line["logger"]) == ("oms-test", "error", "uvicorn.error")
    assert line["exceptions"][0]["what"].startswith("ValidationError: age: Input should be a valid integer")
    assert any("invalid" in place for place in line["exceptions"][0]["where"])
    assert "Canary" not in lines.getvalue()


def test_causes_of_an_exception_are_told_as_well(lines: io.StringIO) -> None:
    try:
        try:
            invalid()
        except ValueError as error:
            raise RuntimeError("cannot go on") from error
    except RuntimeError:
        structlog.get_logger().error("order.failed", order_id="O1", exc_info=True)
    line = json.loads(lines.getvalue())
    assert [one["what"].partition(":")[0] for one in line["exceptions"]] == ["RuntimeError", "ValidationError"]
    assert line["order_id"] == "O1"
    assert "Canary" not in lines.getvalue()


def test_text_that_is_no_text_is_logged_all_the_same(lines: io.StringIO) -> None:
    structlog.get_logger().error("record.parked", reason="half \ud800", offset=1 << 70)
    line = json.loads(lines.getvalue())
    assert (line["reason"], line["offset"]) == ("half \ud800", 1 << 70)


def test_libraries_are_not_heard_below_warning(lines: io.StringIO) -> None:
    logging.getLogger("aiokafka").info("record %s", b"Anna Canary")
    structlog.get_logger().debug("event.appended", stream_id="order-1")
    assert lines.getvalue() == ""


def test_line_inside_a_span_names_its_trace(lines: io.StringIO, spans: InMemorySpanExporter) -> None:
    with telemetry.span("decide", SAMPLED):
        structlog.get_logger().info("order.decided")
    (span,) = spans.get_finished_spans()
    line = json.loads(lines.getvalue())
    assert (line["trace_id"], line["span_id"]) == (SAMPLED[3:35], f"{span.context.span_id:016x}")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (asyncpg.UniqueViolationError("Anna Canary"), "UniqueViolationError 23505"),
        (asyncpg.DataError("invalid input for type integer: 'Anna Canary'"), "DataError 22000"),
        (GivenWrongly("invalid input for query argument $1: 'Anna Canary'"), "DataError"),
        (asyncpg.InterfaceError("connection is closed"), "InterfaceError: connection is closed"),
        (ConnectionError("refused"), "ConnectionError: refused"),
    ],
)
def test_words_of_an_error_are_the_driver_s_only_where_they_repeat_nothing(error: Exception, words: str) -> None:
    assert logs.words_of(error) == words
