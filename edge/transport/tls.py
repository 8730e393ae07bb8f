"""The MQTT settings in; the TLS of the connection to the broker out."""

from __future__ import annotations

import ssl

from kernels.findings import ConfigError

from ..config import Mqtt


def tls_context(config: Mqtt) -> ssl.SSLContext | None:
    """None for a connection without. Raises ConfigError where a file is missing, or holds no certificate or key."""
    if not config.tls:
        return None
    context = _read_ca(config)
    if config.certificate:
        try:
            # With a password of its own OpenSSL would ask for it on the terminal, and wait.
            context.load_cert_chain(config.certificate, config.key, password="")
        except OSError as error:
            raise ConfigError(f"mqtt: certificate {config.certificate} and key {config.key or 'in it'}: {_said(error)}") from error
    return context


def _read_ca(config: Mqtt) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.ca)
    except OSError as error:
        raise ConfigError(f"mqtt: ca {config.ca}: {_said(error)}; give a PEM file with the certificate of the authority") from error
    if config.ca:
        # From Python 3.13 on certificates without an authority key identifier are refused; those of home-made authorities lack it.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _said(error: OSError) -> str:
    return str(error.strerror or error)
