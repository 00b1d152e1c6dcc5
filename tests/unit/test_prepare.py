from pathlib import Path

import pytest
from typer.testing import CliRunner

from oms.cli import app
from oms.cluster.apps import SERVICES
from oms.cluster.postgres import roles_of


def databases(folder: Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["databases", "--passwords", str(folder)])
    return done.exit_code, " ".join(done.output.split())


def test_databases_without_a_server_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMS_POSTGRES_HOST", raising=False)
    assert databases(tmp_path) == (1, "OMS_POSTGRES_HOST is not set: it names the server.")


def test_roles_without_a_password_are_named_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMS_POSTGRES_HOST", "nowhere.invalid")
    for role in (role for service in SERVICES for role in roles_of(service)):
        (tmp_path / role).write_text("secret")
    (tmp_path / "oms_order_app").write_text("\n")
    (tmp_path / "oms_tracking_read").unlink()
    assert databases(tmp_path) == (1, f"{tmp_path} has no password for oms_order_app, oms_tracking_read.")
