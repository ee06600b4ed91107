"""Tokens, keys and credentials of URLs appear on no command line, and in no log, listing, answer or event. B-T7"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from router import redaction
from router.engine import flags
from router.errors import FlagError, PresetError
from router.models.check import check_files
from router.redaction import redactor, secrets_of, without_credentials
from tests.conftest import Starter
from tests.hub_server import HubServer, Repo, RepoFile
from tests.processes import Sampler
from tests.projector_shapes import small_projector
from tests.routers import FAKE, Router
from tests.waiting import until

# Each one is recognised wherever it turns up.
TOKEN = "hf_MarkerOfTheRoutersToken0001"
PRESET_TOKEN = "hf_MarkerOfThePresetsToken0002"
KEY = "MarkerOfTheClientsKey0003"
HUB_PASSWORD = "MarkerOfTheHubsPassword0004"
PROXY_PASSWORD = "MarkerOfTheProxysPassword0005"
URL_PASSWORD = "MarkerOfAUrlsPassword0006"
CHILD_SECRET = "MarkerOfAPresetsVariable0007"
MARKERS = (TOKEN, PRESET_TOKEN, KEY, HUB_PASSWORD, PROXY_PASSWORD, URL_PASSWORD, CHILD_SECRET)


def command_lines() -> Iterator[str]:
    """All of the machine."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield process.read_bytes().replace(b"\0", b" ").decode(errors="replace")


