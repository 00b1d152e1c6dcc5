"""How long orders take: seconds from receipt to each step, told once, when the row first knows both."""

from collections.abc import Mapping

from services.tracking.views.model import Milestones, OrderTracking

STEPS = ("confirmed", "dispatched", "captured", "delivered", "completed")


def durations(before: OrderTracking | None, after: OrderTracking) -> Mapping[str, float]:
    if before is not None and before.milestones is after.milestones:
        return {}
    known = _reached(before.milestones) if before else {}
    return {step: seconds for step, seconds in _reached(after.milestones).items() if step not in known}


def _reached(milestones: Milestones) -> Mapping[str, float]:
    began = milestones.received_at
    if began is None:
        return {}
    reached = {step: getattr(milestones, f"{step}_at") for step in STEPS}
    return {step: max((at - began).total_seconds(), 0.0) for step, at in reached.items() if at is not None}
