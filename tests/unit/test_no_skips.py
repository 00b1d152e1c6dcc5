"""A run that may not skip fails on a skip of a test and of a whole module."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SKIPS = {
    "test": "import pytest\ndef test_a(): pytest.skip('no tool')\n",
    "mark": "import pytest\n@pytest.mark.skip(reason='no tool')\ndef test_a(): pass\n",
    "module": "import pytest\npytest.skip('no tool', allow_module_level=True)\n",
}


@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize(("forbidden", "failed"), [("1", True), ("", False)])
def test_skip_fails_where_it_is_forbidden(tmp_path: Path, skip: str, forbidden: str, *, failed: bool) -> None:
    file = tmp_path / "test_a.py"
    file.write_text(SKIPS[skip])
    command = (sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-c", "/dev/null", str(file))
    env = {**os.environ, "OMS_NO_SKIPS": forbidden}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "no tool" in done.stdout if failed else "1 skipped" in done.stdout, done.stdout + done.stderr
    assert (done.returncode in (1, 2)) is failed, done.stdout + done.stderr
