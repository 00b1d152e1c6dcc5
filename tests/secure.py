"""Servers that are spoken to under TLS and a login only: one Kafka broker with ACLs, and Debian's PostgreSQL.

Certificates are of `localhost`, so 127.0.0.1 is the wrong name.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest

from libs.events.topics import TOPICS
from libs.runtime.access import Access
from libs.runtime.kafka import new_admin
from libs.runtime.link import kafka_link
from libs.runtime.settings import Settings
from oms.catalogue import kafka_access
from oms.cluster import apps, databases, kafka, postgres
from oms.cluster.databases import PostgresAddress
from oms.cluster.jars import fetch_jars
from oms.cluster.kafka import KafkaServer
from oms.cluster.postgres import PostgresServer
from oms.cluster.process import Command, Supervisor
from oms.cluster.settings import ClusterSettings
from oms.cluster.startup import run_async
from oms.cluster.state import pick_ports, temporary_folder

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not there: apt-get install -y openssl"
)
DEBIAN_POSTGRES = sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin/initdb"), key=lambda path: path.parts)
needs_postgres = pytest.mark.skipif(
    not DEBIAN_POSTGRES, reason="Debian's PostgreSQL, which has TLS, is not there: apt-get install -y postgresql"
)

ADMIN = "admin"
PASSWORD = "hunter2"
RESOURCES = {"topic": 2, "group": 3, "cluster": 4}
OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Delete": 6, "Describe": 8, "DescribeConfigs": 10}
LITERAL = ALLOW = 3


@dataclass(frozen=True)
class Certificates:
    """An authority, a certificate of `localhost` that it has signed, and another authority that has signed nothing."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def other_authority(self) -> Path:
        return self.folder / "other.pem"

    @property
    def server(self) -> Path:
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        return self.folder / "server.key"

    def make(self) -> None:
        new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        for name in ("ca", "other"):
            self._openssl(f"req -x509 {new_key} -days 2 -subj /CN=test-{name} -keyout {name}.key -out {name}.pem")
        self._openssl(f"req {new_key} -subj /CN=localhost -keyout server.key -out server.csr")
        extensions = "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n"
        (self.folder / "extensions").write_text(extensions)
        signed = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions"
        self._openssl(f"x509 -req -in server.csr {signed} -out server.pem")

    def _openssl(self, arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=self.folder, check=True, capture_output=True)


@dataclass(frozen=True, kw_only=True)
class SecureKafka(KafkaServer):
    """No listener without TLS and SCRAM but the controller's own, and nothing allowed that no ACL allows.

    After `login_ms` it cuts a connection that has not logged in again (0: never).
    """

    login_ms: int = 0

    @property
    def bootstrap(self) -> str:
        return f"localhost:{self.port}"

    def properties(self, data: Path) -> str:
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
        controller = f"CONTROLLER://127.0.0.1:{self.controller_port}"
        settings = {
            "listeners": f"SASL_SSL://127.0.0.1:{self.port},{controller}",
            "advertised.listeners": f"SASL_SSL://{self.bootstrap},{controller}",
            "listener.security.protocol.map": "SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "SASL_SSL",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
                f'{login} username="{ADMIN}" password="{PASSWORD}";'
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.directory / "keystore.pem",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.directory / "authority.pem",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "connections.max.reauth.ms": self.login_ms,
            "allow.everyone.if.no.acl.found": "false",
            "super.users": f"User:{ADMIN};User:ANONYMOUS",  # the controller's listener is this machine's alone
        }
        return super().properties(data) + "".join(f"{key}={value}\n" for key, value in settings.items())

    def format(self, run: Callable[[Command], None]) -> None:
        users = [f"SCRAM-SHA-512=[name={user},password={PASSWORD}]" for user in (ADMIN, *kafka_access())]
        options = [part for user in users for part in ("--add-scram", user)]
        super().format(lambda command: run(replace(command, argv=(*command.argv, *options))))


@dataclass(frozen=True)
class SecureBroker:
    certificates: Certificates
    port: int
    controller_port: int
    password_file: Path

    def settings(self, user: str = ADMIN, **fields: Any) -> Settings:
        return Settings(**{name.removeprefix("OMS_").lower(): text for name, text in self.env(user).items()} | fields)

    def env(self, user: str) -> Mapping[str, str]:
        return {
            "OMS_KAFKA_BOOTSTRAP": f"localhost:{self.port}",
            "OMS_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "OMS_KAFKA_SASL_USERNAME": user,
            "OMS_KAFKA_SASL_PASSWORD_FILE": str(self.password_file),
            "OMS_KAFKA_CA_FILE": str(self.certificates.authority),
        }


@contextmanager
def supervised(folder: Path) -> Iterator[Supervisor]:
    (folder / "logs").mkdir()
    supervisor = Supervisor(folder / "logs", lambda event, **fields: None)
    try:
        yield supervisor
    finally:
        supervisor.close()


