"""Each kind of mistake that `check` finds in preset files, with its line, and what is only a warning."""

from __future__ import annotations

from pathlib import Path

import pytest

from router import demo
from router.engine.flags import Flag, FlagTable
from router.models.check import check_files
from router.models.ini import Problem
from tests.models.rig import TABLE, write_header

MODEL = "hf-repo = user/repo"


def problems(text: str, folder: Path, found: str = "", table: FlagTable = TABLE) -> list[Problem]:
    path = folder / "p.ini"
    path.write_text(text)
    _, (checked,) = check_files([path], table, {"HOME": "/h"}, lambda name: name == found)
    return list(checked.problems)


# B-F7
@pytest.mark.parametrize(
    ("line", "words", "is_warning"),
    [
        ("ctx-size = 8k", "ctx-size takes a whole number, not '8k': write 8192", False),
        ("c = 8,192", "write 8192", False),
        ("ctx-size = 1.5", "takes a whole number", False),
        ("ctx-size = -5", "takes a whole number of 0 or more", False),
        ("threads = four", "takes a whole number", False),
        ("ubatch-size = 0", "of 1 or more", False),
        ("seed = 99999999999", "takes at most", False),
        ("timeout = 10m", "write 600", False),
        ("cache-ram = 8G", "write 8192", False),
        ("temp = hot", "temperature takes a number, not 'hot'", False),
        ("temp = 0,8", "takes a number", False),
        ("ngl = alles", "takes a number of layers, auto or all", False),
        ("flash-attn = maybe", "takes on, off or auto", False),
        ("fit = auto", "takes on or off", False),
        ("cache-type-k = q9", "takes bf16, f16, f32", False),
        ("spec-type = draft-simple,magic", "not 'magic'", False),
        ("load-mode = fast", "takes auto, dio, mlock", False),
        ("split-mode = rows", "takes layer, none, row or tensor", False),
        ("tensor-split = a,b", "takes proportions such as 3,1", False),
        ("chat-template-kwargs = {a: 1}", "takes a JSON object: ", False),
        ("chat-template-kwargs = [1]", "takes a JSON object, not '[1]'", False),
        ("json-schema = {", "takes a JSON object", False),
        ("chat-template = my.jinja", "a file is named by chat-template-file", False),
        ('cache-type-k = "f16"', "has quotes around its value", False),
        ("spec-draft-model = '/m/x.gguf'", "has quotes around its value", False),
        ("chat-template-kwargs = '{\"a\": 1}'", "has quotes around its value", False),
        ('alias = "x"', "alias has quotes around its value", False),
        ("device = 'CUDA0'", "device has quotes around its value", False),
        ('env.A = "x"', "env.A has quotes around its value", True),
        ("model-url = m.gguf", "is no address that can be downloaded", False),
        ("mmproj-url = file:///m.gguf", "is no address that can be downloaded", False),
        ("docker-repo = ../x", "is no name of the form ai/MODEL", False),
        ("lora = gone.gguf", "the file gone.gguf is missing", False),
        ("lora-scaled = gone.gguf:0.5", "the file gone.gguf is missing", False),
        ("chat-template-file = .", "is a folder, not a file", False),
        ("grammar-file = gone.gbnf", "is missing", False),
        ("slot-save-path = gone", "the folder gone is missing", True),
        ("log-file = gone/x.log", "there is no folder gone for the file", True),
        ("draft-max = 5", "draft-max has been removed from llama-server: it is now spec-draft-n-max", False),
        ("defrag-thold = 0.1", "does nothing any more", True),
        ("no-mmap = on", "unknown key 'no-mmap': write load-mode = none", False),
        ("mmap = off", "write load-mode = mmap", False),
        ("mlock = on", "write load-mode = mlock", False),
        ("direct-io = on", "write load-mode = dio", False),
        ("ctx-size-draft = 5", "the draft model has the context of its model: delete it", False),
        ("CTX-SIZE = 5", "did you mean ctx-size?", False),
        ("ctx_size = 5", "did you mean ctx-size?", False),
        ("--ctx-size = 5", "did you mean ctx-size?", False),
        ("-c = 5", "did you mean c?", False),
        ("llama_arg_ctx_size = 5", "did you mean LLAMA_ARG_CTX_SIZE?", False),
        ("TTL = 5", "did you mean ttl?", False),
        ("ttl = 30m", "ttl is a number of seconds", False),
        ("port = 5", "port has no effect: the router sets it", True),
        ("env.LLAMA_ARG_CTX_SIZE = 5", "write ctx-size = VALUE", True),
        ("env.LLAMA_ARG_CTX_SIZ = 5", "did you mean LLAMA_ARG_CTX_SIZE?", True),
        ('set-params-by-name = {"b": {"a": 1}}', "'b' is no name of [a]", False),
        ('set-params-by-name = {"a": 1}', "is an object of objects", False),
        ("model = ${GONE}/x", "the variable GONE is not set", False),
    ],
)
def test_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, words: str, is_warning: bool) -> None:
    monkeypatch.chdir(tmp_path)
    (problem,) = problems(f"[a]\n{MODEL}\n\n{line}\n", tmp_path)
    assert words in problem.message
    assert (problem.line, problem.is_warning) == (4, is_warning)
    assert len(problem.message) < 250
    # In [*] it is told once, however many models inherit it.
    if "by-name" not in line and "alias" not in line:
        (again,) = problems(f"[*]\n{line}\n[a]\n{MODEL}\n[b]\n{MODEL}\n", tmp_path)
        assert (again.line, again.message) == (2, problem.message)


