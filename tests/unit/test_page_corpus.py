"""Real pages are taken as promised, and nothing of them stays."""

import shutil
import stat
from pathlib import Path

import pytest
from bench.page_corpus import PAGE_BYTES, ZERO_PAGE, ZERO_PERCENT, RealPages

MIB = 1 << 20


def test_pages_of_three_programs_with_their_share_of_zeros_are_gone_afterwards(
    tmp_path: Path,
) -> None:
    for program in ("g++", "sqlite3"):
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program}: make setup")
    with RealPages(tmp_path, bytes_wanted=24 * MIB) as pages:
        content = pages.path.read_bytes()
        assert stat.S_IMODE(pages.path.stat().st_mode) == 0o600
    assert len(content) == 24 * MIB
    taken = [content[at : at + PAGE_BYTES] for at in range(0, len(content), PAGE_BYTES)]
    zeros = sum(page == ZERO_PAGE for page in taken)
    assert zeros == len(taken) * ZERO_PERCENT // 100
    assert sum(pages.pages_by_program.values()) == len(taken) - zeros
    assert min(pages.pages_by_program.values()) > len(taken) // 4
    assert not pages.path.exists()


def test_file_is_gone_when_the_pages_could_not_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="g\\+\\+"), RealPages(tmp_path, bytes_wanted=24 * MIB):
        pass
    assert not list(tmp_path.glob("pages*"))
