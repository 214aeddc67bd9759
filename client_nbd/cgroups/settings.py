"""What holds for a cgroup's pages, and who says so. Pure: files and wishes in, settings out.

An operator's wish for a path comes before the cgroup's own file, and that before the default. A
limit is a group's own and holds for the sum of its subtree. Writeback is off below whatever
switches it off, as in the kernel. A compressor is that of the nearest ancestor for which one was
wished. The engine is told each group's own settings and sees to what follows from them; here the
same is worked out for who asks what is in force, and why.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farswap.client_nbd.cgroups.index import LimitFiles

Source = Literal["file", "operator", "default"]
Compressor = tuple[str, int]  # codec and level


class Unchanged(enum.Enum):
    """The type of UNCHANGED."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED

# A wish for no limit, whatever the cgroup's file says.
NO_LIMIT = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Wishes:
    """What an operator wants of a cgroup; None: what the file says, or the default."""

    pool_limit: int | None = None  # bytes, NO_LIMIT
    writeback: bool | None = None
    remote_pages_max: int | None = None  # NO_LIMIT
    compressor: Compressor | None = None


@dataclass(frozen=True, slots=True)
class GroupChange:
    """A change of wishes: UNCHANGED, None (back to the file or the default), or the new wish."""

    pool_limit: int | Unchanged | None = UNCHANGED
    writeback: bool | Unchanged | None = UNCHANGED
    remote_pages_max: int | Unchanged | None = UNCHANGED
    compressor: Compressor | Unchanged | None = UNCHANGED

    def of(self, wishes: Wishes) -> Wishes:
        """The wishes after this change."""
        new = {
            name: value
            for name in self.__slots__
            if (value := getattr(self, name)) is not UNCHANGED
        }
        return replace(wishes, **new)


@dataclass(frozen=True, slots=True)
class OwnSettings:
    """What the engine is told of a cgroup. None: no limit, the compressor of the ancestors."""

    pool_limit_bytes: int | None = None
    writeback: bool = True
    remote_pages_max: int | None = None
    compressor: Compressor | None = None


NOTHING_SET = OwnSettings()


def own_settings(files: LimitFiles, wishes: Wishes) -> OwnSettings:
    """Of one cgroup, whatever its ancestors say."""
    return OwnSettings(
        pool_limit_bytes=_limit(wishes.pool_limit, files.zswap_max_bytes)[0],
        writeback=files.zswap_writeback if wishes.writeback is None else wishes.writeback,
        remote_pages_max=_limit(wishes.remote_pages_max, None)[0],
        compressor=wishes.compressor,
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for a group, and where each comes from. None: no limit, the tier's compressor."""

    pool_limit: int | None = None  # bytes
    pool_limit_source: Source = "default"
    writeback: bool = True
    writeback_source: Source = "default"
    remote_pages_max: int | None = None
    remote_pages_max_source: Source = "default"
    compressor: Compressor | None = None
    compressor_source: Source = "default"


def settings_of(lineage: Sequence[tuple[LimitFiles, Wishes]]) -> Settings:
    """Of the last of `lineage`, which begins at the root."""
    files, wishes = lineage[-1]
    pool_limit, pool_limit_source = _limit(wishes.pool_limit, files.zswap_max_bytes)
    remote_pages_max, remote_pages_max_source = _limit(wishes.remote_pages_max, None)
    writeback, writeback_source = _writeback(lineage)
    compressors = [wish.compressor for _, wish in lineage if wish.compressor is not None]
    return Settings(
        pool_limit=pool_limit,
        pool_limit_source=pool_limit_source,
        writeback=writeback,
        writeback_source=writeback_source,
        remote_pages_max=remote_pages_max,
        remote_pages_max_source=remote_pages_max_source,
        compressor=compressors[-1] if compressors else None,
        compressor_source="operator" if compressors else "default",
    )


def _limit(wish: int | None, file: int | None) -> tuple[int | None, Source]:
    if wish is not None:
        return (None if wish >= NO_LIMIT else wish), "operator"
    return file, "default" if file is None else "file"


def _writeback(lineage: Sequence[tuple[LimitFiles, Wishes]]) -> tuple[bool, Source]:
    """Of whoever is nearest to the root and switches it off, else of the group's own wish."""
    for files, wishes in lineage:
        if wishes.writeback is False:
            return False, "operator"
        if wishes.writeback is None and not files.zswap_writeback:
            return False, "file"
    return True, "default" if lineage[-1][1].writeback is None else "operator"
