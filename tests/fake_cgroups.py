"""CgroupGroups and CgroupRecords of Python objects, for tests of who looks at cgroups."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from farswap.client_nbd.cgroups.settings import Overrides, Settings
from farswap.common.errors import NotFoundError

LATENCY_BUCKETS = 24


def latency(*counts_by_power: tuple[int, int], sum_ns: int = 0) -> SimpleNamespace:
    """latency((3, 10)): ten loads of 4 to 8 microseconds."""
    buckets = [0] * LATENCY_BUCKETS
    for power, count in counts_by_power:
        buckets[power] = count
    return SimpleNamespace(buckets=buckets, sum_ns=sum_ns)


def record(id_: int, **changed: object) -> SimpleNamespace:
    """A group that holds nothing and has done nothing, but for what is said."""
    made = SimpleNamespace(
        id=id_,
        parent=0,
        placed=True,
        pool_limit_bytes=None,
        writeback=True,
        remote_pages_max=None,
        compressor=None,
        pool_bytes=0,
        tree_pool_bytes=0,
        same_filled_pages=0,
        local_pages=0,
        writing_pages=0,
        clean_pages=0,
        remote_pages=0,
        raw_pages=0,
        tree_remote_pages=0,
        counters={"stores": 0, "overwrites": 0, "trims": 0, "loads_local": 0, "loads_remote": 0},
        latency={"local": latency(), "remote": latency()},
    )
    for name, value in changed.items():
        assert hasattr(made, name), name
        setattr(made, name, value)
    return made


class FakeGroups:
    """`paths` are the cgroups of the machine, by id; those in the engine's records have pages."""

    def __init__(self, engine, paths: dict[int, str]) -> None:
        self._engine = engine
        self._paths = {0: "/", **paths}
        self.overrides: dict[str, Overrides] = {}

    def path_of(self, id_: int) -> str:
        return self._paths.get(id_, "")

    def id_of(self, path: str) -> int:
        for id_, known in self._paths.items():
            if known == path:
                return id_
        raise NotFoundError(f"{path} is not a cgroup of this machine")

    def settings_of(self, id_: int) -> Settings:
        overrides = self.overrides.get(self.path_of(id_), Overrides())
        limit = overrides.pool_limit_bytes
        return Settings(
            pool_limit_bytes=limit,
            pool_limit_source="default" if limit is None else "operator",
            writeback=overrides.writeback is not False,
            compressor=overrides.compressor,
        )

    def views(self) -> list[SimpleNamespace]:
        views = []
        for of in self._engine.cgroups():
            settings = self.settings_of(of.id)
            fields = {name: getattr(settings, name) for name in Settings.__slots__}
            path = self.path_of(of.id)
            views.append(SimpleNamespace(id=of.id, path=path, parent_path="/", record=of, **fields))
        return views

    def set(self, path: str, change) -> None:
        self.id_of(path)
        self.overrides[path] = replace(self.overrides.get(path, Overrides()), **change)

    def problems(self) -> dict[str, str]:
        return {}
