#!/usr/bin/env -S python3 -IS
"""A llama-server child without a model: the protocol, the routes and the misbehaviour that tests ask for.

Start it as `[sys.executable, "-IS", this file]` or by its path: without `site` that takes 10 ms. It takes any
llama-server flag and ignores those that it does not know. Its own options are flags (`--load-seconds 0.1`) or, for
presets, environment variables (`FAKE_LOAD_SECONDS=0.1`); yes/no ones take no value as a flag, and `1` as a variable:

    --load-seconds S          time to load, told in ten steps
    --silent                  says nothing while it loads
    --fail TEXT               writes TEXT to stderr after the load time and ends with --exit-code
    --exit-code N             default 1; a negative one is a signal (not INT, not TERM)
    --say TEXT                writes TEXT to stderr before it loads
    --say-file FILE           writes the bytes of FILE there, with its own key in place of {key}
    --no-protocol             an older build: no state lines, nothing read from stdin
    --mixed-logs              logs go to stdout too
    --stdout-flood N          N lines of 100 bytes on both streams before it loads, and as many before it is ready
    --ignore-sigterm --ignore-exit
    --deaf                    once it serves, `/health` gets no answer
    --spin                    uses the processor all the time
    --hold-bytes N            holds memory: RAM, or with --hold-device I of the simulated NVML in $FAKE_NVML
    --gpu-bytes N             takes memory of the simulated NVML while it loads, on the GPUs of CUDA_VISIBLE_DEVICES
                              and as the engine would: 512 MiB on each, N divided by --tensor-split if there is one,
                              else by what --fit-target (MiB) leaves.
                              What is not there ends it, like --fail
    --spawn-child             has a child of its own, and logs `grandchild <pid>`
    --crash-after-seconds S --crash-after-requests N --crash-after-chunks N      ends like --fail
    --first-seconds S --chunk-seconds S       waits before the answer, between the chunks of a stream
    --tokens N                without max_tokens it generates so many; default 5
    --tool-arguments JSON     offered tools, it calls the first with these, unless a result is the last message
    --script FILE             a JSON array of rules; the first that fits a chat answers it (`Rule` in tests/scripted.py)
    --sent FILE               appends the fields of each chat, a line of JSON each
    --metrics-file FILE       `/metrics` answers with its content; --metrics-seconds S: after so long
    --chat-template TEXT      one that raises on a late system message does so here, if there is a script
    --sleep-idle-seconds S    sleeps that long after the load, wakes with the next request
    --journal FILE            appends `<monotonic time> <pid> <alias> <event> <detail>`, the event being one of
                              start ready request done gone exit oom
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

FLAGS = {"deaf", "spin", "silent", "no-protocol", "mixed-logs", "ignore-sigterm", "ignore-exit", "spawn-child"}
VALUES = {
    *("load-seconds", "fail", "exit-code", "stdout-flood", "hold-bytes", "hold-device", "gpu-bytes", "journal"),
    *("crash-after-seconds", "crash-after-requests", "crash-after-chunks", "first-seconds", "chunk-seconds", "tokens"),
    *("host", "port", "alias", "sleep-idle-seconds", "fit-target", "tensor-split", "tool-arguments"),
    *("script", "sent", "chat-template", "say", "say-file", "metrics-file", "metrics-seconds"),
}
MIB = 1 << 20
CONTEXT = 512 * MIB  # of a CUDA context
TEXT = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

options: dict[str, str] = {}
ready, asleep, write_lock = threading.Event(), threading.Event(), threading.Lock()
count = {"requests": 0, "chunks": 0}
held: list[bytearray] = []
taken: dict[int, int] = {}


def parse(argv: list[str]) -> None:
    for name in FLAGS | VALUES:
        value = os.environ.get(f"FAKE_{name.upper().replace('-', '_')}")
        if value is not None and not (name in FLAGS and value == "0"):
            options[name] = value
    words = iter(argv)
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        if name in FLAGS:
            options[name] = "1"
        elif name in VALUES or word == "-a":
            options["alias" if word == "-a" else name] = value or next(words, "")


def seconds(name: str) -> float:
    return float(options.get(name, 0))


def number(name: str) -> int:
    return int(options.get(name, 0))


def log(line: str) -> None:
    with write_lock:
        for fd in (1, 2) if "mixed-logs" in options else (2,):
            os.write(fd, f"{line}\n".encode())


def tell(state: str, payload: object) -> None:
    if "no-protocol" not in options:
        line = json.dumps({"state": state, "payload": payload}, separators=(",", ":"))
        with write_lock:
            os.write(1, f"cmd_child_to_router:state:{line}\n".encode())


def note(event: str, detail: object = "") -> None:
    if "journal" in options:
        line = f"{time.monotonic():.6f} {os.getpid()} {options.get('alias', '-')} {event} {detail}\n"
        fd = os.open(options["journal"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, line.encode())
        os.close(fd)


def leave(code: int) -> None:
    note("exit", code)
    if code < 0:
        os.kill(os.getpid(), -code)
        time.sleep(1)  # it is delivered to the main thread
    os._exit(code)


def crash() -> None:
    log(options.get("fail", "fake: crashed as it was told"))
    leave(int(options.get("exit-code", 1)))


def flood() -> None:
    for _ in range(number("stdout-flood")):
        os.write(1, b"." * 99 + b"\n")
        os.write(2, b"." * 99 + b"\n")


def hold() -> None:
    if "hold-device" in options:
        claim({number("hold-device"): number("hold-bytes")})
    elif "hold-bytes" in options:
        held.append(bytearray(b"\1") * number("hold-bytes"))


def claim(shares: dict[int, int]) -> None:
    """Of the simulated GPUs, by their numbers there; replaces what was claimed before."""
    folder, name = os.environ["FAKE_NVML"], str(os.getpid())
    with open(f"{folder}/{name}", "w") as file:
        file.writelines(f"{gpu} {count}\n" for gpu, count in shares.items())
    os.rename(f"{folder}/{name}", f"{folder}/claims/{name}")


def gpus() -> dict[int, int]:
    """Free bytes of the simulated GPUs that CUDA would show, in its order, by their numbers there."""
    from ctypes import CDLL, byref, c_uint64

    folder = os.environ.get("FAKE_NVML")
    if not folder:
        return {}
    buses = {}
    for name in os.listdir(folder):
        if name.startswith("gpu"):
            with open(f"{folder}/{name}") as file:
                buses[int(name[3:])] = int(file.read().split()[5])
    order = sorted(buses, key=lambda gpu: buses[gpu])
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    if mask is not None:
        words = [word for word in mask.split(",") if word.isdecimal() or word.startswith(("GPU-0", "MIG-0"))]
        order = [order[int(word)] if word.isdecimal() else device_named(word) for word in words]
        if any(gpu >= 1000 for gpu in order):
            order = order[:1]  # CUDA shows one instance at most
    driver, free = CDLL("libnvidia-ml.so.1"), {}
    if order and driver.nvmlInitWithFlags(0):
        log("ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected")
        return {}
    for gpu in order:
        memory = (c_uint64 * 3)()  # total, free, used
        if driver.nvmlDeviceGetMemoryInfo(handle_of(driver, gpu), byref(memory)):
            log("CUDA error: unspecified launch failure")
            crash()
        free[gpu] = memory[1]
    return free


def device_named(uuid: str) -> int:
    """The number of a simulated device: GPUs are 0, 1, ..., the instances of the first one 1000, 1001, ..."""
    gpu, _, place = uuid[4:].partition("-0000-0000-0000-")
    return int(gpu) if uuid.startswith("GPU-") else 1000 * (int(gpu) + 1) + int(place)


def handle_of(driver: Any, gpu: int) -> Any:
    from ctypes import byref, c_uint, c_void_p

    handle = c_void_p()
    uuid = f"GPU-{gpu if gpu < 1000 else gpu // 1000 - 1:08}-0000-0000-0000-000000000000".encode()
    driver.nvmlDeviceGetHandleByUUID(uuid, byref(handle))
    if gpu >= 1000:
        parent, handle = handle, c_void_p()
        driver.nvmlDeviceGetMigDeviceHandleByIndex(parent, c_uint(gpu % 1000), byref(handle))
    return handle


def shares(free: dict[int, int]) -> dict[int, int]:
    """What it will hold of each GPU."""
    targets = [int(word) * MIB for word in options.get("fit-target", "1024").split(",")]
    rooms = {gpu: max(0, room - targets[n % len(targets)] - CONTEXT) for n, (gpu, room) in enumerate(free.items())}
    if "tensor-split" in options:
        rooms = dict(zip(free, map(int, options["tensor-split"].split(",")), strict=True))
    whole = sum(rooms.values()) or 1
    return {gpu: CONTEXT + number("gpu-bytes") * room // whole for gpu, room in rooms.items()}


def take(wanted: dict[int, int], part: float) -> None:
    """Some of it now; the driver says no to what is not there."""
    free = gpus()
    if not free.keys() >= wanted.keys():
        log("CUDA error: unspecified launch failure")
        crash()
    now = {gpu: int(count * part) for gpu, count in wanted.items()}
    for gpu, count in now.items():
        if count - taken.get(gpu, 0) > free[gpu]:
            log(f"CUDA error: out of memory on GPU {gpu}: {count - taken.get(gpu, 0)} asked, {free[gpu]} free")
            note("oom", gpu)
            crash()
    taken.update(now)
    claim(now)


def model() -> dict[str, Any]:
    meta = {"vocab_type": 1, "n_vocab": 300, "n_ctx": 2048, "n_ctx_train": 2048, "n_params": 1000, "size": 4000}
    return {"id": options.get("alias", "fake"), "object": "model", "owned_by": "llamacpp", "meta": meta}


def spin() -> None:
    while True:
        sum(range(10_000))
        time.sleep(0.001)  # for the other threads


def load() -> None:
    flood()
    if "say" in options:
        log(options["say"])
    if "say-file" in options:
        with open(options["say-file"], "rb") as file:
            data = file.read().replace(b"{key}", os.environ["LLAMA_API_KEY"].encode())
        while data:
            data = data[os.write(2, data) :]
    progress = {"stages": ["text_model"], "current": "text_model"}
    wanted = shares(gpus()) if "gpu-bytes" in options else {}
    for step in range(11):
        if wanted and step % 5 == 0:
            take(wanted, step / 10)
        if "silent" not in options:
            tell("loading", {**progress, "value": step / 10})
        time.sleep(seconds("load-seconds") / 11)
    if "fail" in options and not any(name.startswith("crash-after") for name in options):
        crash()
    hold()
    flood()
    ready.set()
    note("ready")
    tell("ready", model())
    log("fake: ready")
    if "sleep-idle-seconds" in options:
        time.sleep(seconds("sleep-idle-seconds"))
        asleep.set()
        tell("sleeping", None)
    if "crash-after-seconds" in options:
        time.sleep(seconds("crash-after-seconds"))
        crash()


def listen() -> socket.socket:
    host = options.get("host", "127.0.0.1")
    if host.endswith(".sock"):
        server = socket.socket(socket.AF_UNIX)
        server.bind(host)
    else:
        server = socket.create_server((host, number("port")))
        log(f"fake: port {server.getsockname()[1]}")
    server.listen(128)
    return server


def watch_stdin() -> None:
    for line in sys.stdin:
        if "cmd_router_to_child:exit" in line and "ignore-exit" not in options:
            leave(0)
    if "ignore-exit" not in options:
        leave(1)


class Connection:
    """One client; requests one after the other."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.file = client.makefile("rb")
        self.close = False

    def serve(self) -> None:
        with self.client, self.file:
            self.client.settimeout(5)
            try:
                while not self.close and self.request():
                    pass
            except OSError:
                note("gone")

    def request(self) -> bool:
        line = self.file.readline()
        if not line:
            return False
        method, target, _ = line.decode().split()
        headers: dict[str, str] = {}
        while (line := self.file.readline()).strip():
            name, _, value = line.decode("latin-1").partition(":")
            before = f"{headers[name.lower()]}, " if name.lower() in headers else ""
            headers[name.lower()] = before + value.strip()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.file.readline(), 16):
                body += self.file.read(size)
                self.file.readline()
            self.file.readline()
        else:
            body = self.file.read(int(headers.get("content-length", 0)))
        self.close = headers.get("connection") == "close"
        self.answer(method, target.partition("?")[0], headers, body)
        return True

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        key = os.environ.get("LLAMA_API_KEY")
        if path not in ("/health", "/v1/models") and key and headers.get("authorization") != f"Bearer {key}":
            return self.json({"error": {"code": 401, "message": "no", "type": "authentication_error"}}, 401)
        if not ready.is_set():
            return self.json({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, 503)
        if path == "/health":
            if "deaf" in options:
                time.sleep(3600)
            return self.json({"status": "ok"})
        if path in ("/v1/models", "/models"):
            return self.json({"object": "list", "data": [model()]})
        if path == "/metrics" and "metrics-file" in options:
            time.sleep(seconds("metrics-seconds"))
            with open(options["metrics-file"], "rb") as text:
                return self.whole(text.read(), "text/plain; version=0.0.4")
        count["requests"] += 1
        note("request", path)
        if count["requests"] > number("crash-after-requests") > 0:
            crash()
        if asleep.is_set() and path != "/props":
            asleep.clear()
            tell("ready", None)
        time.sleep(seconds("first-seconds"))
        fields: dict[str, Any] = json.loads(body) if body.startswith(b"{") else {}
        if path.endswith("completions"):
            self.complete(path, fields)
        elif path.endswith("embeddings"):
            self.json({"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.5]}]})
        else:
            told = {"method": method, "path": path, "headers": headers, "bytes": len(body), "pid": os.getpid()}
            self.json({**told, "body": body.decode(errors="replace")})
        note("done", path)
        return None

    def complete(self, path: str, fields: dict[str, Any]) -> None:
        if "sent" in options:
            with write_lock, open(options["sent"], "a") as file:
                file.write(json.dumps({"path": path, "alias": options.get("alias", ""), **fields}) + "\n")
        if "script" in options and "messages" in fields:
            return self.play(fields)
        amount = fields.get("max_tokens") or number("tokens") or 5
        words = [f"{TEXT[n % len(TEXT)]} " for n in range(amount)]
        base = {"id": "chatcmpl-fake", "model": fields.get("model"), "created": 0}
        usage = {"prompt_tokens": 1, "completion_tokens": amount, "total_tokens": amount + 1}
        message: dict[str, Any] = {"role": "assistant", "content": "".join(words)}
        deltas: list[dict[str, Any]] = [{"content": word} for word in words]
        reason = "length"
        if calls(fields):
            function = {"name": fields["tools"][0]["function"]["name"], "arguments": options["tool-arguments"]}
            call = {"id": "call-of-fake", "type": "function", "function": function}
            message, reason = {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
            begun = {"index": 0, **call, "function": {**function, "arguments": ""}}
            rest = [{"index": 0, "function": {"arguments": letter}} for letter in function["arguments"]]
            deltas = [{"role": "assistant"}, *({"tool_calls": [part]} for part in (begun, *rest))]
        if not fields.get("stream"):
            time.sleep(seconds("chunk-seconds") * amount)
            choice = {"index": 0, "finish_reason": reason, "message": message, "text": message["content"]}
            return self.json({**base, "object": "chat.completion", "choices": [choice], "usage": usage})
        self.head(200, "text/event-stream", "Transfer-Encoding: chunked")
        for delta in deltas:
            choice = {"index": 0, "finish_reason": None, "delta": delta, "text": delta.get("content")}
            self.event(json.dumps({**base, "object": "chat.completion.chunk", "choices": [choice]}))
            count["chunks"] += 1
            if count["chunks"] >= number("crash-after-chunks") > 0:
                crash()
            time.sleep(seconds("chunk-seconds"))
        last = {"index": 0, "finish_reason": reason, "delta": {}}
        self.event(json.dumps({**base, "object": "chat.completion.chunk", "choices": [last], "usage": usage}))
        self.event("[DONE]")
        self.client.sendall(b"0\r\n\r\n")
        return None

    def play(self, fields: dict[str, Any]) -> None:
        """What the script says to this chat, as llama-server answers: thoughts first, then text, then calls."""
        rule = scripted(fields)
        if "error" in rule:
            return self.json({"error": {"code": 400, **rule["error"]}}, rule.get("status", 400))
        thoughts, text, calls = rule.get("reasoning"), rule.get("text"), rule.get("calls", [])
        reason = rule.get("finish") or ("tool_calls" if calls else "stop")
        made = [
            {
                "id": f"call{len(fields['messages'])}x{n}",
                "type": "function",
                "function": {"name": call["name"], "arguments": call.get("cut") or json.dumps(call["arguments"])},
            }
            for n, call in enumerate(calls)
        ]
        base = {"id": "chatcmpl-fake", "model": options.get("alias", "fake"), "created": 0}
        spoken = len(text or "") + len(thoughts or "") + len(json.dumps(made))
        asked, said = len(json.dumps(fields["messages"])) // 4, spoken // 4 + 1
        usage = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
        if not fields.get("stream"):
            message: dict[str, Any] = {"role": "assistant", "content": text or (None if made else "")}
            message |= {"reasoning_content": thoughts} if thoughts else {}
            message |= {"tool_calls": made} if made else {}
            choice = {"index": 0, "finish_reason": reason, "message": message}
            return self.json({**base, "object": "chat.completion", "choices": [choice], "usage": usage})
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}]
        deltas += [{"reasoning_content": part} for part in parts(thoughts or "")]
        deltas += [{"content": part} for part in parts(text or "")]
        for n, call in enumerate(made):
            function: Any = call["function"]
            deltas.append({"tool_calls": [{"index": n, **call, "function": {**function, "arguments": ""}}]})
            pieces = parts(function["arguments"])
            deltas += [{"tool_calls": [{"index": n, "function": {"arguments": piece}}]} for piece in pieces]
        self.head(200, "text/event-stream", "Transfer-Encoding: chunked")
        for delta in deltas:
            choice = {"index": 0, "finish_reason": None, "delta": delta}
            self.event(json.dumps({"choices": [choice], **base, "object": "chat.completion.chunk"}))
            time.sleep(seconds("chunk-seconds"))
        last: dict[str, Any] = {"choices": [{"index": 0, "finish_reason": reason, "delta": {}}], **base}
        self.event(json.dumps({**last, "object": "chat.completion.chunk"}))
        if (fields.get("stream_options") or {}).get("include_usage"):
            self.event(json.dumps({"choices": [], **base, "object": "chat.completion.chunk", "usage": usage}))
        self.event("[DONE]")
        self.client.sendall(b"0\r\n\r\n")
        return None

    def event(self, data: str) -> None:
        chunk = f"data: {data}\n\n".encode()
        self.client.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))

    def head(self, status: int, kind: str, extra: str) -> None:
        lines = [f"HTTP/1.1 {status} Fake", f"Content-Type: {kind}", "Keep-Alive: timeout=5, max=100", extra]
        self.client.sendall("\r\n".join([*lines, "", ""]).encode())

    def json(self, answer: object, status: int = 200) -> None:
        self.whole(json.dumps(answer).encode(), "application/json", status)

    def whole(self, body: bytes, kind: str, status: int = 200) -> None:
        self.head(status, kind, f"Content-Length: {len(body)}")
        self.client.sendall(body)


