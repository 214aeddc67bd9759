"""Users of a device: by numbers and holders, and never "none" if unknown."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from fake_machine import ROOT_DISK, FakeMachine
from farswap.client_nbd.kernel import device_use
from farswap.common.errors import NotPossibleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NBD0 = (43, 0)
AREA = "{} partition 4092 100 -2"
FILE = "{} file 4092 100 -2"


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    made = FakeMachine(tmp_path)
    made.add_device("nbd0", NBD0)
    made.add_device("vda", ROOT_DISK)
    made.nodes["/swapfile"] = ROOT_DISK, False
    return made


def areas(use: device_use.Use) -> tuple[list[str], list[str], list[str]]:
    return tuple([area.path for area in found] for found in (use.own, use.stacked, use.elsewhere))


def test_an_area_is_found_under_any_node_of_the_device(machine: FakeMachine) -> None:
    machine.nodes["/tmp/swap"] = NBD0, True
    machine.swaps(AREA.format("/tmp/swap"), FILE.format("/swapfile"))
    use = device_use.look(machine, [NBD0])
    assert areas(use) == (["/tmp/swap"], [], ["/swapfile"])
    assert not use.doubts
    assert use.used_bytes == 100 << 10


def test_another_device_of_the_same_name_is_none_of_ours(machine: FakeMachine) -> None:
    machine.nodes["/dev/nbd0"] = ROOT_DISK, True
    machine.swaps(AREA.format("/dev/nbd0"))
    use = device_use.look(machine, [NBD0])
    assert (areas(use), use.doubts) == (([], [], ["/dev/nbd0"]), ())


def partition(machine: FakeMachine) -> str:
    machine.add_device("nbd0p1", (43, 1), on="nbd0")
    return AREA.format("/dev/nbd0p1")


def crypt(machine: FakeMachine) -> str:
    machine.add_device("dm-0", (252, 0), on="nbd0")
    return AREA.format("/dev/dm-0")


def raid_on_partition(machine: FakeMachine) -> str:
    machine.add_device("nbd0p1", (43, 1), on="nbd0")
    machine.add_device("md0", (9, 0), on="nbd0p1")
    return AREA.format("/dev/md0")


def loop(machine: FakeMachine) -> str:
    machine.add_device("loop1", (7, 1), backing="/dev/nbd0")
    return AREA.format("/dev/loop1")


def compressed_memory(machine: FakeMachine) -> str:
    machine.add_device("zram0", (253, 0))
    (machine.root / "sys/block/zram0/backing_dev").write_text("/dev/nbd0\n")
    return AREA.format("/dev/zram0")


def file_on_it(machine: FakeMachine) -> str:
    machine.mount("/mnt", NBD0, "ext4")
    machine.nodes["/mnt/swap"] = NBD0, False
    return FILE.format("/mnt/swap")


def loop_on_a_file_on_crypt(machine: FakeMachine) -> str:
    machine.add_device("dm-0", (252, 0), on="nbd0")
    machine.mount("/mnt", (252, 0), "ext4")
    machine.nodes["/mnt/image"] = (252, 0), False
    machine.add_device("loop1", (7, 1), backing="/mnt/image")
    machine.add_device("loop2", (7, 2), backing="/dev/loop1")
    return AREA.format("/dev/loop2")


STACKS = [partition, crypt, raid_on_partition, loop, compressed_memory, file_on_it]
STACKS += [loop_on_a_file_on_crypt]


@pytest.mark.parametrize("stack", STACKS)
def test_swap_on_what_is_stacked_is_seen(
    machine: FakeMachine, stack: Callable[[FakeMachine], str]
) -> None:
    line = stack(machine)
    machine.swaps(line)
    use = device_use.look(machine, [NBD0])
    assert areas(use) == ([], [line.split()[0]], [])
    assert use.holders
    with pytest.raises(NotPossibleError, match="stacked on it"):
        use.refuse("/dev/nbd0")
    # The same without swap is in use too, and the holder is named.
    machine.swaps()
    with pytest.raises(NotPossibleError, match="in use: "):
        device_use.look(machine, [NBD0]).refuse("/dev/nbd0")
    # And it has nothing to do with another device.
    machine.swaps(line)
    assert not device_use.look(machine, [(43, 5)]).areas


def test_the_file_of_a_loop_over_fuse_is_not_examined(machine: FakeMachine) -> None:
    machine.mount("/w/export", (0, 60), "fuse.nbdfuse")
    machine.add_device("loop0", (7, 0), backing="/w/export")
    machine.add_device("loop1", (7, 1), backing="/dev/loop0")
    machine.swaps(AREA.format("/dev/loop1"))
    looked_up = []
    machine.look_up = lambda path: looked_up.append(path) or FakeMachine.look_up(machine, path)
    assert areas(device_use.look(machine, [(7, 0)])) == ([], ["/dev/loop1"], [])
    assert not device_use.look(machine, [NBD0]).areas
    assert "/w/export" not in looked_up


UNKNOWN = ["/swap\\040(deleted)", "/dev/other", "/container/swap", "/dev/nbd0\\040(deleted)"]


@pytest.mark.parametrize("path", UNKNOWN)
@pytest.mark.parametrize("line", [AREA, FILE])
def test_a_path_that_leads_nowhere_is_ours_only_if_the_device_is_held(
    machine: FakeMachine, path: str, line: str
) -> None:
    machine.swaps(line.format(path))
    assert not device_use.look(machine, [NBD0]).doubts
    machine.held.add(NBD0)
    use = device_use.look(machine, [NBD0])
    assert use.doubts
    assert not use.areas
    with pytest.raises(NotPossibleError, match="unknown whether"):
        use.refuse("/dev/nbd0")
    # Swap on the device itself is what holds it.
    machine.swaps(line.format(path), AREA.format("/dev/nbd0"))
    assert not device_use.look(machine, [NBD0]).doubts


def test_a_file_system_without_a_device_number_may_be_on_any(machine: FakeMachine) -> None:
    machine.mount("/pool", (0, 70), "btrfs")
    machine.nodes["/pool/swap"] = (0, 71), False
    machine.swaps(FILE.format("/pool/swap"))
    assert not device_use.look(machine, [NBD0]).doubts
    machine.held.add(NBD0)
    assert device_use.look(machine, [NBD0]).doubts


def test_a_loop_device_whose_file_leads_nowhere_leaves_a_doubt(machine: FakeMachine) -> None:
    machine.add_device("loop1", (7, 1), backing="/image (deleted)")
    machine.add_device("dm-0", (252, 0), on="loop1")
    assert not device_use.look(machine, [NBD0]).doubts
    machine.swaps(AREA.format("/dev/dm-0"))
    assert device_use.look(machine, [NBD0]).doubts
    assert areas(device_use.look(machine, [(7, 1)])) == ([], ["/dev/dm-0"], [])


@pytest.mark.parametrize(
    "path", ["proc/swaps", "proc/self/mountinfo", "sys/dev/block", "sys/block/nbd0/holders"]
)
def test_a_table_that_cannot_be_read_is_a_doubt(machine: FakeMachine, path: str) -> None:
    (machine.root / path).rename(machine.root / "away")
    if path == "proc/swaps":
        (machine.root / "proc/meminfo").unlink()
    use = device_use.look(machine, [NBD0])
    assert not use.areas
    assert use.doubts
    # Where no device can swap to us, there is nothing to be certain of.
    assert device_use.look(machine, []) == device_use.Use()


def test_a_line_that_is_not_understood_is_a_doubt(machine: FakeMachine) -> None:
    machine.swaps("/dev/nbd0 partition 4092")
    assert device_use.look(machine, [NBD0]).doubts


def test_a_device_that_is_gone_is_not_swapped_to(machine: FakeMachine) -> None:
    machine.swaps(AREA.format("/elsewhere"))
    use = device_use.look(machine, [(7, 9)])
    assert (use.areas, use.doubts) == ((), ())


def test_an_unused_device_is_kept_from_others(machine: FakeMachine) -> None:
    claimed = machine.claim(NBD0)
    machine.claim = lambda number, flags: claimed
    with device_use.unused(machine, "/dev/nbd0", NBD0) as descriptor:
        assert descriptor == claimed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(claimed)


def test_a_device_that_something_holds_is_not_unused(machine: FakeMachine) -> None:
    machine.held.add(NBD0)
    with (
        pytest.raises(NotPossibleError, match="exclusively: in use"),
        device_use.unused(machine, "/dev/nbd0", NBD0),
    ):
        pass


def test_swap_that_comes_on_between_two_checks_is_seen(machine: FakeMachine) -> None:
    def claim(number: tuple[int, int], flags: int) -> int:
        descriptor = FakeMachine.claim(machine, number, flags)
        machine.swaps(loop(machine))
        return descriptor

    machine.claim = claim
    with (
        pytest.raises(NotPossibleError, match="/dev/loop1"),
        device_use.unused(machine, "/dev/nbd0", NBD0),
    ):
        pass
