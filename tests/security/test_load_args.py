"""What requests and presets of strangers may start a process with, and which files a request may have touched."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.api.dialects import OPENAI
from router.api.slots import Slots, action
from router.engine import allowlist, flags
from router.engine.allowlist import SAFE, LoadArgs
from router.engine.flags import Flag, FlagTable
from router.errors import CatalogError, InvalidRequest
from router.memory.need import Need
from router.models import foreign as foreign_presets
from router.models import presets
from router.models.build import build
from router.models.catalog import Catalog
from router.models.ini import Problem
from router.models.spec import ModelSpec
from router.pool.pool import Pool
from router.pool.requested_settings import RequestedSettings
from router.pool.settings_patch import read_patch
from router.proxy.endpoints import ModelFromBody
from router.proxy.gateway import Gateway
from router.proxy.head import Head
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from router.wire.upstream import Upstream
from tests.conftest import Starter
from tests.fakes import FakeNode
from tests.routers import ENGINES, Router, start
from tests.security.reach import COUNT, NOTHING, REACH

TABLE = flags.default_table()
DANGEROUS = [flag for flag in TABLE.flags if REACH.get(flag.name) != NOTHING]
VALUE = "/etc/passwd"
# Of these nobody takes any, whatever the operator allows.
NEVER = flags.OWNED | flags.MODEL_SOURCES


def spelled(flag: Flag) -> Iterator[list[str]]:
    """Every way to write it."""
    values = [VALUE] * flag.arity
    for name in (*flag.spellings, *flag.negatives):
        names = {name, "--" + name[2:].replace("-", "_")} if name.startswith("--") else {name}
        for each in sorted(names):
            yield [each, *values]
            if each.startswith("--") and flag.arity < 2:
                yield [f"{each}={VALUE if flag.arity else 'on'}"]


def refused(extra: Sequence[object], load_args: LoadArgs = "safe") -> str:
    with pytest.raises(InvalidRequest) as caught:
        read_patch({"extra_args": list(extra)}, TABLE, load_args=load_args)
    return caught.value.message


def taken(extra: Sequence[object], load_args: LoadArgs = "safe") -> list[str]:
    wish = read_patch({"extra_args": list(extra)}, TABLE, load_args=load_args)
    assert wish.extra_args is not None
    return flags.render(wish.extra_args)


# ---- the list


def test_it_is_known_what_every_flag_reaches() -> None:  # B-T2
    assert len(REACH) == COUNT, "a flag is in two places"
    assert REACH.keys() == {flag.name for flag in TABLE.flags}
    assert {name for name, reach in REACH.items() if reach == NOTHING} == SAFE


def test_flags_that_take_files_and_addresses_are_found_by_their_help() -> None:  # B-T2
    """The names tell, so that a flag that was put into the wrong place is seen."""
    words = re.findall(
        r"\S+",
        """
        file path -dir url -hf hf- repo host port mcp tools hf-token key cert lora vector lookup rpc proxy agent log
        cors docker -default ssl webui
        """,
    )
    wrong = {name for name in SAFE for word in words if word in name}
    assert wrong == {"--logit-bias", "--spec-default"}


@pytest.mark.parametrize("flag", DANGEROUS, ids=lambda flag: flag.name)
def test_a_flag_that_reaches_further_is_refused_in_every_spelling(flag: Flag) -> None:  # B-T2
    for extra in spelled(flag):
        for before in ([], ["--top-k", "20"], ["--grammar", "--x"]):
            message = refused([*before, *extra])
            assert f" {extra[0].partition('=')[0]} " in message
            assert "--load-args" in message
            assert VALUE not in message
        assert "--load-args none" in refused(extra, "none")
        if flag.name in NEVER:
            assert extra[0].partition("=")[0] in refused(extra, "any")
        elif not (flag.arity == 0 and "=" in extra[0]):
            assert taken(extra, "any") in ([flag.name, *extra[1:]], [flag.name, VALUE], [*flag.negatives[-1:]])


def test_a_flag_that_reaches_nothing_is_taken_in_every_spelling() -> None:  # B-T2
    values = {"--chat-template": "chatml", "--chat-template-kwargs": "{}", "--json-schema": "{}"}
    for flag in TABLE.flags:
        if flag.name in SAFE:
            for name in (*flag.spellings, *flag.negatives):
                argv = taken([name, *[values.get(flag.name, "1")] * flag.arity])
                assert argv, name
                assert argv[0] in (*flag.spellings, *flag.negatives)


def test_another_builds_flags() -> None:  # B-T2
    """What is not known is not taken, nor what is known by one of its names only, or takes more than is known."""
    table = FlagTable(
        [
            Flag("--brand-new", ("--brand-new",), (), 1, None, False),
            Flag("--temp-file", ("--temp-file", "--temp"), ("--log-file",), 1, None, False),
            Flag("--jinja", ("--jinja",), ("--no-jinja",), 1, None, False),
            Flag("--top-tokens", ("--top-tokens", "--top-k"), (), 1, None, False),
        ]
    )
    for extra in (["--brand-new", "1"], ["--temp", "1"], ["--log-file", "x"], ["--jinja", "/etc/passwd"]):
        with pytest.raises(InvalidRequest, match="--load-args any"):
            read_patch({"extra_args": extra}, table)
    assert read_patch({"extra_args": ["--top-tokens", "5"]}, table).extra_args


# ---- values


@pytest.mark.parametrize(
    "extra",
    [
        ["--threads", "100000"],
        ["-t", 1e5],
        ["-tb", "99999999999999999999"],
        ["--threads", "0x10"],
        ["--spec-draft-threads", "100000"],
        ["--parallel", "1000000"],
        ["-np", "1", "-np", "257"],
        ["--cache-ram", "-1"],
        ["--cache-ram", "1000000"],
        ["--ctx-checkpoints", "100000"],
        ["--batch-size", "1000000000"],
        ["--ubatch-size", "0"],
        ["--image-max-tokens", "1000000"],
        ["--spec-draft-n-max", "1000000"],
        ["--spec-ngram-mod-n-max", "1000000"],
        ["--parallel", "٣"],
        ["--chat-template", "/etc/passwd"],
        ["--chat-template", "../secret.txt"],
        ["--chat-template", "secret"],
        ["--chat-template=file:///etc/passwd"],
        ["--chat-template-kwargs", "/etc/passwd"],
        ["--chat-template-kwargs", "[" * 100_000],
        ["--json-schema", '{"$ref": "https://example.org/x.json"}'],
        ["--json-schema", '{"properties": {"a": [{"$ref": "file:///etc/passwd"}]}}'],
        ["--json-schema", "/etc/passwd"],
        ["--grammar", "x" * 2**17],
        ["--grammar", "漢" * 2**15],  # 96 KiB
        ["--ctx-size", "3000000x"],  # which the engine reads as 3000000
        ["--ctx-size", "99999999999"],
        ["--ctx-size", 4096.5],
        ["--n-predict", "1e9"],
        ["--temp", "nan"],
        ["--temp", float("inf")],
        ["--top-p", "0.5x"],
        ["--n-cpu-moe", "2000000000"],  # which takes 160 bytes each
        ["-ncffn", "2000000000"],
        ["--spec-draft-n-cpu-moe", "2000000000"],
        ["--repeat-last-n", "2000000000"],  # four bytes each, for each slot
        ["--dry-penalty-last-n", "2000000000"],
    ],
)
def test_values_that_reach_further(extra: list[object]) -> None:  # B-T2
    assert "--" in refused(extra)


@pytest.mark.parametrize(
    "extra",
    [
        ["--threads", "4"],
        ["-t", 2],
        ["--parallel", "-1"],
        ["--cache-ram", "0"],
        ["--temp", 0.5],
        ["--temp", "-1"],
        ["--top-p", 1],
        ["--min-p", ".05"],
        ["--frequency-penalty", 1e-05],
        ["--seed", 2**32 - 1],
        ["--n-predict", -2],
        ["--ctx-size", 2**20],
        ["--n-gpu-layers", "all"],
        ["--flash-attn", "auto"],
        ["--logit-bias", "15043-1"],
        ["--chat-template", "{{ messages }}"],
        ["--chat-template", "llama3"],
        ["--chat-template-kwargs", '{"enable_thinking": false}'],
        ["--json-schema", '{"properties": {"$ref": {"type": "string"}, "a": {"$ref": "#/x"}}}'],
        ["--grammar", 'root ::= "/etc/passwd"'],
    ],
)
def test_values_that_do_not(extra: list[object]) -> None:
    assert taken(extra)


def test_arguments_are_short_enough_for_a_process() -> None:  # B-T2
    """Else what runs would be ended for a start that must fail."""
    for load_args in ("safe", "any"):
        assert "too long" in refused(["--reverse-prompt", "x" * 60_000] * 20, load_args)


def test_every_number_is_a_plain_one() -> None:  # B-T2
    """The engine reads `12x` as 12, and the memory plan would not see it."""
    for flag in TABLE.flags:
        if flag.name in SAFE - allowlist.TEXT_FLAGS and flag.arity:
            for value in ("1x", "x", "", " 1", "1 ", "1_0", "٣", "0x1", "inf", "1,1", VALUE, "1" * 40):
                assert flag.name in refused([flag.name, value])
            assert taken([flag.name, "1"]) == [flag.name, "1"]
    assert allowlist.TEXT_FLAGS | allowlist.FRACTION_FLAGS | allowlist.VALUE_CHECKS.keys() <= SAFE


def test_slots_have_a_bound_as_a_setting_too() -> None:  # B-T2
    with pytest.raises(InvalidRequest, match=r"n_parallel takes .* 256 .*--load-args any"):
        read_patch({"n_parallel": 1_000_000}, TABLE)
    for count, load_args in ((256, "safe"), (0, "none"), (None, "safe"), (1_000_000, "any")):
        assert read_patch({"n_parallel": count}, TABLE, load_args=load_args).fields == {"n_parallel": count}  # type: ignore[arg-type]


PATHS = (
    "/etc/passwd",
    "../x",
    "x/y.jinja",
    "secret.jinja",
    "a.txt",
    "C:\\x",
    "~/x",
    "file:///etc/passwd",
    "http://x",
    "@x",
)


@pytest.mark.parametrize("load_args", ["safe", "any", "none"])
def test_a_chat_template_is_no_path(load_args: LoadArgs) -> None:  # B-T2
    for template in PATHS:
        with pytest.raises(InvalidRequest, match="chat_template is Jinja text"):
            read_patch({"chat_template": template}, TABLE, load_args=load_args)
    for fine in ("", "chatml", "{{ messages }}", "{% if x %}/etc/passwd{% endif %}", None):
        assert read_patch({"chat_template": fine}, TABLE, load_args=load_args).fields == {"chat_template": fine}
    if load_args != "any":
        with pytest.raises(InvalidRequest, match="--load-args any"):
            read_patch({"chat_template": "passwd"}, TABLE, load_args=load_args)


def test_secrets_are_not_told() -> None:  # B-T2
    args = flags.parse(["--mcp-servers-json", "SECRET", "--hf-token", "SECRET", "--top-k", "2"], TABLE)
    assert RequestedSettings(extra_args=args).as_json()["extra_args"] == ["--top-k", "2"]
    assert flags.render(flags.without_secrets(args)) == ["--top-k", "2"]
    assert "SECRET" not in str(flags.diff([], args))


# ---- over HTTP


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory, fake: str, tiny_models: Path) -> Iterator[Router]:
    folder = tmp_path_factory.mktemp("args")
    file = folder / "presets.ini"
    file.write_text(
        f"[saves]\nmodel = {tiny_models}/tiny-a.gguf\nslot-save-path = {folder}\n"
        f"[plain]\nmodel = {tiny_models}/tiny-b.gguf\n"
    )
    made = start(folder / "router", "--engine", fake, "--models-preset", str(file))
    yield made
    assert made.stop() == 0
    assert "defect" not in made.log


def load(router: Router, model: str = "plain", **body: Any) -> httpx.Response:
    return router.client.post("/models/load", json={"model": model, **body})


def test_no_request_starts_what_reaches_further(router: Router) -> None:  # B-T2
    for flag in DANGEROUS:
        answer = load(router, extra_args=[flag.name, *[VALUE] * flag.arity])
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert flag.name in error["message"]
        assert "--load-args" in error["message"]
    told = router.client.get("/models/plain/settings").json()
    assert told["requested"]["extra_args"] == []
    assert router.children() == []


def test_files_are_neither_read_nor_written(router: Router, tmp_path: Path) -> None:  # B-T2
    secret, target = tmp_path / "secret", tmp_path / "target"
    secret.write_text("the secret")
    servers = {"mcpServers": {"a": {"command": "touch", "args": [str(target)]}}}
    for body in (
        {"extra_args": ["--mcp-servers-json", json.dumps(servers)]},
        {"extra_args": ["--chat-template-file", str(secret)]},
        {"extra_args": ["--chat-template", str(secret)]},
        {"extra_args": ["--log-file", str(target)]},
        {"chat_template": str(secret)},
    ):
        assert load(router, **body).status_code == 400
    assert load(router, wait=True).status_code == 200
    for path in ("/props?model=plain", "/models/plain/settings", "/v1/models"):
        answer = router.client.get(path)
        assert answer.status_code == 200
        assert "secret" not in answer.text
    assert not target.exists()
    (child,) = router.children()
    assert "secret" not in " ".join(child.cmdline())
    router.client.post("/models/unload", json={"model": "plain", "force": True})


def test_what_the_operator_allows(routers: Starter, fake: str, tiny_models: Path) -> None:  # B-T2
    start = ("--engine", fake, "--models-dir", str(tiny_models))
    any_args, none = routers(*start, "--load-args", "any"), routers(*start, LLAMA_ROUTER_LOAD_ARGS="none")
    answer = load(any_args, "tiny-a", extra_args=["--verbose"])
    assert answer.status_code == 200, answer.text
    assert "--log-verbose" in answer.json()["effective"]["args"]
    assert load(any_args, "tiny-a", extra_args=["--host", "::"]).status_code == 400
    answer = load(none, "tiny-a", extra_args=["--top-k", "20"])
    assert (answer.status_code, "--load-args none" in answer.text) == (400, True)
    assert load(none, "tiny-a", ctx_size=512, chat_template="{{ x }}", extra_args=[]).status_code == 200


def test_ollamas_create(router: Router) -> None:  # B-T2
    def create(**parameters: Any) -> httpx.Response:
        return router.client.post("/api/create", json={"model": "mine", "from": "plain", "parameters": parameters})

    for flag in DANGEROUS:
        for name in {flag.name.lstrip("-"), flag.name.lstrip("-").replace("-", "_"), flag.name} - {"numa", "main_gpu"}:
            answer = create(**{"temperature": 0.5, name: VALUE})
            assert (name, answer.status_code) == (name, 400)
            assert flag.name in answer.json()["error"]
            assert "--load-args" in answer.json()["error"]
    assert create(temperature=0.5, num_ctx=4096, numa=True, main_gpu=0, stop=["x"], use_mmap=True).status_code == 200
    for more in ("files", "adapters", "template", "modelfile", "path"):
        answer = router.client.post("/api/create", json={"model": "other", "from": "plain", more: VALUE})
        assert answer.status_code == 501
    large: dict[str, Any]
    for large in (
        {"system": "x" * 2**17},
        {"parameters": {"stop": ["x" * 100] * 2000}},
        {"parameters": {"y": "x" * 2**17}},
    ):
        answer = router.client.post("/api/create", json={"model": "mine", "from": "plain", **large})
        assert (answer.status_code, "65536 bytes" in answer.json()["error"]) == (400, True)
    system = {"model": "mine", "from": "plain", "system": "x" * 60_000}
    assert router.client.post("/api/create", json=system).status_code == 200
    router.client.request("DELETE", "/api/delete", json={"model": "mine"})


def test_routes_of_the_engine_that_reach_further_are_none_of_ours(router: Router) -> None:  # B-T2
    for path in ("/tools", "/cors-proxy", "/cors-proxy?url=http://127.0.0.1", "/mcp", "/v1/tools", "/v1/mcp"):
        assert router.client.get(path).status_code == 404
        assert router.client.post(path, json={"model": "plain"}).status_code == 404


@pytest.mark.parametrize("engine", sorted(ENGINES), indirect=False)
def test_pictures_are_no_files_of_this_machine(
    engine: str, routers: Starter, tiny_models: Path, tmp_path: Path
) -> None:  # B-T2
    """The engine opens none unless it is told a media-path, which no request can tell it."""
    (tmp_path / "secret").write_text("the secret")
    router = routers("--engine", ENGINES[engine](), "--models-dir", str(tiny_models))
    parts = [{"type": "image_url", "image_url": {"url": f"file://{tmp_path}/secret"}}, {"type": "text", "text": "x"}]
    answer = router.client.post(
        "/v1/chat/completions", json={"model": "tiny-a", "messages": [{"role": "user", "content": parts}]}
    )
    assert answer.status_code >= 400
    assert "the secret" not in answer.text
    assert load(router, "tiny-a", extra_args=["--media-path", str(tmp_path)]).status_code == 400


# ---- slots

NAMES = ("s.bin", "a", "a b.bin", "ü.bin", "x" * 128, "a-b_c.d")
BAD_NAMES: list[object] = [
    *("../x", "/etc/passwd", "a/b", "a\\b", "..", ".", ".hidden", "a..b", "a\0b", "a\nb", "x" * 129, "", "C:x"),
    *("ü" * 65, "a/", "a\x7f", "a\u2028b", "\ud800", "a.", "a ", " a", "-a", "a*", 'a"', "a|b", "\u202ea"),
    *(None, 5, ["a"], {}),
]


def slot(router: Router, query: str, body: Any = None, model: str = "saves", **more: Any) -> httpx.Response:
    content = body if isinstance(body, bytes | None) else json.dumps({"model": model, **body}).encode()
    return router.client.post(httpx.URL(f"{router.url}/slots/0?{query}"), content=content, **more)


def test_slots_are_saved_where_the_operator_says(router: Router) -> None:  # B-T2
    for verb in ("save", "restore"):
        for name in NAMES:
            answer = slot(router, f"action={verb}", {"filename": name})
            assert answer.status_code == 200, answer.text
            assert json.loads(answer.json()["body"])["filename"] == name
        for bad in BAD_NAMES:
            answer = slot(router, f"action={verb}", {"filename": bad})
            assert (bad, answer.status_code) == (bad, 400)
            assert "filename" in answer.json()["error"]["message"]
        for raw in (b"", b"x", b"[]", b'{"filename": "a", "filename": "b"}', b'{"filename": "a"}' + b" " * 2**17):
            assert slot(router, f"action={verb}&model=saves", raw).status_code == 400
        form = b'--b\r\nContent-Disposition: form-data; name="filename"\r\n\r\n../x\r\n--b--\r\n'
        kind = {"content-type": "multipart/form-data; boundary=b"}
        assert slot(router, f"action={verb}&model=saves", form, headers=kind).status_code == 400


def test_slots_are_saved_nowhere_else(router: Router) -> None:  # B-T2
    for verb in ("save", "restore"):
        answer = slot(router, f"action={verb}", {"filename": "s.bin"}, "plain")
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
        assert "--slot-save-path" in answer.json()["error"]["message"]
    for model in ("saves", "plain"):
        assert slot(router, "action=erase", {}, model).status_code == 200
        assert slot(router, f"action=erase&model={model}").status_code == 200


def test_a_query_that_could_mean_two_things_is_refused(router: Router) -> None:  # B-T2
    for query in (
        *("action=erase&action=save", "action=save&action=erase", "action=save&action=save", "Action=save"),
        *("action=SAVE", "%61ction=save", "action=%73ave", "action=s%61ve", "action=save%00", "action%00=save"),
        *("action+=save", "+action=save", "action=+save", "action=save&ACTION=x", "action=erase;action=save"),
        *("x=1;action=save", "action", "action=", "action=copy", "action=erase&%41ction=save", "action=save&x=1;y=2"),
    ):
        answer = slot(router, query, {"filename": "../../x"}, "plain")
        assert (query, answer.status_code) == (query, 400)
    for target in (b"/slots/0", b"/slots/0?x=1", b"/slots/0?model=action", b"/slots/0?xaction=save", b"/slots/0?&&="):
        assert action(target) is None
    assert action(b"/slots/0?model=a&action=restore") == "restore"


KINDS = ("application/x-www-form-urlencoded", "application/x-www-form-urlencoded; charset=utf-8", "X-URLENCODED")


@pytest.mark.parametrize("engine", ["fake", "llama-server"])
def test_a_form_says_nothing_of_what_is_to_be_done(
    engine: str, fake: str, routers: Starter, tiny_models: Path, tmp_path: Path
) -> None:  # B-T2
    """To cpp-httplib the fields of a form are the query's, and JSON may be a form as well."""
    file, folder = tmp_path / "presets.ini", tmp_path / "slots"
    folder.mkdir()
    file.write_text(f"[saves]\nmodel = {tiny_models}/tiny-a.gguf\nslot-save-path = {folder}\n")
    router = routers("--engine", fake if engine == "fake" else ENGINES[engine](), "--models-preset", str(file))
    for named in ("action", "Action", "%61ction", "+action"):
        body = json.dumps({"model": "saves", "filename": ".odd", "x": f"&{named}=save&y="}).encode()
        for kind in KINDS:
            for query in ("", "action=erase", "action=save"):
                answer = slot(router, query, body, headers={"content-type": kind})
                assert (query, answer.status_code) == (query, 400)
    assert list(folder.iterdir()) == []
    for kind in KINDS:  # curl -d
        for verb in ("save", "restore", "erase"):
            answer = slot(router, f"action={verb}", {"filename": "plain"}, headers={"content-type": kind})
            assert answer.status_code == 200, answer.text
    large = b'{"model": "saves", "x": "' + b"&" * 2**20 + b'"}'
    assert slot(router, "action=erase", large, headers={"content-type": KINDS[0]}).status_code == 400


