"""The Hugging Face hub on loopback: the part of its protocol that clients need to list repositories and get files.

`HF_ENDPOINT=hub.url` sends huggingface_hub and llama.cpp here. A second address serves the files, as the hub's CDN
does: `/resolve/` answers with a redirect. A test sets what goes wrong on a `Repo` or a `RepoFile`.

    with HubServer({"user/m": Repo({"m-Q8_0.gguf": RepoFile(data)})}) as hub:
        ...
        assert hub.gets["user/m/m-Q8_0.gguf"] == 1
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import unquote, urlsplit

from tests.web_server import WebHandler, WebServer

COMMIT = "c" * 40
CHUNK = 1 << 16


@dataclass
class RepoFile:
    """One file of a repository, and what goes wrong with it.

    `size` and `oid` are what the hub lists, if that is not the truth.
    `cuts` connections end after `cut_at` bytes of their answers.
    `gate` stops every answer after `cut_at` bytes until it is set.
    With `hangs` no answer begins.
    `failures` are the statuses of the next requests for the file.
    """

    data: bytes
    size: int | None = None
    oid: str | None = None
    lfs: bool = True
    cut_at: int = 0
    cuts: int = 0
    gate: threading.Event | None = None
    hangs: bool = False
    knows_ranges: bool = True
    failures: list[int] = field(default_factory=list)
    seconds_a_chunk: float = 0.0

    @property
    def listed_size(self) -> int:
        return len(self.data) if self.size is None else self.size

    @property
    def etag(self) -> str:
        if self.oid:
            return self.oid
        if self.lfs:
            return hashlib.sha256(self.data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()


@dataclass
class Repo:
    """One repository, and what goes wrong with it.

    `token` is needed to read it. Without the token, a `gated` repository lists its files only, and any other one does
    not exist.
    `failures` are the statuses of the next requests for its list.
    `gate` stops every answer with the list until it is set.
    A mirror may not list sizes and contents (`tells_sizes`), or not tell them with the files (`tells_lengths`).
    """

    files: dict[str, RepoFile]
    commit: str = COMMIT
    revisions: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False
    failures: list[int] = field(default_factory=list)
    retry_after: str | None = None
    gate: threading.Event | None = None
    tells_sizes: bool = True
    tells_lengths: bool = True


class HubServer:
    """The hub, and what its clients did.

    `requests` counts all requests by path.
    `gets` counts the answers with data, `sent` their bytes, `begins` lists the first byte of each; all of them by
    `user/repo/path`.
    `tokens` are the Authorization headers, by address: of the hub, and of its CDN.
    """

    def __init__(self, repos: Mapping[str, Repo]) -> None:
        self.repos = dict(repos)
        self.requests: Counter[str] = Counter()
        self.gets: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.begins: defaultdict[str, list[int]] = defaultdict(list)
        self.tokens: dict[str, set[str | None]] = {"hub": set(), "cdn": set()}
        self.lock = threading.Lock()
        self.has_sent = threading.Condition(self.lock)
        self.any_case = False  # whether names of repositories may be written in any case, as the real hub has it
        self.is_closing = threading.Event()
        self._servers = [_Server(self, kind) for kind in ("hub", "cdn")]
        self.url, self.cdn = (server.url for server in self._servers)

    def __enter__(self) -> HubServer:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.is_closing.set()
        for repo in self.repos.values():
            if repo.gate:
                repo.gate.set()
            for file in repo.files.values():
                if file.gate:
                    file.gate.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def spelling(self, name: str) -> str:
        """The repository's own name."""
        same = (known for known in self.repos if self.any_case and known.casefold() == name.casefold())
        return next(same, name)

    def find(self, name: str) -> Repo | None:
        return self.repos.get(self.spelling(name))

    def wait_for(self, file: str, count: int, timeout: float = 30) -> None:
        """Wait until `count` bytes of the file have been sent."""
        with self.has_sent:
            assert self.has_sent.wait_for(lambda: self.sent[file] >= count, timeout), f"{file}: {self.sent[file]} bytes"


class _Server(WebServer):
    def __init__(self, hub: HubServer, kind: str) -> None:
        self.hub, self.kind = hub, kind
        super().__init__(_Handler)


