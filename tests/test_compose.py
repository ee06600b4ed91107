"""The parts that compose.yaml puts together fit each other and the router, as far as that is known without a Docker
engine. B-I2"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from router import settings
from router.engine.flags import default_table
from tests.test_docker import DOCKERFILES

DOCKER = Path(__file__).parents[1] / "docker"
TEXT = (DOCKER / "compose.yaml").read_text()
EXAMPLE = (DOCKER / "example.env").read_text()
ROUTERS = {"cpu": "cpu", "cuda": "gpu", "rocm": "gpu", "vulkan": "gpu"}
DEFAULTS, _ = settings.parse((), {}, default_table())


class Missing(Exception):
    """What compose says of a variable that must be set."""


def filled(text: str, environ: Mapping[str, str]) -> str:
    """With `${NAME:-default}` and `${NAME:?sentence}` replaced, as compose does it, the inner ones first."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if environ.get(name):
            return environ[name]
        if kind == ":?":
            raise Missing(rest)
        return str(rest)

    pattern = re.compile(r"\$\{(\w+)(:[-?])([^${}]*)\}")
    while pattern.search(text):
        text = pattern.sub(value, text)
    assert "${" not in text
    return text


def read(**environ: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(filled(TEXT, {"MODELS": "./models", **environ}))
    return found


COMPOSE = read()
SERVICES: dict[str, Any] = COMPOSE["services"]


def test_a_folder_of_models_that_is_not_named_is_told() -> None:  # B-I2
    with pytest.raises(Missing, match=re.escape("set MODELS in docker/.env to the folder")):
        filled(TEXT, {})
    bind = SERVICES["cpu"]["volumes"][0]
    assert (bind["target"], bind["read_only"], bind["bind"]) == ("/models", True, {"create_host_path": False})


def test_the_example_names_every_variable_with_its_default() -> None:  # B-I2
    told = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", EXAMPLE, re.M))
    defaults = dict(re.findall(r"\$\{(\w+):-([^${}]*)\}", TEXT))
    passed = {name for name, value in SERVICES["cpu"]["environment"].items() if value is None}
    passed |= {name for name, value in SERVICES["open-webui"]["environment"].items() if value is None}
    assert set(told) == set(defaults) | passed | {"COMPOSE_PROFILES", "MODELS"}
    for name, value in defaults.items():
        assert told[name] == value or name == "LLAMA_API_KEY", name
    profiles = {profile for service in SERVICES.values() for profile in service["profiles"]}
    assert set(told["COMPOSE_PROFILES"].split(",")) <= profiles
    assert profiles <= set(re.findall(r"\w+", EXAMPLE.split("COMPOSE_PROFILES=")[0]))


@pytest.mark.parametrize("name", ROUTERS)
def test_a_router_runs_as_its_image_wants(name: str) -> None:  # B-I2
    service = SERVICES[name]
    file = next(file for file in DOCKERFILES if file.kind == ROUTERS[name])
    assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == file.path
    arguments = {rest.partition("=")[0] for rest in file.all("ARG")}
    assert set(service["build"].get("args", {})) <= arguments
    (port,), (user,) = file.all("EXPOSE"), file.all("USER")
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"], "open to this machine alone"
    assert service["user"].split(":")[0] == user
    assert service["read_only"]
    assert any(place.split(":")[0] == "/tmp" for place in service["tmpfs"])
    mounts = [entry["target"] if isinstance(entry, dict) else entry.split(":")[1] for entry in service["volumes"]]
    assert mounts == json.loads(file.all("VOLUME")[0])
    assert float(service["stop_grace_period"].rstrip("s")) >= DEFAULTS.shutdown_grace + 10
    assert service["networks"]["default"]["aliases"] == ["router"]
    assert "healthcheck" not in service, "the image has one"


def test_routers_take_what_they_are_told() -> None:  # B-I2
    environ = SERVICES["cpu"]["environment"]
    known = {name for option in settings.OPTIONS for name in option.variables} | {"HF_TOKEN"}
    assert set(environ) <= known
    assert None in environ.values()
    # An empty key is an error, so keys that nobody set must not be set here either.
    assert all(environ[name] is None for name in environ if "KEY" in name or "TOKEN" in name)
    given = {name: str(value) for name, value in environ.items() if value is not None}
    assert settings.parse((), given, default_table())[0].models_max == 0


def test_devices_are_those_of_the_gpus_makers() -> None:
    assert SERVICES["cuda"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert SERVICES["rocm"]["devices"] == ["/dev/kfd", "/dev/dri"]
    assert SERVICES["vulkan"]["devices"] == ["/dev/dri"]
    for name in set(ROUTERS) - {"cpu"}:
        assert SERVICES[name]["build"]["args"] == {"GPU": name}


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({}, "none"),
        ({"LLAMA_API_KEY": "k1"}, "k1"),
        ({"LLAMA_API_KEY": "k1", "LLAMA_ROUTER_ADMIN_KEY": "k2"}, "k2"),
    ],
    ids=["no key", "a key", "and one for admins"],
)
def test_open_webui_knows_the_router(environ: dict[str, str], key: str) -> None:  # B-I2
    told = read(**environ)["services"]["open-webui"]["environment"]
    url = f"http://router:{DEFAULTS.port}"
    assert (told["OPENAI_API_BASE_URLS"], told["OPENAI_API_KEYS"]) == (f"{url}/v1", key)
    openai = json.loads(told["OPENAI_API_CONFIGS"])["0"]
    assert openai["provider"] == "llama.cpp"
    assert openai["headers"] == {DEFAULTS.task_header: "{{TASK}}"}
    ollama = json.loads(told["OLLAMA_API_CONFIGS"])["0"]
    assert (told["OLLAMA_BASE_URLS"], ollama["key"]) == (url, key)
    assert ollama["headers"] == openai["headers"]
    assert str(told["ENABLE_OLLAMA_API"]).lower() == "false", "each model would be there twice"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="not installed: apt-get install prometheus")
