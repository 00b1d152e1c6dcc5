"""How far a consumer is behind in seconds, and how long records were on their way."""

import time
from collections.abc import Iterable, Mapping

from libs.runtime import telemetry
from libs.runtime.intake import Record
from libs.runtime.storage import Partition


class Lag:
    """How old the oldest record is, at most, that a partition has not handled yet.

    Kafka tells a record's time only to one who reads it. Two things are known without: the record is not older than the
    last one that was handled, and it came after the partition was last seen with nothing to do. The later one counts.
    """

    def __init__(self) -> None:
        self._began = time.time()
        self._since: dict[Partition, float] = {}

    def handled(self, records: Iterable[Record]) -> None:
        """To be told of every record, in order, when its batch has committed."""
        first: dict[Partition, Record] = {}
        last: dict[Partition, Record] = {}
        for record in records:
            first.setdefault(record.partition, record)
            last[record.partition] = record
        oldest: dict[str, float] = {}
        for partition, record in first.items():
            at = record.timestamp.timestamp()
            oldest[partition.topic] = min(at, oldest.get(partition.topic, at))
            self._since[partition] = max(last[partition].timestamp.timestamp(), self._since.get(partition, 0.0))
        now = time.time()
        for topic, at in oldest.items():
            telemetry.observe("oms.record.delay", max(now - at, 0.0), topic=topic)

    def seconds(self, behind: Mapping[Partition, int]) -> Mapping[Partition, float]:
        """By partition, of how many records each is behind now; others are forgotten."""
        now = time.time()
        known = {partition: self._since.get(partition, self._began) for partition in behind}
        self._since = {partition: since if behind[partition] > 0 else now for partition, since in known.items()}
        return {partition: max(now - since, 0.0) for partition, since in self._since.items()}