async def test_the_short_way_is_the_same() -> None:  # B-T2
    """A request that is refused is not answered at once: the ordinary way refuses it."""
    spec = ModelSpec("a", "models_dir", flags.parse(("--model", "a.gguf"), TABLE))
    pool = Pool(Catalog([spec]), [FakeNode()], Limits(margins={"local/RAM": 0}), lambda spec: Need(Demand(host=1)))
    gateway, upstream = None, Upstream()
    try:
        gateway = Gateway(pool, upstream)
        (await pool.lease(spec)).release()
        guarded = ModelFromBody(gateway, OPENAI, check=Slots(pool).check)
        body = b'{"model": "a", "filename": "s"}'
        for query, is_passed in ((b"save", False), (b"restore", False), (b"erase", True)):
            head = Head("POST", "/slots/0", b"/slots/0?action=" + query, [(b"content-type", b"application/json")])
            request = guarded.try_now(head, body)
            assert (query, request is not None) == (query, is_passed)
            if request is not None:
                request.abort()
    finally:
        await pool.close()
        upstream.close()


# ---- presets of strangers


def foreign(text: str) -> list[Problem]:
    return list(presets.parse(text, TABLE, Path("preset.ini"), foreign=True)[1])


def test_a_stranger_sets_nothing_that_reaches_further() -> None:  # B-T2
    told = {"hf-repo", "hf-file", "spec-draft-hf", "alias", "tags"}
    for flag in DANGEROUS:
        names = [name.lstrip("-") for name in (*flag.spellings, *flag.negatives)]
        names += [flag.env, flag.env.replace("LLAMA_ARG_", "LLAMA_ARG_NO_")] if flag.env else []
        for name in (
            *names,
            *(f"--{name}" for name in names),
            *(name.replace("-", "_") for name in names if "-" in name),
        ):
            found = TABLE.by_key(name)
            if name == "version" or (found and found[0].name.lstrip("-") in told):
                continue  # a number of the format; what else may be said of these, others show
            (problem,) = foreign(f"[a]\nhf-repo = user/m\n{name} = {'x' if flag.arity else 'on'}\n")
            assert (name, "is not taken from the hub" in problem.message) == (name, True)


