"""What each word of a JSON schema does to an answer, on both engines: it holds, or the client hears of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from router.proxy.schema_words import HELD, NARROWS, REFUSED, WORDS
from tests.letters import write_letters
from tests.routers import ENGINES, Router, start

Holds = Callable[[Any], bool]
SCHEMA_HEADER = "x-schema-not-enforced"

FLAG, WORD = {"type": "boolean"}, {"type": "string", "maxLength": 3}
OBJECT = {"type": "object", "properties": {"a": FLAG, "b": FLAG}, "additionalProperties": False}


def keys(value: Any) -> set[str]:
    return set(value)


# A schema for each word that is held, and what an answer is then.
HELD_CASES: dict[str, tuple[dict[str, Any], Holds]] = {
    "$ref": ({"$ref": "#/$defs/F", "$defs": {"F": FLAG}}, lambda v: isinstance(v, bool)),
    "$defs": ({"$ref": "#/$defs/F", "title": "x", "$defs": {"F": WORD}}, lambda v: len(v) <= 3),
    "definitions": ({"$ref": "#/definitions/F", "definitions": {"F": FLAG}}, lambda v: isinstance(v, bool)),
    "allOf": ({"allOf": [WORD, {"minLength": 2}]}, lambda v: 2 <= len(v) <= 3),
    "anyOf": ({**OBJECT, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, lambda v: bool(keys(v))),
    "oneOf": ({"oneOf": [FLAG, {"enum": [True]}, {"type": "null"}]}, lambda v: v in (True, False, None)),
    "type": ({"type": ["boolean", "null"]}, lambda v: v in (True, False, None)),
    "enum": ({"enum": ["x", 1]}, lambda v: v in ("x", 1)),
    "const": ({"const": {"a": [1]}}, lambda v: v == {"a": [1]}),
    "properties": ({**OBJECT, "required": ["a"]}, lambda v: keys(v) <= {"a", "b"} and isinstance(v["a"], bool)),
    "required": ({"type": "object", "required": ["z"], "additionalProperties": FLAG}, lambda v: "z" in v),
    "additionalProperties": (OBJECT, lambda v: keys(v) <= {"a", "b"}),
    "items": ({"type": "array", "items": FLAG, "maxItems": 3}, lambda v: all(isinstance(each, bool) for each in v)),
    "prefixItems": (
        {"type": "array", "prefixItems": [FLAG, {"type": "null"}], "items": False, "minItems": 2},
        lambda v: len(v) == 2 and v[1] is None,
    ),
    "minItems": ({"type": "array", "items": FLAG, "minItems": 2, "maxItems": 3}, lambda v: len(v) >= 2),
    "maxItems": ({"type": "array", "items": FLAG, "maxItems": 1}, lambda v: len(v) <= 1),
    "minLength": ({"type": "string", "minLength": 2, "maxLength": 3}, lambda v: len(v) >= 2),
    "maxLength": (WORD, lambda v: len(v) <= 3),
    "pattern": ({"type": "string", "pattern": r"^\d{2}-\w$"}, lambda v: bool(re.fullmatch(r"\d\d-\w", v))),
    "minimum": ({"type": "integer", "minimum": 7, "maximum": 9}, lambda v: 7 <= v <= 9),
    "maximum": ({"type": "integer", "minimum": 1.5, "maximum": 9.5}, lambda v: 2 <= v <= 9),
    "exclusiveMinimum": ({"type": "integer", "exclusiveMinimum": 7, "maximum": 9}, lambda v: 7 < v <= 9),
    "exclusiveMaximum": ({"type": "integer", "minimum": 7, "exclusiveMaximum": 9}, lambda v: 7 <= v < 9),
    "format": ({"type": "string", "format": "date"}, lambda v: bool(re.fullmatch(r"\d{4}-\d\d-\d\d", v))),
}
# More forms of them, and what clients' libraries write around them.
MORE_HELD: list[tuple[dict[str, Any], Holds]] = [
    ({"allOf": [{"$ref": "#/$defs/F"}], "default": True, "$defs": {"F": FLAG}}, lambda v: isinstance(v, bool)),
    ({"type": "object", "propertyNames": {"enum": ["a"]}, "additionalProperties": FLAG}, lambda v: keys(v) <= {"a"}),
    ({**OBJECT, "propertyNames": {"type": "string"}, "uniqueItems": False}, lambda v: keys(v) <= {"a", "b"}),
    ({**OBJECT, "unevaluatedProperties": False, "minProperties": 0}, lambda v: keys(v) <= {"a", "b"}),
    ({"type": "array", "items": [FLAG], "additionalItems": False, "minItems": 1}, lambda v: len(v) == 1),
    ({"type": "array", "items": True, "maxItems": 0}, lambda v: v == []),
    ({**OBJECT, "$ref": "#/$defs/A", "$defs": {"A": {"required": ["a"]}}}, lambda v: "a" in v),
    *(
        (
            {"type": "object", "properties": {"x": {"type": "string", "format": form}}, "required": ["x"]},
            lambda v: "x" in v,
        )
        for form in ("uuid", "uuid4")
    ),
    *(
        ({"type": "array", "items": {"type": "string", "format": form}, "maxItems": 0}, lambda v: v == [])
        for form in ("uri", "binary", "password", "path", "regex", "json-pointer", "made-up", "email", "duration")
    ),
]
ANNOTATED = {
    **dict.fromkeys(("title", "description", "$comment", "$anchor", "contentEncoding", "contentMediaType"), "x"),
    **dict.fromkeys(("deprecated", "readOnly", "writeOnly"), True),
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "https://example.com/x",
    "default": True,
    "examples": [True],
    "example": 1,
    "contentSchema": {},
    "$vocabulary": {},
    "$dynamicAnchor": "y",
    "x-of-a-client": 1,
    "nullable": False,
    "discriminator": {"propertyName": "kind"},
}
# What is lost: a schema, the place that the client hears of, and what holds all the same.
NARROWED: dict[str, tuple[dict[str, Any], str, Holds]] = {
    "uniqueItems": (
        {"type": "array", "items": FLAG, "uniqueItems": True, "minItems": 2, "maxItems": 3},
        "uniqueItems",
        lambda v: all(isinstance(each, bool) for each in v) and len(v) >= 2,
    ),
    "multipleOf": (
        {"type": "integer", "multipleOf": 5, "minimum": 1, "maximum": 9},
        "multipleOf",
        lambda v: 1 <= v <= 9,
    ),
    "minimum": (
        {"type": "array", "items": {"type": "number", "minimum": 5}, "maxItems": 0},
        "items.minimum",
        lambda v: v == [],
    ),
    "pattern": ({"type": "string", "pattern": "^(?!x)y$", "maxLength": 3}, "pattern", lambda v: len(v) <= 3),
}
REFUSED_CASES: dict[str, dict[str, Any]] = {
    "not": {"not": FLAG},
    "if": {"type": "string", "if": {"minLength": 1}, "then": {"minLength": 5}},
    "then": {"type": "string", "if": {}, "then": {"minLength": 5}},
    "else": {"type": "string", "if": {}, "else": {"minLength": 5}},
    "$dynamicRef": {"$dynamicRef": "#x"},
    "$recursiveRef": {"$recursiveRef": "#"},
    "dependentRequired": {**OBJECT, "dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {**OBJECT, "dependentSchemas": {"a": {"required": ["b"]}}},
    "dependencies": {**OBJECT, "dependencies": {"a": ["b"]}},
    "patternProperties": {"type": "object", "patternProperties": {"^a": FLAG}},
    "propertyNames": {"type": "object", "propertyNames": {"maxLength": 1}, "additionalProperties": FLAG},
    "minProperties": {**OBJECT, "minProperties": 1},
    "maxProperties": {**OBJECT, "maxProperties": 1},
    "contains": {"type": "array", "contains": FLAG},
    "minContains": {"type": "array", "contains": FLAG, "minContains": 2},
    "maxContains": {"type": "array", "contains": FLAG, "maxContains": 2},
    "additionalItems": {"type": "array", "additionalItems": FLAG},
    "unevaluatedItems": {"type": "array", "unevaluatedItems": False},
    "unevaluatedProperties": {"type": "object", "unevaluatedProperties": False},
}


@pytest.fixture(scope="module", params=sorted(ENGINES))
def router(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    place = tmp_path_factory.mktemp("schemas")
    (place / "models").mkdir()
    write_letters(place / "models" / "letters.gguf")
    engine = ENGINES[request.param]()
    made = start(place / "router", "--engine", engine, "--models-dir", str(place / "models"), "--ctx-size", "4096")
    yield made
    made.stop()


def ask(router: Router, schema: Any, *, strict: bool = False) -> httpx.Response:
    wrapper = {"name": "answer", "schema": schema, "strict": strict}
    body = {
        "model": "letters",
        "messages": [{"role": "user", "content": "hi"}],
        "response_format": {"type": "json_schema", "json_schema": wrapper},
        "max_tokens": 400,
        "temperature": 1,
        "seed": 3,
    }
    return router.client.post("/v1/chat/completions", json=body)


def answer(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "stop", choice
    return json.loads(choice["message"]["content"])


def test_each_word_of_the_drafts_is_known() -> None:
    """Draft 2020-12's vocabularies: core, applicator, validation, unevaluated, format, content, meta-data."""
    core = "$schema $id $ref $anchor $dynamicRef $dynamicAnchor $vocabulary $comment $defs"
    applicator = "prefixItems items contains additionalProperties properties patternProperties dependentSchemas"
    applicator += " propertyNames if then else allOf anyOf oneOf not"
    validation = (
        "type const enum multipleOf maximum exclusiveMaximum minimum exclusiveMinimum maxLength minLength pattern"
    )
    validation += " maxItems minItems uniqueItems maxContains minContains maxProperties minProperties required"
    validation += " dependentRequired"
    others = "unevaluatedItems unevaluatedProperties format contentEncoding contentMediaType contentSchema"
    others += " title description default deprecated readOnly writeOnly examples"
    assert {*core.split(), *applicator.split(), *validation.split(), *others.split()} <= WORDS.keys()
    assert HELD_CASES.keys() == {word for word, kind in WORDS.items() if kind == HELD}
    assert NARROWED.keys() >= {word for word, kind in WORDS.items() if kind == NARROWS}
    assert REFUSED_CASES.keys() == {word for word, kind in WORDS.items() if kind == REFUSED}


