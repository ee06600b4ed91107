"""LM Studio's folder of models: `PUBLISHER/MODEL/*.gguf`, with the projector beside the model.

It is read as a folder of models is (`models.folders`), with names as LM Studio writes them: `publisher/model`, and
`publisher/model@q8_0` for a further quantization in the same folder. The name that LM Studio's own server gives a
model, the last word in lower case without `-gguf`, is an alias where it leaves no doubt. Source: docs of LM Studio
(app/advanced/import-model), and its command line, lms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from router.models.folder import FoundModel, FoundModels
from router.models.folders import ModelFolders


class LmStudioStore:
    """The folder `root`. Threads may share it.

    ::

        store = LmStudioStore(Path("~/.lmstudio/models").expanduser())
        store.read().models["qwen/qwen3-4b-gguf"].aliases  # ("qwen3-4b",)
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders = ModelFolders(root, "--lmstudio-models")

    def __repr__(self) -> str:
        return f"<LmStudioStore {self.root}>"

    def read(self) -> FoundModels:
        """The models by name. Blocks. Raises CatalogError if the folder cannot be listed."""
        found = self._folders.read()
        renamed: dict[str, FoundModel] = {}
        for name, model in found.models.items():
            short = _renamed(name)  # unless a folder is called so
            renamed[name if short in renamed or (short != name and short in found.models) else short] = _of_store(model)
        keys = {name: _key(name) for name in renamed}
        counts = Counter(keys.values())
        models = {
            name: replace(model, aliases=(*model.aliases, keys[name]))
            if counts[keys[name]] == 1 and keys[name] not in (name, "")
            else model
            for name, model in renamed.items()
        }
        return FoundModels(models, found.left_out, found.warnings)

    def is_current(self) -> bool:
        """Whether nothing has changed since `read`. Looks at most once a second. Blocks."""
        return self._folders.is_current()

    def watch(self, unread: Iterable[Path]) -> None:
        """Look at these files too: they could not be read, and may be on their way here."""
        self._folders.watch(path for path in unread if path.is_relative_to(self.root))


def _of_store(model: FoundModel) -> FoundModel:
    return replace(model, source="lmstudio", aliases=tuple(map(_renamed, model.aliases)))


def _renamed(name: str) -> str:
    """`publisher/model@q8_0` in place of `publisher/model:Q8_0`."""
    model, colon, quant = name.rpartition(":")
    return f"{model}@{quant.lower()}" if colon and "/" in model else name


def _key(name: str) -> str:
    model, at, quant = name.rpartition("/")[2].lower().partition("@")
    return model.removesuffix("-gguf") + at + quant