@pytest.mark.parametrize(
    "text",
    [
        "[*]\nhf-repo = evil/m",
        "[*]\nhf-file = m.gguf",
        "[*]\nspec-draft-hf = evil/m",
        "[*]\nload-on-startup = on",
        "[ggml-org/gemma:Q4_K_M]\nhf-repo = evil/m:Q4_K_M",
        "[ggml-org/gemma]\nLLAMA_ARG_HF_REPO = evil/m",
        "[ggml-org/gemma:Q4_K_M]\nhf-repo = ggml-org/gemma:Q4_K_M@refs/pr/1",
        "[ggml-org/gemma:]\nhf-repo = evil/m",
        "[ggml-org/gemma:Q4 K]\nhf-repo = evil/m",
        "[ggml-org/gemma:Q4:x]\nhf-repo = evil/m",
        "[hf.co/ggml-org/gemma]\nhf-repo = evil/m",
        "[https://huggingface.co/ggml-org/gemma]\nhf-repo = evil/m",
        "[/ggml-org/gemma]\nhf-repo = evil/m",
        "[a]\nctx-size = 3000000x",
        "[a]\nn-cpu-moe = 2000000000",
        "[a]\nhf-repo = ../../etc",
        "[a]\nhf-repo = /etc/passwd",
        "[a]\nhf-repo = https://example.org/m",
        "[a]\nhf-file = ../../etc/passwd",
        "[a]\nhf-file = /etc/passwd",
        "[a]\nhf-file = .git/config",
        "[a]\nspec-draft-hf = /m",
        "[a]\nalias = ggml-org/gemma:Q4_K_M",
        "[a]\nstop-timeout = 86400",
        "[a]\nthreads = 100000",
        "[a]\nparallel = 1000000",
        "[a]\ncache-ram = -1",
        "[a]\nchat-template = /etc/passwd",
        '[a]\njson-schema = {"$ref": "http://x"}',
        "[a]\nenv.LD_PRELOAD = x",
        "[a]\npin = on",
        "[a]\npriority = 5",
        "[a]\ndevice = CUDA0",
        "[a]\nset-params = {}",
        "[a]\nstrip-params = a",
        "[a]\nsystem-prefix = x",
        "[a]\ndedup-cache-models = on",
        "[a]\nhf-token = x",
        "[a]\nbrand-new = x",
    ],
)
def test_what_else_a_stranger_may_not_say(text: str) -> None:  # B-T2
    (problem,) = foreign(text)
    assert "from the hub" in problem.message


