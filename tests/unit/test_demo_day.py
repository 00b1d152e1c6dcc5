from datetime import UTC, date, datetime
from typing import Any

import pytest

from oms.demo.day import BUSIEST_DAY, Basket, Day, Line, cents, day_of, load_day


def row(**fields: Any) -> dict[str, Any]:
    return {
        "household_id": 64,
        "store_id": 340,
        "basket_id": 1,
        "product_id": 7,
        "quantity": 1,
        "sales_value": 1.59,
        "retail_disc": 0.0,
        "coupon_disc": 0.0,
        "coupon_match_disc": 0.0,
        "transaction_timestamp": datetime(2017, 12, 24, 8, 30),  # noqa: DTZ001  naive, as in the data
        **fields,
    }


def day(*rows: dict[str, Any]) -> Day:
    return day_of(BUSIEST_DAY, rows)


def test_basket_becomes_an_order_with_its_lines() -> None:
    assert day(row(), row(product_id=8, quantity=2, sales_value=3.0)).baskets == (
        Basket(
            basket_id="1",
            store="340",
            household="64",
            placed_at=datetime(2017, 12, 24, 8, 30, tzinfo=UTC),
            lines=(Line(sku="7", qty=1, amount=159, discount=0), Line(sku="8", qty=2, amount=300, discount=0)),
        ),
    )


def test_discounts_are_added_to_the_shelf_price_and_the_customer_pays_the_rest() -> None:
    line = day(row(sales_value=3.75, retail_disc=0.58, coupon_disc=0.25, coupon_match_disc=0.25)).baskets[0].lines[0]
    assert line == Line(sku="7", qty=1, amount=375 + 58 + 25, discount=58 + 25 + 25)
    assert line.paid == 375 - 25


def test_coupon_above_the_value_of_its_line_makes_it_free_not_negative() -> None:
    line = day(row(sales_value=0.5, coupon_disc=1.0), row(product_id=8)).baskets[0].lines[0]
    assert line.paid == 0


def test_lines_without_quantity_or_value_are_dropped_and_counted() -> None:
    found = day(row(), row(product_id=8, quantity=0), row(product_id=9, sales_value=0.0), row(product_id=10))
    assert [line.sku for line in found.baskets[0].lines] == ["7", "10"]
    assert found.lines_dropped == 2


def test_basket_of_nothing_else_and_basket_with_nothing_to_pay_are_dropped_and_counted() -> None:
    found = day(row(), row(basket_id=2, quantity=0), row(basket_id=3, sales_value=1.0, coupon_disc=1.0))
    assert [basket.basket_id for basket in found.baskets] == ["1"]
    assert found.baskets_dropped == 2


def test_baskets_come_in_the_order_of_their_times() -> None:
    found = day(row(transaction_timestamp=datetime(2017, 12, 24, 9)), row(basket_id=2))  # noqa: DTZ001
    assert [basket.basket_id for basket in found.baskets] == ["2", "1"]


@pytest.mark.parametrize(
    ("dollars", "expected"), [(1.59, 159), (0.1 + 0.2, 30), (2.675, 268), (0.0, 0), (250.0, 25000)]
)
def test_dollars_become_cents_by_their_decimal_and_not_by_their_float(dollars: float, expected: int) -> None:
    assert cents(dollars) == expected


def test_the_day_of_the_data_set_is_as_counted() -> None:
    pytest.importorskip("pyarrow")
    found = load_day()
    lines = [line for one in found.baskets for line in one.lines]
    assert found.day == date(2017, 12, 24)
    assert (len(found.baskets), found.baskets_dropped) == (644, 1)
    assert (len(lines), found.lines_dropped) == (5749, 40)
    assert all(line.qty > 0 and line.amount >= line.discount >= 0 for line in lines)
