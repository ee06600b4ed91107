"""PURE: a request of `/api/create`: what a model is to be made of, checked.

Ollama's fields are those of its docs/api.md and api/types.go. The chat templates of its own models are in Go's template
language, which the engine does not read; one in Jinja is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.api.ollama.fields import Fields, model_name, text
from router.api.ollama.messages import MessageTranslator
from router.api.ollama.options import AliasDefaults, check_alias_parameters, checked_options
from router.errors import InvalidRequest, Unsupported
from router.models.template import syntax_problem

MAX_MESSAGES = 1000

# Fields that would need a part of the engine that is not here, and what helps instead.
_REFUSED: Mapping[str, str] = {
    "adapters": 'an adapter is a flag of a preset: "lora = FILE"',
    "quantize": "quantize the file with llama-quantize, and make the model of the result",
    "quantization": "quantize the file with llama-quantize, and make the model of the result",
    "modelfile": 'send "from" or "files", "system", "template" and "parameters" as fields',
    "path": 'send the file to /api/blobs, and name its digest in "files"',
}


@dataclass(frozen=True, slots=True)
class Creation:
    """`origin` is the model that it is made from, or `digests` are those of its files; one of the two.

    `defaults` are added to those of the origin. `template` is None for the model's own."""

    name: str
    origin: str
    digests: Sequence[str]
    defaults: AliasDefaults
    template: str | None
    license: Sequence[str]

    def __repr__(self) -> str:  # prompts are not shown
        return f"<Creation of {self.name!r} from {self.origin or 'files'!r}>"


def creation(fields: Fields) -> Creation:
    """Raises InvalidRequest, and Unsupported for what no model can be made of here."""
    for field, remedy in _REFUSED.items():
        if fields.get(field):
            raise Unsupported(f'"{field}" is not supported: {remedy}.')
    name, origin, digests = model_name(fields), text(fields, "from"), _digests(fields.get("files"))
    if not name or bool(origin) == bool(digests):
        raise InvalidRequest(
            'Send {"model": NAME} with one of "from", a model that is here, and "files", {FILE: DIGEST} of files that '
            'were sent to /api/blobs; and "system", "template", "parameters", "messages" and "license" if you like.'
        )
    if origin.startswith(("/", "./", "../", "~")) or origin.lower().endswith(".gguf"):
        raise InvalidRequest(
            '"from" is the name of a model, not a path of this machine: send the file to /api/blobs, and its digest in '
            '"files", as "ollama create" does.'
        )
    parameters = checked_options(fields.get("parameters"))
    check_alias_parameters(parameters)
    context = parameters.get("num_ctx", 1)
    if not isinstance(context, int) or isinstance(context, bool) or context < 1:
        raise InvalidRequest('parameter "num_ctx" must be a positive integer.')
    defaults = AliasDefaults(text(fields, "system"), parameters, _messages(fields.get("messages")))
    return Creation(name, origin, digests, defaults, _template(text(fields, "template")), _licenses(fields))


def _digests(files: Any) -> list[str]:
    if not files:
        return []
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise InvalidRequest('"files" must be an object of names of files and their digests.')
    if len(files) > 2:
        raise InvalidRequest('"files" may be one model and one projector: join the parts of a split model first.')
    return [digest.removeprefix("sha256:").lower() for digest in files.values()]


def _messages(value: Any) -> tuple[Fields, ...]:
    if value in (None, []):
        return ()
    if not isinstance(value, list) or len(value) > MAX_MESSAGES:
        raise InvalidRequest(f'"messages" must be a list of at most {MAX_MESSAGES} of {{"role", "content"}}.')
    translator = MessageTranslator()
    return tuple(translator.translate(message) for message in value)


def _template(template: str) -> str | None:
    if template and (problem := syntax_problem(template)):
        raise Unsupported(
            f'"template" must be a chat template in Jinja, as in model files ({problem[:200]}): '
            "Go's templates are not supported. Leave it out: the model file has its own."
        )
    return template or None


def _licenses(fields: Fields) -> list[str]:
    value = fields.get("license") or []
    licenses = [value] if isinstance(value, str) else value
    if not isinstance(licenses, list) or not all(isinstance(each, str) for each in licenses):
        raise InvalidRequest('"license" must be a string or a list of strings.')
    return licenses
