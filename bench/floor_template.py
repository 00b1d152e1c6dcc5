"""A recorded journey as the floor replays it: for each step, which steps of which service follow, and how."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.journey import Journey

PLACED = -1
"""The step before the first: the order as the channel placed it."""


@dataclass(frozen=True, slots=True)
class FloorStep:
    """`stream` and the keys of views are patterns of the order's number and its SKU's."""

    event_type: str
    schema_version: int
    stream: str
    data: bytes
    metadata: bytes
    headers: Sequence[tuple[str, bytes]]
    topic: str
    called: str


class Template:
    def __init__(self, journey: Journey) -> None:
        skus = {step.stream_id.removeprefix("stock-") for step in journey.steps if step.stream_id.startswith("stock-")}
        assert len(skus) == 1, "the floor replays an order of one line"
        (sku,) = skus

        def pattern(text: str) -> str:
            return text.replace(journey.order_id, "{order}").replace(sku, "SKU-{sku}")

        self.view_bytes: Mapping[str, bytes] = journey.view_bytes
        self.followers: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.answers: dict[tuple[str, int], dict[int, list[int]]] = defaultdict(dict)
        self.views: dict[tuple[str, int], list[tuple[str, str]]] = {}
        self.steps: list[FloorStep] = []
        self.last = PLACED
        for number, step in enumerate(journey.steps):
            cause = PLACED if step.cause is None else step.cause
            if step.called:
                self.answers[step.service, cause].setdefault(step.decision, []).append(number)
            else:
                self.followers[step.service, cause].append(number)
            self.views[step.service, number] = [(view, pattern(key)) for view, key in step.views]
            self.views["tracking", number] = [("order_tracking", "{order}")] if not _stock(step.stream_id) else []
            if step.name == "OrderCompleted":
                self.last = number
            self.steps.append(
                FloorStep(
                    event_type=step.event_type,
                    schema_version=step.schema_version,
                    stream=pattern(step.stream_id),
                    data=step.data,
                    metadata=step.metadata,
                    headers=[(name, value) for name, value in step.headers if name not in _OWN],
                    topic=step.topic.replace("oms.", "floor."),
                    called=step.called,
                )
            )


_OWN = ("ce_subject", "ce_aggregateversion")


def _stock(stream_id: str) -> bool:
    """Streams that tracking does not hear of."""
    return stream_id.startswith(("stock-", "network-"))
