"""Logs, metrics and traces of a process. What is counted, and under which labels, is in instruments.py."""

import random
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from itertools import product
from typing import Any, get_args

import structlog
from opentelemetry import metrics, trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Counter, Histogram, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from libs.events.base import Event
from libs.events.codec import event_type
from libs.events.envelope import Recorded
from libs.runtime import logs
from libs.runtime.identity import Cause
from libs.runtime.instruments import COUNTERS, GAUGES, HISTOGRAMS, CounterName, GaugeName, HistogramName

_propagator = TraceContextTextMapPropagator()
_shown: dict[GaugeName, dict[tuple[tuple[str, str], ...], float]] = {}


@cache
def _counter(name: CounterName) -> Counter:
    instrument = COUNTERS[name]
    return metrics.get_meter("oms").create_counter(name, description=instrument.meaning)


@cache
def _tracer() -> trace.Tracer:
    return trace.get_tracer("oms")


@cache
def _histogram(name: HistogramName) -> Histogram:
    instrument = HISTOGRAMS[name]
    return metrics.get_meter("oms").create_histogram(
        name,
        unit=instrument.unit,
        description=instrument.meaning,
        explicit_bucket_boundaries_advisory=instrument.buckets,
    )


def count(name: CounterName, amount: int = 1, **labels: str) -> None:
    _counter(name).add(amount, labels)


def observe(name: HistogramName, value: float, **labels: str) -> None:
    _histogram(name).record(value, labels)


def show(name: GaugeName, value: float, **labels: str) -> None:
    """Sets one series of a gauge; the others of it stay."""
    _shown.setdefault(name, {})[tuple(labels.items())] = value


def show_all(name: GaugeName, values: Mapping[tuple[str, ...], float]) -> None:
    """Sets a gauge anew, by the values of its labels in the order of the table; series that are not among them end."""
    _shown[name] = {tuple(zip(GAUGES[name].labels, at, strict=True)): value for at, value in values.items()}


def _read(name: GaugeName, _options: object) -> Iterator[Observation]:
    for labels, value in _shown.get(name, {}).items():
        yield Observation(value, dict(labels))


def appended(events: Sequence[Recorded[Any]]) -> None:
    """Counts events that were stored, and tells of each at log level DEBUG."""
    tally = Tally((item.event_type, _outcome(item.event)) for item in events)
    for (name, reason), number in tally.items():
        count("oms.events.appended", number, type=name, reason=reason)
    for item in events if at_debug else ():
        get_logger().debug(
            "event.appended",
            event_id=item.event_id,
            event_type=item.event_type,
            stream_id=item.stream_id,
            stream_version=item.stream_version,
            correlation_id=item.correlation_id,
            causation_id=item.causation_id,
            trace_id=item.traceparent[3:35],
        )


def handled(cause: Cause | None, stream_id: str, stream_version: int, outcome: str) -> None:
    """Tells what became of one record, at log level DEBUG."""
    ids = {"event_id": cause.causation_id, "correlation_id": cause.correlation_id} if cause else {}
    get_logger().debug("record.handled", outcome=outcome, stream_id=stream_id, stream_version=stream_version, **ids)


def expect(classes: Iterable[type[Event]]) -> None:
    """Lets the counts of these events begin at 0."""
    for cls in classes:
        annotation = cls.model_fields[cls.counted_by].annotation if cls.counted_by else None
        for reason in get_args(annotation) or ("",):
            count("oms.events.appended", 0, type=event_type(cls), reason=reason)


def _outcome(event: Event) -> str:
    return str(getattr(event, event.counted_by)) if event.counted_by else ""


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


at_debug = False
"""Whether the log level is DEBUG: asking costs less than a line that is dropped."""

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
    with _tracer().start_as_current_span(
        name,
        context=parent,
        attributes={f"oms.{key}": value for key, value in attributes.items()},
        kind=trace.SpanKind.CONSUMER,
        record_exception=False,  # its words and its lines of source may tell what it was given
        set_status_on_exception=False,
    ) as current:
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        try:
            yield carrier.get("traceparent", traceparent)
        except Exception as error:
            current.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise


def resource_of(service: str) -> Resource:
    """What names the process; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have the last word."""
    own = {"service.name": service, "service.namespace": "oms"}
    return Resource.create(own).merge(OTELResourceDetector().detect())


def configure(service: str, *, log_level: str, trace_ratio: float, exporter: SpanExporter | None = None) -> None:
    """Sets up the process: JSON logs on stdout, a Prometheus reader, traces sampled by ratio."""
    logs.configure(service, log_level)
    resource = resource_of(service)
    reader = PrometheusMetricReader(
        scope_info_enabled=False, resource_attribute_filter=lambda name: name == "service.name"
    )
    metrics.set_meter_provider(MeterProvider(resource=resource, metric_readers=[reader]))
    _begin_at_nothing()
    global _ratio, at_debug
    _ratio, at_debug = trace_ratio, log_level.upper() == "DEBUG"
    provider = TracerProvider(resource=resource, sampler=ParentBased(ALWAYS_ON))  # where it begins, `span` has decided
    if exporter is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def _begin_at_nothing() -> None:
    meter = metrics.get_meter("oms")
    for name, instrument in GAUGES.items():
        meter.create_observable_gauge(
            name, [partial(_read, name)], unit=instrument.unit, description=instrument.meaning
        )
    for counter, instrument in COUNTERS.items():
        known = {label: values for label, values in instrument.labels.items() if not isinstance(values, str)}
        if known.keys() == instrument.labels.keys():
            for values in product(*known.values()):
                count(counter, 0, **dict(zip(known, values, strict=True)))
