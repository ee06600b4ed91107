"""What a typed line means."""

from __future__ import annotations

import pytest

from router.client.talk import typed
from router.client.talk.typed import Slash, is_open, paths_in, read_slash, without_quotes


def nothing(path: str) -> bool:
    return False


@pytest.mark.parametrize(
    ("line", "slash"),
    [
        ("/bye", Slash("/bye")),
        ("  /exit ", Slash("/bye")),
        ("/help", Slash("/?")),
        ("/set parameter temperature 0.2", Slash("/set parameter", "temperature 0.2")),
        ("/set system You are terse.", Slash("/set system", "You are terse.")),
        ("/set verbose", Slash("/set verbose")),
        ("/load user/repo:Q8_0", Slash("/load", "user/repo:Q8_0")),
        ("/set", Slash("/set")),
        ("/unknown thing", Slash("/unknown", "thing")),
        ("hello /bye", None),
        ("", None),
    ],
)
def test_a_line_is_a_command_or_a_message(line: str, slash: Slash | None) -> None:
    assert read_slash(line, nothing) == slash


def test_the_path_of_a_file_is_no_command() -> None:
    line = "/home/me/pic.png what is it?"
    assert read_slash(line, lambda path: path == "/home/me/pic.png") is None
    assert read_slash(line, nothing) == Slash("/home/me/pic.png", "what is it?")
    assert not Slash("/home/me/pic.png").is_known


def test_words_of_a_command_may_have_quotes() -> None:
    assert Slash("/set parameter", r'stop "a b" c').words() == ["stop", "a b", "c"]
    assert Slash("/set parameter", "stop it's").words() == ["stop", "it's"]


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("what is in ./a.png?", [("./a.png", "./a.png")]),
        (
            r"/tmp/my\ cat\ \(1\).JPG and ~/b.webp",
            [(r"/tmp/my\ cat\ \(1\).JPG", "/tmp/my cat (1).JPG"), ("~/b.webp", "~/b.webp")],
        ),
        ("'/tmp/my cat.jpeg' look", [("'/tmp/my cat.jpeg'", "/tmp/my cat.jpeg")]),
        ('look at "../it\'s.gif"', [('"../it\'s.gif"', "../it's.gif")]),
        ("file:///tmp/x.bmp", [("file:///tmp/x.bmp", "/tmp/x.bmp")]),
        ("see http://host/x.png", []),
        ("x.png and /tmp/x.pngs and /tmp/x.txt", []),
        ("/a.png, then", [("/a.png", "/a.png")]),
    ],
)
def test_paths_as_terminals_write_them(text: str, paths: list[tuple[str, str]]) -> None:
    assert paths_in(text) == paths


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ('"""', True),
        ('"""first', True),
        ('"""one line"""', False),
        ('"""first\nsecond"""', False),
        ('/set system """You', True),
        ('/set system """You"""', False),
        ('no """ here', False),
        ('"', False),
    ],
)
def test_quotes_hold_several_lines(text: str, more: bool) -> None:
    assert is_open(text) is more


def test_quotes_are_taken_away() -> None:
    assert without_quotes('"""first\nsecond"""') == "first\nsecond"
    assert without_quotes(' "You are terse." ') == "You are terse."
    assert without_quotes('say "a" and "b"') == 'say "a" and "b"'
    assert without_quotes('"a" or "b"') == '"a" or "b"'
    assert without_quotes("plain") == "plain"


def test_help_names_every_command() -> None:
    text = "\n".join(typed.HELP)
    assert all(name in text for name in typed.COMMANDS)
