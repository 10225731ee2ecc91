"""Who is connected from where, counted, so that one address cannot take all the places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

import trio

__all__ = ["Addresses", "peer_address"]

SUBSCRIBER_BITS: Final = 64
"""Of an IPv6 address: what one subscriber gets. Whoever has one such address has all of them."""


class Addresses:
    """Connections now open, by address."""

    def __init__(self, limit: int, uncounted: Sequence[str]) -> None:
        """Args:
            limit: connections of one address; 0 is without limit.
            uncounted: networks without a limit, such as ``127.0.0.0/8``.

        Raises:
            ValueError: one of `uncounted` is no network.
        """
        self._limit = limit
        self._uncounted = [ip_network(network) for network in uncounted]
        self._open: Counter[IPv4Network | IPv6Network] = Counter()

    def enter(self, address: str | None) -> bool:
        """Count a connection from `address`, which must `leave` then; False when it has as many as it may."""
        who = self._who(address)
        if who is not None:
            if self._open[who] >= self._limit:
                return False
            self._open[who] += 1
        return True

    def leave(self, address: str | None) -> None:
        """A connection that had entered is closed."""
        who = self._who(address)
        if who is not None:
            self._open[who] -= 1
            if not self._open[who]:
                del self._open[who]

    def __len__(self) -> int:
        """How many addresses are connected."""
        return len(self._open)

    def _who(self, address: str | None) -> IPv4Network | IPv6Network | None:
        if address is None or not self._limit:
            return None
        ip = ip_address(address.partition("%")[0])
        if ip.version == 6:
            ip = ip.ipv4_mapped or ip
        if any(ip in network for network in self._uncounted):
            return None
        return ip_network((ip, SUBSCRIBER_BITS if ip.version == 6 else ip.max_prefixlen), strict=False)


def peer_address(socket: trio.SocketStream) -> str | None:
    """The IP address at the other end; None when it has gone already, or is no IP address.

    To be asked once, when the connection is accepted.
    """
    try:
        name = socket.socket.getpeername()
    except OSError:
        return None
    return str(name[0]) if isinstance(name, tuple) else None
