import hashlib
from pathlib import Path

import pytest

from oms.cluster.jars import Jar, JarError, fetch_jars, put, read_lock

CONTENT = b"a jar"


def jar(sha256: str = hashlib.sha256(CONTENT).hexdigest()) -> Jar:
    return Jar(group="org.example", artifact="thing", version="1.0", sha256=sha256)


def test_lock_names_every_jar_once_with_its_hash() -> None:
    jars = read_lock()
    assert len(jars) == 45
    assert len({entry.filename for entry in jars}) == len(jars)
    assert {entry.version for entry in jars if entry.artifact == "kafka-clients"} == {"4.4.0"}


@pytest.mark.parametrize(
    "line", ["org.example:thing 00", "org.example:thing:1.0", f"org.example:thing:1.0 {'A' * 64}", "a:b:c d e"]
)
def test_malformed_lock_line_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    lock = tmp_path / "jars.lock"
    lock.write_text(f"# comment\n{line}\n")
    with pytest.raises(JarError, match=r"jars\.lock:2"):
        read_lock(lock)


def test_jar_with_another_hash_is_refused_and_not_kept(tmp_path: Path) -> None:
    fetched = tmp_path / "fetched"
    fetched.write_bytes(CONTENT + b", changed on its way")
    store = tmp_path / "jars"
    store.mkdir()
    with pytest.raises(JarError, match="not the locked jar"):
        put(fetched, store, jar())
    assert not list(store.iterdir())


def test_jars_already_in_the_cache_are_not_fetched(tmp_path: Path) -> None:
    store = tmp_path / "jars"
    store.mkdir()
    (store / jar().filename).write_bytes(CONTENT)
    asked: list[tuple[int, int]] = []
    paths = fetch_jars(tmp_path, jars=[jar()], progress=lambda done, total: asked.append((done, total)))
    assert paths == [store / jar().filename]
    assert not asked


def test_unreachable_mirror_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oms.cluster.jars.ATTEMPTS", 1)
    monkeypatch.setattr("oms.cluster.jars.PAUSE_SECONDS", 0)
    with pytest.raises(JarError, match="OMS_MAVEN_MIRROR"):
        fetch_jars(tmp_path, mirror="http://127.0.0.1:1", jars=[jar()])
    assert not list((tmp_path / "jars").iterdir())
