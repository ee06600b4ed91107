"""What `check` says of files that are there and cannot be used."""

from __future__ import annotations

from pathlib import Path

from router import demo
from tests.models.rig import write_header
from tests.models.test_check import problems


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
