"""What happens to memory servers, one fault at a time. Each ends healed, but for the debt.

A plan is drawn from a seed before it begins. It names a victim by a number, which counts the
servers that hold pages at that moment: a fault of an empty server would show nothing.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chaos.cluster import HOST, LOOK_S
from hang_guard import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from chaos.cluster import ChaosCluster, Server

FREEZE_S = 10.0
KILLS_MAX = 10  # of a worker, in one fault
# Above the times after which a host does without a server, below those after which it replaces it.
SECONDS = (0.5, 12.0)


@dataclass(frozen=True)
class Fault:
    """`victim` and `way` are taken modulo what there is; `seconds`: how long it lasts."""

    kind: str
    victim: int
    way: int
    seconds: float


def _kill(_cluster: ChaosCluster, server: Server, fault: Fault) -> None:
    server.kill()
    time.sleep(fault.seconds)
    server.start()


def _freeze(_cluster: ChaosCluster, server: Server, fault: Fault) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    time.sleep(fault.seconds)
    os.kill(server.pid, signal.SIGCONT)


def _partition(cluster: ChaosCluster, server: Server, fault: Fault) -> None:
    """From the host in both directions, or in one."""
    both = ((HOST, server.number), (server.number, HOST))
    for sender, receiver in (both, both[:1], both[1:])[fault.way % 3]:
        cluster.network.cut(sender, receiver)
    time.sleep(fault.seconds)
    cluster.network.join()


def _isolate(cluster: ChaosCluster, server: Server, fault: Fault) -> None:
    """The server is killed, and cut off from the others when it is back: it cannot copy."""
    server.kill()
    for other in cluster.others[server]:
        cluster.network.cut(other.number, server.number)
        if fault.way % 2:
            cluster.network.cut(server.number, other.number)
    time.sleep(fault.seconds / 2)
    server.start()
    time.sleep(fault.seconds / 2)
    cluster.network.join()


def _fill(_cluster: ChaosCluster, server: Server, fault: Fault) -> None:
    """Its disk is full for a while."""
    file = server.disk / "other"
    with file.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        block = bytes(1 << 20)
        while True:
            filler.write(block)
    until(lambda: server.status().disk_problem, LOOK_S)
    time.sleep(fault.seconds)
    file.unlink()
    until(lambda: not server.status().disk_problem, LOOK_S)


def _stall(_cluster: ChaosCluster, server: Server, fault: Fault) -> None:
    """Its disk takes no write for a while; heartbeats go on."""
    subprocess.run(["fsfreeze", "--freeze", str(server.disk)], check=True)
    time.sleep(fault.seconds / 2)
    subprocess.run(["fsfreeze", "--unfreeze", str(server.disk)], check=True)


def _wipe(_cluster: ChaosCluster, server: Server, fault: Fault) -> None:
    server.kill()
    server.wipe()
    time.sleep(fault.seconds)
    server.start()


def _drain(_cluster: ChaosCluster, server: Server, _fault: Fault) -> None:
    for words in (("drain", "--wait"), ("undrain",)):
        done = server.ctl("server", *words)
        if done.returncode:
            raise RuntimeError(f"server {words[0]} failed: {done.stderr}")


def _kill_worker(cluster: ChaosCluster, server: Server, fault: Fault) -> None:
    """The host's worker is killed, several times, also with the server away or its successor."""
    if fault.way % 2:
        server.kill()
    pause = random.Random(fault.way)
    for _ in range(1 + fault.way // 2 % KILLS_MAX):
        cluster.host.kill_worker()
        # Before, while and after the next standby starts.
        time.sleep(pause.uniform(0, fault.seconds / KILLS_MAX))
    if fault.way % 2:
        server.start()


KINDS: dict[str, Callable[[ChaosCluster, Server, Fault], None]] = {
    "kill": _kill,
    "freeze": _freeze,
    "partition": _partition,
    "isolate": _isolate,
    "fill": _fill,
    "stall": _stall,
    "wipe": _wipe,
    "drain": _drain,
    "worker": _kill_worker,
}


def plan(
    seed: int, kinds: Sequence[str] = tuple(KINDS), seconds_max: float = SECONDS[1]
) -> Iterator[Fault]:
    """Without end; every kind comes once before one comes again."""
    chance = random.Random(seed)
    while True:
        for kind in chance.sample(kinds, len(kinds)):
            victim, way = chance.randrange(1 << 16), chance.randrange(1 << 16)
            seconds = round(chance.uniform(SECONDS[0], seconds_max), 1)
            if kind == "freeze":
                seconds = min(FREEZE_S, seconds_max)
            yield Fault(kind, victim, way, seconds)


def victim_of(cluster: ChaosCluster, fault: Fault) -> Server:
    """One of those that hold pages; waits until the first do."""

    def holders() -> list[Server]:
        return [server for server in cluster.servers if cluster.seen(server).shards]

    holding = until(holders, LOOK_S)
    return holding[fault.victim % len(holding)]


def inject(cluster: ChaosCluster, server: Server, fault: Fault) -> None:
    """Returns when the fault is healed; the debt may not be paid yet."""
    KINDS[fault.kind](cluster, server, fault)


def heal(cluster: ChaosCluster, server: Server) -> None:
    """After a fault that was cut short."""
    with contextlib.suppress(subprocess.CalledProcessError):
        subprocess.run(
            ["fsfreeze", "--unfreeze", str(server.disk)], check=True, capture_output=True
        )
    cluster.network.join()
    if server.running:
        os.kill(server.pid, signal.SIGCONT)
