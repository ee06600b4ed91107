"""PURE: JSON schemas that say one thing in several places, as one schema.

The engine's grammar reads `$ref`, `anyOf` and `oneOf` without what stands beside them, and of `allOf` only the
properties of objects. So the parts are merged: `allOf` into one schema, what stands beside `anyOf` into each of its
alternatives, and what stands beside `$ref` into a copy of what it means. What cannot be merged is a Conflict.
`schema_words` calls this for each schema within a schema.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

# What validators do not look at. A word that no draft knows is one as well.
ANNOTATIONS = frozenset(
    [
        *("$schema", "$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary", "$comment", "id"),
        *("title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly"),
        *("contentEncoding", "contentMediaType", "contentSchema"),
    ]
)
DEFINITIONS = ("$defs", "definitions")
CONSTRAINTS = frozenset(
    [
        *("$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "not", "if", "then", "else"),
        *("type", "enum", "const", "format", "pattern", "minLength", "maxLength"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("items", "prefixItems", "additionalItems", "unevaluatedItems", "contains", "minContains", "maxContains"),
        *("minItems", "maxItems", "uniqueItems", "properties", "required", "additionalProperties", "patternProperties"),
        *("propertyNames", "unevaluatedProperties", "minProperties", "maxProperties"),
        *("dependentRequired", "dependentSchemas", "dependencies"),
    ]
)
_LARGEST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains")
_SMALLEST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains")
_SHAPES = frozenset(("type", "$ref", "const", "enum", "anyOf", "oneOf", "allOf"))

MAX_ALTERNATIVES = 200  # to which other words are added
MAX_REFERENCES = 1_000  # that are followed
MAX_WORK = 1_000_000  # values that are looked at to merge parts; a small schema can have many parts with many values


class Conflict(Exception):
    """Two parts of a schema cannot become one; the text says which."""


class Root:
    """A whole schema: what a `$ref` means in it, and how much work has been done on it."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._followed = self._work = 0

    def resolve(self, ref: Any) -> Any:
        """What a `$ref` means. Raises Conflict."""
        if not isinstance(ref, str) or not ref.startswith("#/"):
            raise Conflict('a "$ref" must begin with "#/" here, and lead into the same schema')
        self._followed += 1
        if self._followed > MAX_REFERENCES:
            raise Conflict(f'more than {MAX_REFERENCES} times a "$ref" would have to be followed')
        found: Any = self.schema
        for step in ref[2:].split("/"):
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, dict) and key in found:
                found = found[key]
            else:
                raise Conflict(f'"$ref" leads nowhere: {ref[:200]}')
        return found

    def spend(self, work: int) -> None:
        """Counts work. Raises Conflict if it is too much."""
        self._work += work
        if self._work > MAX_WORK:
            raise Conflict("its parts are too large, or too many, to be combined")


def merged(schema: Schema, root: Root) -> Schema:
    """The same schema, without `allOf`, and with nothing beside `$ref`, `anyOf` and `oneOf` that they would hide. The
    same object if nothing has to change. `root` is the schema that it is in. Raises Conflict."""
    parts = schema.get("allOf")
    if isinstance(parts, list) and parts:
        base = {name: value for name, value in schema.items() if name != "allOf"}
        if len(parts) == 1 and constraints(base) <= {"type"} and isinstance(parts[0], dict) and "$ref" in parts[0]:
            schema = {**without(base, {"type"}), **parts[0]}  # what it means may be recursive
        else:
            for part in parts:
                base = both(base, _opened(part, root), root)
            schema = base
    if "$ref" in schema and constraints(schema) - {"$ref"}:
        beside = without(schema, {"$ref"})
        schema = both(beside, _opened({"$ref": schema["$ref"]}, root), root)
    for word in ("oneOf", "anyOf"):
        others = constraints(schema) - {word}
        if isinstance(schema.get(word), list) and others:
            schema = _spread(schema, word, others, root)
            break
    return _simplified(schema)


def both(one: Schema, two: Schema, root: Root) -> Schema:
    """What holds for both. Raises Conflict."""
    root.spend(_values_in(one) + _values_in(two))
    found = dict(one)
    for name, value in two.items():
        if name not in found or found[name] == value:
            found[name] = value
        elif name in CONSTRAINTS or name in DEFINITIONS:
            found[name] = _both_of(name, found[name], value, root)
    for mine, other in ((one, two), (two, one)):
        if mine.get("additionalProperties") is False and not _names(other) <= _names(mine):
            raise Conflict('"additionalProperties": false excludes properties of another part')
    return found