class Listener:
    """Collects what a router sends: answers, and events."""

    def __init__(self, router: Router) -> None:
        self._client = httpx.Client(base_url=router.url, timeout=30, headers={"x-api-key": KEY})
        self.received: list[str] = []
        self._news = threading.Thread(target=self._listen, args=(router,), daemon=True)
        self._news.start()
        until(lambda: any("hello" in text for text in self.received))

    def _listen(self, router: Router) -> None:
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream("GET", f"{router.url}/models/sse", timeout=60, headers={"x-api-key": KEY}) as news,
        ):
            self.received.extend(news.iter_lines())

    def close(self) -> None:
        self._client.close()
        self._news.join(30)

    def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        answer = self._client.request(method, path, json=body)
        self.received.append(f"{method} {path}: {answer.headers} {answer.text}")
        return answer

    def chat(self, model: str, path: str = "/v1/chat/completions") -> httpx.Response:
        body = {"model": model, "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]}
        return self.ask("POST", path, body)

    def read_all_endpoints(self) -> None:
        for path in ("/models", "/v1/models", "/props", "/metrics", "/api/tags", "/api/ps", "/slots", "/nowhere"):
            self.ask("GET", path)
        for entry in self.ask("GET", "/models").json()["data"]:
            name = entry["id"]
            for path in (f"/v1/models/{name}", f"/models/{name}/settings", f"/models/estimate?model={name}"):
                self.ask("GET", path)
            self.ask("GET", f"/props?model={name}")
            self.ask("POST", "/api/show", {"model": name})


@pytest.fixture
def hub(tiny_models: Path, tmp_path: Path) -> Iterator[HubServer]:
    model = (tiny_models / "tiny-a.gguf").read_bytes()
    files = {"m-Q8_0.gguf": RepoFile(model)}
    broken = {"m-Q8_0.gguf": RepoFile(model, oid="0" * 64)}
    repos = {
        "user/open": Repo(files),
        "user/private": Repo(files, token=TOKEN),
        "user/preset": Repo(files, token=PRESET_TOKEN),
        "user/forbidden": Repo(files, token="another one"),
        "user/broken": Repo(broken),
        "user/parts": Repo({"p.gguf": RepoFile(small_projector(tmp_path, 96).read_bytes())}),
    }
    with HubServer(repos) as server:
        yield server


PRESETS = f"""
[own-token]
hf-repo = user/preset:Q8_0
hf-token = {PRESET_TOKEN}

[short-token]
model = MODEL
hft = {PRESET_TOKEN}

[by-variable]
model = MODEL
HF_TOKEN = {PRESET_TOKEN}
env.MY_SERVICE_TOKEN = {CHILD_SECRET}

[talks]
model = MODEL
hf-token = {PRESET_TOKEN}
env.MY_SERVICE_TOKEN = {CHILD_SECRET}
env.FAKE_FAIL = error: {PRESET_TOKEN} {CHILD_SECRET} http://u:{URL_PASSWORD}@host/

[by-url]
mmproj-url = http://user:{URL_PASSWORD}@HUB/user/parts/resolve/main/p.gguf
model = MODEL
"""


@pytest.mark.parametrize("credentials", ["", f"user:{HUB_PASSWORD}@"])
def test_secrets_are_nowhere(  # B-T7
    routers: Starter, hub: HubServer, tmp_path: Path, tiny_models: Path, credentials: str
) -> None:
    """If the URL of the hub has credentials, they are used in place of a token."""
    preset = tmp_path / "p.ini"
    text = PRESETS.replace("HUB", hub.url.removeprefix("http://"))
    preset.write_text(text.replace("MODEL", str(tiny_models / "tiny-b.gguf")))
    seen: set[str] = set()
    with Sampler(lambda: seen.update(command_lines()), every=0.002) as watch:
        router = routers(
            *("--engine", FAKE, "--models-preset", str(preset), "--hub-allow", "user/*", "--log-level", "debug"),
            HF_TOKEN=TOKEN,
            LLAMA_API_KEY=KEY,
            HF_ENDPOINT=hub.url.replace("://", f"://{credentials}"),
            HTTPS_PROXY=f"http://user:{PROXY_PASSWORD}@127.0.0.1:1",
            FTP_PROXY=f"http://user:{PROXY_PASSWORD}@127.0.0.1:1",
        )
        listener = Listener(router)
        assert listener.chat("user/open:Q8_0").status_code == 200
        for name in ("user/private:Q8_0", "own-token"):
            assert listener.chat(name).status_code == (404 if credentials else 200)
        assert listener.chat("short-token").status_code == 200
        assert listener.chat("by-variable").status_code == 200
        by_url = listener.chat("by-url")
        assert by_url.status_code == 200, by_url.text
        children = [child.environ() for child in router.children()]
        secrets = [environ["LLAMA_API_KEY"] for environ in children]
        tokens = [environ.get("HF_TOKEN") for environ in children]
        for path in ("/v1/chat/completions", "/v1/messages", "/api/chat"):
            assert listener.chat("talks", path).status_code in (500, 503)
        for name in ("user/forbidden:Q8_0", "user/broken:Q8_0", "user/none:Q8_0", "user/open:Q2_K"):
            assert listener.chat(name).status_code >= 400
        listener.ask("POST", "/models", {"model": "user/forbidden"})
        listener.ask("POST", "/api/pull", {"model": "user/broken"})
        listener.ask("POST", "/models/load", {"model": "by-url", "ctx_size": 512})
        listener.ask("POST", "/models/load", {"model": "short-token", "extra_args": ["--hf-token", TOKEN]})
        listener.ask("POST", "/models/load", {"model": "short-token", "extra_args": ["--api-key", KEY]})
        listener.read_all_endpoints()
        preset.write_text(preset.read_text().replace(PRESET_TOKEN, f"{PRESET_TOKEN}-and-more"))
        listener.ask("POST", "/models/reload")
        preset.write_text(preset.read_text() + f"[wrong\nhf-token {PRESET_TOKEN}\n")
        listener.ask("POST", "/models/reload")
        httpx.get(f"{router.url}/models", headers={"x-api-key": KEY[:-1]})
        listener.read_all_endpoints()
        hub.repos.clear()
        listener.chat("user/open:Q4_0")
        assert router.stop() == 0
        listener.close()
    assert len(secrets) == len(set(secrets)) >= 4
    assert secrets.count(KEY) == 0
    assert set(tokens) == {None, PRESET_TOKEN}  # no child downloads by itself, so none gets the router's own
    asked = {str(token) for token in hub.tokens["hub"]}
    assert credentials or {f"Bearer {TOKEN}", f"Bearer {PRESET_TOKEN}"} <= asked
    assert watch.count > 20
    assert any("--alias by-url" in line for line in seen)
    assert any("router.hub.transfer" in line for line in seen)
    # The fake engine returns the headers that it got; a real one does not.
    received = re.sub(r'"authorization": "Bearer [^"]*"', "", "\n".join(listener.received))
    assert "download_progress" in received
    assert "error: *** *** http://***@host/" in received
    for secret in (*MARKERS, *secrets):
        for where, said in (("command lines", "\n".join(seen)), ("log", router.log), ("answers", received)):
            assert secret not in said, f"{secret} in the {where}: {around(said, secret)}"


def around(text: str, secret: str) -> str:
    place = text.index(secret)
    return text[max(0, place - 300) : place + 100]


def test_error_of_an_unreachable_hub_hides_its_credentials(routers: Starter, tmp_path: Path) -> None:  # B-T7
    environs = (
        {"HF_ENDPOINT": f"http://user:{HUB_PASSWORD}@127.0.0.1:1"},
        {"HF_ENDPOINT": f"http://user:{HUB_PASSWORD}@no such host"},
        {
            "HF_ENDPOINT": "http://hub.invalid",
            "HTTP_PROXY": f"http://user:{PROXY_PASSWORD}@127.0.0.1:1",
            "ALL_PROXY": f"socks9://user:{PROXY_PASSWORD}@127.0.0.1:1",
        },
    )
    for environ in environs:
        router = routers("--engine", FAKE, "--hub-allow", "user/*", "--log-level", "debug", HF_TOKEN=TOKEN, **environ)
        answers = [router.chat("user/m:Q8_0"), router.client.post("/models", json={"model": "user/m:Q8_0"})]
        assert answers[0].status_code >= 400
        for said in (router.log, *(answer.text for answer in answers)):
            assert not any(marker in said for marker in MARKERS), said


def test_errors_of_presets_hide_values(tmp_path: Path) -> None:  # B-T7
    table = flags.default_table()
    for text in (
        f"[a]\nhf-token {TOKEN}\n",
        f"{TOKEN}\n",
        f"[a]\nhf-tokn = {TOKEN}\nhf-token: {TOKEN}\n",
        f"[{TOKEN[:3]}\nhft {TOKEN}",
        f"[a]\nenv. = {TOKEN}\nmodl-url = http://u:{TOKEN}@h/\n",
    ):
        (tmp_path / "p.ini").write_text(text)
        try:
            _, (checked,) = check_files([tmp_path / "p.ini"], table, {}, lambda name: False)
            told = str(checked.problems)
        except PresetError as exc:
            told = exc.message
        assert told
        assert TOKEN not in told
    for word in (f"-hft={TOKEN}", f"--hf-tokn={TOKEN}", f"--no={TOKEN}"):
        with pytest.raises(FlagError) as refused:
            flags.parse([word], table)
        assert TOKEN not in refused.value.message


# By kind


@pytest.mark.parametrize("name", flags.SECRETS)
def test_secret_flags_are_never_rendered(name: str) -> None:  # B-T7
    table = flags.default_table()
    flag = table.find(name)
    assert flag is not None
    for spelling in flag.spellings:
        (arg,) = flags.parse([spelling, "secret"], table)
        assert flags.secret_variable(arg) == flags.SECRETS[name]
        assert flags.without_secrets([arg]) == ()
        assert "secret" not in json.dumps(flags.diff([], [arg]))


@pytest.mark.parametrize("name", ["--model-url", "--mmproj-url"])
def test_credentials_of_urls_are_never_rendered(name: str) -> None:  # B-T7
    table = flags.default_table()
    (arg,) = flags.parse([name, "https://me:secret@host/x"], table)
    variable = flags.secret_variable(arg)
    assert variable
    assert variable.startswith("LLAMA_ARG_")
    assert flags.render(flags.without_secrets([arg])) == [name, "https://***@host/x"]
    assert "secret" not in json.dumps(flags.diff([], [arg]))
    (plain,) = flags.parse([name, "https://host/x"], table)
    assert flags.secret_variable(plain) is None


def test_credentials_of_urls_are_hidden() -> None:
    for text, told in {
        "http://u:p@h/": "http://***@h/",
        "https://token@h": "https://***@h",
        "see socks5h://u:p@h:1, http://h/a@b and a@b": "see socks5h://***@h:1, http://h/a@b and a@b",
        "http://u:p@q@h/": "http://***@h/",
        "http://h/?x=a@b": "http://h/?x=a@b",
        "'http://u:p@h'": "'http://***@h'",
    }.items():
        assert without_credentials(text) == told


def test_secrets_of_the_environment_are_hidden() -> None:
    environ = {"HF_TOKEN": "aaaaaaaa", "OPENAI_API_KEY": "bbbbbbbb", "db_password": "cccccccc", "TOKENIZERS_X": "d" * 8}
    assert secrets_of({**environ, "EMPTY_TOKEN": "", "HOME": "/root"}) == ("aaaaaaaa", "bbbbbbbb", "cccccccc")
    hide = redactor(["aaaaaaaa", "aaaaaaaabb", "1", "no"])
    assert hide("aaaaaaaabb and aaaaaaaa, 1 no") == "*** and ***, 1 no"
    assert redactor([])("x http://a:b@c") == f"x http://{redaction.HIDDEN}@c"


def test_long_texts_are_redacted_quickly() -> None:
    begun = time.process_time()
    without_credentials("://" * 100_000 + "@")
    without_credentials("http://" + "a" * 300_000)
    without_credentials("http://" + "a@" * 100_000 + " ")
    assert time.process_time() - begun < 5
