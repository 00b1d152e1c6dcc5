"""The Dockerfile as tests read it: its stages and their steps."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE = ROOT / "Dockerfile"


@dataclass(frozen=True)
class Step:
    """`word` is RUN, COPY, …; a step of several lines is one."""

    word: str
    rest: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.rest)


@dataclass(frozen=True)
class Stage:
    base: str
    name: str
    steps: list[Step] = field(default_factory=list)

    def last(self, word: str) -> str:
        return [step.rest for step in self.steps if step.word == word][-1]

    def listed(self, word: str) -> list[str]:
        """ENTRYPOINT and CMD in their form as JSON."""
        return [str(part) for part in json.loads(self.last(word))]

    def variables(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """What its ENV steps make of the variables it begins with."""
        known = dict(inherited)
        for step in self.steps:
            for name, _, value in (word.partition("=") for word in step.words if step.word == "ENV"):
                known[name] = re.sub(r"\$(\w+)", lambda found: known[found[1]], value)
        return known


def stages() -> list[Stage]:
    lines = [line for line in FILE.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found: list[Stage] = []
    for text in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = text.partition(" ")
        if word == "FROM":
            base, *named = rest.split()
            found.append(Stage(base, named[-1] if named else ""))
        else:
            found[-1].steps.append(Step(word, rest.strip()))
    return found
