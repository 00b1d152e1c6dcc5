"""Sourcing serves all or nothing, from as few and as near locations as its rule says."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from libs.events.base import Destination, ReservedLine
from libs.events.inventory import ShortLine
from libs.events.order import RequestedLine
from services.inventory.domain.network import Location, Network, distance_to
from services.inventory.domain.sourcing import Plan, Supply, source

KILOMETRES = {"A": 10.0, "B": 30.0, "C": 20.0, "D": 40.0}


def line(line_id: str, sku: str, qty: int, node: str | None = None) -> RequestedLine:
    return RequestedLine(line_id=line_id, sku=sku, qty=qty, node=node)


def plan(supply: Supply, *lines: RequestedLine, split: str = "ALLOW") -> Plan:
    return source(lines, supply, KILOMETRES.__getitem__, "NO" if split == "NO" else "ALLOW")


def served(result: Plan) -> list[tuple[str, str, int]]:
    assert not result.short
    return [(line.line_id, line.location, line.qty) for line in result.lines]


def short(result: Plan) -> list[tuple[str, int, int]]:
    assert not result.lines
    return [(line.line_id, line.qty, line.available) for line in result.short]


def test_one_location_for_all_lines_wins_over_nearer_ones_for_some() -> None:
    supply = {"X": {"A": 5, "D": 5}, "Y": {"B": 5, "D": 5}}
    assert served(plan(supply, line("1", "X", 2), line("2", "Y", 1))) == [("1", "D", 2), ("2", "D", 1)]


def test_several_locations_could_serve_all_and_the_nearest_does() -> None:
    supply = {"X": {"B": 5, "C": 5, "D": 9}}
    assert served(plan(supply, line("1", "X", 5))) == [("1", "C", 5)]


def test_equally_near_locations_are_taken_by_name() -> None:
    supply = {"X": {"E": 5, "A": 5}}
    assert source([line("1", "X", 1)], supply, lambda _: 7.0, "ALLOW").lines == (
        ReservedLine(line_id="1", sku="X", location="A", qty=1),
    )


def test_split_order_takes_the_location_with_most_units_first() -> None:
    supply = {"X": {"A": 1, "D": 4}, "Y": {"B": 1, "C": 1}}
    assert served(plan(supply, line("1", "X", 5), line("2", "Y", 1))) == [("1", "D", 4), ("1", "A", 1), ("2", "C", 1)]


def test_units_beyond_what_is_wanted_do_not_count_as_most() -> None:
    supply = {"X": {"A": 2, "C": 900}, "Y": {"A": 2, "B": 2}, "Z": {"B": 2}}
    asked = line("1", "X", 2), line("2", "Y", 2), line("3", "Z", 2)
    assert served(plan(supply, *asked)) == [("1", "A", 2), ("2", "A", 2), ("3", "B", 2)]


def test_lines_of_one_sku_share_its_units() -> None:
    supply = {"X": {"A": 3, "B": 2}}
    asked = line("1", "X", 2), line("2", "X", 3)
    assert served(plan(supply, *asked)) == [("1", "A", 2), ("2", "A", 1), ("2", "B", 2)]


def test_lines_of_one_sku_that_ask_for_more_than_there_is_are_short() -> None:
    assert short(plan({"X": {"A": 3}}, line("1", "X", 2), line("2", "X", 2))) == [("2", 2, 1)]


def test_order_not_to_be_split_is_served_by_the_one_location_that_can() -> None:
    supply = {"X": {"A": 1, "C": 2}, "Y": {"B": 2, "C": 2}}
    asked = line("1", "X", 2), line("2", "Y", 2)
    assert served(plan(supply, *asked, split="NO")) == [("1", "C", 2), ("2", "C", 2)]


def test_order_not_to_be_split_is_short_by_what_the_best_location_lacks() -> None:
    supply = {"X": {"A": 2}, "Y": {"A": 1, "B": 2}}
    asked = line("1", "X", 2), line("2", "Y", 2)
    assert short(plan(supply, *asked, split="NO")) == [("2", 2, 1)]


def test_order_not_to_be_split_but_bound_to_two_nodes_is_refused() -> None:
    supply = {"X": {"A": 5, "B": 5}}
    asked = line("1", "X", 1, "A"), line("2", "X", 2, "B")
    assert short(plan(supply, *asked, split="NO")) == [("1", 1, 0)]


def test_line_bound_to_a_node_is_served_there_though_others_are_nearer() -> None:
    assert served(plan({"X": {"A": 5, "D": 5}}, line("1", "X", 1, "D"))) == [("1", "D", 1)]


def test_line_bound_to_a_node_that_lacks_it_is_short_whatever_others_have() -> None:
    assert short(plan({"X": {"A": 5, "D": 1}}, line("1", "X", 2, "D"))) == [("1", 2, 1)]
    assert short(plan({"X": {"A": 5}}, line("1", "X", 2, "Z"))) == [("1", 2, 0)]


def test_bound_line_goes_before_a_free_one_at_its_node() -> None:
    supply = {"X": {"A": 2, "B": 1}}
    asked = line("1", "X", 1), line("2", "X", 2, "A")
    assert served(plan(supply, *asked)) == [("1", "B", 1), ("2", "A", 2)]


def test_free_lines_ship_with_bound_ones_where_that_saves_a_parcel() -> None:
    supply = {"W": {"A": 1}, "X": {"D": 1}, "Y": {"B": 5, "D": 5}, "Z": {"A": 5, "B": 5}}
    asked = line("1", "W", 1), line("2", "X", 1, "D"), line("3", "Y", 5), line("4", "Z", 5)
    assert served(plan(supply, *asked)) == [("1", "A", 1), ("2", "D", 1), ("3", "D", 5), ("4", "A", 5)]


def test_nothing_anywhere_is_short_of_everything() -> None:
    expected = (ShortLine(line_id="1", sku="X", qty=2, available=0),)
    assert plan({"X": {}}, line("1", "X", 2)) == Plan(short=expected)
    assert plan({"X": {}}, line("1", "X", 2), split="NO") == Plan(short=expected)


SUPPLIES = st.fixed_dictionaries(
    {sku: st.dictionaries(st.sampled_from("ABCD"), st.integers(1, 4), max_size=4) for sku in "XYZ"}
)
LINES = st.lists(
    st.tuples(st.sampled_from("XYZ"), st.integers(1, 4), st.sampled_from([None, None, None, "A", "B", "Q"])),
    min_size=1,
    max_size=5,
)


@given(SUPPLIES, LINES, st.sampled_from(["ALLOW", "NO"]))
def test_any_plan_is_whole_within_the_supply_and_refused_only_if_impossible(
    supply: Supply, asked: list[tuple[str, int, str | None]], split: str
) -> None:
    lines = [line(str(number), *fields) for number, fields in enumerate(asked)]
    result = plan(supply, *lines, split=split)
    if result.short:
        assert not result.lines
        assert not _possible(lines, supply, split)
        assert all(0 <= missing.available < missing.qty for missing in result.short)
    else:
        _check_served(lines, supply, result, split)


def _check_served(lines: list[RequestedLine], supply: Supply, result: Plan, split: str) -> None:
    given_out = dict.fromkeys(((part.sku, part.location) for part in result.lines), 0)
    for part in result.lines:
        given_out[part.sku, part.location] += part.qty
    assert all(qty <= supply[sku][location] for (sku, location), qty in given_out.items())
    for asked in lines:
        parts = [part for part in result.lines if part.line_id == asked.line_id]
        assert sum(part.qty for part in parts) == asked.qty
        assert {part.sku for part in parts} == {asked.sku}
        assert asked.node is None or {part.location for part in parts} == {asked.node}
    if split == "NO":
        assert len({part.location for part in result.lines}) == 1


def _possible(lines: list[RequestedLine], supply: Supply, split: str) -> bool:
    """An oracle that shares nothing with the code: any one location, or units given out one by one."""
    if split == "NO":
        return any(_possible(lines, _only(supply, here), "ALLOW") for here in "ABCD")
    left = {sku: dict(locations) for sku, locations in supply.items()}
    for asked in sorted(lines, key=lambda asked: asked.node is None):
        for _ in range(asked.qty):
            places = [here for here, units in left[asked.sku].items() if units and asked.node in (None, here)]
            if not places:
                return False
            left[asked.sku][places[0]] -= 1
    return True


def _only(supply: Supply, here: str) -> Supply:
    return {sku: {here: locations[here]} if here in locations else {} for sku, locations in supply.items()}


def test_distances_are_those_of_the_globe() -> None:
    places = {
        "berlin": Location("Berlin", "DE", 52.52, 13.405),
        "paris": Location("Paris", "FR", 48.8566, 2.3522),
        "suva": Location("Suva", "FJ", -18.1248, 178.4501),
        "apia": Location("Apia", "WS", -13.8507, -171.7514),
        "antipode": Location("South of New Zealand", "NZ", -52.52, -166.595),
    }
    from_berlin = distance_to(Destination(country="DE", lat=52.52, lon=13.405), Network(places))
    from_suva = distance_to(Destination(country="FJ", lat=-18.1248, lon=178.4501), Network(places))
    assert from_berlin("berlin") == 0
    assert 876 < from_berlin("paris") < 879
    assert 20_014 < from_berlin("antipode") < 20_016
    assert 1_130 < from_suva("apia") < 1_160  # across the date line
    ways = [from_berlin(name) for name in ("berlin", "paris", "antipode")]
    assert all(near < far for near, far in pairwise(ways))
