"""TLS on the server's port: the certificate, and the handshake."""

from __future__ import annotations

import ssl

import trio

from tts_provider.settings import Settings, SettingsError

__all__ = ["shake_hands", "tls_context"]


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """What the port speaks TLS with; None when it does not.

    Raises:
        SettingsError: the certificate or its key cannot be used.
    """
    if not settings.tls_cert:
        if settings.tls_key:
            raise SettingsError("tls_key needs tls_cert, the certificate that it belongs to.")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # An encrypted key would have OpenSSL ask for its password on the terminal, if there is one.
        context.load_cert_chain(settings.tls_cert, settings.tls_key or None, password=lambda: "")
    except ssl.SSLError as error:
        raise SettingsError("tls_cert and tls_key must be a PEM certificate and its key, without a password.") from error
    except OSError as error:
        raise SettingsError(f"tls_cert or tls_key cannot be read: {error.strerror}.") from error
    return context


async def shake_hands(stream: trio.SSLStream[trio.SocketStream], within_s: float) -> bool:
    """Whether the client's handshake was done in time.

    Raises:
        trio.BrokenResourceError: what came is no TLS, or none that we speak.
    """
    with trio.move_on_after(within_s) as deadline:
        await stream.do_handshake()
    return not deadline.cancelled_caught
