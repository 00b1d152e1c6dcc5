"""JSON from strangers: what Python's parser lets through is refused, with a stable code and without an echo."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.events import strict_json

REFUSED = {
    "NaN": (b'{"a": NaN}', "json_invalid"),
    "Infinity": (b"[Infinity]", "json_invalid"),
    "-Infinity": (b"[-Infinity]", "json_invalid"),
    "beyond a float": (b"[1e400]", "number_out_of_range"),
    "integer of 20 digits": (b"[12345678901234567890]", "number_out_of_range"),
    "integer of 5000 digits": (b"[" + b"9" * 5000 + b"]", "number_out_of_range"),
    "repeated key": (b'{"qty": 1, "qty": -5}', "duplicate_key"),
    "repeated key deeper": (b'{"a": [{"b": 1, "b": 1}]}', "duplicate_key"),
    "repeated key escaped": (b'{"qty": 1, "\\u0071ty": 2}', "duplicate_key"),
    "deep arrays": (b"[" * 33 + b"]" * 33, "json_invalid"),
    "deep objects": (b'{"a":' * 40 + b"1" + b"}" * 40, "json_invalid"),
    "deep beyond any stack": (b"[" * 100_000, "json_invalid"),
    "truncated": (b'{"a": [1, 2', "json_invalid"),
    "two values": (b"{} {}", "json_invalid"),
    "nothing": (b"", "json_invalid"),
    "not UTF-8": (b'{"a": "\xff"}', "json_invalid"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "json_invalid"),
    "byte order mark": (b"\xef\xbb\xbf{}", "json_invalid"),
    "single quotes": (b"{'a': 1}", "json_invalid"),
    "leading zero": (b"[01]", "json_invalid"),
}


@pytest.mark.parametrize(("text", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_text_that_is_no_strict_json_is_refused_with_its_code(text: bytes, code: str) -> None:
    with pytest.raises(strict_json.JsonFault) as fault:
        strict_json.loads(text)
    assert fault.value.code == code
    assert len(str(fault.value)) < 200


def test_fault_does_not_repeat_the_input() -> None:
    for text in (b'{"41111111": 1, "41111111": 2}', b'{"card": 4111111111111111', b"[4111111111111111 x]"):
        with pytest.raises(strict_json.JsonFault) as fault:
            strict_json.loads(text)
        assert "4111" not in str(fault.value)


def test_deepest_allowed_nesting_and_brackets_in_strings_are_read() -> None:
    assert strict_json.loads(b"[" * 32 + b"]" * 32)
    text = json.dumps(["[" * 200, '\\"[{' * 50]).encode()
    assert strict_json.loads(text) == json.loads(text)
    wide = b"[" + b",".join([b"{}"] * 1000) + b"]"
    assert len(strict_json.loads(wide)) == 1000


def test_hostile_text_is_refused_at_once() -> None:
    began = time.perf_counter()
    for text in (b"[" * 250_000, b'{"a":' * 50_000, b"[" + b"9" * 250_000 + b"]"):
        with pytest.raises(strict_json.JsonFault):
            strict_json.loads(text)
    assert time.perf_counter() - began < 1


PLAIN = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cf", "Co", "Cn", "Zl", "Zp")))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(-1e300, 1e300) | PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PLAIN, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_any_plain_value_comes_back_as_it_was(value: object) -> None:
    assert strict_json.loads(json.dumps(value).encode()) == value
