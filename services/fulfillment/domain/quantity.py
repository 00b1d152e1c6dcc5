"""Quantities of lines that may be spread over several packages."""

from collections import Counter
from collections.abc import Iterable

from libs.events.base import ReleaseLine
from libs.events.fulfillment import Package


def merged(lines: Iterable[ReleaseLine]) -> tuple[ReleaseLine, ...]:
    """One line for each line id and SKU, sorted: equal for equal goods, however they are split."""
    units: Counter[tuple[str, str]] = Counter()
    for line in lines:
        units[line.line_id, line.sku] += line.qty
    return tuple(ReleaseLine(line_id=line_id, sku=sku, qty=qty) for (line_id, sku), qty in sorted(units.items()))


def contents(packages: Iterable[Package]) -> tuple[ReleaseLine, ...]:
    return merged(line for package in packages for line in package.lines)