@pytest.mark.parametrize(
    "line",
    [
        *("c = 0", "n-predict = -1", "ngl = 999", "ngl = all", "ngl = -1", "fa = auto", "fa = 1", "fit = off"),
        *("temp = .7", "temp = 1e-1", "seed = -1", "np = -1", "cram = -1", "ts = 3,1", "ctk = q8_0", "mirostat = 2"),
        *("spec-type = draft-simple,ngram-mod", "chat-template = chatml", "chat-template = {{ x }}", "tags = a"),
        *('reverse-prompt = "', 'reverse-prompt = "x"', 'chat-template-kwargs = {"a": 1}', "device = CUDA0"),
        *("threads = -1", "keep = -1", "override-kv = a=int:1", "pooling = mean", "rope-scale = 4", "env.A = 5"),
    ],
)
def test_a_line_that_is_right(tmp_path: Path, line: str) -> None:
    assert problems(f"[a]\n{MODEL}\n{line}\n", tmp_path) == []


# B-F7
def test_sections_without_a_model(tmp_path: Path) -> None:
    text = "[a]\nc = 5\n[user/repo:Q4_K_M]\nc = 5\n"
    hint = "(or, if a folder has it, check with --models-dir)"
    assert [(p.line, p.message) for p in problems(text, tmp_path)] == [
        (1, f"[a] names no model: add model = FILE or hf-repo = user/repo {hint}"),
        (3, "[user/repo:Q4_K_M] names no model, and the cache has none of this name: add hf-repo = user/repo:Q4_K_M"),
    ]
    assert [p.line for p in problems(text, tmp_path, found="a")] == [3]
    assert [p.line for p in problems(text, tmp_path, found="user/repo:Q4_K_M")] == [1]
    assert problems(f"[*]\n{MODEL}\n[a]\n", tmp_path) == []


def test_a_newer_engine_may_take_more_words(tmp_path: Path) -> None:
    newer = FlagTable(TABLE.flags, {"--cache-type-k": frozenset({"q2_k"})})
    assert problems(f"[a]\n{MODEL}\nctk = q2_k\n", tmp_path, table=newer) == []
    # An older one still has what b11434 has removed.
    older = FlagTable(flag for flag in TABLE.flags if flag.name != "--spec-draft-n-max")
    assert problems(f"[a]\n{MODEL}\ndraft-max = 5\n", tmp_path, table=older) == []
    with_mmap = FlagTable([*TABLE.flags, Flag.make(["--mmap"], ["--no-mmap"], 0, None)])
    assert [p.message for p in problems(f"[a]\n{MODEL}\nno-mmap = on\n", tmp_path, table=with_mmap)] == [
        "mmap has been removed from llama-server: write load-mode = mmap"
    ]


def test_everything_at_once_in_order(tmp_path: Path) -> None:
    text = f"[*]\nngl = x\n[a]\n{MODEL}\nc = 8k\nalias = b\n[b]\n{MODEL}\n[B]\n{MODEL}\nfa = x\nzzz\n[a]\nlora = gone\n"
    found = problems(text, tmp_path)
    assert [p.line for p in found] == [2, 5, 6, 9, 11, 12, 13, 14]
    assert [p.line for p in found if p.is_warning] == [9]
    assert "differ by case alone" in found[3].message


# B-F7
def test_files_that_are_read_as_one(tmp_path: Path) -> None:
    one, two = tmp_path / "1.ini", tmp_path / "2.ini"
    one.write_text(f"[*]\nc = 8k\n[a]\n{MODEL}\n")
    two.write_text(f"[a]\nfa = x\n[b]\n{MODEL}\nalias = a\n")
    _, checked = check_files([one, two], TABLE, {}, lambda name: False)
    assert [(each.path, each.models) for each in checked] == [(one, ()), (two, ("a", "b"))]
    assert [[p.line for p in each.problems] for each in checked] == [[2], [1, 2, 5]]
    assert [p.is_warning for p in checked[1].problems] == [True, False, False]


# B-F7
def test_files_that_are_there_and_cannot_be_used(tmp_path: Path) -> None:
    demo.make_models(tmp_path)
    whole = (tmp_path / "tiny-a.gguf").read_bytes()
    write_header(tmp_path / "projector.gguf", "clip", {"clip.has_vision_encoder": True})
    (tmp_path / "page.gguf").write_text("<html>not found</html>")
    (tmp_path / "pointer.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 5\n")
    (tmp_path / "half.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "new.gguf").write_bytes(whole[:4] + b"\x63\0\0\0" + whole[8:])
    (tmp_path / "claims.gguf").write_bytes(whole[:8] + b"\xff" * 8 + whole[16:])
    (tmp_path / "arriving.gguf").touch()
    bad = ("page", "pointer", "half", "new", "claims")
    text = "".join(f"[{name}]\nmodel = {tmp_path}/{name}.gguf\n" for name in (*bad, "projector", "tiny-b", "arriving"))
    text += "".join(
        f"[{key}-{name}]\nmodel = {tmp_path}/tiny-a.gguf\n{key} = {tmp_path}/{name}.gguf\n"
        for key, names in (
            ("mmproj", (*bad, "tiny-b", "projector")),
            ("spec-draft-model", (*bad, "projector", "tiny-b")),
        )
        for name in names
    )
    found = problems(text, tmp_path)
    lines = text.splitlines()
    assert all(f"{tmp_path}/" in problem.message and not problem.is_warning for problem in found)
    wrong = [lines[problem.line - 1].removesuffix(".gguf").replace(f"{tmp_path}/", "") for problem in found]
    assert wrong == [
        *(f"model = {name}" for name in (*bad, "projector")),
        *(f"mmproj = {name}" for name in (*bad, "tiny-b")),
        *(f"spec-draft-model = {name}" for name in (*bad, "projector")),
    ]
