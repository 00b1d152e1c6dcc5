"""Logs, metrics and traces. Names are bounded: no id ever becomes a label."""

import logging
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, Literal

import structlog
from opentelemetry import metrics, trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Counter, Histogram
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

CounterName = Literal[
    "oms.records",  # by consumer and outcome: processed, duplicate, parked, skipped
    "oms.commands.rejected",  # by code
    "oms.events.appended",
    "oms.events.published",
    "oms.effects",  # by kind and outcome
    "oms.requests.refused",  # by code: without a key, with an unknown one, with one of other scopes
    "oms.callbacks.refused",  # not signed by the partner, or too old
    "oms.wakes",
    "oms.alarms",  # by what: something that must not happen did
    "oms.retries",  # by why
]
HistogramName = Literal["oms.batch.size", "oms.batch.duration"]
GaugeName = Literal["oms.unsafe"]  # by finding: 1 while the process runs under it

_propagator = TraceContextTextMapPropagator()


@cache
def _counter(name: CounterName) -> Counter:
    return metrics.get_meter("oms").create_counter(name)


@cache
def _tracer() -> trace.Tracer:
    return trace.get_tracer("oms")


@cache
def _histogram(name: HistogramName) -> Histogram:
    return metrics.get_meter("oms").create_histogram(name)


@cache
def _gauge(name: GaugeName) -> Any:
    return metrics.get_meter("oms").create_gauge(name)


def count(name: CounterName, amount: int = 1, **labels: str) -> None:
    _counter(name).add(amount, labels)


def observe(name: HistogramName, value: float, **labels: str) -> None:
    _histogram(name).record(value, labels)


def show(name: GaugeName, value: float, **labels: str) -> None:
    _gauge(name).set(value, labels)


def get_logger() -> Any:
    return structlog.get_logger()


def alarm(what: str, **details: Any) -> None:
    """Something that must not happen did: an error in the log and a counter that an alert watches."""
    count("oms.alarms", what=what)
    get_logger().error("alarm.raised", what=what, **details)


class _Unsampled:
    """Not a generator: that alone would cost more than what most commands decide."""

    __slots__ = ("_traceparent",)

    def __init__(self, traceparent: str) -> None:
        self._traceparent = traceparent

    def __enter__(self) -> str:
        return self._traceparent

    def __exit__(self, *_: object) -> None:
        return None


_ratio = 1.0
_NOT_SAMPLED = "02468ace"
"""The lowest bit of the flags says whether a trace is sampled; others are no business of ours."""


def span(name: str, traceparent: str, **attributes: str) -> AbstractContextManager[str]:
    """A span under the caller's trace; gives the `traceparent` for what follows from it.

    Whether a trace is sampled is decided where it begins. One that is not costs next to nothing: its context is passed
    on as it came.
    """
    if not traceparent and random.random() >= _ratio:
        traceparent = f"00-{random.getrandbits(128) or 1:032x}-{random.getrandbits(64) or 1:016x}-00"
    if traceparent and traceparent[-1] in _NOT_SAMPLED:
        return _Unsampled(traceparent)
    return _sampled(name, traceparent, attributes)


@contextmanager
def _sampled(name: str, traceparent: str, attributes: Mapping[str, str]) -> Iterator[str]:
    parent = _propagator.extract({"traceparent": traceparent}) if traceparent else None
    with _tracer().start_as_current_span(name, context=parent, attributes=attributes, kind=trace.SpanKind.CONSUMER):
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        yield carrier.get("traceparent", traceparent)


def configure(service: str, *, log_level: str, trace_ratio: float, exporter: SpanExporter | None = None) -> None:
    """Sets up the process: JSON logs on stdout, a Prometheus reader, traces sampled by ratio."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[log_level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    resource = Resource.create({"service.name": service, "service.namespace": "oms"})
    metrics.set_meter_provider(MeterProvider(resource=resource, metric_readers=[PrometheusMetricReader()]))
    global _ratio
    _ratio = trace_ratio
    provider = TracerProvider(resource=resource, sampler=ParentBased(ALWAYS_ON))  # where it begins, `span` has decided
    if exporter is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
