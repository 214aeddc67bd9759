"""A guest in which the host daemon runs; the memory server runs on this machine.

The guest's root file system is this machine's, and both see one directory, where the script finds
its programs and the daemon's configuration and leaves what it has to tell.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemons import toml
from vm.guest import HOST_ADDRESS, SCRIPTS

if TYPE_CHECKING:
    from daemons import MemoryServer, Sections
    from vm.guest import Guest, GuestRun

MEMORY_MIB = 1024


@dataclass(frozen=True)
class HostGuest:
    """One guest, memory server and shared directory."""

    guest: Guest
    server: MemoryServer
    shared: Path

    def run(
        self,
        script: str,
        *,
        size: str,
        pool_limit: str,
        proactive: bool = True,
        **parameters: object,
    ) -> GuestRun:
        """Runs a script of guest/ to its end, which must be good."""
        for program in self.guest.programs:
            shutil.copy(program, self.shared)
        port = self.server.pages.rpartition(":")[2]
        sections: Sections = {
            "device": {"name": "swap0", "size": size, "host_id": "guest"},
            "nbd": {"listen": []},
            "tier": {"pool_limit": pool_limit},
            "cluster": {"servers": [f"{HOST_ADDRESS}:{port}"]},
            "shrinker": {"proactive": proactive},
        }
        (self.shared / "host.toml").write_text(toml(sections))
        self.guest.memory_mib = MEMORY_MIB
        parameters |= {"shared": self.shared, "programs": Path(sys.executable).parent}
        done = self.guest.run_overlay(SCRIPTS / script, **parameters)
        assert done.status == 0, done.transcript
        return done

    def swap(self, script: str, **parameters: Any) -> GuestRun:
        """run(), in which page_verifier swaps, and finds its pages as they were."""
        done = self.run(script, **parameters)
        result = done.reports()["verifier"]
        assert result["wrong_pages"] == 0
        assert result["swapped_out"] > result["pages"] // 4
        return done

    def answer(self, name: str) -> Any:
        """What a command printed as JSON into the file NAME.json."""
        return json.loads((self.shared / f"{name}.json").read_text())
