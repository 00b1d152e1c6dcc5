"""Why a link to Kafka or PostgreSQL will not come up however long one waits, and what to do about it.

A server that is away is no finding: it is waited for. One that refuses who we are, or is not who it should be, is.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

import asyncpg
from aiokafka.conn import create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from libs.runtime.link import kafka_hosts, kafka_link
from libs.runtime.preflight import Finding, refused_by_postgres
from libs.runtime.settings import Settings

_SECONDS = 3.0
_EXPIRED = 10
_OTHER_NAMES = (62, 64)
"""OpenSSL's codes: the certificate has expired; it is of another host name, or of another address."""
_SECURE = "Set OMS_KAFKA_SECURITY_PROTOCOL=SASL_SSL with OMS_KAFKA_SASL_USERNAME and OMS_KAFKA_SASL_PASSWORD_FILE"


async def kafka_fault(settings: Settings) -> Finding | None:
    """What the first broker that answers has against this link; None where nothing is wrong, or none answers."""
    link = kafka_link(settings)
    del link["bootstrap_servers"]
    for host, port in kafka_hosts(settings):
        try:
            await _ask(host, port, link)
        except (KafkaError, OSError, TimeoutError, EOFError) as error:
            if (finding := await _kafka_finding(settings, host, port, error)) is not None:
                return finding
            continue
        return None
    return None


async def _ask(host: str, port: int, link: Mapping[str, Any]) -> None:
    """Who does not log in where it is asked for may still ask for versions: the second question tells."""
    async with asyncio.timeout(_SECONDS):
        connection = await create_conn(host, port, request_timeout_ms=int(_SECONDS * 1000), **link)
        try:
            await connection.send(MetadataRequest([]))
        finally:
            connection.close()


async def _kafka_finding(settings: Settings, host: str, port: int, error: Exception) -> Finding | None:
    place, protocol = f"Kafka at {host}:{port}", settings.kafka_security_protocol
    if isinstance(error, ssl.SSLError):
        return _tls_finding(place, error, "OMS_KAFKA_CA_FILE", f"OMS_KAFKA_SECURITY_PROTOCOL={protocol}")
    if isinstance(error, SaslAuthenticationFailed):
        what = f"{place} refuses the user {settings.kafka_sasl_username} or its password"
        return _finding(what, "Correct OMS_KAFKA_SASL_USERNAME and the content of OMS_KAFKA_SASL_PASSWORD_FILE")
    if isinstance(error, UnsupportedSaslMechanismError):
        what = f"{place} knows no {settings.kafka_sasl_mechanism}"
        return _finding(what, "Set OMS_KAFKA_SASL_MECHANISM to the one that its users were made with")
    if isinstance(error, IllegalSaslStateError):
        return _finding(f"{place} asks for no login", "Set OMS_KAFKA_SECURITY_PROTOCOL to SSL, or use another listener")
    if not await _accepts(host, port, None) or (under_tls := await _accepts(host, port, _any_certificate())) is None:
        return None
    if protocol.endswith("SSL") and not under_tls:
        return _no_tls(place, "it hangs up", f"OMS_KAFKA_SECURITY_PROTOCOL={protocol}")
    if under_tls and not protocol.endswith("SSL"):
        return _finding(f"{place} speaks TLS, and OMS_KAFKA_SECURITY_PROTOCOL is {protocol}", _SECURE)
    if protocol in ("PLAINTEXT", "SSL") and not isinstance(error, TimeoutError):
        return _finding(f"{place} hangs up on who does not log in", f"{_SECURE}, or name a client certificate")
    return None


def _any_certificate() -> ssl.SSLContext:
    """For finding out whether TLS is spoken at all: nothing is said under it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _accepts(host: str, port: int, tls: ssl.SSLContext | None) -> bool | None:
    """None where it takes too long to tell."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port, ssl=tls), _SECONDS)
    except TimeoutError:
        return None
    except OSError:
        return False
    writer.close()
    return True


def postgres_fault(error: Exception) -> Finding | None:
    """What a failed connection says that waiting will not mend."""
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError | asyncpg.InvalidCatalogNameError):
        return refused_by_postgres(error)
    if isinstance(error, ssl.SSLError):
        return _tls_finding("PostgreSQL", error, "OMS_POSTGRES_CA_FILE", "OMS_POSTGRES_CA_FILE or the DSN's sslmode")
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        what = "PostgreSQL speaks no TLS, and OMS_POSTGRES_CA_FILE or the DSN's sslmode asks for it"
        return _finding(what, "Set ssl=on with a certificate in the server, or take the setting away")
    return None


def _tls_finding(place: str, error: ssl.SSLError, authorities: str, asked_by: str) -> Finding:
    if not isinstance(error, ssl.SSLCertVerificationError):
        return _no_tls(place, str(error.reason or error), asked_by)
    if error.verify_code in _OTHER_NAMES:
        what = f"the certificate of {place} is of another host ({error.verify_message})"
        return _finding(what, "Connect by a name that is in the certificate, or have it made for this name")
    if error.verify_code == _EXPIRED:
        return _finding(f"the certificate of {place} has expired", "Renew it there, and look at the clocks")
    what = f"the certificate of {place} is not of an authority that we trust ({error.verify_message})"
    return _finding(what, f"Let {authorities} name the file of the authority that has signed it")


def _no_tls(place: str, how: str, asked_by: str) -> Finding:
    what = f"{place} does not speak TLS as we do ({how}), and {asked_by} asks for it"
    return _finding(what, "Name the port of a TLS listener, of TLS 1.2 or newer")


def _finding(what: str, remedy: str) -> Finding:
    return Finding(name=None, what=what[0].upper() + what[1:], remedy=remedy)
