"""Addresses of files, and where the files are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.hub.links import (
    DEFAULT_REGISTRY,
    DOCKER,
    Reference,
    docker_files,
    docker_names,
    fault,
    file_name,
    folder_of,
    is_file_of,
    links,
    shown,
)

HUB = DEFAULT_REGISTRY
DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("smollm2", (HUB, "ai/smollm2", "latest")),
        ("ai/smollm2:360M-Q4_K_M", (HUB, "ai/smollm2", "360M-Q4_K_M")),
        ("docker.io/ai/smollm2", (HUB, "ai/smollm2", "latest")),
        ("user/model@" + DIGEST, (HUB, "user/model", DIGEST)),
        ("localhost:5000/model:v1", ("localhost:5000", "model", "v1")),
        ("ghcr.io/user/my-model__2", ("ghcr.io", "user/my-model__2", "latest")),
        *((text, None) for text in ("", "../x", "ai/..", "ai/Smol", "ai/x:", "ai/x:../y", "ai/x?y", "a b", "ai/x\n.")),
        *((text, None) for text in ("https://x/y", "ai//x", "/ai/x", "x" * 9000, "ai/x@sha256:1", "u:p@host/x")),
    ],
)
def test_references_of_docker(text: str, expected: tuple[str, str, str] | None) -> None:  # B-F6
    found = Reference.parse(text)
    assert (found and (found.registry, found.repo, found.version)) == expected
    if found:
        assert Reference.parse(str(found)) == found


def test_loopback_alone_needs_no_tls() -> None:  # B-F6
    found = [Reference.parse(f"{host}/ai/x") for host in ("localhost:5000", "127.0.0.1:5", "ghcr.io", "127.evil.com")]
    assert [each.url.split(":")[0] for each in found if each] == ["http", "http", "https", "https"]


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "m.gguf",
            "file:///etc/passwd",
            "ftp://h/m.gguf",
            "https://",
            "https:///m.gguf",
            "https://h",
            "https://h/",
        ),
        *("https://h/m.gguf\n", "https://h/a b.gguf", "https://h:99999/m.gguf", "https://[::1/m.gguf", "x" * 9000),
        *("https://h/\x1b.gguf", "javascript:alert(1)"),
    ],
)
def test_what_is_no_address_of_a_file(url: str) -> None:  # B-F6
    assert fault(url)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/a/m-Q8_0.gguf", "m-Q8_0.gguf"),
        ("https://h/m.gguf?download=true#x", "m.gguf"),
        ("https://h/M.GGUF", "M.gguf"),
        ("https://h/download", "download.gguf"),
        ("https://h/..%2f..%2fetc%2fpasswd", "_.._etc_passwd.gguf"),
        ("https://h/%2e%2e", "model.gguf"),
        ("https://h/.hidden.gguf", "hidden.gguf"),
        ("https://h/--mmproj.gguf", "mmproj.gguf"),
        ("https://h/%00%1b%5c%3a.gguf", "____.gguf"),
        (f"https://h/{'x' * 5000}.gguf", f"{'x' * 120}.gguf"),
    ],
)
def test_a_file_has_a_harmless_name(url: str, name: str) -> None:  # B-F6
    assert fault(url) is None
    assert file_name(url) == name


def test_each_address_has_a_folder_of_its_own(tmp_path: Path) -> None:  # B-F6
    urls = ["https://h/m.gguf", "https://h/m.gguf?v=2", "http://h/m.gguf", "https://h:8/m.gguf", "https://h/x/m.gguf"]
    folders = {folder_of(tmp_path, url) for url in urls}
    assert len(folders) == len(urls)
    assert folder_of(tmp_path, "HTTPS://user:secret@H/m.gguf#x") == folder_of(tmp_path, urls[0])
    assert all(folder.parent == tmp_path / "links" for folder in folders)
    (link,) = links(tmp_path, urls[0])
    assert is_file_of(link.path, urls[0])
    assert not is_file_of(link.path, urls[1])
    assert not is_file_of(Path("/models/m.gguf"), urls[0])
    assert links(tmp_path, urls[0], Path("/mine/x.gguf"))[0].path == Path("/mine/x.gguf")


def test_a_split_model_is_all_of_its_files(tmp_path: Path) -> None:  # B-F6
    found = links(tmp_path, "https://h/m-00001-of-00003.gguf?sig=1")
    assert [link.url for link in found] == [f"https://h/m-0000{n}-of-00003.gguf?sig=1" for n in (1, 2, 3)]
    assert [link.path.name for link in found] == [f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert len({link.path.parent for link in found}) == 1
    assert len(links(tmp_path, "https://h/m-00002-of-00003.gguf")) == 1
    assert len(links(tmp_path, "https://h/m-00001-of-00003.gguf", Path("/mine/x.gguf"))) == 1


def test_secrets_of_an_address_are_not_shown() -> None:  # B-F6 B-T7
    assert shown("https://me:secret@host:8/m.gguf?X-Amz-Signature=secret#secret") == "https://host:8/m.gguf"


def test_the_files_of_a_registry(tmp_path: Path) -> None:  # B-F6
    reference = Reference.parse("ai/tiny:Q8_0")
    assert reference
    assert docker_files(tmp_path, reference) is None
    names = list(docker_names(reference, [("model", "x/m-00001-of-00002.gguf"), ("model", "m-00002-of-00002.gguf")]))
    assert names == ["tiny-Q8_0-00001-of-00002.gguf", "tiny-Q8_0-00002-of-00002.gguf"]
    assert list(docker_names(reference, [("model", "../../etc/passwd"), ("mmproj", "")])) == [
        "tiny-Q8_0.gguf",
        "mmproj-tiny-Q8_0.gguf",
    ]
    folder = folder_of(tmp_path, f"{DOCKER}ai/tiny:Q8_0")
    folder.mkdir(parents=True)
    for name in ("mmproj-tiny-Q8_0.gguf", names[1]):
        (folder / name).write_bytes(b"GGUF")
    assert docker_files(tmp_path, reference) is None, "a shard is missing"
    (folder / names[0]).write_bytes(b"GGUF")
    assert docker_files(tmp_path, reference) == (folder / names[0], folder / "mmproj-tiny-Q8_0.gguf")
