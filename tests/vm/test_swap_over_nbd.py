"""A real kernel swaps on /dev/nbd0 over TCP, and every page comes back as it left."""

import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from vm.guest import Guest, GuestRun

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]
GUEST_DEADLINE_S = 300


@pytest.fixture
def nbdkit_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(port), "memory", "512M"]
    with subprocess.Popen(command) as nbdkit:
        for _ in range(200):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port
        nbdkit.terminate()


def verified(run: GuestRun) -> list[dict[str, int]]:
    """Returns the verifiers' results once sure that nothing at all went wrong in the guest."""
    assert run.status == 0, run.console
    results = list(run.reports().values())
    assert results, run.console
    assert [result["wrong_pages"] for result in results] == [0] * len(results)
    return results


def test_harness_swaps_on_a_foreign_server(guest: Guest, nbdkit_port: int) -> None:
    run = guest.run_bare(
        "swap", GUEST_DEADLINE_S, port=nbdkit_port, export="", mib=64, limit_mib=32, passes=1,
        groups=1,
    )  # fmt: skip
    (result,) = verified(run)
    assert result["swapped_out"] > result["pages"] // 2
