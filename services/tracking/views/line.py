"""Quantities of an order's lines: each service adds to columns of its own, so that sums bear any order."""

from collections.abc import Iterable

from libs.events.base import ReleaseLine, ReservedLine
from libs.events.order import OrderLine
from services.tracking.views.model import Line


def ordered(lines: tuple[Line, ...], placed: Iterable[OrderLine]) -> tuple[Line, ...]:
    """The lines as the order names them now; a line that it no longer names and nobody touched is gone."""
    known = {line.line_id: line.model_copy(update={"ordered": 0}) for line in lines}
    for line in placed:
        before = known.get(line.line_id) or Line(line_id=line.line_id, sku=line.sku)
        known[line.line_id] = before.model_copy(update={"sku": line.sku, "ordered": line.qty})
    return _sorted(line for line in known.values() if line.ordered or line.reserved or line.shipped or line.delivered)


def moved(lines: tuple[Line, ...], quantities: Iterable[ReservedLine | ReleaseLine], **signs: int) -> tuple[Line, ...]:
    """Adds the quantities, each with the sign given, to the columns named: `moved(lines, held, reserved=1)`."""
    known = {line.line_id: line for line in lines}
    for quantity in quantities:
        line = known.get(quantity.line_id) or Line(line_id=quantity.line_id, sku=quantity.sku)
        change = {column: getattr(line, column) + sign * quantity.qty for column, sign in signs.items()}
        known[quantity.line_id] = line.model_copy(update=change)
    return _sorted(known.values())


def _sorted(lines: Iterable[Line]) -> tuple[Line, ...]:
    """Line 2 before line 10."""
    return tuple(sorted(lines, key=lambda line: (len(line.line_id), line.line_id)))
