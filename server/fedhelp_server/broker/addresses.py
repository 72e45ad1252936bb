"""Which addresses the broker may connect to: public ones, and networks that its operator names."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from fedhelp_secure.errors import ConfigurationError
from fedhelp_server.broker.provider import EgressRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class NetworkMisconfigured(ConfigurationError):
    """The option --allow-private-network names no network."""

    code = "network-option"


def parse_network(text: str) -> Network:
    """The network in ``text``, as ``10.1.2.0/24``; raises NetworkMisconfigured."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise NetworkMisconfigured(
            "--allow-private-network takes a network, for example 10.1.2.0/24 or 127.0.0.0/8."
        ) from error


def check_address(address: Address, allowed_networks: Sequence[Network]) -> None:
    """Raises EgressRefused unless ``address`` is public, or in a network that the operator allowed.

    Multicast, link-local (where clouds keep their metadata) and unspecified addresses are never
    allowed. An IPv4 address inside an IPv6 one counts as itself.
    """
    inner = _embedded(address)
    never = inner.is_multicast or inner.is_link_local or inner.is_unspecified
    allowed = inner.is_global or any(
        inner in network for network in allowed_networks if network.version == inner.version
    )
    if never or not allowed:
        raise EgressRefused(
            "the foundation model's host is at an address that is not public; if that is meant, "
            "the broker's operator can allow its network with --allow-private-network."
        )


def _embedded(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else address)
