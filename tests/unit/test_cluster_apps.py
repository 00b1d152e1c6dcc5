import sys
from pathlib import Path

import pytest

from oms.cluster import apps
from oms.cluster.apps import SERVICES, SIMULATORS, Addresses
from oms.cluster.databases import PostgresAddress
from oms.cluster.kafka import KafkaServer, new_cluster_id


@pytest.fixture
def addresses(tmp_path: Path) -> Addresses:
    names = (*SERVICES, *SIMULATORS)
    return Addresses(
        kafka_bootstrap="127.0.0.1:20000",
        urls={name: f"http://127.0.0.1:{20001 + number}" for number, name in enumerate(names)},
        dsns={name: {role: f"postgresql://{name}_{role}" for role in ("owner", "app", "read")} for name in SERVICES},
        callback_secret_file=tmp_path / "callback.secret",
        ledgers=tmp_path,
        seed=7,
    )


def test_service_gets_its_own_addresses_and_no_owner(addresses: Addresses) -> None:
    command = apps.service("payment", addresses)
    assert command.argv == (sys.executable, "-m", "services.payment", "api", "worker")
    expected = {
        "OMS_ALLOW_UNSAFE": "single_replica",
        "OMS_KAFKA_BOOTSTRAP": "127.0.0.1:20000",
        "OMS_POSTGRES_DSN": "postgresql://payment_app",
        "OMS_POSTGRES_READ_DSN": "postgresql://payment_read",
        "OMS_HTTP_HOST": "127.0.0.1",
        "OMS_HTTP_PORT": "20003",
        "OMS_PSP_URL": "http://127.0.0.1:20006",
        "OMS_CARRIER_URL": "http://127.0.0.1:20007",
        "OMS_WAREHOUSE_URL": "http://127.0.0.1:20008",
        "OMS_CALLBACK_SECRET_FILE": str(addresses.callback_secret_file),
    }
    assert expected.items() <= command.env.items()
    assert "OMS_POSTGRES_OWNER_DSN" not in command.env


def test_service_is_allowed_what_one_broker_makes_unsafe_beside_what_its_caller_allows(
    addresses: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMS_ALLOW_UNSAFE", "fsync,clock_skew")
    assert apps.service("order", addresses).env["OMS_ALLOW_UNSAFE"] == "clock_skew,fsync,single_replica"


def test_only_the_migration_gets_the_owner(addresses: Addresses) -> None:
    command = apps.migration("order", addresses)
    assert command.argv[1:] == ("-m", "services.order", "migrate")
    assert command.env["OMS_POSTGRES_OWNER_DSN"] == "postgresql://order_owner"


def test_settings_are_inherited_but_not_the_administrators(
    addresses: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMS_BATCH_SIZE", "17")
    monkeypatch.setenv("OMS_POSTGRES_PASSWORD", "the administrator's")
    monkeypatch.setenv("UNRELATED_TOKEN", "secret")
    env = apps.service("order", addresses).env
    assert env["OMS_BATCH_SIZE"] == "17"
    assert not {"OMS_POSTGRES_PASSWORD", "UNRELATED_TOKEN"} & env.keys()


@pytest.mark.parametrize(
    ("name", "callback"),
    [
        ("psp", "http://127.0.0.1:20003/callbacks/psp"),
        ("carrier", "http://127.0.0.1:20004/callbacks/carrier"),
        ("warehouse", "http://127.0.0.1:20004/callbacks/warehouse"),
    ],
)
def test_simulator_calls_back_the_service_that_asked(addresses: Addresses, name: str, callback: str) -> None:
    env = apps.simulator(name, addresses).env
    assert env["SIM_CALLBACK_URL"] == callback
    assert env["SIM_LEDGER"].endswith(f"{name}.sqlite")
    assert env["SIM_SEED"] == "7"
    assert not [key for key in env if key.startswith("OMS_")]


def test_dsn_survives_a_password_with_signs() -> None:
    address = PostgresAddress(host="db", port=5432, user="admin", password="p@ss/word", sslmode="require")
    assert address.dsn("oms_order") == "postgresql://admin:p%40ss%2Fword@db:5432/oms_order?sslmode=require"


def test_broker_listens_on_loopback_and_makes_no_topic_by_itself(tmp_path: Path) -> None:
    server = KafkaServer(directory=tmp_path, port=20000, controller_port=20001, jars=(), env={})
    lines = server.properties(tmp_path / "data").splitlines()
    assert "listeners=PLAINTEXT://127.0.0.1:20000,CONTROLLER://127.0.0.1:20001" in lines
    assert "auto.create.topics.enable=false" in lines
    assert not [line for line in lines if "flush" in line or "0.0.0.0" in line]


def test_cluster_id_is_never_taken_for_an_option() -> None:
    assert not [text for text in (new_cluster_id() for _ in range(1000)) if text.startswith("-") or len(text) != 22]
