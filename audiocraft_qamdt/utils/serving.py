"""What the package's servers let in: requests to names that are theirs, with bodies of a bounded size."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

LARGEST_BODY = 1 << 19  # bytes; the fields of a page fill half of it at most
SLOWEST_BODY = 30.0  # seconds
LARGEST_DRAINED = 1 << 26  # bytes of a refused body that are read at most
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class KnownHosts:
    """Host names of a server; loopback is always known.

    Args:
        names: that a request's Host (and Origin) may give.
        any_address: take numeric addresses too: the server listens on all of the machine's.
    """

    def __init__(self, names: Iterable[str] = (), any_address: bool = False) -> None:
        self.names = LOOPBACK | {name.lower() for name in names}
        self.any_address = any_address

    def refusal(self, host: str, origin: str | None) -> str | None:
        """Return why a request with these headers is refused; None = it is let in."""
        if not self._knows(f"//{host}"):
            return "unknown host: name it with --host or --allow-host"
        if origin and not self._knows(origin):
            return "another site's page asks"
        return None

    def _knows(self, url: str) -> bool:
        try:
            name = urlsplit(url).hostname or ""
        except ValueError:
            return False
        if name.rstrip(".") in self.names:
            return True
        try:
            return self.any_address and bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def hosts_of(host: str, allowed: Iterable[str]) -> tuple[list[str], bool]:
    """Return the names of a server on `host`, and whether numeric addresses are names too (it listens on all)."""
    everywhere = host in ("0.0.0.0", "::", "")
    return [*allowed, *([socket.gethostname()] if everywhere else [host])], everywhere


def length_fits(length: str) -> bool:
    """Return whether a Content-Length is a number of bytes that a body may have."""
    return length.isascii() and length.isdigit() and len(length) < 12 and int(length) <= LARGEST_BODY


def check_port(host: str, port: int) -> None:
    """See that a server can listen there.

    Raises:
        OSError: naming the address.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise OSError(f"cannot listen on {host}:{port} ({error}): choose another --port or --host") from error
