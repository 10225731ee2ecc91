"""A certificate for the fake, made anew in each process and trusted by nobody but the tests."""

from __future__ import annotations

import functools
import ssl
import tempfile
from pathlib import Path

import trustme

__all__ = ["authority_file", "server_context"]


@functools.cache
def _authority() -> trustme.CA:
    return trustme.CA()


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Lives as long as the process."""
    return tempfile.TemporaryDirectory()


@functools.cache
def authority_file() -> Path:
    """The PEM file of who signs the fake's certificate; a client that trusts it trusts the fake."""
    file = Path(_folder().name) / "authority.pem"
    _authority().cert_pem.write_to_path(file)
    return file


def server_context() -> ssl.SSLContext:
    """For a server on 127.0.0.1 or localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _authority().issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context
