import pytest

from libs.events.channel import (
    OrderPlaced,
    PlacedDestination,
    PlacedPayment,
    PlacedPii,
    PlacedPolicies,
    PlacedShipping,
    PlacedTotals,
)
from libs.testing.builders import order_placed, placed_line
from libs.testing.scenario import NOW
from services.order.domain.validation import MAX_FAULTS, text_faults, validate

CARD = "4111 1111-1111 1111"


def codes(placed: OrderPlaced) -> set[tuple[str, str]]:
    return {(fault.code, fault.field) for fault in validate(placed)}


def text_codes(text: str) -> list[str]:
    return [fault.code for fault in text_faults("text", text)]


def test_order_that_adds_up_has_no_faults() -> None:
    line = placed_line(qty=3, amount=1000, tax=190, discount=1190)
    assert validate(order_placed("W-1", line, placed_line("SKU-2"), shipping=495)) == ()


@pytest.mark.parametrize("name", ["items", "shipping", "tax", "discount", "grand"])
def test_total_that_is_not_the_sum_of_the_lines_is_a_fault(name: str) -> None:
    totals = {"items": 1999, "shipping": 5, "tax": 20, "discount": 10, "grand": 2014}
    line = placed_line(amount=1999, tax=20, discount=10)
    placed = order_placed("W-1", line, shipping=5, totals=PlacedTotals(**totals))
    assert codes(placed) == set()
    wrong = placed.model_copy(update={"totals": PlacedTotals(**{**totals, name: totals[name] + 1})})
    assert codes(wrong) == {("totals_mismatch", f"totals.{name}")}


def test_discount_above_amount_and_tax_is_a_fault() -> None:
    lines = (placed_line(amount=100, tax=19, discount=120), placed_line("SKU-2", amount=500))
    assert codes(order_placed("W-1", *lines)) == {("discount_exceeds", "lines.0.discount")}


def test_line_id_used_twice_is_a_fault_but_the_same_sku_twice_is_not() -> None:
    lines = (placed_line(line_id="1"), placed_line(line_id="1"), placed_line(line_id="2"))
    assert codes(order_placed("W-1", *lines)) == {
        ("duplicate_line", "lines.0.line_id"),
        ("duplicate_line", "lines.1.line_id"),
    }


def test_currency_that_no_country_has_is_a_fault() -> None:
    assert codes(order_placed(currency="EUX")) == {("unknown_currency", "currency")}
    assert codes(order_placed(currency="JPY")) == set()


@pytest.mark.parametrize(
    ("placed", "field"),
    [
        (order_placed(payment=PlacedPayment(mode="ADOPT", auth_ref="a")), "payment.mode"),
        (order_placed(policies=PlacedPolicies(stock="ALLOW_PARTIAL")), "policies.stock"),
        (order_placed(policies=PlacedPolicies(substitute="ALLOW")), "policies.substitute"),
        (order_placed("W-1", placed_line(fulfillment="PICKUP")), "lines.0.fulfillment"),
        (
            order_placed().model_copy(update={"shipping": PlacedShipping(requested_by=NOW)}),
            "shipping.requested_by",
        ),
    ],
)
def test_what_is_not_built_yet_is_unsupported(placed: OrderPlaced, field: str) -> None:
    assert codes(placed) == {("UNSUPPORTED", field)}


def test_missing_token_is_a_fault() -> None:
    assert codes(order_placed(token="")) == {("token_missing", "payment.token")}


@pytest.mark.parametrize(
    ("placed", "field"),
    [
        (order_placed(token=CARD), "payment.token"),
        (order_placed(payment=PlacedPayment(token="t", auth_ref=CARD)), "payment.auth_ref"),
        (order_placed(pii=PlacedPii(customer_id=CARD)), "pii.customer_id"),
        (order_placed(pii=PlacedPii(email=CARD)), "pii.email"),
        (order_placed(pii=PlacedPii(ship_to={"name": CARD})), "pii.ship_to"),
        (order_placed(pii=PlacedPii(bill_to={CARD: "name"})), "pii.bill_to"),
    ],
)
def test_card_number_in_any_free_text_is_detected_and_not_repeated(placed: OrderPlaced, field: str) -> None:
    assert codes(placed) == {("pan_detected", field)}
    assert "1111" not in str(validate(placed))


def test_postal_code_is_checked_too() -> None:
    destination = PlacedDestination(country="DE", postal_code="10\x00115", lat=52.5, lon=13.4)
    assert codes(order_placed(destination=destination)) == {("text_invalid", "destination.postal_code")}


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111111",
        "pay with 5555-5555-5555-4444 please",
        "378282246310005",
        "flat 12 4111 1111 1111 1111",
        "6011 0009 9013 9424 24",
        "4222222222222",
        "6304000000000000000",
        "card4111111111111111",
        "41111111-1111-1111-1100-000000000000",
        "5f0b1c2e-8d3a-4c5b-9e6f-7a8b9c0d1e2f 4111111111111111",
    ],
)
def test_digits_that_pass_luhn_are_a_card_number(text: str) -> None:
    assert text_codes(text) == ["pan_detected"]


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112",
        "411111111111",
        "41111111111111111111111111111111",
        "+4111111111111111",
        "0000000000000000",
        "tok_visa",
        "",
        "bc64e87f-4111-4111-9111-1001ab50c1d2",
        "bc64e87f4111111111111111ab50c1d2",
        "bc64e87f4111111111111111ab50c1d2".upper(),
    ],
)
def test_other_digits_are_no_card_number(text: str) -> None:
    assert text_codes(text) == []


@pytest.mark.parametrize(
    "text", ["a\x00", "a\nb", "\x7f", "a\u202eb", "a\u200bb", "a\ud800", "e\u0301", "a\u2028b", "\x85"]
)
def test_text_that_is_not_printable_or_not_nfc_is_invalid(text: str) -> None:
    assert text_codes(text) == ["text_invalid"]


@pytest.mark.parametrize("text", ["Zoë Straße", "東京都", "👩\u200d🌾", "نمی\u200cخواهم", "a\u00a0b", "O'Neill"])
def test_names_of_the_world_are_valid(text: str) -> None:
    assert text_codes(text) == []


def test_faults_are_listed_together_but_not_without_end() -> None:
    assert len(codes(order_placed(token="", currency="EUX"))) == 2
    lines = (placed_line(line_id="1", amount=1),) * 200
    assert len(validate(order_placed("W-1", *lines))) == MAX_FAULTS