def test_what_a_stranger_may_say() -> None:
    assert not foreign(
        "[*]\nctx-size = 4096\nstop-timeout = 20\n[a]\nhf-repo = user/m:Q8_0\nalias = b, c:d\ntags = x\nthreads = 4\n"
        'load-on-startup = on\nchat-template = chatml\ndefault-params = {"temperature": 0.5}\njinja = on\n'
        "[user/m]\nhf-repo = user/m:Q8_0@main\nhf-file = sub/m-Q8_0.gguf\n[user/m:Q8_0]\nhf = user/m\nno-warmup = on\n"
        "[hf.co/user/m:Q2_K]\nhf-repo = user/m:Q2_K\n[user/m@v1]\nhf-repo = user/m@v1\ntemp = 0.7\n"
    )


def test_a_stranger_changes_no_other_model(tiny_models: Path, tmp_path: Path) -> None:  # B-T2
    def built(text: str, *, stranger: bool) -> Catalog:
        file, problems = presets.parse(text, TABLE, Path("preset.ini"), foreign=stranger)
        assert not problems
        return build(
            file,
            (),
            models_dir=tiny_models,
            cache_root=tmp_path,
            global_args=(),
            table=TABLE,
            default_name=None,
            offline=True,
        )

    text = "[*]\nchat-template = chatml\nunlisted = on\n[x]\nhf-repo = user/m\n"
    for stranger in (True, False):
        spec = built(text, stranger=stranger).resolve("tiny-a")
        assert (flags.value_of(spec.args, "--chat-template"), spec.unlisted) == (
            (None, False) if stranger else ("chatml", True)
        )
    with pytest.raises(CatalogError, match="tiny-a"):
        built("[tiny-a]\nhf-repo = user/m\n", stranger=True)
    assert built("[tiny-a]\nhf-repo = user/m\n", stranger=False)


def test_the_list_is_one() -> None:  # B-T2
    own = {"alias", "tags", "description", "unlisted", "default-params", "load-on-startup", "stop-timeout", "ttl"}
    own |= {"hf-repo", "hf-file", "spec-draft-hf"}
    assert foreign_presets.ALLOWED_KEYS - own == {name.lstrip("-") for name in SAFE}
    assert set(allowlist.BOUNDS) <= SAFE
    assert set(allowlist.VALUE_CHECKS) <= SAFE
