"""Settings of the running tier: those of the configuration, until they are changed.

Changes last until the daemon stops. Calls block for the engine's locks: make them from a worker
thread.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from farswap.client_nbd.config import POOL_BYTES_MIN
from farswap.common.errors import InvalidArgumentError
from farswap.common.units import format_size

if TYPE_CHECKING:
    from farswap.client_nbd.config import TierSection
    from farswap.common.compressor import Compressor, Recompressor
    from farswap.native import HostEngine


class TierSettings:
    """Sets them in the engine, and remembers those that it does not report."""

    def __init__(self, engine: HostEngine, configured: TierSection) -> None:
        """`engine` was made with the configured limits; the compressors are set here."""
        self._engine = engine
        self._pool_limit_max = configured.pool_limit
        self._lock = threading.Lock()
        self.pool_limit: int = configured.pool_limit
        self.accept_threshold_percent = configured.accept_threshold_percent
        self.compressor = configured.compressor
        self.recompress = configured.recompress
        self.pack = configured.pack
        self._set_compressors()

    def change(
        self,
        *,
        pool_limit: int | None = None,
        accept_threshold_percent: int | None = None,
        compressor: Compressor | None = None,
        recompress: Recompressor | None = None,
        pack: bool | None = None,
    ) -> None:
        """None: as it is. Raises InvalidArgumentError, and then nothing has changed."""
        limit = self.pool_limit if pool_limit is None else pool_limit
        if not POOL_BYTES_MIN <= limit <= self._pool_limit_max:
            raise InvalidArgumentError(
                f"a pool limit of {format_size(limit)} is not in {format_size(POOL_BYTES_MIN)}.."
                f"{format_size(self._pool_limit_max)}, which was allocated at start"
            )
        percent = accept_threshold_percent
        if percent is not None and not 1 <= percent <= 100:
            raise InvalidArgumentError(f"an accept threshold of {percent} % is not in 1..100")
        with self._lock:
            self.pool_limit = limit
            self.accept_threshold_percent = percent or self.accept_threshold_percent
            self.compressor = compressor or self.compressor
            self.recompress = recompress or self.recompress
            self.pack = self.pack if pack is None else pack
            self._engine.set_limits(self.pool_limit, self.accept_threshold_percent)
            self._set_compressors()

    def _set_compressors(self) -> None:
        self._engine.set_compressor(self.compressor.codec, self.compressor.level)
        if self.recompress.is_on:
            self._engine.set_recompress(self.recompress.codec, self.recompress.level)
        else:
            self._engine.set_recompress("", 0)
        self._engine.set_packing(self.pack)
