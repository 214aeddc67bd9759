"""Two network namespaces with a link that can be cut: to each other they are two machines.

After cut() one of them has lost its power or its network, as seen by the other: no FIN, no RST.
Sockets, and child processes, belong to the namespace in which they were made.
"""

from __future__ import annotations

from network import NetworkNamespace, ip

NEAR, FAR = "10.99.0.1", "10.99.0.2"


class TwoMachines:
    """`near`, at NEAR, and `far`, at FAR."""

    def __init__(self) -> None:
        self.near, self.far = NetworkNamespace(), NetworkNamespace()
        with self.near.entered():
            ip(
                "link",
                "add",
                "link0",
                "type",
                "veth",
                "peer",
                "name",
                "link0",
                "netns",
                self.far.path,
            )
        for namespace, address in ((self.near, NEAR), (self.far, FAR)):
            with namespace.entered():
                ip("address", "add", f"{address}/24", "dev", "link0")
                ip("link", "set", "link0", "up")

    def cut(self) -> None:
        """Nothing that one of them sends from now on reaches the other."""
        with self.far.entered():
            ip("link", "set", "link0", "down")

    def join(self) -> None:
        """Ends cut()."""
        with self.far.entered():
            ip("link", "set", "link0", "up")

    def close(self) -> None:
        self.near.close()
        self.far.close()
