"""Connections counted by where they come from."""

from __future__ import annotations

import pytest
import trio

from tts_provider.server.addresses import Addresses, peer_address

LOOPBACK = ("127.0.0.0/8", "::1")


def test_an_address_has_its_limit_and_gets_places_back() -> None:
    addresses = Addresses(2, LOOPBACK)
    assert [addresses.enter("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert addresses.enter("192.0.2.2")
    addresses.leave("192.0.2.1")
    assert addresses.enter("192.0.2.1")
    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        addresses.leave(address)
    assert len(addresses) == 0


def test_a_subscriber_of_ipv6_is_one_address() -> None:
    """A /64 is one; IPv4 in IPv6's clothes is IPv4; a scope is no part of it."""
    addresses = Addresses(1, LOOPBACK)
    assert addresses.enter("2001:db8:0:1::1")
    assert not addresses.enter("2001:db8:0:1:ffff::2")
    assert addresses.enter("2001:db8:0:2::1")
    assert addresses.enter("::ffff:192.0.2.1")
    assert not addresses.enter("192.0.2.1")
    assert addresses.enter("fe80::1%eth0")


def test_who_is_not_counted() -> None:
    """The loopback, what has no address any more, and everybody where there is no limit."""
    addresses = Addresses(1, LOOPBACK)
    for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", None):
        assert addresses.enter(address)
        assert addresses.enter(address)
    assert all(Addresses(0, ()).enter("192.0.2.1") for _ in range(3))
    with pytest.raises(ValueError, match="network"):
        Addresses(1, ("network",))


async def test_the_address_of_a_peer() -> None:
    """Asking after one that has gone must not raise."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listeners[0] as listener:
        client = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        async with client, await listener.accept() as server:
            assert peer_address(server) == "127.0.0.1"
        assert peer_address(server) is None
