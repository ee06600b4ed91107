"""A whole configuration of llama-swap, to the text of a preset file and what was left out of it.

The last step reads the text as the router will: a line that it refuses is taken out, with the reason. So `check` has
nothing to say about the result, besides files that are missing. Called by `router.imports`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router.engine.flags import FlagTable
from router.llama_swap import model, whole
from router.llama_swap.document import Document, Table, Unreadable
from router.llama_swap.macros import mark_variables
from router.llama_swap.model import LeftOut, Surroundings
from router.llama_swap.section import Note, Section, written
from router.llama_swap.whole import Whole
from router.logs.letters import visible
from router.models import presets
from router.models.spec import MODEL_FLAGS

DEFAULT_PORT = 5800


@dataclass(frozen=True, slots=True)
class Conversion:
    """`text` is the preset file, `models` the names in it. `notes` are in the order of the configuration's lines."""

    text: str
    models: tuple[str, ...]
    notes: tuple[Note, ...]

    def __repr__(self) -> str:
        return f"<Conversion of {len(self.models)} models, {len(self.notes)} notes>"


def convert(text: str, name: str, table: FlagTable, environ: Mapping[str, str]) -> Conversion:
    """`name` is the configuration's, for a comment. Raises Unreadable if the text is no configuration of llama-swap."""
    document = Document(mark_variables(text))
    root = document.root
    models = root.get("models")
    if not isinstance(models, Table):
        raise Unreadable(root.lines.get("models", 0), "this is no configuration of llama-swap: it has no models")
    found = whole.read(root)
    if document.has_more:
        found.note("only the first document of the file counts", 0)
    for key in models.doubled:
        found.note(f"the model {key[:80]} is there twice: the last one counts", models.lines[key])
    macros = root.get("macros")
    entries = [*macros.items()] if isinstance(macros, Table) else []
    port = root.get("startPort")
    around = Surroundings(table, environ, port if isinstance(port, int) else DEFAULT_PORT)
    sections: list[Section] = []
    for key, entry in models.items():
        try:
            sections.append(model.section_of(key, models.lines[key], entry, entries, around))
        except LeftOut as exc:
            found.notes.append(Note(models.lines[key], key, f"left out: {exc}"))
    sections = _without_doubles(sections, found)
    _give_keys(sections, found)
    _take_out_refused([found.defaults, *sections], table, environ)
    sections = _with_models(sections, found, table)
    notes = [*found.notes, *(note for section in sections for note in section.notes), *found.defaults.notes]
    ordered = tuple(dict.fromkeys(sorted(notes, key=lambda note: note.line)))
    return Conversion(_text(name, found, sections), tuple(section.name for section in sections), ordered)


def _without_doubles(sections: Sequence[Section], found: Whole) -> list[Section]:
    """The sections, in which each name means one model: names go before aliases, earlier ones before later ones."""
    kept: dict[str, Section] = {}
    for section in sections:
        if section.name in kept:
            found.notes.append(Note(section.line, section.name, "left out: the name is there already"))
        else:
            kept[section.name] = section
    owners = {name: name for name in kept}
    for section in kept.values():
        words = [word.strip() for word in (section.get("alias") or "").split(",") if word.strip()]
        mine = [word for word in words if owners.setdefault(word, section.name) == section.name]
        if mine != words:
            lost = [word for word in words if word not in mine]
            section.drop("alias", f"{', '.join(lost)} is a name of another model")
            if mine:
                section.set("alias", ", ".join(mine))
    return [*kept.values()]


def _give_keys(sections: Sequence[Section], found: Whole) -> None:
    """Add what groups and hooks say of single models, by name or alias."""
    by_name: dict[str, Section] = {}
    for section in sections:
        for word in (section.get("alias") or "").split(","):
            by_name[word.strip()] = section
    by_name |= {section.name: section for section in sections}
    for name, keys in found.keys.items():
        for key, value, line in keys:
            if meant := by_name.get(name):
                if meant.get(key) is None:
                    meant.set(key, value, line)
            else:
                found.note(f"{key}: there is no model {visible(name[:80])!r} here", line)


def _take_out_refused(sections: Sequence[Section], table: FlagTable, environ: Mapping[str, str]) -> None:
    """Leave out the lines that the router would refuse."""
    for section in sections:
        places = [*section.entries]
        text = "\n".join((f"[{section.name}]", *(f"{entry.key} = {written(entry.value)}" for entry in places)))
        _, problems = presets.parse(text, table, environ=environ)
        for problem in problems:
            index = problem.line - 2
            if 0 <= index < len(places) and places[index] in section.entries:
                section.entries.remove(places[index])
                section.note(f"{places[index].key}: {problem.message}", places[index].line)


def _with_models(sections: Sequence[Section], found: Whole, table: FlagTable) -> list[Section]:
    """The sections that still name a model. Those whose model could not be written go, with the reason."""
    kept: list[Section] = []
    for section in sections:
        flags = [known[0].name for entry in section.entries if (known := table.by_key(entry.key))]
        if any(name in MODEL_FLAGS for name in flags):
            kept.append(section)
        else:
            found.notes += section.notes
            found.notes.append(Note(section.line, section.name, "left out: no model is left in it"))
    return kept


def _text(name: str, found: Whole, sections: Sequence[Section]) -> str:
    head = [
        f"; Made by llama-router import from {visible(name)}, a configuration of llama-swap.",
        "; Each comment is something that was not carried over as it was, and why.",
    ]
    if found.options:
        head.append(f"; Start the router with: llama-router --models-preset THIS.ini {' '.join(found.options)}")
    said = [note.text for note in found.notes if not note.where]
    head += [f"; {line}" for line in dict.fromkeys(said)]
    for note in found.notes:
        if note.where:
            head.append(f"; {note}")
    parts = ["\n".join((*head, ""))]
    if found.defaults.entries:
        parts.append(found.defaults.text())
    return "\n".join((*parts, *(section.text() for section in sections)))
