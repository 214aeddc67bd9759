"""Settings of a cgroup's pages, and their sources. Pure: files and overrides in, settings out.

An operator's override for a path takes precedence over the cgroup's file, and that over the
default. A limit applies to the sum of a group's subtree. Writeback is off below any cgroup that
switches it off, as in the kernel. A group without a compressor inherits its parent's. The engine
holds each group's own settings and applies this inheritance; settings_of() shows its result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farswap.client_nbd.cgroups.index import LimitFiles

Source = Literal["file", "operator", "default"]
Compressor = tuple[str, int]  # codec and level

# An override: no limit, despite the cgroup's file.
NO_LIMIT = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Overrides:
    """An operator's settings of a cgroup; None: the file's, or the default."""

    pool_limit_bytes: int | None = None  # NO_LIMIT
    writeback: bool | None = None
    remote_pages_max: int | None = None  # NO_LIMIT
    compressor: Compressor | None = None


class GroupChange(TypedDict, total=False):
    """New overrides by field; None removes the override."""

    pool_limit_bytes: int | None
    writeback: bool | None
    remote_pages_max: int | None
    compressor: Compressor | None


@dataclass(frozen=True, slots=True)
class OwnSettings:
    """Of one cgroup, for the engine. None: no limit, the parent's compressor."""

    pool_limit_bytes: int | None = None
    writeback: bool = True
    remote_pages_max: int | None = None
    compressor: Compressor | None = None


NOTHING_SET = OwnSettings()


def own_settings(files: LimitFiles, overrides: Overrides) -> OwnSettings:
    """Of one cgroup, without its ancestors'."""
    return OwnSettings(
        pool_limit_bytes=_limit(overrides.pool_limit_bytes, files.zswap_max_bytes)[0],
        writeback=files.zswap_writeback if overrides.writeback is None else overrides.writeback,
        remote_pages_max=_limit(overrides.remote_pages_max, None)[0],
        compressor=overrides.compressor,
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """In force for a group, with sources. None: no limit, the tier's compressor."""

    pool_limit_bytes: int | None = None
    pool_limit_source: Source = "default"
    writeback: bool = True
    writeback_source: Source = "default"
    remote_pages_max: int | None = None
    remote_pages_max_source: Source = "default"
    compressor: Compressor | None = None
    compressor_source: Source = "default"


def settings_of(lineage: Sequence[tuple[LimitFiles, Overrides]]) -> Settings:
    """Of the last of `lineage`, which starts at the root."""
    files, overrides = lineage[-1]
    pool_limit_bytes, pool_limit_source = _limit(overrides.pool_limit_bytes, files.zswap_max_bytes)
    remote_pages_max, remote_pages_max_source = _limit(overrides.remote_pages_max, None)
    writeback, writeback_source = _writeback(lineage)
    compressors = [own.compressor for _, own in lineage if own.compressor is not None]
    return Settings(
        pool_limit_bytes=pool_limit_bytes,
        pool_limit_source=pool_limit_source,
        writeback=writeback,
        writeback_source=writeback_source,
        remote_pages_max=remote_pages_max,
        remote_pages_max_source=remote_pages_max_source,
        compressor=compressors[-1] if compressors else None,
        compressor_source="operator" if compressors else "default",
    )


def _limit(override: int | None, file: int | None) -> tuple[int | None, Source]:
    if override is not None:
        return (None if override >= NO_LIMIT else override), "operator"
    return file, "default" if file is None else "file"


def _writeback(lineage: Sequence[tuple[LimitFiles, Overrides]]) -> tuple[bool, Source]:
    """Off if it is off in any of the lineage, from the root down."""
    for files, overrides in lineage:
        if overrides.writeback is False:
            return False, "operator"
        if overrides.writeback is None and not files.zswap_writeback:
            return False, "file"
    return True, "default" if lineage[-1][1].writeback is None else "operator"