@contextmanager
def secure_broker(login_ms: int = 0) -> Iterator[SecureBroker]:
    """With the topics of the table and the ACLs that are derived from it."""
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder("secure-kafka"))
        certificates = Certificates(folder)
        certificates.make()
        (folder / "password").write_text(f"{PASSWORD}\n")
        ports = pick_ports(["kafka", "controller"])
        server = SecureKafka(
            directory=folder / "kafka",
            port=ports["kafka"],
            controller_port=ports["controller"],
            jars=tuple(fetch_jars(ClusterSettings().cache_dir.expanduser().absolute())),
            env=apps.base_environment(),
            login_ms=login_ms,
        )
        server.prepare()
        keystore = certificates.key.read_text() + certificates.server.read_text()
        (server.directory / "keystore.pem").write_text(keystore)
        shutil.copy(certificates.authority, server.directory / "authority.pem")
        supervisor = stack.enter_context(supervised(folder))
        server.format(lambda command: supervisor.run(command, 60))
        supervisor.start(server.command())
        broker = SecureBroker(certificates, ports["kafka"], ports["controller"], folder / "password")
        run_async(_prepared(broker, lambda: _alive(supervisor)))
        yield broker


def _alive(supervisor: Supervisor) -> None:
    for child in supervisor.children:
        if child.failures:
            raise supervisor.failure(child.name, f"{child.name} ended while it started")


async def _prepared(broker: SecureBroker, check: Callable[[], None]) -> None:
    settings = broker.settings()
    link = kafka_link(settings)
    await kafka.wait_ready(settings.kafka_bootstrap, check, link=link)
    await kafka.create_topics(settings.kafka_bootstrap, TOPICS, link=link)
    for user, granted in kafka_access().items():
        admin = new_admin(settings, 10)  # one a user: the broker may cut a connection that has not logged in again
        await admin.start()
        try:
            for access in granted:
                await allow(admin, user, access)
        finally:
            await admin.close()


async def allow(admin: AIOKafkaAdminClient, user: str, access: Access) -> None:
    for operation in access.operations:
        request = CreateAclsRequest(
            *(RESOURCES[access.resource], access.name, LITERAL),
            *(f"User:{user}", "*", OPERATIONS[operation], ALLOW),
        )
        answer = await admin._send_request(request)
        assert [code for code, *_ in answer.creation_responses] == [0], answer


async def deny(admin: AIOKafkaAdminClient, user: str, access: Access) -> None:
    for operation in access.operations:
        request = DeleteAclsRequest(
            *(RESOURCES[access.resource], access.name, LITERAL),
            *(f"User:{user}", "*", OPERATIONS[operation], ALLOW),
        )
        answer = await admin._send_request(request)
        assert [code for code, *_ in answer.filter_responses] == [0], answer


class SecurePostgres(PostgresServer):
    """Debian's, which has TLS: nobody is let in without it, and every password is SCRAM."""

    def command(self) -> Command:
        command = super().command()
        options = {
            "ssl": "on",
            "ssl_cert_file": self.directory / "server.pem",
            "ssl_key_file": self.directory / "server.key",
            "hba_file": self.directory / "pg_hba.conf",
        }
        extra = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return replace(command, argv=(*command.argv, *extra))

    def secure(self, certificates: Certificates) -> None:
        (self.directory / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
        for file in (certificates.server, certificates.key):
            shutil.copy(file, self.directory)
        for file in ("server.pem", "server.key", "pg_hba.conf"):
            (self.directory / file).chmod(0o600)
            if self.account:
                os.chown(self.directory / file, self.account.uid, self.account.gid)


@dataclass(frozen=True)
class SecureDatabases:
    certificates: Certificates
    port: int
    admin_dsn: str
    passwords: Mapping[str, Path]

    def dsn(self, service: str, role: str, host: str = "localhost") -> str:
        return f"postgresql://oms_{service}_{role}@{host}:{self.port}/oms_{service}"

    def env(self, service: str) -> Mapping[str, str]:
        return {
            "OMS_POSTGRES_DSN": self.dsn(service, "app"),
            "OMS_POSTGRES_PASSWORD_FILE": str(self.passwords[f"oms_{service}_app"]),
            "OMS_POSTGRES_OWNER_DSN": self.dsn(service, "owner"),
            "OMS_POSTGRES_OWNER_PASSWORD_FILE": str(self.passwords[f"oms_{service}_owner"]),
            "OMS_POSTGRES_READ_DSN": self.dsn(service, "read"),
            "OMS_POSTGRES_CA_FILE": str(self.certificates.authority),
        }


@contextmanager
def secure_databases(services: Sequence[str]) -> Iterator[SecureDatabases]:
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder("secure-postgres"))
        certificates = Certificates(folder)
        certificates.make()
        directory = folder / "postgres"
        port = pick_ports(["postgres"])["postgres"]
        server = SecurePostgres(
            directory=directory,
            port=port,
            password=PASSWORD,
            programs=DEBIAN_POSTGRES[-1].parent,
            env=apps.base_environment(),
            account=postgres.choose_account(directory),
        )
        server.prepare()
        server.secure(certificates)
        supervisor = stack.enter_context(supervised(folder))
        server.initialize(lambda command: supervisor.run(command, 60))
        supervisor.start(server.command())
        address = PostgresAddress(
            host="localhost",
            port=port,
            user=postgres.SUPERUSER,
            password=PASSWORD,
            sslmode=f"verify-full&sslrootcert={certificates.authority}",
        )
        run_async(databases.wait_ready(address.dsn(), lambda: _alive(supervisor)))
        roles = [role for service in services for role in postgres.roles_of(service)]
        run_async(databases.provision(address, services, {role: f"secret-of-{role}" for role in roles}))
        for role in roles:
            (folder / role).write_text(f"secret-of-{role}\n")
        yield SecureDatabases(certificates, port, address.dsn(), {role: folder / role for role in roles})
