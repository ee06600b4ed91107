from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.errors import ConfigError
from router.service.unit import MARK, NAME, Service, quoted

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t\"'\\$%; "), min_size=1)


def read_back(text: str, *, has_variables: bool) -> str:
    """What systemd makes of a word, by the rules of systemd.service(5) and systemd.syntax(7)."""
    if text.startswith('"'):
        assert text.endswith('"')
        text, rest = "", text[1:-1]
        while rest:
            if rest[0] == "\\":
                text, rest = text + {"n": "\n", "t": "\t", "r": "\r"}.get(rest[1], rest[1]), rest[2:]
            else:
                assert rest[0] != '"'
                text, rest = text + rest[0], rest[1:]
    else:
        assert not set(text) & set(" \t\n\"'\\;")
    if has_variables:
        assert "$" not in text.replace("$$", "")
        text = text.replace("$$", "$")
    assert "%" not in text.replace("%%", "")
    return text.replace("%%", "%")


@given(WORDS, st.booleans())
@example("a b", True)
@example("50%", False)
@example("$HOME", True)
@example(";", True)
@example('say "\\n"', True)
def test_a_word_reaches_the_program_as_it_is(word: str, has_variables: bool) -> None:  # B-I3
    assert read_back(quoted(word, has_variables=has_variables), has_variables=has_variables) == word


@pytest.mark.parametrize("word", ["a\0b", "\x1b[2J"])
def test_what_no_unit_can_hold_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="cannot hold the word"):
        quoted(word)
    with pytest.raises(ConfigError, match="cannot hold the path"):
        Service(["/bin/true"], f"/tmp/{word}", "/bin", "/x", 45).text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="not installed: apt-get install systemd")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:  # B-I3
    words = ["/bin/true", "--models-dir", "/my models/50%", "--alias", 'a"b$c\\', ";", "x\ny"]
    text = Service(words, str(tmp_path), "/usr/bin:/my bin", "/my home/50%/environment", 45).text()
    assert text.startswith(MARK)
    path = tmp_path / NAME
    path.write_text(text)
    ended = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(path)],
        env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")
