"""I-14 to I-17: the topics, the positions, and the stores behind them."""

from collections import Counter
from collections.abc import Iterator

from tests.faults.oracle.history import OWN_TOPICS, TOPIC_OF, Fact, History, Sent, Violation


def published(history: History) -> Iterator[Violation]:
    """I-14 and I-17: per stream the first occurrences are versions 1 to n, in order, with the bytes of the store."""
    facts = {(fact.stream, fact.version): fact for fact in history.all()}
    told: Counter[str] = Counter()
    homes: dict[str, tuple[str, int]] = {}
    for sent in history.records:
        if sent.topic not in OWN_TOPICS or sent.place in history.injected:
            continue
        stream, version = sent.stream, sent.version
        fact = facts.get((stream, version))
        if fact is None:
            yield Violation("I-17", f"{sent.place}", f"{stream} @{version} is in no store")
            continue
        yield from _same(sent, fact)
        home = homes.setdefault(stream, (sent.topic, sent.partition))
        if home != (sent.topic, sent.partition):
            yield Violation("I-14", stream, f"is on {home} and on {sent.place}")
        if version == told[stream] + 1:
            told[stream] = version
        elif version > told[stream]:
            yield Violation("I-14", stream, f"@{version} comes at {sent.place} after @{told[stream]}")
            told[stream] = version
    for fact in facts.values():
        if fact.version > told[fact.stream] and fact.position not in history.outbox.get(fact.service, set()):
            yield Violation("I-14", fact.stream, f"@{fact.version} {fact.name} left the outbox and is not in Kafka")


def _same(sent: Sent, fact: Fact) -> Iterator[Violation]:
    subject = f"{fact.stream} @{fact.version}"
    if sent.value != fact.raw:
        yield Violation("I-14", subject, f"other bytes at {sent.place} than in the store")
    if sent.topic != TOPIC_OF.get(fact.category):
        yield Violation("I-14", subject, f"is on {sent.topic}")
    if sent.header("ce_id") != fact.id or sent.header("ce_type") != fact.type:
        yield Violation("I-14", subject, f"other id or type at {sent.place} than in the store")
    if (sent.key or b"").decode(errors="replace") != fact.meta.get("key"):
        yield Violation("I-14", subject, f"key {sent.key!r} at {sent.place}, {fact.meta.get('key')!r} in the store")


def accounted(history: History) -> Iterator[Violation]:
    """I-15 and I-16: every record was processed, a duplicate, parked or skipped; the position is behind the last."""
    for service, positions in history.counters.items():
        for (topic, partition), counts in positions.items():
            subject = f"{service} {topic}/{partition}"
            judged = counts.processed + counts.duplicate + counts.parked + counts.skipped
            again = (service, topic) in history.rewound  # counters go on counting what is read once more
            if judged < counts.next_offset or (judged > counts.next_offset and not again):
                yield Violation("I-15", subject, f"{judged} records accounted for of {counts.next_offset}: {counts}")
            end = history.ends.get((topic, partition))
            if end is not None and counts.next_offset != end:
                yield Violation("I-16", subject, f"stands at {counts.next_offset}, the log ends at {end}")
    held: Counter[tuple[str, int]] = Counter((sent.topic, sent.partition) for sent in history.records)
    for place, end in history.ends.items():
        if held[place] != end:
            yield Violation("I-15", f"{place}", f"the log ends at {end} and holds {held[place]} records: a hole")


def parked_with_reason(history: History) -> Iterator[Violation]:
    """I-15: only what the campaign spoilt is parked, each with a reason."""
    for service, rows in history.parked.items():
        spoilt = {(topic, row.key) for row in rows for topic in [row.topic] if _place(row) in history.injected}
        for row in rows:
            subject = f"{service} {row.topic}/{row.partition}@{row.offset}"
            if not row.reason:
                yield Violation("I-15", subject, "is parked without a reason")
            if _place(row) not in history.injected and (row.topic, row.key) not in spoilt:
                yield Violation("I-15", subject, f"a good record is parked: {row.reason}")


def _place(row: object) -> tuple[str, int, int]:
    return row.topic, row.partition, row.offset  # type: ignore[attr-defined]


def never_back(history: History) -> Iterator[Violation]:
    """I-16: sampled while it ran, no position ever went back."""
    last: dict[tuple[str, str, int], int] = {}
    for sample in history.samples:
        for place, offset in sample.items():
            if offset < last.get(place, 0) and place[:2] not in history.rewound:
                yield Violation("I-16", f"{place}", f"went back from {last[place]} to {offset}")
            last[place] = offset


def heard_all(history: History) -> Iterator[Violation]:
    """I-14, at the far end: tracking's copy has every event of every topic that it reads, byte for byte."""
    topics = {topic for topic, _ in history.counters.get("tracking", {})}
    for fact in history.all():
        if TOPIC_OF.get(fact.category) not in topics:
            continue
        copy = history.heard.get((fact.stream, fact.version))
        if copy is None:
            yield Violation("I-14", fact.stream, f"@{fact.version} {fact.name} never came to tracking")
        elif copy != fact.raw:
            yield Violation("I-14", fact.stream, f"@{fact.version} came to tracking with other bytes")


CHECKS = (published, accounted, parked_with_reason, never_back, heard_all)
