"""What can be known of the images without building them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from router import settings
from router.client import health, options, target
from router.engine.flags import default_table
from router.models.created import default_path

ROOT = Path(__file__).parents[1]
KNOWN = {"ARG", "FROM", "COPY", "RUN", "ENV", "VOLUME", "EXPOSE", "USER", "HEALTHCHECK", "ENTRYPOINT"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class Dockerfile(NamedTuple):
    path: Path
    instructions: list[tuple[str, str]]

    @classmethod
    def read(cls, path: Path) -> Dockerfile:
        lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
        joined = "\n".join(lines).replace("\\\n", " ")
        return cls(
            path, [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]
        )

    def all(self, name: str) -> list[str]:
        return [rest for word, rest in self.instructions if word == name]

    def environ(self) -> dict[str, str]:
        words = [word for rest in self.all("ENV") for word in shlex.split(rest)]
        return dict(word.split("=", 1) for word in words)


DOCKERFILES = [Dockerfile.read(path) for path in sorted((ROOT / "docker").glob("Dockerfile.*"))]
each = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.path.name)


def test_there_is_one_for_cpu_and_one_for_cuda() -> None:
    assert [file.path.name for file in DOCKERFILES] == ["Dockerfile.cpu", "Dockerfile.cuda"]


@each
def test_instructions_are_known_and_scripts_parse(file: Dockerfile) -> None:
    assert {word for word, _ in file.instructions} <= KNOWN
    for script in file.all("RUN"):
        subprocess.run(["sh", "-n", "-c", script], check=True)


@each
def test_base_image_is_pinned(file: Dockerfile) -> None:
    defaults = dict(rest.split("=", 1) for rest in file.all("ARG"))
    for rest in file.all("FROM"):
        base, *stage = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], rest).split()
        _, _, tag = base.rpartition(":")
        assert re.search(r"\d", tag), base
        assert "latest" not in tag
        assert not stage or stage[0] == "AS"


@each
def test_copied_files_exist_and_reach_the_build(file: Dockerfile) -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    stages = [rest.split()[-1] for rest in file.all("FROM") if " AS " in rest]
    from_stages = [rest for rest in file.all("COPY") if rest.startswith("--from=")]
    assert all(rest.removeprefix("--from=").split()[0] in stages for rest in from_stages)
    copied = {source for rest in file.all("COPY") if rest not in from_stages for source in shlex.split(rest)[:-1]}
    assert copied == kept
    assert all((ROOT / source).exists() for source in copied)
    # What setuptools reads to build the package has to be there.
    assert {"pyproject.toml", "router", PROJECT["readme"], *PROJECT["license-files"]} == copied


@each
def test_extras_that_are_installed_exist(file: Dockerfile) -> None:
    for extra in re.findall(r"/src\[(\w+)\]", " ".join(file.all("RUN"))):
        assert extra in PROJECT["optional-dependencies"]


@each
def test_the_router_takes_its_flags_and_environment(file: Dockerfile) -> None:
    (entry,) = file.all("ENTRYPOINT")
    program, *argv = json.loads(entry)
    assert program in PROJECT["scripts"]
    found, for_children = settings.parse(argv, file.environ(), default_table())
    volumes = json.loads(file.all("VOLUME")[0])
    assert found.host == ("0.0.0.0",)
    assert str(found.models_dir) in volumes
    assert file.environ()["HF_HOME"] in volumes
    kept = default_path(file.environ())
    assert kept.is_relative_to(file.environ()["XDG_DATA_HOME"])
    assert file.environ()["XDG_DATA_HOME"] in volumes
    (folders,) = re.findall(r"install --directory --owner router ((?:/\w+ ?)+)", " ".join(file.all("RUN")))
    assert folders.split() == volumes, "the user may write there"
    assert file.all("EXPOSE") == [str(found.port)]
    assert for_children == ()


@each
def test_it_ends_as_an_unprivileged_user(file: Dockerfile) -> None:
    assert file.all("USER") == ["router"]
    assert file.instructions.index(("USER", "router")) > max(
        index for index, (word, _) in enumerate(file.instructions) if word == "RUN"
    )
    assert re.search(r"useradd .* router\b", " ".join(file.all("RUN")))


@each
def test_health_is_asked_for(file: Dockerfile, tmp_path: Path) -> None:
    (check,) = file.all("HEALTHCHECK")
    _, _, command = check.partition("CMD ")
    program, *words = json.loads(command)
    assert [program, words[0]] == [*json.loads(file.all("ENTRYPOINT")[0]), "health"]
    assert float(check.partition("--timeout=")[2].partition("s")[0]) > health.TIMEOUT_S
    # What the image sets leads to its port, also without a run folder.
    (port,) = file.all("EXPOSE")
    environ = {**file.environ(), "LLAMA_ROUTER_RUN_DIR": str(tmp_path)}
    assert target.find(options.read("health", words[1:]), environ).url == f"http://127.0.0.1:{port}"


def test_compose_offers_each_image_to_this_machine_alone() -> None:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    built = {}
    for name, service in compose["services"].items():
        context = ROOT / "docker" / service["build"]["context"]
        file = next(file for file in DOCKERFILES if file.path == (context / service["build"]["dockerfile"]).resolve())
        built[name] = file.path.name
        assert service["profiles"] == [name]
        assert service["ports"] == [f"127.0.0.1:{port}:{port}" for port in file.all("EXPOSE")]
        mounts = [re.sub(r"\$\{.*\}", "", volume).split(":")[1] for volume in service["volumes"]]
        assert mounts == json.loads(file.all("VOLUME")[0])
        assert float(service["stop_grace_period"].rstrip("s")) > 10
    named = {volume.split(":")[0] for volume in compose["services"]["cpu"]["volumes"] if volume[0].isalpha()}
    assert named == set(compose["volumes"])
    assert built == {"cpu": "Dockerfile.cpu", "cuda": "Dockerfile.cuda"}
    assert compose["services"]["cuda"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
