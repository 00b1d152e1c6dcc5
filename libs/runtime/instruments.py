"""The table of all metrics: what each says, in which unit, under which labels. docs/telemetry.md is made of it.

Prometheus shows them with underscores, the unit and `_total` at the end, and each with `service_name`. No id and
nothing of a person ever becomes a label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

CounterName = Literal[
    "oms.records",
    "oms.commands.rejected",
    "oms.events.appended",
    "oms.events.published",
    "oms.effects",
    "oms.requests.refused",
    "oms.callbacks.refused",
    "oms.wakes",
    "oms.alarms",
    "oms.retries",
]
HistogramName = Literal[
    "oms.batch.size",
    "oms.batch.duration",
    "oms.commit.duration",
    "oms.record.delay",
    "oms.effect.duration",
    "oms.order.duration",
    "oms.event_loop.lag",
]
GaugeName = Literal[
    "oms.unsafe",
    "oms.dependency.up",
    "oms.consumer.lag.records",
    "oms.consumer.lag",
    "oms.consumer.halted",
    "oms.outbox.pending",
    "oms.outbox.oldest.age",
    "oms.parked.keys",
    "oms.parked.records",
    "oms.parked.oldest.age",
    "oms.effects.open",
    "oms.effects.due",
    "oms.effects.late",
    "oms.wakes.due",
    "oms.wakes.late",
    "oms.view.rows",
]


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """`unit` is "s" or, for plain numbers, empty.

    `labels` names what each label may be. A tuple lists all of its values: the series are there from the start, at 0,
    because Prometheus sees no increase in a series that begins at 1. A text says of what there are few.
    """

    meaning: str
    unit: Literal["s", ""] = ""
    labels: Mapping[str, tuple[str, ...] | str] = field(default_factory=dict)
    buckets: Sequence[float] = ()


_MILLISECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_MINUTES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
_DAYS = (*_MINUTES[2:], 3_600.0, 4 * 3_600.0, 86_400.0, 3 * 86_400.0, 7 * 86_400.0)
_SIZES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0)
_PARTITION = {"topic": "topics (libs/events/topics.py)", "partition": "partitions of the topic"}
_KIND = "kinds of call in the service's effects.py"
_SOURCE = ("records", "requests")

COUNTERS: Mapping[CounterName, Instrument] = {
    "oms.records": Instrument(
        meaning="Records of topics, by what became of them; every one of them is counted once",
        labels={"outcome": ("processed", "duplicate", "parked", "skipped")},
    ),
    "oms.commands.rejected": Instrument(
        meaning="Commands refused by the domain, from callers and from news that came too late",
        labels={"code": "codes of CommandRejected in the service's domain"},
    ),
    "oms.events.appended": Instrument(
        meaning="A service's own events, by type and, where the class names one, by the field that tells outcomes",
        labels={"type": "event types (docs/events.md)", "reason": "values of the field `counted_by` of the class"},
    ),
    "oms.events.published": Instrument(meaning="Events that Kafka has acknowledged"),
    "oms.effects": Instrument(
        meaning="Calls to the outside: `performed` or `postponed`, or why the answer was not taken",
        labels={"kind": _KIND, "outcome": "`performed`, `postponed`, and codes of an answer that was not taken"},
    ),
    "oms.requests.refused": Instrument(
        meaning="HTTP requests without a key that lets them: none, one that is not ours, or one of other scopes",
        labels={"code": ("key_missing", "key_invalid", "scope_missing")},
    ),
    "oms.callbacks.refused": Instrument(meaning="Callbacks not signed by the partner, or too old"),
    "oms.wakes": Instrument(meaning="Streams woken because a deadline had passed"),
    "oms.alarms": Instrument(
        meaning="Something that must not happen did; the log line `alarm.raised` names it",
        labels={
            "what": (
                "consumer_stuck",
                "partition_halted",
                "snapshot_unreadable",
                "wake_did_not_rest",
                "request_failed",
                "effect_failed",
                "api_keys_unreadable",
            )
        },
    ),
    "oms.retries": Instrument(
        meaning="Work begun again, by why",
        labels={"why": ("kafka_away", "kafka_commit", "postgres_away", "unavailable", "fence", "conflict")},
    ),
}

HISTOGRAMS: Mapping[HistogramName, Instrument] = {
    "oms.batch.size": Instrument(
        meaning="Records or requests that one transaction decided together",
        labels={"source": _SOURCE},
        buckets=_SIZES,
    ),
    "oms.batch.duration": Instrument(
        meaning="From taking a batch to its commit, with repeats",
        unit="s",
        labels={"source": _SOURCE},
        buckets=_MINUTES,
    ),
    "oms.commit.duration": Instrument(
        meaning="PostgreSQL's COMMIT alone: how long the disk and synchronous standbys take",
        unit="s",
        buckets=_MILLISECONDS,
    ),
    "oms.record.delay": Instrument(
        meaning="Age of a batch's oldest record, by topic, when it had been handled: the way from service to service",
        unit="s",
        labels={"topic": _PARTITION["topic"]},
        buckets=_MINUTES,
    ),
    "oms.effect.duration": Instrument(
        meaning="One call to the outside, whatever came of it", unit="s", labels={"kind": _KIND}, buckets=_MINUTES
    ),
    "oms.order.duration": Instrument(
        meaning="From an order's receipt until it first got there, in business time; shown by tracking",
        unit="s",
        labels={"until": "`confirmed`, `dispatched`, `captured`, `delivered`, `completed`"},
        buckets=_DAYS,
    ),
    "oms.event_loop.lag": Instrument(
        meaning="How much later than asked the event loop runs what is due: looked at twice a second",
        unit="s",
        buckets=_MILLISECONDS,
    ),
}

_OF_THE_DATABASE = "the same from every process of the service"

GAUGES: Mapping[GaugeName, Instrument] = {
    "oms.unsafe": Instrument(
        meaning="1 while the process runs under a finding that `OMS_ALLOW_UNSAFE` allows",
        labels={"finding": "findings of the preflight (docs/runbooks/does-not-start.md)"},
    ),
    "oms.dependency.up": Instrument(
        meaning="1 if it answered when last asked, 0 if not", labels={"dependency": ("postgres", "kafka")}
    ),
    "oms.consumer.lag.records": Instrument(
        meaning="Records to the end of the log; of each partition its owner shows it", labels=_PARTITION
    ),
    "oms.consumer.lag": Instrument(
        meaning="How old the oldest record not handled yet is, at most; 0 where there is none",
        unit="s",
        labels=_PARTITION,
    ),
    "oms.consumer.halted": Instrument(meaning="1 if the partition waits for an operator", labels=_PARTITION),
    "oms.outbox.pending": Instrument(meaning=f"Events not on Kafka yet; {_OF_THE_DATABASE}"),
    "oms.outbox.oldest.age": Instrument(
        meaning=f"Age of the oldest event not on Kafka yet; {_OF_THE_DATABASE}", unit="s"
    ),
    "oms.parked.keys": Instrument(meaning=f"Keys that are parked; {_OF_THE_DATABASE}"),
    "oms.parked.records": Instrument(meaning=f"Records that wait under them; {_OF_THE_DATABASE}"),
    "oms.parked.oldest.age": Instrument(
        meaning=f"How long the longest parked key has been parked; {_OF_THE_DATABASE}", unit="s"
    ),
    "oms.effects.open": Instrument(meaning=f"Calls intended and not answered; {_OF_THE_DATABASE}"),
    "oms.effects.due": Instrument(meaning=f"Those that are due now, under way or not; {_OF_THE_DATABASE}"),
    "oms.effects.late": Instrument(meaning=f"How long the longest due call has been due; {_OF_THE_DATABASE}", unit="s"),
    "oms.wakes.due": Instrument(meaning=f"Streams whose deadline has passed; {_OF_THE_DATABASE}"),
    "oms.wakes.late": Instrument(
        meaning=f"How long ago the oldest of these deadlines passed; {_OF_THE_DATABASE}", unit="s"
    ),
    "oms.view.rows": Instrument(
        meaning=f"Rows of views from which rows go when they are done with; {_OF_THE_DATABASE}",
        labels={"view": "views whose projection names `counted_by`", "value": "values of that field"},
    ),
}
