"""``host:port``, as options and tokens carry it."""

from __future__ import annotations

import re

from fedhelp_secure.errors import ConfigurationError

_ADDRESS = re.compile(
    r"(?P<host>[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):(?P<port>[0-9]{1,5})\Z"
)


class AddressMalformed(ConfigurationError):
    """An address does not have the form HOST:PORT."""

    code = "address"


def parse_address(text: str, option: str) -> tuple[str, int]:
    """Host (an IPv6 address without its brackets) and port; raises AddressMalformed.

    ``option`` is where it came from, for the sentence.
    """
    found = _ADDRESS.match(text)
    if found is None or int(found["port"]) > 65535:
        raise AddressMalformed(
            f"{option} must have the form HOST:PORT, for example 127.0.0.1:7444."
        )
    return found["host"].strip("[]"), int(found["port"])
