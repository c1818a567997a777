"""The connection settings of librdkafka, as far as aiokafka has them."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

_UNDERSTOOD = {
    "security.protocol",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.password",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
    "enable.ssl.certificate.verification",
}
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True)
class Security:
    """How to reach the broker: TLS where `context` is set, SASL where `mechanism` is."""

    context: ssl.SSLContext | None = None
    mechanism: str | None = None
    username: str = ""
    password: str = ""

    @property
    def protocol(self) -> str:
        """Kafka's name for it."""
        return ("SASL_" if self.mechanism else "") + ("SSL" if self.context else "PLAINTEXT")


def security_of(extra: Mapping[str, str]) -> Security:
    """The security that librdkafka properties ask for; raises ValueError for what cannot be had.

    Properties that only tune librdkafka have no meaning here and are passed over.
    """
    strange = [
        name for name in extra if name.startswith(("sasl.", "ssl.")) and name not in _UNDERSTOOD
    ]
    if strange:
        raise ValueError(f"the orchestrator cannot honour {strange[0]}: leave it out, or use PEM")
    protocol = extra.get("security.protocol", "plaintext").upper()
    context = _context(extra) if protocol.endswith("SSL") else None
    if not protocol.startswith("SASL"):
        return Security(context)
    mechanism = (extra.get("sasl.mechanism") or extra.get("sasl.mechanisms") or "PLAIN").upper()
    if mechanism not in _MECHANISMS:
        raise ValueError(f"sasl.mechanism {mechanism}: the orchestrator has {_MECHANISMS}")
    username, password = extra.get("sasl.username", ""), extra.get("sasl.password", "")
    return Security(context, mechanism, username, password)


def _context(extra: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=extra.get("ssl.ca.location"))
    verify = extra.get("enable.ssl.certificate.verification", "true").lower() != "false"
    named = extra.get("ssl.endpoint.identification.algorithm", "https").lower() != "none"
    context.check_hostname = verify and named
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    certificate = extra.get("ssl.certificate.location")
    if certificate:
        key, secret = extra.get("ssl.key.location"), extra.get("ssl.key.password")
        context.load_cert_chain(certificate, key, secret)
    return context
