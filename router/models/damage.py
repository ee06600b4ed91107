"""Files that arguments name, that are there, and that cannot be used: damaged ones, other kinds of files, and the
projector of another model. Their headers are read. Called by `check`; a load tells the same of its own model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from router import files
from router.engine.flags import Arg, value_of
from router.errors import GgufError
from router.models import gguf, kinds
from router.models.metadata import Metadata
from router.models.projector import misfit


def damaged(args: Sequence[Arg]) -> Iterator[tuple[str, str]]:
    """Each flag that names a file of another kind, a damaged one, or the projector of another model."""
    paths = {
        name: Path(value) for name in ("--model", "--mmproj", "--spec-draft-model") if (value := value_of(args, name))
    }
    model: Metadata | None = None
    for name, path in paths.items():
        try:
            if not path.is_file() or not path.stat().st_size:  # what is downloaded comes later
                continue
            if name == "--mmproj":
                wrong = misfit(model, path) if model else None
            else:
                found = gguf.read_model(path)
                wrong = f"{path} is {kind}" if (kind := kinds.other_kind(found)) else None
                model = found if name == "--model" and not wrong else model
        except GgufError as error:
            wrong = f"{path} is {kind}" if (kind := kinds.peek(path)) else str(error)
        except (OSError, ValueError) as error:
            wrong = files.problem_of(path, error)
        if wrong:
            yield name, wrong
