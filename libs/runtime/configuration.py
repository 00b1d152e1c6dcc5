"""Whether a process can work under its settings, and safely: findings before anything is connected to.

Pure but for the files that the settings name.
"""

import ssl
from collections.abc import Callable, Iterator, Mapping

from libs.runtime.keys import KeysUnreadable, read_keys
from libs.runtime.link import has_password, is_here, is_verified, kafka_hosts, kafka_link, postgres_hosts
from libs.runtime.preflight import Finding
from libs.runtime.settings import Settings

LINK_FILES = (
    "kafka_sasl_password_file",
    "kafka_ca_file",
    "kafka_cert_file",
    "kafka_key_file",
    "postgres_password_file",
    "postgres_owner_password_file",
    "postgres_ca_file",
)


def check_settings(settings: Settings) -> list[Finding]:
    return [*_check_dsn(settings), *_check_secret(settings), *_check_keys(settings), *check_links(settings)]


def _check_dsn(settings: Settings) -> Iterator[Finding]:
    if not settings.postgres_dsn:
        yield Finding(
            name=None,
            what="OMS_POSTGRES_DSN is not set",
            remedy="Set it to postgresql://<application role>@<host>/<database of the service>",
        )


def _check_secret(settings: Settings) -> Iterator[Finding]:
    file = settings.callback_secret_file
    if file is None:
        fault = "OMS_CALLBACK_SECRET_FILE is not set: no callback could be believed"
    else:
        try:
            fault = "" if settings.callback_secret().startswith("whsec_") else f"{file} holds no whsec_… secret"
        except (OSError, UnicodeDecodeError) as error:
            fault = f"OMS_CALLBACK_SECRET_FILE cannot be read ({type(error).__name__}: {file})"
    if fault:
        yield Finding(
            # Without one every callback is refused, which is safe; with a wrong one somebody has made a mistake.
            name="missing_secret" if file is None else None,
            what=fault,
            remedy="Let it name a file with the secret that partners sign with, whsec_ and its base64",
        )


def _check_keys(settings: Settings) -> Iterator[Finding]:
    file = settings.api_keys_file
    if file is None:
        if not is_here(settings.http_host):
            yield Finding(
                name="no_api_keys",
                what=f"HTTP is served on {settings.http_host} to whoever can reach it: OMS_API_KEYS_FILE is not set",
                remedy="Let it name the file that 'oms keys create' writes, or set OMS_HTTP_HOST=127.0.0.1",
            )
        return
    try:
        read_keys(file)
    except KeysUnreadable as error:
        yield Finding(
            name=None,
            what=f"OMS_API_KEYS_FILE cannot be used ({error})",
            remedy="Let it name the file that 'oms keys create' writes, readable by this process",
        )


def check_links(settings: Settings) -> list[Finding]:
    """What would be said in the clear, or cannot be proven, beyond this machine; and files that are not there."""
    unreadable = list(_check_files(settings))
    certificates = [] if unreadable else _check_certificates(settings)
    return [*unreadable, *certificates, *_check_kafka_link(settings), *_check_postgres_links(settings)]


def _check_files(settings: Settings) -> Iterator[Finding]:
    for name in LINK_FILES:
        file = getattr(settings, name)
        variable = f"OMS_{name.upper()}"
        try:
            if file is None or file.read_text().strip():
                continue
            fault = f"{variable} names an empty file ({file})"
        except (OSError, UnicodeDecodeError) as error:
            fault = f"{variable} cannot be read ({type(error).__name__}: {file})"
        yield Finding(name=None, what=fault, remedy="Let it name the right file, readable by this process")


def _check_certificates(settings: Settings) -> Iterator[Finding]:
    variables: Mapping[str, Callable[[], object]] = {
        "OMS_KAFKA_CA_FILE, OMS_KAFKA_CERT_FILE or OMS_KAFKA_KEY_FILE": lambda: kafka_link(settings),
        "OMS_POSTGRES_CA_FILE": lambda: ssl.create_default_context(cafile=settings.postgres_ca_file),
    }
    for names, load in variables.items():
        try:
            load()
        except (OSError, ValueError) as error:  # OpenSSL's own are OSErrors
            yield Finding(
                name=None,
                what=f"{names} holds no certificate or key that can be used ({type(error).__name__}: {error})",
                remedy="Let it name a PEM file; a key belongs to its certificate and is not encrypted",
            )


def _check_kafka_link(settings: Settings) -> Iterator[Finding]:
    protocol = settings.kafka_security_protocol
    if protocol.startswith("SASL_") and not (settings.kafka_sasl_username and settings.kafka_sasl_password_file):
        yield Finding(
            name=None,
            what=f"OMS_KAFKA_SECURITY_PROTOCOL is {protocol}, without a user or its password",
            remedy="Set OMS_KAFKA_SASL_USERNAME and OMS_KAFKA_SASL_PASSWORD_FILE",
        )
    away = [host for host, _ in kafka_hosts(settings) if not is_here(host)]
    if away and not protocol.endswith("SSL"):
        yield Finding(
            name="plaintext_kafka",
            what=f"everything goes to Kafka at {', '.join(away)} in the clear (OMS_KAFKA_SECURITY_PROTOCOL={protocol})",
            remedy="Set OMS_KAFKA_SECURITY_PROTOCOL=SASL_SSL",
        )
    elif away and protocol == "SSL" and settings.kafka_cert_file is None:
        yield Finding(
            name="anonymous_kafka",
            what="Kafka is not told who this service is, and so cannot hold it to its own topics",
            remedy="Set OMS_KAFKA_SECURITY_PROTOCOL=SASL_SSL with a user, or name a client certificate",
        )


def _check_postgres_links(settings: Settings) -> Iterator[Finding]:
    for name, dsn in (("POSTGRES", settings.postgres_dsn), ("POSTGRES_OWNER", settings.postgres_owner_dsn)):
        away = [host for host in postgres_hosts(dsn) if not is_here(host)]
        if away and not is_verified(dsn, settings.postgres_ca_file):
            yield Finding(
                name="unverified_postgres",
                what=f"OMS_{name}_DSN leads to {', '.join(away)} without TLS or without checking the certificate",
                remedy="Let OMS_POSTGRES_CA_FILE name the authority of its certificate",
            )
        if away and has_password(dsn):
            yield Finding(
                name="password_in_dsn",
                what=f"OMS_{name}_DSN has a password in it, which whoever sees the environment can read",
                remedy=f"Take it out and name its file in OMS_{name}_PASSWORD_FILE",
            )
