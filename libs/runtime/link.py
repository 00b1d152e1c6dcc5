"""The links to Kafka and PostgreSQL as the settings describe them: what each client is given.

Secrets come from files, and TLS always means that the certificate and the name in it are checked.
"""

import ipaddress
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from libs.runtime.settings import Settings

VERIFIED = "verify-full"


def kafka_link(settings: Settings) -> dict[str, Any]:
    """What every client of aiokafka takes: addresses, protocol, TLS and login. Raises OSError on an unreadable file."""
    link: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap,
        "security_protocol": settings.kafka_security_protocol,
    }
    if settings.kafka_security_protocol in ("SSL", "SASL_SSL"):
        link["ssl_context"] = _tls(settings)
    if settings.kafka_security_protocol.startswith("SASL_"):
        link |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": secret(settings.kafka_sasl_password_file),
        }
    return link


def link_to(bootstrap: str) -> dict[str, Any]:
    """To these brokers, by the environment of an operator's command: the same settings as a service's."""
    return kafka_link(Settings(kafka_bootstrap=bootstrap))


def _tls(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.kafka_ca_file)
    if settings.kafka_cert_file is not None:
        context.load_cert_chain(settings.kafka_cert_file, settings.kafka_key_file)
    return context


def secret(file: Path | None) -> str:
    """The content of a secret's file without the line's end; empty where none is named."""
    return file.read_text().strip() if file is not None else ""


def postgres_link(settings: Settings) -> dict[str, Any]:
    """What asyncpg takes for the application's role. The password's file is read anew at every connection."""
    link: dict[str, Any] = {"dsn": verified(settings.postgres_dsn, settings.postgres_ca_file)}
    if settings.postgres_password_file is not None:
        link["password"] = _password(settings.postgres_password_file)
    return link


async def nothing_to_reset(_connection: Any) -> None:
    """Nothing here changes a session: the reset that asyncpg makes of it costs a round trip for every use."""


def _password(file: Path) -> Callable[[], str]:
    return lambda: secret(file)


def owner_dsn(settings: Settings) -> str:
    """The owner's DSN with everything in it, as tools of other languages want it: never to be logged."""
    dsn = verified(settings.postgres_owner_dsn, settings.postgres_ca_file)
    if settings.postgres_owner_password_file is None:
        return dsn
    parts = urlsplit(dsn)
    login, _, place = parts.netloc.rpartition("@")
    user = login.partition(":")[0]
    password = quote(secret(settings.postgres_owner_password_file), safe="")
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{place}"))


def verified(dsn: str, ca_file: Path | None) -> str:
    """The DSN with TLS, certificate and host name checked, where an authority is named."""
    if ca_file is None:
        return dsn
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query)) | {"sslmode": VERIFIED, "sslrootcert": str(ca_file)}
    return urlunsplit(parts._replace(query=urlencode(query)))


def is_verified(dsn: str, ca_file: Path | None) -> bool:
    return _query(verified(dsn, ca_file)).get("sslmode") == VERIFIED


def _query(dsn: str) -> Mapping[str, str]:
    return dict(parse_qsl(urlsplit(dsn).query))


def has_password(dsn: str) -> bool:
    return ":" in urlsplit(dsn).netloc.rpartition("@")[0] or "password" in _query(dsn)


def kafka_hosts(settings: Settings) -> Sequence[tuple[str, int]]:
    """The brokers' addresses. Raises ValueError where one is no `host:port`."""
    return [_address(one.strip(), 9092) for one in settings.kafka_bootstrap.split(",") if one.strip()]


def postgres_hosts(dsn: str) -> Sequence[str]:
    """The hosts of a DSN; a path is a socket of this machine."""
    named = urlsplit(dsn).netloc.rpartition("@")[2] or _query(dsn).get("host", "")
    return [unquote(_address(one, 5432)[0]) for one in named.split(",") if one]


def _address(text: str, port: int) -> tuple[str, int]:
    split = urlsplit(f"//{text}")
    return split.hostname or "", split.port or port


def is_here(host: str) -> bool:
    """Whether what is said to this host never leaves the machine."""
    if host in ("", "localhost") or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
