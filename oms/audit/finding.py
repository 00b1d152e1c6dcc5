"""What a check of the books found."""

from collections.abc import Iterable
from dataclasses import dataclass

SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check: what it says, the figures it rests on, and whatever contradicts it."""

    check: str
    figures: str
    offenders: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        return not self.offenders

    def __str__(self) -> str:
        rest = len(self.offenders) - SHOWN
        named = "; ".join(self.offenders[:SHOWN]) + (f"; and {rest} more" if rest > 0 else "")
        return f"{self.check}: {self.figures}" + (f": {named}" if named else "")


def finding(check: str, figures: str, offenders: Iterable[str]) -> Finding:
    return Finding(check=check, figures=figures, offenders=tuple(offenders))
