"""Where a service listens: a unix socket or a TCP port, as one type.

Text forms: `unix:/run/farswap/host.sock`, `127.0.0.1:7071`, `tcp:127.0.0.1:10809`,
`[::1]:7071`, `[fe80::1%eth0]:7071`. Port 0 is any free port, which the listener then reports.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Self
from urllib.parse import quote

# sockaddr_un.sun_path without its terminating zero, unix(7).
UNIX_PATH_BYTES_MAX = 107

# A zone is the name or number of an interface: `[fe80::1%eth0]:7071`.
_HOST_PORT = re.compile(
    r"(?:\[(?P<ip>[0-9A-Fa-f:.]+(?:%[^\s/%\[\]]{1,15})?)\]|(?P<name>[A-Za-z0-9._-]+))"
    r":(?P<port>[0-9]{1,5})"
)


class Address:
    """`path` is set for a unix socket; `host` and `port` for TCP. Immutable by convention."""

    __slots__ = ("host", "path", "port")

    def __init__(self, *, path: str = "", host: str = "", port: int = 0) -> None:
        self.path = path
        self.host = host
        self.port = port

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises ValueError with the operator's message."""
        if not isinstance(text, str):
            raise ValueError(f"{text} is not an address")  # noqa: TRY004 - a value, to the operator
        if text.startswith("unix:"):
            return cls._parse_unix(text)
        match = _HOST_PORT.fullmatch(text.removeprefix("tcp:"))
        if match is None or int(match["port"]) > 65535 or not _is_ip(match["ip"]):
            raise ValueError(
                f'"{text}" is not an address such as unix:/run/farswap/host.sock or 127.0.0.1:7071'
            )
        return cls(host=match["ip"] or match["name"], port=int(match["port"]))

    @classmethod
    def _parse_unix(cls, text: str) -> Self:
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError(f'"{text}" needs an absolute path: unix:/...')
        if path.endswith("/"):
            raise ValueError(f'"{text}" does not name a socket')
        if "," in path:
            raise ValueError(f'"{text}" contains a comma, which separates addresses in gRPC')
        if not path.isprintable():
            raise ValueError(f"{text!a} contains unprintable characters")
        if len(path.encode()) > UNIX_PATH_BYTES_MAX:
            raise ValueError(f'"{text}" is longer than the {UNIX_PATH_BYTES_MAX} bytes of a socket')
        return cls(path=path)

    @property
    def is_unix(self) -> bool:
        """Whether it is a unix socket."""
        return bool(self.path)

    @property
    def is_fixed(self) -> bool:
        """Whether it is known before it is bound: not port 0."""
        return self.is_unix or self.port != 0

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.is_unix or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return False

    @property
    def is_any(self) -> bool:
        """Whether it stands for all addresses of this machine."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False

    def with_port(self, port: int) -> Address:
        """The same host with another port, e.g. the real one in place of 0."""
        return Address(host=self.host, port=port)

    @property
    def host_port(self) -> str:
        """`127.0.0.1:7071`, `[::1]:7071`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def with_scheme(self) -> str:
        """As NBD addresses are written: `unix:/run/farswap/swap0.sock`, `tcp:127.0.0.1:10809`."""
        return str(self) if self.is_unix else f"tcp:{self.host_port}"

    @property
    def grpc_target(self) -> str:
        """gRPC's form, a URI: "%", "#", "?" and blanks are escaped."""
        if self.is_unix:
            return f"unix:{quote(self.path)}"
        return self.host_port.replace("%", "%25")

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.is_unix else self.host_port

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, str, int]:
        return (self.path, self.host, self.port)


def _is_ip(text: str | None) -> bool:
    """Also True of None."""
    try:
        return text is None or bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


# Default addresses of the admin services.
HOST_ADMIN = Address.parse("unix:/run/farswap/host.sock")
SERVER_ADMIN = Address.parse("127.0.0.1:7071")
