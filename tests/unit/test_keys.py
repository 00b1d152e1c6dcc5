"""API keys: shown once, kept as hashes, several a client, gone when revoked; and `oms keys` over them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from libs.runtime import keys as module
from libs.runtime.keys import Keys, KeysUnreadable, new_key, read_keys, write_keys
from oms.cli import app


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture(autouse=True)
def look_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)


def oms_keys(file: Path, *arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["keys", *arguments, "--file", str(file)], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result


def created(file: Path, client: str, *scopes: str) -> tuple[str, str]:
    options = [part for scope in scopes for part in ("--scope", scope)]
    made = json.loads(oms_keys(file, "create", client, *options, "--json").stdout)
    return made["id"], made["key"]


def test_key_is_known_again_and_a_file_of_hashes_lets_nobody_in(file: Path) -> None:
    key, text = new_key("web-eu", ["channel"])
    write_keys(file, [key])
    keys = Keys(file)
    assert keys.of(text) == key
    assert text not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    for other in ("", "oms", text[:-1], text + "x", text.upper(), key.sha256, f"oms_{key.id}_{key.sha256}", "oms__"):
        assert keys.of(other) is None
    secret = text.rpartition(f"{key.id}_")[2]
    assert len(secret) * 6 >= 256, "bits"
    assert new_key("web-eu", ["channel"])[1] != text


def test_client_rotates_with_two_keys_and_a_revoked_one_is_worthless_at_once(file: Path) -> None:
    old_id, old = created(file, "web-eu", "channel")
    keys = Keys(file)
    _, new = created(file, "web-eu", "channel", "reader")
    both = [keys.of(old), keys.of(new)]
    assert [key.client for key in both if key] == ["web-eu", "web-eu"]
    oms_keys(file, "revoke", old_id)
    assert keys.of(old) is None
    found = keys.of(new)
    assert found is not None
    assert found.scopes == {"channel", "reader"}


def test_list_shows_whose_keys_there_are_and_never_a_key(file: Path) -> None:
    key_id, text = created(file, "ops", "operator")
    shown = oms_keys(file, "list").output
    assert key_id in shown
    assert "operator" in shown
    assert text not in shown
    assert read_keys(file)[0].sha256 not in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "web eu", "--scope", "channel"),
        ("create", "web-eu", "--scope", "admin"),
        ("create", "web-eu"),
        ("revoke", "0123456789ab"),
    ],
)
def test_command_that_makes_no_sense_changes_nothing(file: Path, arguments: tuple[str, ...]) -> None:
    created(file, "ops", "operator")
    before = file.read_bytes()
    oms_keys(file, *arguments, code=2)
    assert file.read_bytes() == before


def test_file_that_breaks_later_leaves_what_was_valid_and_raises_an_alarm(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alarms: list[str] = []
    monkeypatch.setattr(module.telemetry, "alarm", lambda what, **_: alarms.append(what))
    _, text = created(file, "ops", "operator")
    keys = Keys(file)
    for content in ("[{", '[{"id": "x"}]'):
        file.write_text(content)
        assert keys.of(text) is not None
    file.unlink()
    assert keys.of(text) is not None
    assert alarms == ["api_keys_unreadable"] * 3
    with pytest.raises(KeysUnreadable, match="FileNotFoundError"):
        Keys(file)
