"""What `api.bind` names: an address and a port, or nothing at all."""

import ipaddress
from typing import Final

OFF: Final = "off"
_PORT_MAX: Final = 65535
_FORM: Final = 'must be "ADDRESS:PORT", such as "127.0.0.1:8650" or "[::1]:8650", or "off"'


def address_of(bind: str) -> tuple[str, int] | None:
    """Return the host (without brackets) and the port, 0 for any that is free; None for "off". Raises ValueError with the sentence."""
    if bind == OFF:
        return None
    host, colon, port = bind.rpartition(":")
    inside = host.startswith("[") and host.endswith("]")
    if inside:
        host = host[1:-1]
    if not colon or not host or (":" in host and not inside) or any(character.isspace() for character in host):
        raise ValueError(_FORM)
    if inside and not _is_ipv6(host):
        raise ValueError(_FORM)
    if not (port.isascii() and port.isdigit() and len(port) <= len(str(_PORT_MAX)) and int(port) <= _PORT_MAX):
        raise ValueError(f"{_FORM}; a port is a number from 0 (any that is free) to {_PORT_MAX}")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the address. A name other than localhost may mean any address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
