"""What tests need of the machine they run on; where it is missing, they skip and say so."""

from __future__ import annotations

import importlib.util

import etcd_server
import pytest

# Marks of tests that make the running kernel swap.
REAL_SWAP = [pytest.mark.root, pytest.mark.kernel, pytest.mark.timeout(300)]


def require_native() -> None:
    if importlib.util.find_spec("farswap") is None:
        pytest.skip("needs farswap installed: make setup")
    if importlib.util.find_spec("farswap.native") is None:
        pytest.skip("needs the native core, farswap.native: make setup")


def require_etcd() -> None:
    if etcd_server.PROGRAM is None:
        pytest.skip("needs etcd: make packages")
