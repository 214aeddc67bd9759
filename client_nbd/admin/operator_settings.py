"""Keeps what operators set at run time, for the worker that adopts the pages.

The requests themselves are kept, merged by what they set, in the memory of the pages: it outlives
the worker and ends with the pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from farswap.common import log
from farswap.v1 import host_admin_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from farswap.native import State

    Request = pb.SetTierRequest | pb.SetPlacementRequest | pb.AttributeRequest | pb.SetCgroupRequest

_log = log.logger("admin")


class OperatorSettings:
    """Of one device. For the event loop alone."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._kept = pb.OperatorSettings.FromString(state.note)

    def keep(self, request: Request) -> None:
        """A request that was carried out."""
        match request:
            case pb.SetTierRequest():
                self._kept.tier.MergeFrom(request)
            case pb.SetPlacementRequest():
                self._kept.placement.MergeFrom(request)
            case pb.AttributeRequest():
                self._keep_attribution(request)
            case pb.SetCgroupRequest():
                self._keep_cgroup(request)
        if not self._state.note_down(self._kept.SerializeToString()):
            _log.warning("too many settings: the next worker does not have the last one")

    def requests(self) -> Iterator[Request]:
        """Those of an earlier worker, to be carried out again."""
        for field, request in self._kept.ListFields():
            yield from request if field.name in ("attributions", "cgroups") else (request,)

    def _keep_attribution(self, request: pb.AttributeRequest) -> None:
        """Also of devices that are attributed no more: the machine may swap to them."""
        others = [kept for kept in self._kept.attributions if kept.device != request.device]
        del self._kept.attributions[:]
        self._kept.attributions.extend([*others, request])

    def _keep_cgroup(self, request: pb.SetCgroupRequest) -> None:
        for kept in self._kept.cgroups:
            if kept.path == request.path:
                break
        else:
            kept = self._kept.cgroups.add(path=request.path)
        for name in request.defaults:
            kept.ClearField(name)
        kept.MergeFrom(request)
        kept.ClearField("defaults")
        if kept == pb.SetCgroupRequest(path=request.path):
            self._kept.cgroups.remove(kept)
