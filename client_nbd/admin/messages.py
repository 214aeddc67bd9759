"""Answers of the HostAdmin service, from the daemon's parts.

Calls to the parts may wait for locks: call from worker threads.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from farswap.client_nbd.admin import latency
from farswap.client_nbd.checks.tier import held, states, stored
from farswap.common import text
from farswap.common.compressor import Compressor
from farswap.common.messages import of_record, take_fields
from farswap.common.units import SHARD_SLOTS
from farswap.v1 import host_admin_pb2 as pb
from farswap.v1 import types_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from farswap.client_nbd.attribution import AttributionState
    from farswap.client_nbd.cgroups.groups import GroupView
    from farswap.client_nbd.cgroups.settings import Settings
    from farswap.client_nbd.checks.findings import Finding
    from farswap.client_nbd.membership import MembershipState
    from farswap.client_nbd.running_host import RunningHost
    from farswap.native import MemoryServer, Placement, Replica

_NAMED_MAX = 3

_LEVELS = {
    "ok": pb.Finding.LEVEL_OK,
    "warning": pb.Finding.LEVEL_WARNING,
    "error": pb.Finding.LEVEL_ERROR,
}


def device_status(host: RunningHost) -> pb.DeviceStatus:
    """The export, its connections, and the kernel device."""
    attached = host.device.device()
    use = host.devices.use()
    return pb.DeviceStatus(
        name=host.config.device.name,
        size_bytes=host.config.device.size,
        listen=[address.with_scheme for address in host.listen],
        connections=[
            of_record(pb.NbdConnection, connection) for connection in host.engine.connections()
        ],
        attached=attached,
        swap_active=bool(use.areas),
        swap_used_bytes=use.used_bytes,
        swap_areas=[area.name for area in use.areas],
        stacked=[text.utf8(name) for name in use.holders],
        host_id=host.config.host_id,
        incarnation=host.engine.state.incarnation.hex(),
    )


def survival_status(host: RunningHost) -> pb.SurvivalStatus:
    """The memory that has the pages, and the last takeover of it."""
    kind, _ = host.engine.state.memory
    status = pb.SurvivalStatus(
        memory=kind,
        problem="" if host.link is None else host.link.problem,
        worker_pid=os.getpid(),
        takeovers=host.engine.state.takeovers,
        standby=host.link is not None and host.link.has_standby,
    )
    if host.link is not None and host.link.takeover is not None:
        death = host.link.death
        how = "unknown" if death is None else death.how
        last = of_record(pb.Takeover, host.link.takeover, predecessor=how)
        status.last_takeover.CopyFrom(last)
    return status


def attribution_status(state: AttributionState) -> pb.AttributionStatus:
    """The source of attribution, and its limitation."""
    return of_record(pb.AttributionStatus, state)


def tier_status(host: RunningHost) -> pb.TierStatus:
    """Gauges, settings, counters, and load times of all cgroups."""
    stats = host.engine.stats()
    gauges = take_fields(pb.TierStatus, stats)
    # Too short-lived to report.
    stats.pop("shrinking", None)
    return pb.TierStatus(
        **gauges,
        compressor=host.settings.compressor,
        recompress=host.settings.recompress,
        pack=host.settings.pack,
        held_pages=held(gauges),
        stored_pages=stored(gauges),
        counters=counters(stats),
        latency=[
            pb.Latency(tier=tier, buckets=counts, sum_ns=sum_ns)
            for tier, (counts, sum_ns) in latency.in_total(host.engine.cgroups()).items()
        ],
    )


def cgroup_status(view: GroupView) -> pb.CgroupStatus:
    """One cgroup of the tier, with its settings."""
    record = view.record
    by_state = states(record)
    return of_record(
        pb.CgroupStatus,
        record,
        path=view.path,
        parent_path=view.parent_path,
        settings=cgroup_settings(view),
        held_pages=held(by_state),
        stored_pages=stored(by_state),
        # There may be thousands of cgroups, most of which have done little.
        counters=counters({name: value for name, value in record.counters.items() if value}),
        latency=[
            pb.Latency(tier=tier, buckets=times.buckets, sum_ns=times.sum_ns)
            for tier, times in record.latency.items()
            if times.sum_ns
        ],
    )


def cgroup_settings(settings: Settings) -> pb.CgroupSettings:
    """Settings and their sources."""
    compressor = settings.compressor
    text_form = Compressor.of(*compressor) if compressor else None
    return of_record(pb.CgroupSettings, settings, compressor=text_form)


def kept_from_servers(views: Sequence[GroupView], path: str) -> str:
    """Why pages of `path` and below may not leave the pool; "" if all may."""
    below = path.rstrip("/") + "/"
    holding = [
        view
        for view in views
        if view.record.local_pages and (view.path == path or view.path.startswith(below))
    ]
    full = [
        view.path
        for view in views
        if view.remote_pages_max is not None
        and view.record.tree_remote_pages >= view.remote_pages_max
    ]
    off = [view.path for view in holding if not view.writeback]
    at_quota = [
        of
        for of in full
        if any(view.path == of or view.path.startswith(of + "/") for view in holding)
    ]
    reasons = [("writeback is off for", off), ("no more may go to memory servers of", at_quota)]
    return "; ".join(f"{reason} {_some(paths)}" for reason, paths in reasons if paths)


def _some(paths: Sequence[str]) -> str:
    """The first ones by name: there may be thousands."""
    named = sorted(paths)[:_NAMED_MAX]
    more = len(paths) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def counters(values: Mapping[str, int]) -> list[types_pb2.Counter]:
    """By name."""
    return [types_pb2.Counter(name=name, value=value) for name, value in sorted(values.items())]


def server_status(server: MemoryServer) -> pb.MemoryServerStatus:
    """A memory server, as seen by this host."""
    return of_record(pb.MemoryServerStatus, server)


def shard_status(shard: int, replicas: Sequence[Replica], slots: int) -> pb.ShardStatus:
    """`slots`: of the device."""
    first = shard * SHARD_SLOTS
    return pb.ShardStatus(
        shard=shard,
        first_slot=first,
        slots=min(SHARD_SLOTS, slots - first),
        replicas=[of_record(pb.Replica, replica) for replica in replicas],
    )


def placement_status(placement: Placement) -> pb.PlacementStatus:
    """The replicas of the device's shards."""
    return pb.PlacementStatus(
        replicas_wanted=placement.replicas,
        replication_debt_shards=placement.debt_shards,
        replica_copies=placement.copies,
        lost_shards=placement.lost_shards,
        repaired_objects=placement.repaired_objects,
        failed_repairs=placement.failed_repairs,
        failure_domains=placement.domains,
        crowded_shards=placement.crowded_shards,
        missing_pages=placement.missing_pages,
        spread=placement.spread,
    )


def membership_status(state: MembershipState | None) -> pb.MembershipStatus | None:
    """None: servers are those of the configuration."""
    return None if state is None else of_record(pb.MembershipStatus, state)


def findings(found: Sequence[Finding]) -> list[pb.Finding]:
    """In their order."""
    return [
        pb.Finding(
            level=_LEVELS[finding.level],
            subject=finding.subject,
            message=text.utf8(finding.message),
            remedy=text.utf8(finding.remedy),
        )
        for finding in found
    ]