def words_of(message: dict[str, Any]) -> str:
    """The text of a message, whole or in parts."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part.get("text", f"<{part['type']}>") for part in content)


def parts(text: str) -> list[str]:
    return [text[n : n + 7] for n in range(0, len(text), 7)]


def scripted(fields: dict[str, Any]) -> dict[str, Any]:
    """The first rule that fits the last message and the tools of a chat."""
    messages = fields["messages"]
    is_strict = "raise_exception" in options.get("chat-template", "")
    if is_strict and any(message["role"] == "system" for message in messages[1:]):
        complaint = "Unable to generate parser for this template. System message must be at the beginning."
        return {"error": {"message": complaint, "type": "invalid_request_error"}}
    last = next((message for message in reversed(messages) if message["role"] != "system"), messages[-1])
    offered = [tool.get("function", {}).get("name") for tool in fields.get("tools") or ()]
    with open(options["script"]) as file:
        rules: list[dict[str, Any]] = json.load(file)
    for rule in rules:
        after, contains, tool = rule.get("after"), rule.get("contains", ""), rule.get("tool")
        if after not in (None, last["role"]) or (tool is not None and tool not in offered):
            continue
        if contains in words_of(last):
            return rule
    return {"error": {"message": f"no rule of the script fits {json.dumps(last)[:500]}"}}


def calls(fields: dict[str, Any]) -> bool:
    """Whether the answer to this request is a call of a tool."""
    return "tool-arguments" in options and bool(fields.get("tools")) and fields["messages"][-1]["role"] != "tool"


def usage() -> str:
    """llama-server's flags in its own layout."""
    lines = []
    with open(os.path.join(os.path.dirname(__file__), "../router/engine/flags.tsv")) as table:
        for row in filter(lambda row: not row.startswith("#"), table):
            positive, negative, arity, env = row.rstrip("\n").split("\t")
            head = ", ".join([*positive.split(), *negative.split()])
            lines += [head + " VALUE" * int(arity)] + [" " * 40 + f"(env: {env})"] * bool(env)
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    parse(argv)
    if "--version" in argv:
        print("version: 11434 (fake)", file=sys.stderr)
        return
    if "--help" in argv:
        print(usage())
        return
    if "--list-devices" in argv:
        print("Available devices:")
        for index, free in enumerate(gpus().values()):
            print(f"  CUDA{index}: Fake ({free // MIB} MiB, {free // MIB} MiB free)")
        return
    note("start")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "ignore-sigterm" in options:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda number, frame: leave(0))
    if "spawn-child" in options:
        pid = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "600")
        log(f"grandchild {pid}")
    server = listen()
    if "spin" in options:
        threading.Thread(target=spin, daemon=True).start()
    threading.Thread(target=load, daemon=True).start()
    if "no-protocol" not in options and "LLAMA_SERVER_ROUTER_PORT" in os.environ:
        threading.Thread(target=watch_stdin, daemon=True).start()
    while True:
        client, _ = server.accept()
        threading.Thread(target=Connection(client).serve, daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1:])
