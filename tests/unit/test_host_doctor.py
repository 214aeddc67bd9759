"""What the doctor checks: the kernel's settings on fixture trees, accounting, the servers."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from fake_cgroups import record
from fake_machine import ROOT_DISK, FakeMachine
from farswap.client_nbd import config as host_config
from farswap.client_nbd.attribution import AttributionState
from farswap.client_nbd.checks import findings
from farswap.client_nbd.checks import kernel as kernel_checks
from farswap.client_nbd.checks import tier as tier_checks
from farswap.client_nbd.checks.tier import STATES, Account
from farswap.client_nbd.kernel import device_use
from farswap.client_nbd.kernel.device_use import Use
from farswap.client_nbd.kernel.files import KernelFiles
from farswap.client_nbd.kernel.tables import SwapArea
from farswap.common import config as common_config
from farswap.common.address import Address

if TYPE_CHECKING:
    from pathlib import Path

    from farswap.client_nbd.checks.findings import Finding
    from farswap.client_nbd.kernel.tables import Number

SWAPS = "Filename Type Size Used Priority\n/dev/nbd0 partition 1048572 2048 100\n"
CONFIG = common_config.parse(
    host_config.HostConfig,
    '[device]\nname = "swap0"\nsize = "4MiB"\n[tier]\npool_limit = "64MiB"\n'
    '[nbd]\nlisten = ["unix:/run/farswap/swap0.sock"]\n',
    "host.toml",
)
NBD0, LOOP7 = (43, 0), (7, 7)
AREA = SwapArea("/dev/nbd0", 1 << 30, 40 << 20, 100)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine on which all is well."""
    made = machine(tmp_path)
    made.add_device("nbd0", NBD0)
    made.add_device("loop7", LOOP7)
    for path, text in {
        "proc/swaps": SWAPS,
        "sys/module/zswap/parameters/enabled": "N\n",
        "sys/block/nbd0/queue/io_timeout": "1000\n",
        "sys/block/nbd0/queue/discard_max_bytes": "4294966784\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def device(name: str = "/dev/nbd0", connections: int = 1, timeout_s: int = 86_400):
    return SimpleNamespace(
        device=lambda: name, connection_count=connections, dead_connection_timeout_s=timeout_s
    )


def machine(root: Path) -> FakeMachine:
    made = FakeMachine(root)
    made.nodes = {"/dev/nbd0": (NBD0, True), "/dev/loop7": (LOOP7, True)}
    made.nodes |= dict.fromkeys(("/a", "/b", "/swapfile"), (ROOT_DISK, False))
    return made


def of_kernel(root: Path, attached: SimpleNamespace | None = None, swap: Number | None = NBD0):
    files = machine(root)
    use = device_use.look(files, [swap] if swap else [])
    return kernel_checks.of_kernel(files, attached or device(), use)


def subjects(found: list[Finding]) -> list[str]:
    return [finding.subject for finding in findings.problems(found)]


def test_a_machine_as_it_should_be_has_no_problem(root: Path) -> None:
    found = of_kernel(root)
    assert subjects(found) == []
    assert len(found) == 7


def test_swap_that_is_stacked_on_ours_is_reported_with_its_cost(root: Path) -> None:
    (root / "sys/block/nbd0/holders/loop7").symlink_to(root / "sys/block/loop7")
    (root / "proc/swaps").write_text(SWAPS.replace("nbd0", "loop7"))
    (problem,) = findings.problems(of_kernel(root))
    assert (problem.level, problem.subject) == ("warning", "stacking")
    assert "/dev/loop7, stacked on" in problem.message


def test_a_doubt_about_swap_is_reported(root: Path) -> None:
    (root / "proc/swaps").write_text("Filename Type Size Used Priority\nnonsense\n")
    (problem,) = findings.problems(of_kernel(root))
    assert (problem.level, problem.subject) == ("warning", "swap")
    assert "unknown whether" in problem.message


def test_a_device_that_is_not_swapped_to_is_reported(root: Path) -> None:
    (root / "proc/swaps").write_text("Filename Type Size Used Priority\n")
    found = of_kernel(root)
    assert subjects(found) == []
    assert "swap" in [finding.subject for finding in found]


def test_without_a_device_nothing_is_reported_of_it(root: Path) -> None:
    found = of_kernel(root, device(""), swap=None)
    assert [finding.subject for finding in found] == ["zswap", "device"]


@pytest.mark.parametrize(
    ("path", "text", "subject", "word"),
    [
        ("sys/module/zswap/parameters/enabled", "Y", "zswap", "twice"),
        ("sys/block/nbd0/queue/io_timeout", "30000", "io_timeout", "30000 ms"),
        ("sys/block/nbd0/queue/io_timeout", "", "io_timeout", "unknown"),
        ("sys/block/nbd0/queue/discard_max_bytes", "0", "trim", "not support TRIM"),
        ("proc/swaps", SWAPS + "/swapfile file 4 0 101\n", "swap_priority", "/swapfile before"),
    ],
)
def test_a_harmful_setting_is_reported_with_its_remedy(
    root: Path, path: str, text: str, subject: str, word: str
) -> None:
    (root / path).write_text(text)
    (problem,) = findings.problems(of_kernel(root))
    assert (problem.level, problem.subject) == ("warning", subject)
    assert word in problem.message
    assert problem.remedy


@pytest.mark.parametrize(
    ("state", "resume", "harmful"),
    [
        ("freeze mem\n", "43:0\n", False),
        ("freeze mem disk\n", "8:2\n", False),
        ("freeze mem disk\n", "43:0\n", True),
        ("freeze mem disk\n", "0:0\n", True),
    ],
)
def test_hibernation_to_our_device_is_warned_of(
    root: Path, state: str, resume: str, *, harmful: bool
) -> None:
    (root / "sys/power").mkdir()
    (root / "sys/power/state").write_text(state)
    (root / "sys/power/resume").write_text(resume)
    found = kernel_checks.hibernation(AREA, KernelFiles(root).hibernates_to(), (43, 0))
    assert (found.level == "warning") == harmful
    assert bool(found.remedy) == harmful


def test_an_area_of_the_same_or_a_lower_priority_is_no_problem(root: Path) -> None:
    (root / "proc/swaps").write_text(SWAPS + "/a file 4 0 100\n/b file 4 0 -2\n")
    assert subjects(of_kernel(root)) == []


def test_the_priority_of_a_device_that_is_only_named_is_checked_too(root: Path) -> None:
    (root / "proc/swaps").write_text(SWAPS + "/dev/loop7 partition 4 0 -2\n")
    assert subjects(of_kernel(root, device(""), swap=LOOP7)) == ["swap_priority"]


def test_a_device_attached_otherwise_than_advised_is_reported(root: Path) -> None:
    attached = device(connections=2, timeout_s=30)
    found = of_kernel(root, attached)
    assert subjects(found) == ["connections", "dead_connection_timeout"]


# The area of 40 MiB used stands for 10,240 pages.
@pytest.mark.parametrize(
    ("counters", "stored", "free_hook", "level", "word"),
    [
        ({}, 10_240, False, "ok", "few are held"),
        ({}, 20_000, False, "ok", "few are held"),
        ({}, 40_000, False, "warning", "without discard"),
        ({"trims": 5}, 40_000, False, "warning", "wholly free clusters"),
        ({"trims": 5}, 12_000, False, "ok", "5 so far"),
        ({"early_frees": 9, "trims": 1}, 40_000, True, "ok", "10 so far"),
    ],
)
def test_discard_is_judged_by_what_piles_up(
    counters: dict[str, int], stored: int, *, free_hook: bool, level: str, word: str
) -> None:
    found = kernel_checks.discard(Use(own=(AREA,)), counters, stored, free_hook=free_hook)
    assert found.level == level
    assert word in found.message


@pytest.mark.parametrize(
    ("source", "free_hook", "problem", "expected", "levels", "word"),
    [
        ("bpf", "swap_entries_free", "", True, ["ok", "ok"], "98 of 100 pages"),
        ("bpf", "", "no hook", True, ["ok", "warning"], "98 of 100 pages"),
        ("bpf", "", "", True, ["ok", "ok"], "98 of 100 pages"),
        ("root", "", "not permitted", True, ["warning"], "root cgroup: not permitted"),
        ("label", "", "not permitted", True, ["warning"], "one cgroup: not permitted"),
        ("root", "", "no device", False, ["ok"], "no device"),
    ],
)
def test_attribution_is_judged_where_there_is_a_device(
    source: str, free_hook: str, problem: str, *, expected: bool, levels: list[str], word: str
) -> None:
    state = AttributionState(source, "/dev/nbd0", free_hook, problem, 3, 100, 2, 0)
    found = kernel_checks.attribution(state, expected=expected)
    assert [finding.level for finding in found] == levels
    assert word in found[0].message


@pytest.mark.parametrize(
    ("server", "resolved", "level"),
    [
        ("127.0.0.1:7070", [], "warning"),
        ("unix:/run/x", [], "warning"),
        ("10.0.0.7:7070", ["10.0.0.7"], "ok"),
        ("10.0.0.5:7070", ["10.0.0.5"], "warning"),
        ("this-host:7070", ["10.0.0.5"], "warning"),
        ("elsewhere:7070", [], "ok"),
    ],
)
def test_a_server_on_this_machine_is_reported(server: str, resolved: list[str], level: str) -> None:
    address = Address.parse(server)
    found = kernel_checks.server_place(address, resolved, {"10.0.0.5"}, swapping=True)
    assert found.level == level


def test_what_the_kernel_refused_is_an_error_once_it_swaps_to_us() -> None:
    report = [
        SimpleNamespace(subject="memlock", granted=False, message="no"),
        SimpleNamespace(subject="io_flusher", granted=True, message=""),
    ]
    levels = [
        [finding.level for finding in findings.of_protections(report, swapping=swapping)]
        for swapping in (False, True)
    ]
    assert levels == [["warning", "ok"], ["error", "ok"]]
    assert findings.of_protections(None, swapping=True)[0].level == "error"


class TestAccounting:
    def stats(self, **changed: int) -> dict[str, int]:
        return {
            "stores": 100,
            "overwrites": 20,
            "trims": 7,
            "early_frees": 2,
            "lost_failed_store": 1,
            "loads_remote": 9,
            "written_back_pages": 30,
            "same_filled_pages": 5,
            "local_pages": 20,
            "writing_pages": 5,
            "clean_pages": 0,
            "remote_pages": 40,
            **changed,
        }

    def group(self, **changed: int) -> SimpleNamespace:
        counters = {name: value for name, value in self.stats().items() if name not in STATES}
        pages = {"same_filled_pages": 5, "local_pages": 20, "writing_pages": 5, "remote_pages": 40}
        return record(0, counters=counters, **(pages | changed))

    def test_what_adds_up_is_ok_at_the_first_reading(self) -> None:
        (found,) = tier_checks.accounting(
            lambda: tier_checks.accounts(self.stats(), [self.group()])
        )
        assert found.level == "ok"
        assert "in 1 cgroup" in found.message

    def test_pages_of_an_earlier_daemon_count_as_put(self) -> None:
        stats = self.stats(stores=60, recovered=40)
        group = self.group()
        (found,) = tier_checks.accounting(lambda: tier_checks.accounts(stats, [group]))
        assert found.level == "ok"

    def test_a_page_too_few_is_an_error_that_names_the_group(self) -> None:
        group = self.group(local_pages=19)
        found = tier_checks.accounting(
            lambda: tier_checks.accounts(self.stats(), [group], lambda _: "/build")
        )
        assert [finding.level for finding in found] == ["error", "error"]
        assert "all cgroups together" in found[0].message
        assert "cgroup /build: 70 pages by counters, 69 by states" in found[1].message

    def test_a_difference_within_what_moved_meanwhile_is_none(self) -> None:
        moved = itertools.count()
        (found,) = tier_checks.accounting(lambda: {0: Account("busy", 10, 9, next(moved))})
        assert found.level == "ok"

    def test_a_larger_one_that_stays_is_an_error(self) -> None:
        moved = itertools.count()
        (found,) = tier_checks.accounting(lambda: {0: Account("busy", 10, 7, next(moved))})
        assert found.level == "error"

    def test_one_good_reading_is_enough(self) -> None:
        readings = itertools.chain([9] * 6, itertools.repeat(10))
        (found,) = tier_checks.accounting(lambda: {0: Account("late", 10, next(readings), 0)})
        assert found.level == "ok"

    def test_a_group_that_goes_away_is_no_suspect(self) -> None:
        readings = itertools.chain([{0: Account("gone", 10, 9, 0)}] * 3, itertools.repeat({}))
        (found,) = tier_checks.accounting(lambda: next(readings))
        assert found.level == "ok"


def test_each_failure_is_reported_with_its_count() -> None:
    assert tier_checks.failures({"fail_checksum": 0, "stores": 9})[0].level == "ok"
    found = tier_checks.failures({"fail_checksum": 3, "reject_reclaim_fail": 1})
    assert [(finding.level, finding.subject) for finding in found] == [
        ("error", "fail_checksum"),
        ("warning", "reject_reclaim_fail"),
    ]
    assert "3 since the start" in found[0].message


def test_refused_protections_and_open_addresses_are_findings() -> None:
    protections = [
        SimpleNamespace(subject="memlock", granted=False, message="RLIMIT_MEMLOCK is 8 MiB"),
        SimpleNamespace(subject="io_flusher", granted=True, message=""),
    ]
    subjects = [finding.subject for finding in findings.of_start(CONFIG, protections)]
    assert subjects == ["memlock", "cluster.servers"]
    assert findings.of_start(CONFIG, None)[0].subject == "reclaim"
