"""The image for CPUs, built and run without a Docker engine: buildah builds it with chroots, and namespaces of Linux
run it as `docker run --read-only` would. Debian's Python stands in for the base image, which is in no registry of
packages.

It needs root, mmdebstrap, buildah and the registries of Debian and PyPI, and takes some minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.waiting import until

ROOT = Path(__file__).parents[1]
BASE = "localhost/llama-router-base:3.11"
POLICY = {"default": [{"type": "insecureAcceptAnything"}]}
BUILD_TIMEOUT_S = 900
# What the stand-in has of this machine, so that downloads work in it as they do here.
OF_THIS_MACHINE = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")
# The first process of a namespace becomes the image's. Its root cannot be written; volumes and /tmp can.
ENTER = """
root=$1 volumes=$2; shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
for name in models cache data; do mount --bind "$volumes/$name" "$root/$name"; done
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -o remount,bind,ro "$root"
mount -o remount,bind,ro "$root/models"
exec "$@"
"""


def missing() -> list[str]:
    """Programs that are needed and not here."""
    return [name for name in ("buildah", "mmdebstrap", "unshare", "nsenter") if shutil.which(name) is None]


@dataclass(frozen=True, slots=True)
class Image:
    """`root` is where its files are; `config` is as the standard for images has it."""

    root: Path
    config: dict[str, Any]

    @property
    def user(self) -> int:
        return int(self.config["User"])

    def command(self, words: Sequence[str], environ: dict[str, str]) -> list[str]:
        """What runs in its root as its user."""
        own = [*self.config["Env"], *(f"{name}={value}" for name, value in environ.items())]
        return ["chroot", f"--userspec={self.user}:{self.user}", str(self.root), "env", "-i", *own, *words]


def build(folder: Path) -> Image:
    """Build it from the repository, in this folder."""
    policy = folder / "policy.json"
    policy.write_text(json.dumps(POLICY))
    places = ["--root", str(folder / "storage"), "--runroot", str(folder / "run"), "--storage-driver", "vfs"]

    def buildah(command: str, *words: str | Path) -> str:
        policies = ["--signature-policy", str(policy)] if command in ("build", "from") else []
        return _run(["buildah", *places, command, *policies, *map(str, words)])

    copies = [f"--customize-hook=copy-in {path} {Path(path).parent}" for path in OF_THIS_MACHINE if Path(path).exists()]
    include = "--include=python3,python3-venv,ca-certificates"
    _run(["mmdebstrap", "--variant=minbase", include, *copies, "bookworm", str(folder / "base.tar")])
    (folder / "Containerfile").write_text("FROM scratch\nADD base.tar /\n")
    buildah("build", "--isolation", "chroot", "-f", folder / "Containerfile", "-t", BASE, folder)
    (folder / "base.tar").unlink()
    file = ROOT / "docker/Dockerfile.cpu"
    # Docker's own format: the other one knows no HEALTHCHECK.
    form = ("--isolation", "chroot", "--format", "docker", "--build-arg", f"BASE={BASE}")
    buildah("build", *form, "-f", file, "-t", "localhost/llama-router:cpu", ROOT)
    container = buildah("from", "--pull-never", "localhost/llama-router:cpu").strip()
    found = json.loads(buildah("inspect", container))
    return Image(Path(buildah("mount", container).strip()), found["Docker"]["config"])


def _run(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


class Container:
    """An image that runs. `first` is its process 1."""

    def __init__(self, image: Image, process: subprocess.Popen[bytes], log: Path) -> None:
        self.image, self.process, self.log = image, process, log
        until(lambda: self._children() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        (self.first,) = self._children()

    def _children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []

    def execute(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """As `docker exec`."""
        enter = ["nsenter", "--mount", "--pid", "--target", str(self.first.pid)]
        command = [*enter, *self.image.command(words, environ)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def running(image: Image, folder: Path, *words: str, **environ: str) -> Iterator[Container]:
    """Run it with these flags. `folder` has its volumes."""
    for name in ("models", "cache", "data"):
        (folder / name).mkdir(exist_ok=True)
        if name != "models":
            os.chown(folder / name, image.user, image.user)
    log = folder / "log"
    spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    command = image.command([*image.config["Entrypoint"], *words], environ)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*spaces, "sh", "-euc", ENTER, "sh", str(image.root), str(folder), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield Container(image, process, log)
    finally:
        process.kill()
        process.wait()