def _both_of(name: str, one: Any, two: Any, root: Root) -> Any:
    try:
        if name == "required":
            return list(dict.fromkeys([*one, *two]))
        if name in ("properties", *DEFINITIONS):
            return {
                **one,
                **{key: both(one[key], value, root) if key in one else value for key, value in two.items()},
            }
        if name in ("type", "enum"):
            root.spend(_values_in(one) * _values_in(two) // 10)  # each is compared with each, which is quick
        if name == "type":
            return _both_types(one, two)
        if name == "enum":
            if common := [value for value in one if value in two]:
                return common
        elif name in _LARGEST:
            return max(one, two)
        elif name in _SMALLEST:
            return min(one, two)
        elif name == "additionalProperties" and True in (one, two):
            return one if two is True else two
    except (TypeError, AttributeError):
        pass
    raise Conflict(f'two parts differ in "{name}"')


def _both_types(one: Any, two: Any) -> Any:
    first, second = (value if isinstance(value, list) else [value] for value in (one, two))
    common = [each for each in first if each in second]
    common += ["integer"] if "integer" not in common and {"integer", "number"} <= {*first, *second} else []
    if not common:
        raise Conflict(f"no value is {' or '.join(map(str, first))} and {' or '.join(map(str, second))}")
    return common[0] if len(common) == 1 else common


def _spread(schema: Schema, word: str, beside: frozenset[str], root: Root) -> Schema:
    """With what stands beside `anyOf` or `oneOf` in each alternative."""
    if len(schema[word]) > MAX_ALTERNATIVES:
        raise Conflict(f'"{word}" with more than {MAX_ALTERNATIVES} parts cannot be combined with other words')
    if {"anyOf", "oneOf", "$ref"} & beside:
        raise Conflict(f'"{word}" cannot be combined with {", ".join(sorted(beside))}')
    shared = {name: schema[name] for name in schema if name in beside}
    alternatives = []
    for each in schema[word]:
        if shared.keys() == {"type"} and isinstance(each, dict) and not _SHAPES.isdisjoint(each):
            alternatives.append(both(shared, each, root) if "type" in each else each)
        else:
            alternatives.append(both(shared, _opened(each, root), root))
    return {**without(schema, beside), word: alternatives}


def _opened(part: Any, root: Root) -> Schema:
    """A part as a schema that can be merged. Raises Conflict."""
    if part is True:
        return {}
    if not isinstance(part, dict):
        raise Conflict("a part is no schema")
    if "$ref" in part:
        found = root.resolve(part["$ref"])
        return both(without(part, {"$ref"}), _opened(found, root), root)
    return merged(part, root) if "allOf" in part else part


def _simplified(schema: Schema) -> Schema:
    """In other words for the same, which the engine reads."""
    if isinstance(schema.get("items"), list) and "prefixItems" not in schema:  # before draft 2020-12
        schema = {"prefixItems": schema["items"], **without(schema, {"items"})}
    changes = {**_tuple(schema), **_named(schema), **_whole(schema)}
    dropped = {word for word, value in changes.items() if value is None}
    return {**without(schema, dropped), **without(changes, dropped)} if changes else schema


def _tuple(schema: Schema) -> Schema:
    """Exactly the first items, if there may be others: llama-server reads `items` or `prefixItems`."""
    prefix, least = schema.get("prefixItems"), schema.get("minItems", 0)
    if isinstance(prefix, list) and "items" in schema and isinstance(least, int) and least <= len(prefix):
        return {"items": None, "minItems": len(prefix), "maxItems": len(prefix)}
    return {}


def _named(schema: Schema) -> Schema:
    """The names that `propertyNames` and `required` have, as properties."""
    names, rest, required = (
        schema.get("propertyNames"),
        schema.get("additionalProperties", True),
        schema.get("required"),
    )
    any_value = rest if isinstance(rest, dict) else {"title": ""}
    listed = names.get("enum") if isinstance(names, dict) else None
    if isinstance(listed, list) and "properties" not in schema and rest is not False and _are_texts(listed):
        return {
            "properties": dict.fromkeys(listed, any_value),
            "additionalProperties": False,
            "propertyNames": None,
        }
    properties = schema.get("properties", {})
    if not (isinstance(required, list) and isinstance(properties, dict)) or rest is False:
        return {}
    missing = [name for name in required if isinstance(name, str) and name not in properties]
    if missing and (schema.get("type") == "object" or "properties" in schema):
        return {"properties": {**properties, **dict.fromkeys(missing, any_value)}}
    return {}


def _are_texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _whole(schema: Schema) -> Schema:
    """Bounds of integers as integers."""
    if schema.get("type") != "integer":
        return {}
    rounded = (("minimum", math.ceil), ("maximum", math.floor))
    given = ((name, schema.get(name), whole) for name, whole in rounded)
    return {name: whole(value) for name, value, whole in given if isinstance(value, float) and math.isfinite(value)}


def constraints(schema: Mapping[str, Any]) -> frozenset[str]:
    return CONSTRAINTS.intersection(schema)


def without(schema: Mapping[str, Any], names: set[str] | frozenset[str]) -> Schema:
    return {name: value for name, value in schema.items() if name not in names}


def _names(schema: Mapping[str, Any]) -> set[str]:
    properties = schema.get("properties")
    return set(properties) if isinstance(properties, dict) else set()


def _values_in(value: Any) -> int:
    """How many values there are in this one, with itself; a long text counts for several."""
    weight, waiting = 0, [value]
    while waiting:
        each = waiting.pop()
        weight += 1
        if isinstance(each, dict):
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)
        elif isinstance(each, str):
            weight += len(each) // 100
    return weight
