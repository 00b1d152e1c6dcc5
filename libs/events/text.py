"""Free text from people: what may be stored of it. The same rules at every door."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from libs.events.base import UUID, Text

_JOINERS = "\u200c\u200d"  # invisible, but Persian, Indic scripts and emoji are misspelled without them
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_DIGITS = re.compile(r"\+?[0-9](?:[ -]*[0-9]){12,}")
_RANDOM_ID = re.compile(rf"\b(?=[0-9-]{{0,35}}[a-fA-F])(?:[0-9a-fA-F]{{32,}}|{UUID})\b")
"""A UUID or longer hexadecimal number: one UUID in 700 has digits that would pass for a card's, and its customer could
never order."""


def faults_in(text: str) -> Iterator[tuple[str, str]]:
    """Code and words for each thing wrong with a text; never the text itself."""
    if not _is_clean(text):
        yield "text_invalid", "control characters, or not in Unicode form NFC"
    if any(_is_card_number(digits) for digits in _digit_runs(text)):
        yield "pan_detected", "looks like a card number"


def _faultless(text: str) -> str:
    for code, message in faults_in(text):
        raise PydanticCustomError(code, message)
    return text


FreeText = Annotated[Text, Field(min_length=1), AfterValidator(_faultless)]
"""What a person writes about what they do: a name, a reason."""


def _is_clean(text: str) -> bool:
    if text.isascii():
        return text.isprintable()
    marred = any(unicodedata.category(char) in _UNPRINTABLE and char not in _JOINERS for char in text)
    return not marred and unicodedata.is_normalized("NFC", text)


def _digit_runs(text: str) -> Iterator[str]:
    """Neighbouring groups of digits that together have 13 to 19. A leading + makes it a telephone number."""
    for run in _DIGITS.findall(_RANDOM_ID.sub("x", text)):
        groups = [] if run.startswith("+") else re.findall("[0-9]+", run)
        for start in range(len(groups)):
            digits = ""
            for group in groups[start:]:
                digits += group
                if len(digits) > 19:
                    break
                if len(digits) >= 13:
                    yield digits


def _is_card_number(digits: str) -> bool:
    """Luhn's sum holds, and the first digit is one that cards of the payment networks begin with."""
    if digits[0] not in "23456":
        return False
    doubled = (int(digit) * (1 + index % 2) for index, digit in enumerate(reversed(digits)))
    return sum(value // 10 + value % 10 for value in doubled) % 10 == 0