class _Handler(WebHandler):
    server: _Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path).strip("/")
        with hub.lock:
            hub.requests[path] += 1
            hub.tokens[self.server.kind].add(self.headers["Authorization"])
        if self.server.kind == "cdn":
            repo, file = path.split("//", 1)
            self._data(repo, file)
        elif match := re.fullmatch(r"api/models/([^/]+/[^/]+)(?:/(revision|tree|refs|auth-check)(?:/(.+))?)?", path):
            self._api(*match.groups())
        elif match := re.fullmatch(r"([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*match.groups())
        else:
            self._fail(404, "EntryNotFound")

    def _api(self, name: str, what: str | None, revision: str | None) -> None:
        repo = self._repo(name, is_list=what != "auth-check")
        if repo is None:
            return
        if repo.gate:
            repo.gate.wait()
        if repo.failures:
            self._fail(repo.failures.pop(0), retry_after=repo.retry_after)
        elif what == "refs":
            refs = {"main": repo.commit} | repo.revisions
            branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in refs.items()]
            self._json({"branches": branches, "converts": [], "tags": []})
        elif (commit := self._commit(repo, revision)) is None:
            self._fail(404, "RevisionNotFound")
        elif what == "tree":
            self._json([_entry(path, file) for path, file in repo.files.items()])
        else:
            siblings = [_sibling(path, file) for path, file in repo.files.items()]
            if not repo.tells_sizes:
                siblings = [{"rfilename": path} for path in repo.files]
            gated = "manual" if repo.gated else False
            name = self.server.hub.spelling(name)
            self._json({"id": name, "modelId": name, "sha": commit, "gated": gated, "siblings": siblings})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self._repo(name, is_list=False)
        if repo is None:
            return
        commit, file = self._commit(repo, revision), repo.files.get(path)
        if commit is None:
            self._fail(404, "RevisionNotFound")
        elif file is None:
            self._fail(404, "EntryNotFound")
        elif file.failures:
            self._fail(file.failures.pop(0), retry_after=repo.retry_after)
        else:
            self.send_response(302)
            self.send_header("Location", f"{self.server.hub.cdn}/{name}//{path}")
            self.send_header("X-Repo-Commit", commit)
            if repo.tells_lengths:
                self.send_header("X-Linked-Size", str(file.listed_size))
                self.send_header("X-Linked-ETag", f'"{file.etag}"')
                self.send_header("ETag", f'"{file.etag}"')
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _repo(self, name: str, *, is_list: bool) -> Repo | None:
        repo = self.server.hub.find(name)
        may_read = repo and repo.token in (None, (self.headers["Authorization"] or "").removeprefix("Bearer "))
        if repo and (may_read or (repo.gated and is_list)):
            return repo
        if repo and repo.gated:
            self._fail(403 if self.headers["Authorization"] else 401, "GatedRepo")
        else:
            self._fail(404 if self.headers["Authorization"] else 401, "RepoNotFound")
        return None

    def _commit(self, repo: Repo, revision: str | None) -> str | None:
        commits = {None: repo.commit, "main": repo.commit} | repo.revisions
        return commits.get(revision) or (revision if revision in commits.values() else None)

    def _data(self, repo: str, path: str) -> None:
        hub, file = self.server.hub, self.server.hub.repos[repo].files[path]
        if file.hangs:
            hub.is_closing.wait()
            return
        first = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "") if file.knows_ranges else None
        begin = int(first[1]) if first else 0
        end = min(int(first[2]) + 1 if first and first[2] else len(file.data), len(file.data))
        if first and begin >= len(file.data):
            self._fail(416)
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(file.data)}")
        self.send_header("Accept-Ranges", "bytes" if file.knows_ranges else "none")
        if hub.repos[repo].tells_lengths:
            self.send_header("Content-Length", str(end - begin))
            self.send_header("ETag", f'"{file.etag}"')
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "GET":
            with hub.lock:
                hub.gets[f"{repo}/{path}"] += 1
                hub.begins[f"{repo}/{path}"].append(begin)
            self._stream(f"{repo}/{path}", file, begin, end)

    def _stream(self, name: str, file: RepoFile, begin: int, end: int) -> None:
        hub, at = self.server.hub, begin
        while at < end:
            border = file.cut_at if (file.cuts or file.gate) and begin <= at < file.cut_at else end
            chunk = file.data[at : min(at + CHUNK, border, end)]
            self.wfile.write(chunk)
            at += len(chunk)
            with hub.has_sent:
                hub.sent[name] += len(chunk)
                hub.has_sent.notify_all()
            if at == file.cut_at and at < end:
                if file.gate:
                    file.gate.wait()
                if file.cuts:
                    file.cuts -= 1
                    self.close_connection = True
                    return
            if file.seconds_a_chunk:
                hub.is_closing.wait(file.seconds_a_chunk)

    def _json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _fail(self, status: int, code: str | None = None, retry_after: str | None = None) -> None:
        body = json.dumps({"error": "The test wants this failure."}).encode()
        self.send_response(status)
        for name, value in (("X-Error-Code", code), ("Retry-After", retry_after), ("Content-Length", str(len(body)))):
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _sibling(path: str, file: RepoFile) -> dict[str, object]:
    lfs = {"lfs": {"sha256": file.etag, "size": file.listed_size, "pointerSize": 134}} if file.lfs else {}
    blob = hashlib.sha1(path.encode()).hexdigest() if file.lfs else file.etag
    return {"rfilename": path, "size": file.listed_size, "blobId": blob, **lfs}


def _entry(path: str, file: RepoFile) -> dict[str, object]:
    lfs = {"lfs": {"oid": file.etag, "size": file.listed_size, "pointerSize": 134}} if file.lfs else {}
    oid = hashlib.sha1(path.encode()).hexdigest() if file.lfs else file.etag
    return {"type": "file", "path": path, "size": file.listed_size, "oid": oid, **lfs}
