"""`farswap-host state show` and `state discard`: memory that no daemon has.

That is a System V segment, whose id is recorded. Other kinds are held by a supervisor or by
systemd, and end with the unit.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from farswap.client_nbd.survival.keeper import PAGES, Keeper, attached_processes
from farswap.common.errors import NotFoundError, NotPossibleError
from farswap.common.units import PAGE_BYTES, format_size

if TYPE_CHECKING:
    from farswap.client_nbd.config import HostConfig
    from farswap.client_nbd.survival.link import Kept
    from farswap.native import State

_NONE = (
    "no daemon has left memory of this device behind: `farswapctl status` shows that of a running "
    "one, and systemd keeps it for a unit until that is stopped"
)


def show(config: HostConfig, output: str) -> None:
    """Raises NotFoundError; NotPossibleError if the memory cannot be adopted."""
    kept = _kept(config)
    state = _state(kept)
    fields = {
        "memory": kept.kind,
        "id": kept.number,
        "size_bytes": state.slots * PAGE_BYTES,
        "pool_bytes": state.pool_bytes,
        "takeovers": state.takeovers,
        "fits": (state.slots, state.pool_bytes) == (config.slots, config.tier.pool_limit),
    }
    if output == "json":
        print(json.dumps(fields))
        return
    fits = "fits" if fields["fits"] else "has other sizes than"
    print(
        f"{config.device.name}: {format_size(state.slots * PAGE_BYTES)}, a pool of "
        f"{format_size(state.pool_bytes)}, in memory of kind {kept.kind}, id {kept.number}; "
        f"adopted {state.takeovers} times; {fits} the configuration"
    )


def discard(config: HostConfig) -> None:
    """Raises NotFoundError; NotPossibleError if a process has the memory."""
    keeper = Keeper(config)
    kept = _kept(config)
    if attached_processes(kept.number):
        raise NotPossibleError("a daemon has the memory: stop it, which discards it")
    _state(kept).remove()
    keeper.discard()
    print(f"{config.device.name}: its pages are discarded")


def _kept(config: HostConfig) -> Kept:
    kept = Keeper(config).kept.get(PAGES)
    if kept is None:
        raise NotFoundError(_NONE)
    return kept


def _state(kept: Kept) -> State:
    from farswap import native  # noqa: PLC0415 - not in the supervisor

    try:
        return native.State.inspect(kept.kind, kept.number)
    except RuntimeError as error:
        raise NotPossibleError(
            f"{error}: remove it with `ipcrm -m {kept.number}` once no daemon needs it"
        ) from error