def test_prometheus_takes_its_settings_and_the_alerts(tmp_path: Path) -> None:  # B-I2
    text = read(LLAMA_API_KEY="k1")["configs"]["prometheus"]["content"]
    shutil.copy(DOCKER / "alerts.yml", tmp_path)
    (tmp_path / "prometheus.yml").write_text(text)
    ended = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    (job,) = yaml.safe_load(text)["scrape_configs"]
    assert job["authorization"]["credentials"] == "k1"
    assert job["static_configs"] == [{"targets": [f"router:{DEFAULTS.port}"]}]
    assert f'job="{job["job_name"]}"' in (DOCKER / "alerts.yml").read_text()
    places = dict(entry.split(":")[:2] for entry in SERVICES["prometheus"]["volumes"])
    place = Path(SERVICES["prometheus"]["configs"][0]["target"])
    assert places["./alerts.yml"] == str(place.parent / "alerts.yml")


def test_grafana_finds_prometheus_and_the_board() -> None:  # B-I2
    service = SERVICES["grafana"]
    places = {entry.split(":")[0]: Path(entry.split(":")[1]) for entry in service["volumes"]}
    assert all((DOCKER / name).is_file() for name in places if name.startswith("./"))
    (source,) = yaml.safe_load((DOCKER / "grafana/datasource.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((DOCKER / "grafana/boards.yaml").read_text())["providers"]
    board = places["./grafana.json"]
    assert str(board.parent) == provider["options"]["path"]
    assert service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == str(board)
    provisioning = Path("/etc/grafana/provisioning")
    assert places["./grafana/datasource.yaml"].parent == provisioning / "datasources"
    assert places["./grafana/boards.yaml"].parent == provisioning / "dashboards"


def test_every_log_has_a_bound_and_every_volume_a_name() -> None:  # B-I2
    named = set()
    for service in SERVICES.values():
        assert {"max-size", "max-file"} <= set(service["logging"]["options"])
        assert re.search(r":\D*\d", service["image"]) or "build" in service
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        named |= {entry.split(":")[0] for entry in service["volumes"] if isinstance(entry, str) and entry[0].isalpha()}
    assert named == set(COMPOSE["volumes"])
