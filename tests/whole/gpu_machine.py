"""A machine with GPUs that are simulated below pynvml, and a router on it: its children are of a fake engine, and each
takes of the GPUs what its model would.

A GPU's memory is in GiB here, a model's too: `gib` is what its tensors say, and its child takes 0.5 more on each GPU.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import gguf
import httpx
import pynvml

from tests.conftest import Starter
from tests.nvml import FakeNvml, Gpu
from tests.processes import Sampler
from tests.routers import FAKE, Router, alias

MIB, GIB = 2**20, 2**30


class Event(NamedTuple):
    """One line of the children's journal."""

    at: float
    pid: int
    model: str
    name: str
    detail: str


class Machine:
    """Some GPUs, models, and a router between them. `margins` are what the samples are held against, by GPU number;
    `shortages` is how many loads the test lets run out of memory."""

    def __init__(self, folder: Path, routers: Starter, gpus: tuple[Gpu, ...]) -> None:
        self.nvml = FakeNvml(folder / "nvml", *gpus)
        self.margins = [GIB] * len(gpus)
        self.problems: list[str] = []
        self.shortages = 0
        self._folder, self._routers = folder, routers
        self._journal = folder / "journal"
        self._journal.touch()
        self._presets = folder / "presets.ini"
        self._presets.write_text("[*]\nctx-size = 256\n")
        self._lock = threading.Lock()

    def model(self, name: str, gib: float, **keys: object) -> None:
        """One more in the presets. Keys of the fake server are in capitals."""
        path = write_sparse(self._folder / f"{name}.gguf", int(gib * GIB))
        # Said so, all of it goes to GPUs: of what is not said the engine may leave a part in RAM.
        lines = [f"[{name}]", f"model = {path}", "n-gpu-layers = all", f"env.FAKE_GPU_BYTES = {int(gib * GIB)}"]
        for key, value in keys.items():
            lines.append(f"env.FAKE_{key} = {value}" if key.isupper() else f"{key.replace('_', '-')} = {value}")
        with self._presets.open("a") as file:
            file.write("\n".join([*lines, "", ""]))

    def start(self, *flags: str, engine: str = FAKE, **environ: str) -> Router:
        variables = {**self.nvml.variables, "FAKE_JOURNAL": str(self._journal), **environ}
        common = ("--engine", engine, "--models-preset", str(self._presets), "--models-max", "0")
        return self._routers(*common, *flags, **variables)

    def events(self, name: str, model: str = "") -> list[Event]:
        lines = (line.split(" ", 4) for line in self._journal.read_text().splitlines())
        found = [Event(float(at), int(pid), alias, event, detail) for at, pid, alias, event, detail in lines]
        return [event for event in found if event.name == name and model in ("", event.model)]

    def on(self, router: Router) -> dict[str, list[int]]:
        """The physical GPUs of each model that runs, by its child's mask; they are the ones that it takes memory on."""
        chosen: dict[str, list[int]] = {}
        for child in router.children():
            environ = child.environ()
            assert environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
            chosen[alias(child)] = [int(word) for word in environ["CUDA_VISIBLE_DEVICES"].split(",")]
            claim = (self.nvml.folder / "claims" / str(child.pid)).read_text()
            assert [self.position(int(line.split()[0])) for line in claim.splitlines()] == chosen[alias(child)]
        return chosen

    def position(self, number: int) -> int:
        """A GPU's index by PCI address."""
        return sorted(gpu.bus for gpu in self.nvml.gpus).index(self.nvml.gpus[number].bus)

    def others(self, number: int, gib: float) -> None:
        """From now on other programs hold as much of this GPU."""
        with self._lock:
            self.nvml.change(number, others=int(gib * GIB))

    def used(self) -> list[int]:
        """Bytes that our children hold of each GPU, or have not got back from it yet."""
        with self._lock:
            handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(len(self.nvml.gpus)))
            used = [int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in handles]
            return [count - gpu.others - gpu.reserved for count, gpu in zip(used, self.nvml.gpus, strict=True)]

    @contextlib.contextmanager
    def meanwhile(self, action: Callable[[], object]) -> Iterator[None]:
        """The action happens in a thread of its own, and has ended when the block has."""
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            done = pool.submit(action)
            yield
            done.result()

    @contextlib.contextmanager
    def watched(self, router: Router) -> Iterator[None]:
        """Sample until the block ends: no child may take what the margin needs, no model may have two processes."""
        before = self.used()

        def look() -> None:
            nonlocal before
            now = self.used()
            for number, gpu in enumerate(self.nvml.gpus):
                most = gpu.total - gpu.reserved - gpu.others - self.margins[number]
                if now[number] > before[number] and now[number] > most:
                    self.problems.append(f"GPU {number}: {now[number]} bytes used of {most}")
            before = now
            names = Counter(map(alias, router.sample()))
            del names[""]  # those that ended since they were listed: whose they were nobody can say any more
            twice = [name for name, count in names.items() if count > 1]
            self.problems += [f"two processes of {name}" for name in twice]

        with Sampler(look, every=0.01):
            yield


Make = Callable[..., Machine]


def write_sparse(path: Path, size: int, layers: int = 16) -> Path:
    """A model whose header tells of tensors of `size` bytes; of them the file has only the length."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(192)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_vocab_size(300)
    names = ["output.weight", *(f"blk.{layer}.ffn_up.weight" for layer in range(layers))]
    rows = size // len(names) // 4096
    for name in names:
        writer.add_tensor_info(name, (rows, 2048), gguf.np.dtype("float16"), rows * 4096)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size + MIB)
    return path


def ask(router: Router, *models: str) -> None:
    """One after the other, each answered."""
    for model in models:
        answer = router.chat(model)
        assert answer.status_code == 200, answer.text


def ask_at_once(router: Router, *models: str) -> list[int]:
    with concurrent.futures.ThreadPoolExecutor(len(models)) as pool:
        return [answer.status_code for answer in pool.map(router.chat, models)]


def pids(router: Router) -> dict[str, int]:
    return {alias(child): child.pid for child in router.children()}


def error(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["message"])
