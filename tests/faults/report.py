"""What a campaign found: a table for people, build/faults.json for machines."""

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.oracle.history import Violation

SHOWN = 6
"""Violations of one invariant in the table; the file has them all."""


@dataclass
class Struck:
    """One strike: when, for how long, and seconds from its end until orders went on (None: they never did)."""

    kind: str
    target: str
    at: float
    healed: float = 0.0
    recovery: float | None = None
    bound: float = 0.0
    alone: bool = True
    error: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class Report:
    seed: int
    drawn: Sequence[str]
    orders: int = 0
    seconds: float = 0.0
    strikes: list[Struck] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def missed(self) -> list[str]:
        """Kinds that were drawn and never struck as they should, or after which nothing went on."""
        struck = {strike.kind for strike in self.strikes if not strike.error}
        return [kind for kind in self.drawn if kind not in struck and kind not in self.skipped]

    @property
    def stuck(self) -> list[Struck]:
        return [strike for strike in self.strikes if not strike.error and strike.recovery is None]

    @property
    def late(self) -> list[Struck]:
        """Of strikes that nothing else overlapped: those that took longer than their bound."""
        return [s for s in self.strikes if s.alone and s.recovery is not None and s.recovery > s.bound]

    @property
    def sound(self) -> bool:
        return not (self.violations or self.missed or self.stuck)

    @property
    def summary(self) -> str:
        return (
            f"seed {self.seed} · {self.seconds / 60:.1f} min · {self.orders} orders · {len(self.strikes)} strikes of "
            f"{len(self.drawn) - len(self.skipped)} kinds · {len(self.violations)} violations"
        )

    def kinds(self) -> dict[str, dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {}
        for kind in self.drawn:
            mine = [strike for strike in self.strikes if strike.kind == kind]
            took = [strike.recovery for strike in mine if strike.recovery is not None]
            rows[kind] = {
                "times": len(mine),
                "recovery_p50": round(statistics.median(took), 1) if took else None,
                "recovery_max": round(max(took), 1) if took else None,
                "bound": max((strike.bound for strike in mine), default=None),
                "targets": sorted({strike.target for strike in mine}),
                "errors": [strike.error for strike in mine if strike.error],
                "skipped": self.skipped.get(kind),
            }
        return rows

    def table(self) -> str:
        lines = [f"{'kind':<28}{'times':>6}{'p50 s':>8}{'max s':>8}{'bound':>7}  on"]
        for kind, row in self.kinds().items():
            if row["skipped"]:
                lines.append(f"{kind:<28}  skipped: {row['skipped']}")
                continue
            figures = (row["times"], row["recovery_p50"], row["recovery_max"], row["bound"])
            shown = ["-" if figure is None else f"{figure:g}" for figure in figures]
            lines.append(f"{kind:<28}{shown[0]:>6}{shown[1]:>8}{shown[2]:>8}{shown[3]:>7}  {', '.join(row['targets'])}")
            lines += [f"{'':<28}  failed: {error}" for error in row["errors"]]
        lines.append("")
        lines.append(self.summary)
        lines += [f"  late: {s.kind} on {s.target} took {s.recovery:.1f} s, bound {s.bound:g}" for s in self.late]
        lines += [f"  never went on: {s.kind} on {s.target}" for s in self.stuck]
        lines += [f"  never struck: {kind}" for kind in self.missed]
        for invariant, number in sorted(Counter(violation.invariant for violation in self.violations).items()):
            told = [str(violation) for violation in self.violations if violation.invariant == invariant]
            lines += [f"  {invariant}: {number}", *(f"    {text[:400]}" for text in told[:SHOWN])]
        return "\n".join(lines)

    def markdown(self) -> str:
        """The table of docs/guarantees.md."""
        lines = [
            self.summary,
            "",
            "| kind | times | recovery p50 s | max s | bound s |",
            "| --- | --: | --: | --: | --: |",
        ]
        for kind, row in sorted(self.kinds().items()):
            figures = (row["times"], row["recovery_p50"], row["recovery_max"], row["bound"])
            shown = ["–" if figure is None else f"{figure:g}" for figure in figures]
            lines.append(f"| `{kind}` | {' | '.join(shown)} |")
        return "\n".join(lines) + "\n"

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        body = {
            "seed": self.seed,
            "seconds": round(self.seconds),
            "orders": self.orders,
            "strikes": len(self.strikes),
            "violations": [vars(violation) for violation in self.violations],
            "kinds": self.kinds(),
            "log": [vars(strike) for strike in self.strikes],
            "late": [f"{s.kind} on {s.target}" for s in self.late],
            "stuck": [f"{s.kind} on {s.target}" for s in self.stuck],
            "missed": self.missed,
            "left_out": self.left_out,
        }
        path.write_text(json.dumps(body, indent=2))
