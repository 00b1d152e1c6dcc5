"""Which release the upgrade test takes from history, and that it says what is missing where there is none."""

import subprocess
from pathlib import Path

import pytest

from tests import release
from tests.release import last_release

COMMIT = ("-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "--allow-empty")


@pytest.fixture(autouse=True)
def _no_other_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMS_UPGRADE_FROM", raising=False)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "-q")
    return root


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(("git", "-C", root, *arguments), check=True, capture_output=True, text=True).stdout.strip()


def commit(root: Path, text: str, lock: str = "") -> str:
    (root / "code.py").write_text(text)
    (root / "requirements.lock").write_text(lock)
    git(root, "add", ".")
    git(root, *COMMIT, "-m", text)
    return git(root, "rev-parse", "HEAD")


def test_without_a_release_it_is_the_commit_before_this_one(repository: Path, tmp_path: Path) -> None:
    before = commit(repository, "old")
    commit(repository, "new")
    taken = last_release(tmp_path, repository)
    assert taken.revision == before
    assert (taken.tree / "code.py").read_text() == "old"


def test_newest_release_before_this_commit_is_taken(repository: Path, tmp_path: Path) -> None:
    for version in ("v0.1.0", "v0.2.0"):
        commit(repository, version)
        git(repository, "tag", version)
    commit(repository, "later")
    commit(repository, "this")
    git(repository, "tag", "v0.3.0")
    taken = last_release(tmp_path, repository)
    assert (taken.revision, (taken.tree / "code.py").read_text()) == ("v0.2.0", "v0.2.0")


def test_named_revision_is_taken(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMS_UPGRADE_FROM", commit(repository, "first"))
    commit(repository, "second")
    commit(repository, "third")
    assert (last_release(tmp_path, repository).tree / "code.py").read_text() == "first"


def test_shallow_clone_is_told_how_to_get_the_commit_before(repository: Path, tmp_path: Path) -> None:
    commit(repository, "old")
    commit(repository, "new")
    shallow = tmp_path / "shallow"
    git(repository, "clone", "-q", "--depth=1", repository.as_uri(), str(shallow))
    with pytest.raises(pytest.skip.Exception, match="git fetch --deepen=1"):
        last_release(tmp_path, shallow)
    git(shallow, "fetch", "-q", "--deepen=1")
    assert (last_release(tmp_path, shallow).tree / "code.py").read_text() == "old"


def test_tree_without_history_is_told_that_it_needs_one(tmp_path: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match="git clone"):
        last_release(tmp_path, tmp_path)


def test_what_the_old_lock_asks_for_and_cannot_be_had_is_named(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    pins = "orjson==0.0.1 \\\n    --hash=sha256:00\npywin32==1 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n"
    commit(repository, "old", lock=pins)
    commit(repository, "new")
    with pytest.raises(pytest.skip.Exception, match=r"needs orjson==0\.0\.1, and pip cannot install it"):
        last_release(tmp_path, repository)


def test_what_is_installed_already_is_used(repository: Path, tmp_path: Path) -> None:
    version = release.metadata.version("orjson")
    commit(repository, "old", lock=f"orjson=={version} \\\n    --hash=sha256:00\n")
    commit(repository, "new")
    assert last_release(tmp_path, repository).python == release.Path(release.sys.executable)
