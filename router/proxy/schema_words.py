"""PURE: which words of a JSON schema the engine's grammar holds, and what becomes of the others.

llama-server ignores what its grammar cannot express; the embedded engine, which has llguidance, then holds nothing at
all of the schema, without a word. WORDS says for each word of JSON Schema (draft 2020-12, and those of
before) what happens here:

- HELD: the grammar has it, perhaps after `schema_merge` has said it in another way.
- ANNOTATION: it asks nothing of an answer.
- NARROWS: it is lost, and the answer has the right shape all the same. Clients that read answers into types check it
  again. With `strict` it is an error, else a header of the answer names it.
- REFUSED: without it an answer may be something else than was asked for. It is an error.

A word that changes nothing where it stands, such as `"uniqueItems": false`, is no error. What is lost, or changes
nothing, is left out of what the engine gets. Sources: llama.cpp b11434, common/json-schema-to-grammar.cpp, `visit`;
trials with both engines. `schema` calls this for all dialects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from router.errors import InvalidField
from router.proxy.schema_merge import ANNOTATIONS, DEFINITIONS, Conflict, Root, Schema, merged, without
from router.proxy.schema_pattern import rewritten

HELD, ANNOTATION, NARROWS, REFUSED = "held", "annotation", "narrows", "refused"

WORDS: Mapping[str, str] = {
    **dict.fromkeys(ANNOTATIONS, ANNOTATION),
    **dict.fromkeys(DEFINITIONS, HELD),
    **dict.fromkeys(("$ref", "allOf", "anyOf", "oneOf", "type", "enum", "const"), HELD),
    **dict.fromkeys(("properties", "required", "additionalProperties", "items", "prefixItems"), HELD),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength", "pattern"), HELD),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), HELD),  # of integers
    "format": HELD,  # if it is one of _FORMATS; all others are annotations
    **dict.fromkeys(("multipleOf", "uniqueItems"), NARROWS),
    **dict.fromkeys(("$dynamicRef", "$recursiveRef", "not", "if", "then", "else"), REFUSED),
    **dict.fromkeys(("dependentRequired", "dependentSchemas", "dependencies"), REFUSED),
    **dict.fromkeys(("patternProperties", "propertyNames", "minProperties", "maxProperties"), REFUSED),
    **dict.fromkeys(("contains", "minContains", "maxContains", "additionalItems"), REFUSED),
    **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties"), REFUSED),
}
MAX_SCHEMAS = 5_000  # within one, after merging
MAX_DEPTH = 60

_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
# Which both engines hold, and which the embedded one holds; of others it makes no grammar.
_FORMATS = frozenset(("date", "time", "date-time", "uuid", "email", "ipv4", "ipv6", "hostname", "duration"))
_FIXED_FORMATS = frozenset(("date", "time", "date-time", "uuid"))
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


class Reading(NamedTuple):
    """A schema as the engine is to get it, and the places of what it loses, such as `properties.price.minimum`."""

    schema: Any
    lost: list[str]


def read(schema: Schema, name: str, *, is_strict: bool) -> Reading:
    """`name` is that of the field. The schema is the same object if nothing changes. Raises InvalidField."""
    reader = _Reader(schema, name)
    try:
        found = reader.read_all()
    except (TypeError, AttributeError, ValueError, OverflowError):
        raise InvalidField(name, "is no JSON schema.") from None
    if is_strict and reader.lost:
        raise InvalidField(
            f"{name}.{reader.lost[0]}",
            'cannot be enforced, as "strict" asks: leave it out, or send "strict": false.',
        )
    return Reading(found, reader.lost)


class _Reader:
    """Reads one schema."""

    def __init__(self, root: Schema, name: str) -> None:
        self._root, self._name = Root(root), name
        self.lost: list[str] = []
        self._count = 0
        self._used: set[str] = set()  # what `$ref` means, as it is written there

    def read_all(self) -> Any:
        """The whole schema, with those definitions that it uses. The others stay as they are. Raises InvalidField."""
        found = self.read(self._root.schema, "", 0)
        done: set[tuple[str, str]] = set()
        while new := {(word, key) for word, key in map(_definition, self._used) if key} - done:
            done |= new
            for word, key in sorted(new):
                before = self._root.schema[word][key]
                after = self.read(before, f"{word}.{key}.", 1)
                if after is not before:
                    found = {**found, word: {**found[word], key: after}}
        return found

    def read(self, schema: Any, place: str, depth: int) -> Any:
        """The schema at `place`. Raises InvalidField."""
        if schema is True or (schema == {} and place):
            return {"title": ""}  # any value: of {} the engine makes an object
        if not isinstance(schema, dict):
            return schema
        self._count += 1
        if self._count > MAX_SCHEMAS or depth > MAX_DEPTH:
            raise InvalidField(self._name, "is too large, or nested too deep.")
        try:
            whole = merged(schema, self._root)
        except (Conflict, RecursionError) as exc:
            reason = str(exc) if isinstance(exc, Conflict) else "it refers to itself"
            raise InvalidField(self._at(place), f"cannot be enforced: {reason}.") from None
        if whole is not schema:
            return self.read(whole, place, depth + 1)
        self._check(schema, place)
        changes, dropped = _cleaned(schema)
        for word in ("properties", *(DEFINITIONS if place else ())):
            if isinstance(members := schema.get(word), dict):
                read = {key: self.read(each, f"{place}{word}.{key}.", depth + 1) for key, each in members.items()}
                if any(read[key] is not members[key] for key in read):
                    changes[word] = read
        for word in ("anyOf", "oneOf", "prefixItems"):
            if isinstance(parts := schema.get(word), list):
                found = [self.read(each, f"{place}{word}[{index}].", depth + 1) for index, each in enumerate(parts)]
                if word == "oneOf":
                    changes["anyOf"] = found  # no engine counts them
                elif any(one is not other for one, other in zip(found, parts, strict=True)):
                    changes[word] = found
        for word in ("items", "additionalProperties"):
            part = schema.get(word)
            if isinstance(part, dict) or (word == "items" and part is True):
                one = self.read(part, f"{place}{word}.", depth + 1)
                changes |= {word: one} if one is not part else {}
        return {**without(schema, dropped), **changes} if changes or dropped else schema

    def _check(self, schema: Schema, place: str) -> None:
        """What of this schema, without those within it, the grammar loses."""
        for word in schema:
            if WORDS.get(word) == REFUSED and not _is_idle(word, schema):
                raise InvalidField(self._at(place + word), "cannot be enforced on what a model writes; leave it out.")
        if isinstance(prefix := schema.get("prefixItems"), list) and not _takes_all(len(prefix), schema):
            raise InvalidField(
                self._at(place + "prefixItems"), "cannot be enforced with fewer or more items than it has."
            )
        if "$ref" in schema:
            self._resolve_or_refuse(schema["$ref"], place)
            return
        if not {"anyOf", "oneOf", "const", "enum"}.isdisjoint(schema):
            return
        given = schema.get("type")
        types = given if isinstance(given, list) else [given] if given else _implied_types(schema)
        self.lost += [place + word for kind in types for word in _lost_of(kind, schema, is_typed=bool(given))]

    def _resolve_or_refuse(self, ref: Any, place: str) -> None:
        self._used.add(str(ref))
        try:
            self._root.resolve(ref)
        except Conflict as exc:
            raise InvalidField(self._at(f"{place}$ref"), f"{exc}.") from None

    def _at(self, place: str) -> str:
        return f"{self._name}.{place}".rstrip(".")


def _definition(ref: str) -> tuple[str, str]:
    """The word and the key of the definition at the root that a `$ref` leads into; "" if it leads into none."""
    word, _, rest = ref.removeprefix("#/").partition("/")
    key = rest.partition("/")[0].replace("~1", "/").replace("~0", "~")
    return (word, key) if word in DEFINITIONS else ("", "")


def _takes_all(count: int, schema: Schema) -> bool:
    """Whether a list of exactly so many items is one: the engine writes no other."""
    least, most = schema.get("minItems", 0), schema.get("maxItems", count)
    return "items" not in schema and isinstance(least, int) and isinstance(most, int) and least <= count <= most


def _implied_types(schema: Schema) -> list[str]:
    """The types of values that the engine writes for a schema without `type`."""
    if "properties" in schema or schema.get("additionalProperties", True) is not True:
        return ["object"]
    if "items" in schema or "prefixItems" in schema:
        return ["array"]
    if "pattern" in schema or _has_format(schema):
        return ["string"]
    return list(_TYPES)


def _lost_of(kind: Any, schema: Schema, *, is_typed: bool) -> list[str]:
    """The words that have no effect on values of this type, though they should."""
    match kind:
        case "integer":
            words = [word for word in _BOUNDS if word in schema] if not is_typed else []
            words += [f"exclusive{word.title()}" for word in ("minimum", "maximum") if _has_both(word, schema)]
            return words + (["multipleOf"] if schema.get("multipleOf") not in (None, 1) else [])
        case "number":
            return [word for word in (*_BOUNDS, "multipleOf") if word in schema]
        case "string":
            pattern = schema.get("pattern")
            is_lost = isinstance(pattern, str) and rewritten(pattern) is None
            is_fixed = ("pattern" in schema and not is_lost) or _has_format(schema)
            words = [word for word in ("minLength", "maxLength") if word in schema and (is_fixed or not is_typed)]
            return [
                *(["pattern"] if is_lost else []),
                *(word for word in words if (word, schema[word]) != ("minLength", 0)),
            ]
        case "array":
            many = schema.get("maxItems", 2) not in (0, 1)
            return ["uniqueItems"] if schema.get("uniqueItems") is True and many else []
        case "object":
            required, properties = schema.get("required") or (), schema.get("properties") or {}
            is_lost = isinstance(required, list) and not all(name in properties for name in required)
            return ["required"] if is_lost else []
    return []


def _has_both(word: str, schema: Schema) -> bool:
    """Whether an integer has a bound of both kinds; then the engine reads the one that is not exclusive."""
    return word in schema and f"exclusive{word.title()}" in schema


def _has_format(schema: Schema) -> bool:
    """Whether it has a format that llama-server holds."""
    return _format_of(schema) in _FIXED_FORMATS


def _format_of(schema: Schema) -> str:
    form = schema.get("format")
    if not isinstance(form, str):
        return ""
    return "uuid" if form.rstrip("12345") == "uuid" and len(form) < 6 else form


def _cleaned(schema: Schema) -> tuple[Schema, set[str]]:
    """What becomes of the words of a schema, and those that an engine would not understand."""
    changes: Schema = {}
    dropped = {word for word in schema if WORDS.get(word) == REFUSED} | ({"uniqueItems", "oneOf"} & schema.keys())
    if schema.get("unevaluatedProperties") is False:
        changes["additionalProperties"] = False
    if isinstance(pattern := schema.get("pattern"), str):
        changes["pattern"] = rewritten(pattern)
    if "format" in schema:
        changes["format"] = None if changes.get("pattern") else _format_of(schema)
        if changes["format"] in _FORMATS:
            dropped |= {"minLength", "maxLength"} & schema.keys()
        else:
            changes["format"] = None
    dropped |= {word for word, value in changes.items() if value is None}
    return {word: value for word, value in changes.items() if value is not None and schema.get(word) != value}, dropped


def _is_idle(word: str, schema: Schema) -> bool:
    """Whether a word changes nothing where it stands."""
    value, properties = schema[word], schema.get("properties")
    has_only = isinstance(properties, dict) and schema.get("additionalProperties", False) is False
    match word:
        case "if":
            return "then" not in schema and "else" not in schema
        case "then" | "else":
            return "if" not in schema
        case "minContains" | "maxContains":
            return "contains" not in schema
        case "propertyNames":
            return value in (True, {}, {"type": "string"})
        case "unevaluatedProperties":
            return value is True or (value is False and has_only)
        case "unevaluatedItems" | "additionalItems":
            return value is True or "items" in schema or (value is False and "prefixItems" in schema)
        case "minProperties":
            return not value or (isinstance(value, int) and value <= len(schema.get("required") or ()))
        case "maxProperties":
            return has_only and isinstance(value, int) and value >= len(properties or ())
        case "dependentRequired":
            required = {name for name in schema.get("required") or () if isinstance(name, str)}
            return isinstance(value, dict) and all(name in required for names in value.values() for name in names)
        case "patternProperties" | "dependentSchemas" | "dependencies":
            return isinstance(value, dict) and not value
    return False