def test_words_that_are_held(router: Router) -> None:  # B-C9
    for schema, holds in (*HELD_CASES.values(), *MORE_HELD):
        for strict in (False, True):
            found = ask(router, schema, strict=strict)
            assert holds(answer(found)), (schema, found.text)
            assert SCHEMA_HEADER not in found.headers, schema


def test_annotations_ask_nothing(router: Router) -> None:  # B-C9
    for word, value in ANNOTATED.items():
        inner = {"type": "array", "items": {**FLAG, word: value}, "maxItems": 2, word: value}
        for strict in (False, True):
            found = ask(router, {"anyOf": [inner], word: value}, strict=strict)
            assert all(isinstance(each, bool) for each in answer(found)), word
            assert SCHEMA_HEADER not in found.headers, word


def test_what_is_lost_is_said(router: Router) -> None:  # B-C9
    for schema, place, holds in NARROWED.values():
        found = ask(router, schema)
        assert holds(answer(found)), (schema, found.text)
        assert found.headers[SCHEMA_HEADER] == place
        refused = ask(router, schema, strict=True)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == f"response_format.json_schema.schema.{place}"


@pytest.mark.parametrize("place", ["alone", "within"])
def test_what_would_change_the_answer_is_refused(router: Router, place: str) -> None:  # B-C9
    for word, schema in REFUSED_CASES.items():
        wanted = schema if place == "alone" else {"type": "object", "properties": {"a": schema}, "required": ["a"]}
        refused = ask(router, wanted)
        assert refused.status_code == 400, (word, refused.text)
        assert refused.json()["error"]["param"].rpartition(".")[2] in (word, "if", "contains"), refused.text


