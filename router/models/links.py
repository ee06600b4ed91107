"""Which files of a model its arguments name by addresses, and where each is kept.

`build` looks whether they are here, the pool downloads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from router.engine.flags import Arg, value_of
from router.hub import links
from router.hub.links import Link, Reference
from router.models.spec import LINK_FLAGS


def link_sources(args: Sequence[Arg], root: Path) -> Iterator[tuple[str, tuple[Link, ...], Reference | None]]:
    """What the arguments name: the flag, the files of its address, or the model of a registry. `root` is the cache."""
    docker = value_of(args, "--docker-repo")
    if docker and (reference := Reference.parse(docker)):
        yield "--docker-repo", (), reference
    is_found = bool(docker or value_of(args, "--hf-repo"))
    for flag in LINK_FLAGS:
        url = value_of(args, flag)
        if not url or links.fault(url) or (is_found and flag == "--model-url"):
            continue
        own = value_of(args, "--model") if flag == "--model-url" else None
        wanted = links.links(root, url, Path(own) if own else None)
        if not links.are_here(wanted):
            yield flag, wanted, None
