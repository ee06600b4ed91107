"""A real Prometheus that scrapes a router, on loopback; and what expressions for it name."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.waiting import until

DOCKER = Path(__file__).parents[2] / "docker"
ALERTS, BOARD = DOCKER / "alerts.yml", DOCKER / "grafana.json"
WINDOW = "10s"  # of rates, where Grafana chooses one by itself
VARIABLES = {"$__rate_interval": WINDOW, "$job": ".*", "$instance": ".*", "$model": ".*"}
OF_SCRAPES = {"instance", "job"}  # the labels that Prometheus itself gives
NAMES = re.compile(r"\b((?:llama_router_|process_|llamacpp:)[a-zA-Z0-9_:]+)\s*(?:\{([^}]*)\})?")
MATCHERS = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPS = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")

needs_prometheus = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="prometheus is not here: apt-get install prometheus"
)


class Prometheus:
    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=10)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What it finds now. Fails for an expression that is none."""
        answer = self.client.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def shows(self, expression: str) -> bool:
        """Whether a panel has something to draw."""
        return any(each["value"][1] != "NaN" for each in self.query(expression))


def prometheus(folder: Path, target: str) -> contextlib.AbstractContextManager[Prometheus]:
    """One that scrapes `host:port` twice a second, with our alerts."""
    config = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "1s"},
        "rule_files": [ALERTS.name],
        "scrape_configs": [{"job_name": "llama-router", "static_configs": [{"targets": [target]}]}],
    }
    return configured(folder, json.dumps(config))  # JSON is YAML


@contextlib.contextmanager
def configured(folder: Path, config: str) -> Iterator[Prometheus]:
    """One with this `prometheus.yml`, and our alerts beside it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    folder.mkdir()
    shutil.copy(ALERTS, folder)
    (folder / "prometheus.yml").write_text(config)
    with (folder / "log").open("wb") as log:
        command = [
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={address}",
        ]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        made = Prometheus(f"http://{address}")

        def is_ready() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(httpx.TransportError):
                return made.client.get("/-/ready").status_code == 200
            return False

        until(is_ready)
        yield made
        made.client.close()
    finally:
        process.kill()
        process.wait()


def filled_in(expression: str, device: str) -> str:
    """An expression of the board, as Grafana sends it if everything is chosen."""
    for name, value in {**VARIABLES, "$device": device}.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def names_in(expression: str) -> dict[str, set[str]]:
    """The metrics of an expression, with the labels by which it chooses. Labels by which it groups count for all."""
    found: dict[str, set[str]] = {}
    for name, matchers in NAMES.findall(expression):
        found.setdefault(name, set()).update(MATCHERS.findall(matchers))
    groups = {label.strip() for group in GROUPS.findall(expression) for label in group.split(",")} - {"le", ""}
    for labels in found.values():
        labels |= groups
    return found


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]
