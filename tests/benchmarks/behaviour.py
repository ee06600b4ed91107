"""(i) What clients get when models compete and processes end, from each router that switches models.

Each router has room for one of two models; the engine costs nothing. Four cases: streams on one model overlap while
another model is requested; a child is killed in the middle of a stream; a model is unloaded in the middle of a stream;
the router itself is killed. An answer that did not come within `LONGEST_S` is shown as `never`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import psutil

from tests.benchmarks.report import LLAMA_SWAP, OLLAMA, OURS, Row, Target
from tests.benchmarks.stage import MODEL, PATIENCE, Peer, Stage, ask, awaited, present, question

OTHER = "tiny-b"
LONGEST_S = 12.0
STREAMS = 3
ROUNDS = 5
REAL_ENGINE_FACTOR = 8
GONE_S = 3.0  # after which a child of a killed router counts as left behind


def measure(stage: Stage, seconds: float, missing: list[str]) -> Iterator[Row]:
    fake = stage.engine(pinned=False)
    makers: list[Callable[[], Peer]] = [
        lambda: stage.ours("--models-max", "1", "--models-drain-grace", "1", engine=fake, cpu=None),
        lambda: stage.llama_cpp("--models-max", "1", engine=fake, cpu=None),
        lambda: stage.llama_swap(engine=fake, cpu=None),
        stage.ollama,
    ]
    found = {peer.name: peer for peer in present(makers, missing)}

    waits = {name: overlapping(peer) for name, peer in found.items()}
    yield Row("behaviour", "another model, while streams on one overlap", "answered after", "s", waits)

    broken = {name: sum(breaks(peer) for _ in range(ROUNDS)) for name, peer in found.items()}
    target = Target("none", not broken[OURS])
    yield Row("behaviour", f"child killed in a stream, {ROUNDS} times", "malformed", "", broken, (target,))

    cut = {name: float(is_cut_by_unload(peer)) for name, peer in found.items()}
    yield Row("behaviour", "model unloaded in a stream", "streams cut", "", cut, (Target("none", not cut[OURS]),))

    left = {name: float(left_behind(peer)) for name, peer in found.items()}
    yield Row("behaviour", "router killed", "children left", "", left, (Target("none", not left[OURS]),))


def overlapping(peer: Peer) -> float:
    """Seconds until a second model answers while streams on the first one overlap without a gap."""
    is_over = threading.Event()

    def keep_streaming() -> None:
        while not is_over.is_set():
            with contextlib.suppress(OSError):
                stream(peer, tokens=25)

    threads = [threading.Thread(target=keep_streaming) for _ in range(STREAMS)]
    for thread in threads:
        thread.start()
        time.sleep(0.15)  # their ends are apart
    began = time.monotonic()
    answered: list[float] = []

    def ask_other() -> None:
        with contextlib.suppress(OSError, RuntimeError):
            ask(peer.port, OTHER)
            answered.append(time.monotonic() - began)

    asker = threading.Thread(target=ask_other)
    asker.start()
    asker.join(LONGEST_S)
    is_over.set()
    for thread in threads:
        thread.join(PATIENCE)
    asker.join(PATIENCE)
    return answered[0] if answered and answered[0] <= LONGEST_S else math.inf


def breaks(peer: Peer) -> bool:
    """Whether a client gets something that is no stream of events when the child is killed in the middle."""
    served(peer)
    events = stream(peer, tokens=200, then=lambda: kill_child(peer))
    return not is_well_formed(events)


def is_cut_by_unload(peer: Peer) -> bool:
    """Whether a stream ends without its last event if its model is unloaded meanwhile, politely."""
    served(peer)

    def ask_to_unload() -> None:
        method, url, body = unload_request(peer)
        httpx.request(method, url, json=body, timeout=PATIENCE, trust_env=False)

    return b"[DONE]" not in stream(peer, tokens=40, then=lambda: threading.Thread(target=ask_to_unload).start())


def unload_request(peer: Peer) -> tuple[str, str, dict[str, object] | None]:
    """Method, URL and body, as each peer's clients unload a model."""
    url = f"http://127.0.0.1:{peer.port}"
    if peer.name == LLAMA_SWAP:
        return "GET", f"{url}/unload", None
    if peer.name == OLLAMA:
        return "POST", f"{url}/api/generate", {"model": MODEL, "keep_alive": 0}
    return "POST", f"{url}/models/unload", {"model": MODEL}


def left_behind(peer: Peer) -> int:
    """How many children live on when the router is killed."""
    served(peer)
    children = children_of(peer)
    for pid in peer.pids:
        os.kill(pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(children, GONE_S)
    left = [child for child in alive if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    for child in left:
        child.kill()
    return len(left)


def served(peer: Peer) -> None:
    """Wait until the first model answers; a router may fail a request whose child it does not yet know to be gone."""

    def answers() -> bool:
        with contextlib.suppress(RuntimeError, OSError):
            return ask(peer.port) > 0
        return False

    awaited(answers)


def stream(peer: Peer, tokens: int, then: Callable[[], None] | None = None) -> bytes:
    """The whole answer to a streaming request of 50 tokens a second; `then` is called with its first event. A real
    engine is asked for more tokens, since it does not take its time."""
    count = tokens if peer.keeps_pace else REAL_ENGINE_FACTOR * tokens
    body = json.dumps(question(stream=True, max_tokens=count, pace=50)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}"
    answer = b""
    with socket.create_connection(("127.0.0.1", peer.port), PATIENCE) as connection:
        connection.sendall(f"{head}\r\nContent-Type: application/json\r\n\r\n".encode() + body)
        while b"[DONE]" not in answer and (data := connection.recv(65536)):
            answer += data
            if then and b"data:" in answer:
                then()
                then = None
    return answer


def is_well_formed(answer: bytes) -> bool:
    """Whether an answer is nothing but whole events, of which the last one ends the stream or is an error."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        whole, rest = b"", body
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            try:
                count = int(size, 16)
            except ValueError:
                return False
            if not count:
                break
            whole, rest = whole + rest[:count], rest[count + 2 :]
        else:
            return False
        body = whole
    events = [event for event in body.split(b"\n\n") if event.strip()]
    if not events or not all(event.startswith((b"data: ", b"event: ", b":")) for event in events):
        return False
    last = events[-1].rpartition(b"data: ")[2]
    if last == b"[DONE]":
        return True
    try:
        return "error" in json.loads(last)
    except ValueError:
        return False


def children_of(peer: Peer) -> list[psutil.Process]:
    """The engines of a router, whatever stands between."""

    def engines() -> list[psutil.Process]:
        found = [child for pid in peer.pids for child in psutil.Process(pid).children(recursive=True)]
        return [child for child in found if "--alias" in child.cmdline() or "--port" in child.cmdline()]

    return awaited(engines)


def kill_child(peer: Peer) -> None:
    for child in children_of(peer):
        child.kill()
