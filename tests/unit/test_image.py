"""What the Dockerfile promises, as far as reading it tells. tests/integration/test_image.py runs its steps."""

import re
import subprocess
import sys
from pathlib import Path

from tests.dockerfile import FILE, ROOT, stages


def test_dockerfile_is_clean_to_hadolint() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--no-color", FILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_image_begins_from_one_pinned_base() -> None:
    base, build, final = stages()
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", base.base)
    assert base.steps == []
    assert (build.base, final.base) == (base.name, base.name)


def test_image_runs_as_nobody_in_particular_and_takes_the_roles_as_arguments() -> None:
    *_, final = stages()
    user, group = map(int, final.last("USER").split(":"))
    assert min(user, group) >= 10_000
    assert final.listed("ENTRYPOINT") == ["python", "-m"]


def test_only_the_environment_leaves_the_build() -> None:
    *_, final = stages()
    copied = [step.words for step in final.steps if step.word == "COPY"]
    assert copied == [["--from=build", "/opt/orderloom", "/opt/orderloom"]]


def test_everything_is_installed_from_the_hashed_lock() -> None:
    _, build, _ = stages()
    installs = [step.rest for step in build.steps if "pip " in step.rest and " install " in step.rest]
    assert len(installs) == 2
    assert installs[0].endswith("install --require-hashes --no-deps -r requirements.lock")
    assert installs[1].endswith("install --no-build-isolation --no-deps .")
    assert re.search(r"--hash=sha256:", (ROOT / "requirements.lock").read_text())


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    _, build, _ = stages()
    copied = {source for step in build.steps if step.word == "COPY" for source in step.words[:-1]}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied
    assert rules[-1] == "**/__pycache__"
