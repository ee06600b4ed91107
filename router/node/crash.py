"""How a child ended, as a sentence: code or signal, the likely cause, its last lines.

The engine's log is the only source of the cause, so this is a table of what engines write and what it means. Called by
`process` when a child has ended.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Collection, Sequence

from router.engine.obstacles import cause
from router.node.gpu_errors import LIBRARIES, GpuError, Kind, gpu_error
from router.node.gpu_errors import is_without_gpu as is_without_gpu
from router.node.interface import Exit

QUOTED_LINES = 3
MAX_LINE_CHARS = 500  # of a line that is searched: what matters stands at its beginning

# What engines write, and what it means. The first row that matches any line wins. Wording of llama.cpp b11434
# (ggml*.c*, llama-model*.cpp, common/arg.cpp, tools/server/server-http.cpp), seen on the CPU build. What they write
# about GPUs and about memory is in `gpu_errors`, and comes first.
CAUSES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), sentence)
    for pattern, sentence in (
        (r"error: invalid argument: (.+)", "this engine does not know the argument {0}; a newer one may"),
        (r'error while handling argument "(.+?)": (?:error: )?(.+)', "it refused the value of {0} ({1})"),
        (r"^error: (--?[a-z].*)", "it refused an argument ({0})"),  # the embedded engine
        (r"couldn't bind .*hostname: ([^,]+)", "it could not listen on {0}: the address is taken or not allowed"),
        (r"unknown model architecture: '(.*?)'", "it does not know the architecture {0}; a newer engine may"),
        (r"failed to load multimodal model, '(.*?)'", "the projector {0} cannot be loaded or is not this model's"),
        (r"failed to load lora adapter '(.*?)'", "the LoRA adapter {0} cannot be loaded"),
        (r"chat template is not supported", "it cannot use the chat template"),
        (r"failed to open GGUF file '(.*?)' \((.+)\)", "the file {0} cannot be opened ({1})"),
        (r"invalid magic|failed to read magic", "the model file is not a GGUF"),
        (
            r"failed to read key-value|failed to read tensor|not within the file bounds|tensor '.*' not found"
            r"|wrong number of tensors|corrupted|failed to load model from",
            "the model file is damaged or incomplete; download it again",
        ),
        (r"^[\d.]+ E (.+)", "it said: {0}"),  # the first line that it marks as an error: later ones follow from it
    )
)
SIGNALS = {
    "SIGKILL": "something killed it, most often the kernel when RAM runs out",
    "SIGILL": "the engine was built for another processor",
    "SIGABRT": "the engine gave up on an internal error",
    "SIGSEGV": "the engine crashed; a damaged file or a bug",
    "SIGBUS": "the engine crashed; a model file that was changed or cut while it was in use, or a full disk",
}


def explain(
    model: str,
    code: int,
    log: Sequence[str],
    *,
    is_stopped: bool,
    is_ready: bool,
    libraries: Collection[str] = LIBRARIES,
) -> Exit:
    """`code` is negative for a signal.
    `is_stopped`: the router has stopped it.
    `is_ready`: it had been serving.
    `libraries` are those of the GPUs that it was given, such as "CUDA".
    """
    if is_stopped:
        return Exit(code, f"{model} was stopped", tuple(log))
    how = f"ended with code {code}" if code >= 0 else f"was ended by {_signal_name(-code)}"
    when = "while it served" if is_ready else "while it loaded"
    error = _cause(code, log, libraries)
    lines = " | ".join(line[:200] for line in [line for line in log if line.strip()][-QUOTED_LINES:])
    sentence = f"{model} {how} {when}: {error.sentence}. {f'Last lines: {lines}' if lines else 'It wrote nothing.'}"
    return Exit(code, sentence, tuple(log), error.kind is Kind.MEMORY, error.kind is Kind.LOST)


def _cause(code: int, log: Sequence[str], libraries: Collection[str]) -> GpuError:
    """The cause, whether a GPU has to do with it or not."""
    log = [line[:MAX_LINE_CHARS] for line in log]
    if error := gpu_error(log, libraries):
        return error
    if why := cause("\n".join(log)):
        return GpuError(Kind.OTHER, why)
    for pattern, sentence in CAUSES:
        for line in log:
            if match := pattern.search(line):
                return GpuError(Kind.OTHER, sentence.format(*(group.strip() for group in match.groups())))
    name = _signal_name(-code) if code < 0 else ""
    return GpuError(
        Kind.MEMORY if name == "SIGKILL" else Kind.OTHER,
        SIGNALS.get(name, "it gave no reason"),
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
