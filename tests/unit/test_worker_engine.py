"""What a worker refuses before it makes the memory of a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import small_host
from fake_machine import FakeMachine
from farswap.client_nbd import config as host_config
from farswap.client_nbd.survival import engine as engines
from farswap.common.errors import StartError

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = host_config.parse(small_host.TEXT, "host.toml")


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


def test_a_pool_that_the_machine_has_no_room_for_is_refused(machine: FakeMachine) -> None:
    machine.memory_available(4)  # the pool alone
    with pytest.raises(StartError, match="need 4 MiB of memory, but 4 MiB are available"):
        engines.private_state(CONFIG, machine)


def test_a_kernel_with_larger_pages_is_refused(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines.resource, "getpagesize", lambda: 1 << 16)
    with pytest.raises(StartError, match="this kernel has pages of 64 KiB"):
        engines.private_state(CONFIG, machine)


def test_a_state_is_that_of_an_empty_device(machine: FakeMachine) -> None:
    state = engines.private_state(CONFIG, machine)
    assert state.memory == ("private", -1)
    assert (state.takeovers, state.note) == (0, b"")
