"""Folding views in memory, and rebuilding one from the log."""

import time
from typing import Any

from bench.parts.bed import Bed
from libs.events.envelope import from_headers, headers_of
from libs.runtime.intake import recorded_of
from libs.runtime.rebuild import rebuild
from libs.runtime.storage import StoredEvent
from services.tracking.views.order import ORDER_TRACKING


def fold_rate(bed: Bed, seconds: float) -> float:
    """Events a second folded into tracking's row of an order, which is read and written as JSON once an order."""
    stored = [StoredEvent(from_headers(headers_of(step.headers)), step.data, step.key) for step in bed.journey.steps]
    events = [recorded for event in stored if (recorded := recorded_of(event)) is not None]
    heard = [recorded for recorded in events if ORDER_TRACKING.key(recorded) is not None]
    folded, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        view: Any = None
        for recorded in heard:
            view = ORDER_TRACKING.evolve(view, recorded)
        ORDER_TRACKING.view.model_validate_json(view.model_dump_json())
        folded += len(heard)
    return folded / (time.monotonic() - began)


async def rebuild_rate(bed: Bed) -> float:
    """Events a second of a whole rebuild: log read, decoded, folded, rows written, compared and swapped in."""
    began = time.monotonic()
    done = await rebuild(bed.service, bed.settings, ORDER_TRACKING.name, lambda _at, _of: None)
    assert not done.differing, f"{done.differing} rows are not as the log says"
    return done.events / (time.monotonic() - began)