def test_each_dialect_says_the_same(router: Router) -> None:  # B-C9
    lost, refused = NARROWED["uniqueItems"][0], REFUSED_CASES["not"]
    messages = [{"role": "user", "content": "hi"}]

    def bodies(schema: Any) -> dict[str, dict[str, Any]]:
        form = {"type": "json_schema", "name": "x", "schema": schema}
        return {
            "/v1/chat/completions": {"messages": messages, "response_format": form, "max_tokens": 60},
            "/v1/responses": {"input": "hi", "text": {"format": form}, "max_output_tokens": 60},
            "/v1/messages": {"messages": messages, "max_tokens": 60, "output_config": {"format": form}},
            "/api/chat": {"messages": messages, "format": schema, "options": {"num_predict": 60}, "stream": False},
            "/api/generate": {"prompt": "hi", "format": schema, "options": {"num_predict": 60}, "stream": False},
            "/completion": {"prompt": "hi", "json_schema": schema, "n_predict": 60},
        }

    for path, body in bodies(lost).items():
        found = router.client.post(path, json={"model": "letters", **body})
        assert (found.status_code, found.headers.get(SCHEMA_HEADER)) == (200, "uniqueItems"), (path, found.text)
    for path, body in bodies(refused).items():
        found = router.client.post(path, json={"model": "letters", **body})
        assert (found.status_code, '"not"' in found.text or "not\\" in found.text) == (400, True), (path, found.text)
