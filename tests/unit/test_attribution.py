"""Which source of attribution starts, when, and its report to the operator."""

from __future__ import annotations

import pytest
from fake_engine import FakeEngine
from farswap.client_nbd.attribution import Attribution
from farswap.client_nbd.config import AttributionSection
from farswap.client_nbd.kernel.device_use import ExportDevices
from farswap.common.errors import NotFoundError, NotPossibleError

PINS = "/sys/fs/bpf/farswap"


class Machine:
    """Block devices and cgroups that come and go."""

    def __init__(self, **keys: object) -> None:
        self.devices: dict[str, tuple[int, int]] = {}
        self.offsets: dict[tuple[int, int], int] = {}
        self.cgroups: dict[str, int] = {}
        self.engine = FakeEngine()
        section = AttributionSection(**keys)
        self.known: dict[str, tuple[int, int]] = {}
        devices = ExportDevices(self)
        devices.add = self.known.__setitem__
        self.attribution = Attribution(self.engine, section, self, devices, self.id_of)

    def device_number(self, device: str) -> tuple[int, int] | None:
        return self.devices.get(device)

    def device_offset_bytes(self, number: tuple[int, int]) -> int:
        return self.offsets.get(number, 0)

    def id_of(self, path: str) -> int:
        if path not in self.cgroups:
            raise NotFoundError(path)
        return self.cgroups[path]


def test_an_attached_device_needs_no_configuration() -> None:
    machine = Machine()
    machine.devices["/dev/nbd0"] = (43, 0)
    machine.attribution.look()
    assert machine.attribution.state().source == "root"
    state = machine.attribution.start("/dev/nbd0")
    assert machine.engine.attributed == [((43, 0), PINS, True)]
    assert (state.source, state.device, state.problem) == ("bpf", "/dev/nbd0", "")
    machine.attribution.stop()
    state = machine.attribution.state()
    assert (state.source, state.device) == ("root", "")


def test_without_a_device_the_reason_is_reported() -> None:
    assert "no device of this daemon" in Machine().attribution.state().problem
    state = Machine(device="/dev/loop7").attribution.state()
    assert state.problem == "/dev/loop7 does not exist"


def test_what_is_no_block_device_changes_nothing() -> None:
    machine = Machine()
    machine.devices["/dev/nbd0"] = (43, 0)
    machine.attribution.start("/dev/nbd0")
    state = machine.attribution.start("/dev/null")
    assert state.problem == "not a block device of this machine"
    assert (state.source, state.device) == ("bpf", "/dev/nbd0")
    assert machine.attribution.state().problem == ""


def test_a_second_device_takes_the_place_of_the_first_only_on_request() -> None:
    machine = Machine()
    machine.devices |= {"/dev/loop7": (7, 7), "/dev/loop8": (7, 8)}
    start = machine.attribution.start
    start("/dev/loop7", replace=False)
    with pytest.raises(NotPossibleError, match="/dev/loop7 is attributed"):
        start("/dev/loop8", replace=False)
    assert machine.attribution.state().device == "/dev/loop7"
    assert start("/dev/loop7", replace=False).device == "/dev/loop7"
    assert start("/dev/loop8", replace=True).device == "/dev/loop8"
    assert [number for number, *_ in machine.engine.attributed] == [(7, 7), (7, 7), (7, 8)]
    # The machine may go on swapping to the first one.
    assert machine.known == machine.devices


def test_a_device_that_is_not_watched_is_replaced_by_another() -> None:
    machine = Machine()
    machine.devices |= {"/dev/loop7": (7, 7), "/dev/loop8": (7, 8)}
    machine.engine.attribution_problem = "the kernel refused"
    machine.attribution.start("/dev/loop7")
    machine.attribution.start("/dev/loop8", replace=False)
    assert [number for number, *_ in machine.engine.attributed] == [(7, 7), (7, 8)]


def test_a_partition_is_not_hooked_since_its_slots_are_others() -> None:
    machine = Machine(device="/dev/nbd0p1")
    machine.devices["/dev/nbd0p1"] = (43, 1)
    machine.offsets[43, 1] = 1 << 20
    machine.attribution.look()
    assert machine.engine.attributed == []
    state = machine.attribution.state()
    assert "/dev/nbd0p1: a part of a disk" in state.problem
    assert (state.source, state.device) == ("root", "")
    assert machine.known == machine.devices
    machine.devices["/dev/nbd0"] = (43, 0)
    assert machine.attribution.start("/dev/nbd0").problem == ""


def test_what_the_kernel_refuses_is_reported_and_no_failure() -> None:
    machine = Machine()
    machine.devices["/dev/nbd0"] = (43, 0)
    machine.engine.attribution_problem = "the kernel refused"
    state = machine.attribution.start("/dev/nbd0")
    assert (state.source, state.device, state.problem) == ("root", "", "the kernel refused")


def test_a_configured_device_is_waited_for() -> None:
    machine = Machine(device="/dev/loop7", free_notifications=False, pin_directory="")
    machine.attribution.look()
    assert machine.engine.attributed == []
    machine.devices["/dev/loop7"] = (7, 7)
    for _ in range(2):
        machine.attribution.look()
    assert machine.engine.attributed == [((7, 7), "", False)]


def test_an_attached_device_goes_before_the_configured_one() -> None:
    machine = Machine(device="/dev/loop7")
    machine.devices |= {"/dev/loop7": (7, 7), "/dev/nbd0": (43, 0)}
    machine.attribution.start("/dev/nbd0")
    machine.attribution.look()
    assert [number for number, *_ in machine.engine.attributed] == [(43, 0)]


def test_the_label_follows_its_cgroup() -> None:
    machine = Machine(cgroup="/vm1")
    machine.attribution.look()
    assert "no cgroup /vm1" in machine.attribution.state().problem
    for id_ in (11, 12):
        machine.cgroups["/vm1"] = id_
        machine.attribution.look()
        assert machine.engine.label == id_
    assert machine.attribution.state().source == "label"
    assert "/vm1" not in machine.attribution.state().problem
