"""How a simulator misbehaves: one frozen record, from the environment at first, by PUT /behaviour later."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from simulators.chance import draw, tail

Rate = Annotated[float, Field(ge=0, le=1)]
Millis = Annotated[float, Field(ge=0, le=86_400_000 * 30)]
Seconds = Annotated[float, Field(ge=0, le=86_400 * 30)]

Verdict = Literal["answer", "rate_limit", "error", "timeout_before", "timeout_after", "garbage"]

Shape = Literal[
    "html",
    "truncated",
    "huge",
    "redirect",
    "no_id",
    "other_amount",
    "smaller_amount",
    "other_currency",
    "unknown_code",
]

BEFORE_EFFECT: frozenset[Verdict] = frozenset({"rate_limit", "error", "timeout_before"})


class Behaviour(BaseSettings):
    """What all three can do. Rates are shares of idempotency keys, not of requests: a fault strikes only the first
    attempt of a key, so a retry or a look-up finds its way."""

    model_config = SettingsConfigDict(frozen=True, env_prefix="SIM_", extra="forbid", allow_inf_nan=False)

    away: bool = Field(default=False, description="close every connection that asks for /v1/…")
    delay_ms: Millis = Field(default=0, description="median time to answer, with an exponential tail")
    timeout_hold_s: Seconds = Field(default=30, description="how long a timed-out request is held before a 504")
    timeout_before_rate: Rate = Field(default=0, description="hold, and never have the effect")
    timeout_after_rate: Rate = Field(default=0, description="have the effect, then hold")
    error_rate: Rate = Field(default=0, description="500 before the effect")
    rate_limit_rate: Rate = Field(default=0, description="429 before the effect, with Retry-After")
    garbage_rate: Rate = Field(default=0, description="have the effect, then answer garbage")
    garbage: Shape | Literal["any"] = Field(
        default="html", description="any, or " + ", ".join(get_args(Shape)) + ": what garbage looks like"
    )

    def verdict(self, seed: int, key: str) -> Verdict:
        """Each fault has a draw of its own, so raising one rate leaves the other faults on the keys they were on."""
        rates: tuple[tuple[Verdict, float], ...] = (
            ("rate_limit", self.rate_limit_rate),
            ("error", self.error_rate),
            ("timeout_before", self.timeout_before_rate),
            ("timeout_after", self.timeout_after_rate),
            ("garbage", self.garbage_rate),
        )
        return next((kind for kind, rate in rates if draw(seed, kind, key) < rate), "answer")

    def delay_s(self, seed: int, key: str) -> float:
        return tail(seed, "delay", key, self.delay_ms) / 1000

    def changed(self, changes: dict[str, Any]) -> Self:
        """Names that are not mentioned keep their value."""
        return type(self)(**(self.model_dump() | changes))
