"""Sourcing: which locations serve an order, all of it or nothing.

1. A line that names a node is served there or not at all.
2. If one location can serve every line, the nearest such does.
3. An order that must not be split is refused otherwise.
4. Else nodes that lines name go first (they ship anyway), then again and again the location that serves most
   of the units still open. Ties go to the nearest, then by name.

Rule 4 is greedy: it always finds the units if they exist, but not always the fewest parcels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from libs.events.base import ReservedLine
from libs.events.inventory import ShortLine
from libs.events.order import RequestedLine

Supply = Mapping[str, Mapping[str, int]]
"""Every SKU of the lines, its locations, the units that can be promised. Only locations that may serve orders, only
units above zero."""

Rank = tuple[float, str]
Near = Callable[[str], Rank]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where every unit comes from; or, if some are missing, which lines are `short` and what they could have had."""

    lines: tuple[ReservedLine, ...] = ()
    short: tuple[ShortLine, ...] = ()


def source(
    lines: Sequence[RequestedLine], supply: Supply, distance: Callable[[str], float], split: Literal["ALLOW", "NO"]
) -> Plan:
    def near(location: str) -> Rank:
        return distance(location), location

    allotment = _Allotment(lines, supply)
    alone = _serving_all(lines, supply)
    if alone:
        allotment.serve(min(alone, key=near))
    elif split == "NO":
        allotment.serve_most(near)  # not enough, but it tells what is short
    elif _enough(lines, supply):
        _spread(allotment, near)
    else:
        allotment.serve_everywhere()
    return allotment.plan()


class _Allotment:
    """Units given to lines, one location after the other; each gives all it can at once."""

    def __init__(self, lines: Sequence[RequestedLine], supply: Supply) -> None:
        self.lines, self.supply = lines, supply
        self.missing = sum(line.qty for line in lines)
        self._open = [line.qty for line in lines]
        self._given: list[list[tuple[str, int]]] = [[] for _ in lines]
        self._served: set[str] = set()
        # A free line may be served elsewhere, so at its node a bound one goes first.
        self._bound_first = sorted(range(len(lines)), key=lambda index: lines[index].node is None)

    def serve(self, location: str) -> None:
        left = {sku: locations.get(location, 0) for sku, locations in self.supply.items()}
        for index in self._bound_first:
            line = self.lines[index]
            qty = min(self._open[index], left[line.sku])
            if qty and line.node in (None, location):
                left[line.sku] -= qty
                self._open[index] -= qty
                self.missing -= qty
                self._given[index].append((location, qty))
        self._served.add(location)

    def serve_most(self, near: Near) -> bool:
        """Lets the location serve that can serve most of what is open, of several the nearest. False: none can."""
        units = self._units()
        most = max(units.values(), default=0)
        if most:
            self.serve(min((here for here in units if units[here] == most), key=near))
        return most > 0

    def serve_everywhere(self) -> None:
        for location in {here for locations in self.supply.values() for here in locations}:
            self.serve(location)

    def _units(self) -> dict[str, int]:
        """The units that each location could serve of what is still open. The hot spot of sourcing."""
        free, bound = _wanted(self.lines, self._open)
        units: dict[str, int] = {}
        for sku, qty in free.items():
            for location, available in self.supply[sku].items():
                if location not in self._served:
                    wanted = qty + bound.get((sku, location), 0) if bound else qty
                    units[location] = units.get(location, 0) + min(wanted, available)
        return units

    def plan(self) -> Plan:
        return Plan(short=tuple(self._short())) if self.missing else Plan(lines=tuple(self._sourced()))

    def _short(self) -> list[ShortLine]:
        return [
            ShortLine(line_id=line.line_id, sku=line.sku, qty=line.qty, available=line.qty - missing)
            for line, missing in zip(self.lines, self._open, strict=True)
            if missing
        ]

    def _sourced(self) -> list[ReservedLine]:
        return [
            ReservedLine(line_id=line.line_id, sku=line.sku, location=location, qty=qty)
            for line, given in zip(self.lines, self._given, strict=True)
            for location, qty in given
        ]


def _wanted(
    lines: Sequence[RequestedLine], quantities: Sequence[int]
) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Units of every SKU still wanted wherever they are, and units of a SKU wanted at one node."""
    free: dict[str, int] = {}
    bound: dict[tuple[str, str], int] = {}
    for line, qty in zip(lines, quantities, strict=True):
        if qty and line.node is None:
            free[line.sku] = free.get(line.sku, 0) + qty
        elif qty and line.node is not None:
            free.setdefault(line.sku, 0)
            bound[line.sku, line.node] = bound.get((line.sku, line.node), 0) + qty
    return free, bound


def _serving_all(lines: Sequence[RequestedLine], supply: Supply) -> list[str]:
    """Every location that can serve all lines alone. Looks only where the rarest SKU lies."""
    nodes = {line.node for line in lines if line.node is not None}
    if len(nodes) > 1:
        return []
    needed = _needed(lines)
    rarest: Mapping[str, int] = min((supply[sku] for sku in needed), key=len, default={})
    candidates = nodes or rarest
    return [here for here in candidates if all(supply[sku].get(here, 0) >= qty for sku, qty in needed.items())]


def _enough(lines: Sequence[RequestedLine], supply: Supply) -> bool:
    """Whether all locations together can serve the lines: units are alike, so sums tell."""
    _, bound = _wanted(lines, [line.qty for line in lines])
    return all(supply[sku].get(node, 0) >= qty for (sku, node), qty in bound.items()) and all(
        sum(supply[sku].values()) >= qty for sku, qty in _needed(lines).items()
    )


def _needed(lines: Sequence[RequestedLine]) -> dict[str, int]:
    needed: dict[str, int] = {}
    for line in lines:
        needed[line.sku] = needed.get(line.sku, 0) + line.qty
    return needed


def _spread(allotment: _Allotment, near: Near) -> None:
    nodes = {line.node for line in allotment.lines if line.node is not None}
    for node in sorted(nodes, key=near):
        allotment.serve(node)
    while allotment.missing and allotment.serve_most(near):
        pass
