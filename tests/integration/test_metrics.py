"""/metrics of real daemons, and the dashboard and alerts that are made of it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from fleet import PAGE_BYTES, PAGES, page, samples, scrape
from hang_guard import HANG_GUARD_S, until
from nbd_client import NbdClient
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from daemons import Daemon
    from fleet import Fleet

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_metrics_and_farswapctl_agree(fleet: Fleet) -> None:
    host, server = fleet
    tier = host.ask("tier", "show")
    shown = samples(scrape(host))
    assert shown["farswap_tier_stores_total"] == tier["counters"]["stores"] == PAGES + 101
    assert shown["farswap_tier_pages"] == tier["held_pages"] == PAGES + 1 - 10
    assert shown["farswap_cgroup_pages"] == tier["held_pages"]
    assert shown["farswap_cgroup_stores_total"] == shown["farswap_tier_stores_total"]
    assert shown["farswap_tier_written_back_pages_total"] >= 1024
    assert shown["farswap_tier_load_duration_seconds_sum"] > 0
    assert shown["farswap_memory_server_connected"] == 1
    of_server = samples(scrape(server))
    assert of_server["farswap_server_pages"] == tier["remote_pages"]
    assert of_server["farswap_server_volume_pages"] == tier["remote_pages"]


def names(text: str) -> set[str]:
    """Those of all samples that a scrape may have."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {name + suffix for suffix in suffixes}
    return found


def test_dashboard_and_alerts_use_metrics_that_exist(fleet: Fleet) -> None:
    exist = set().union(*(names(scrape(daemon)) for daemon in fleet))
    for path in ("grafana/farswap.json", "prometheus/farswap-alerts.yml"):
        used = set(re.findall(r"\bfarswap_\w+", (DEPLOY / path).read_text()))
        assert len(used) > 10
        assert used <= exist, f"{path}: {sorted(used - exist)}"


def test_labels_of_the_dashboard_exist(fleet: Fleet) -> None:
    exist = {"instance", "job", "le"}
    for daemon in fleet:
        for family in text_string_to_metric_families(scrape(daemon)):
            exist |= {label for sample in family.samples for label in sample.labels}
    for expression in dashboard_expressions():
        matched = re.findall(r"(\w+)=~?\"", expression)
        grouped = re.findall(r"\bby \(([\w, ]+)\)", expression)
        used = {*matched, *(label.strip() for group in grouped for label in group.split(","))}
        assert used <= exist, expression


def dashboard_expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana/farswap.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def promtool(*args: str, text: str = "") -> str:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool: package prometheus")
    done = subprocess.run(
        ["promtool", *args],
        input=text,
        capture_output=True,
        text=True,
        timeout=HANG_GUARD_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_accepts_metrics_alerts_and_the_dashboard_s_expressions(
    fleet: Fleet, tmp_path: Path
) -> None:
    for daemon in fleet:
        promtool("check", "metrics", text=scrape(daemon))
    promtool("check", "rules", str(DEPLOY / "prometheus/farswap-alerts.yml"))
    promtool("check", "config", str(DEPLOY / "prometheus/scrape.yml"))
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(dashboard_expressions())
    ]
    # JSON is YAML.
    path = tmp_path / "dashboard.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(path))


def test_a_scrape_does_not_hold_up_pages(fleet: Fleet) -> None:
    host, _ = fleet
    slow = [urllib.request.urlopen(host.metrics_url, timeout=HANG_GUARD_S) for _ in range(8)]
    with NbdClient.of(host) as client:
        assert client.read(200 * PAGE_BYTES, PAGE_BYTES) == page(200)
    for answer in slow:
        assert b"farswap_build_info" in answer.read()
        answer.close()


def test_abuse_of_the_metrics_address_costs_nobody_else(fleet: Fleet) -> None:
    host, _ = fleet
    where = urlsplit(host.metrics_url)
    with contextlib.ExitStack() as open_ones, NbdClient.of(host) as client:
        for number in range(200):
            abuser = open_ones.enter_context(
                socket.create_connection((where.hostname, where.port), HANG_GUARD_S)
            )
            # Those beyond the limit are hung up on, which a send may find out.
            with contextlib.suppress(ConnectionError):
                abuser.sendall(b"\xff" * (number * 100))
        assert client.read(200 * PAGE_BYTES, PAGE_BYTES) == page(200)
    text = until(lambda: scraped_if_there_is_room(host))  # once the abusers are known to have left
    assert "farswap_build_info" in text
    assert "Traceback" not in host.log()


def scraped_if_there_is_room(daemon: Daemon) -> str:
    with contextlib.suppress(urllib.error.URLError, ConnectionError):
        return scrape(daemon)
    return ""
