"""A host daemon for tests on the running kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from daemons import HostDaemon
from requirements import require_native

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def host(tmp_path: Path, short_path: Path) -> Iterator[HostDaemon]:
    """A daemon whose pool holds all; not started."""
    require_native()
    made = HostDaemon(
        "host",
        tmp_path,
        {
            "device": {"name": "swap0", "size": "128MiB", "host_id": "h"},
            "nbd": {"listen": [f"unix:{short_path}/nbd"]},
            "tier": {"pool_limit": "128MiB"},
            "admin": {"listen": f"unix:{short_path}/admin"},
        },
    )
    yield made
    made.clean_up()
