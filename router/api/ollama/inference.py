"""Ollama's endpoints that a model answers: chat, generate, embed and embeddings.

A request is translated, and then runs, waits and is limited like a request of any other dialect.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from router.api.details import running_context
from router.api.dialects import OLLAMA
from router.api.ollama import prompt, reply
from router.api.ollama.context import Fitting
from router.api.ollama.embedding import Embedding
from router.api.ollama.fields import (
    Fields,
    dimensions,
    embedding_inputs,
    flag,
    model_name,
    text,
    top_logprobs,
    wants_thinking,
)
from router.api.ollama.generation import Generation
from router.api.ollama.names import NamedModel, Names, not_found, without_tag
from router.api.ollama.options import AliasDefaults
from router.api.ollama.prompt import ChildRequest
from router.api.ollama.reply import AnswerFields, LocalAnswer, RequestClock, json_response
from router.engine.flags import switch_of
from router.errors import InvalidRequest, UnknownModel
from router.hub.names import without_host
from router.models.template import Reasoning
from router.pool.lease import Lease as PoolLease
from router.proxy.body import in_thread_if_large
from router.proxy.gateway import Gateway
from router.proxy.head import Head
from router.proxy.keep_alive import keep_alive
from router.proxy.protocols import Lease, Translation
from router.proxy.proxied_request import ProxiedRequest
from router.proxy.recording import name_model
from router.proxy.rewrite import apply_filters, encode_json
from router.proxy.routing import all_fields
from router.wire.headers import Headers

EMBEDDING_FIELDS = ("input", "truncate", "dimensions")  # of a request for vectors that are read here


@dataclass(frozen=True, slots=True)
class _Call:
    """A request that a model answers; `size` is the length of its body in bytes."""

    head: Head
    fields: Fields
    model: NamedModel
    clock: RequestClock
    size: int

    def __repr__(self) -> str:  # the head holds keys, and the fields prompts
        return f"<_Call of {self.model.spec.name!r}, {self.size} bytes>"

    @property
    def name(self) -> str:
        """The model's name as the client wrote it."""
        return model_name(self.fields) or self.model.spec.name


def _more(wanted: Fields) -> Fields:
    """What a preset adds, for the child. The form of the vectors stays as it is read here."""
    return {name: value for name, value in wanted.items() if name not in (*EMBEDDING_FIELDS, "encoding_format")}


class Inference:
    """The endpoints; `names` resolves what clients call a model."""

    def __init__(self, gateway: Gateway, names: Names) -> None:
        self._gateway = gateway
        self._pool = gateway.pool
        self._names = names

    async def chat(self, request: Request) -> Response:
        call = await self._read_call(request)
        if not call.fields.get("messages"):
            return self._load_or_unload(call, reply.chat_fields)
        return await self._generation(call, prompt.chat, reply.chat_fields)

    async def generate(self, request: Request) -> Response:
        call = await self._read_call(request)
        if not text(call.fields, "prompt"):
            return self._load_or_unload(call, reply.generate_fields)
        return await self._generation(call, prompt.generate, reply.generate_fields)

    async def embed(self, request: Request) -> Response:
        call = await self._read_call(request)
        name, clock, wanted = call.name, call.clock, self._of_embedding(call)
        inputs, truncate = embedding_inputs(wanted), flag(wanted, "truncate", True)

        def answer(vectors: list[list[float]], count: int) -> Mapping[str, Any]:
            fields = {"model": name, "embeddings": vectors}
            return {**fields, **clock.durations(), "prompt_eval_count": count}

        embedding = Embedding(inputs, answer, truncate, dimensions(wanted), _more(wanted))
        return self._answer(call, embedding if inputs else LocalAnswer(lambda: answer([], 0)))

    async def embeddings(self, request: Request) -> Response:
        """The older form of `embed`, for one text."""
        call = await self._read_call(request)
        wanted = self._of_embedding(call)
        prompt_text = text(call.fields, "prompt")
        embedding = Embedding(
            [prompt_text],
            lambda vectors, count: {"embedding": vectors[0]},
            flag(wanted, "truncate", True),
            dimensions(wanted),
            _more(wanted),
        )
        return self._answer(call, embedding if prompt_text else LocalAnswer(lambda: {"embedding": []}))

    def _of_embedding(self, call: _Call) -> Fields:
        """The fields of a request for vectors, after the preset's filters."""
        own = {name: value for name, value in call.fields.items() if name in EMBEDDING_FIELDS}
        filters = call.model.spec.filters
        return own if filters is None else apply_filters("/embeddings", own, filters)

    async def _generation(
        self,
        call: _Call,
        translate: Callable[[Fields, AliasDefaults, Reasoning | None], ChildRequest],
        answer_fields: AnswerFields,
    ) -> Response:
        fields, spec = call.fields, call.model.spec
        info = self._pool.effective(spec.name).info  # as it is loaded
        request = await in_thread_if_large(call.size, translate, fields, call.model.defaults, info.reasoning)
        if wants_thinking(fields) and info.architecture and info.reasoning is None:
            raise InvalidRequest(f'{call.name!r} does not support thinking; leave "think" out, or send false.')
        # While the architecture is unknown, so are the capabilities: then the engine decides.
        if request.has_images and info.architecture and "vision" not in info.capabilities:
            raise InvalidRequest(f"{spec.name!r} does not see images; it needs a projector (mmproj) with vision.")
        self._gateway.log_ignored_context(spec, fields)
        body = await in_thread_if_large(call.size, encode_json, request.fields, call.size)
        path = request.target.decode()
        body, time_limit, notes = await in_thread_if_large(
            call.size, self._gateway.prepare_body, spec, path, request.fields, body
        )
        stream = flag(fields, "stream", True)
        generation = Generation(
            call.name,
            request.target,
            body,
            answer_fields,
            call.clock,
            stream,
            top_logprobs(fields),
            self._fitting(spec.name, fields),
        )
        return self._answer(call, generation, time_limit, stream=stream, notes=notes)

    def _fitting(self, name: str, fields: Fields) -> Fitting:
        pool = self._pool
        shift = flag(fields, "shift", True)
        is_shifting = switch_of(pool.effective(name).args, "--context-shift") is True
        return Fitting(
            flag(fields, "truncate", True), shift, is_shifting and not shift, lambda: running_context(pool.status(name))
        )

    def _load_or_unload(self, call: _Call, answer_fields: AnswerFields) -> Response:
        """A request without a prompt loads the model; with a `keep_alive` of 0 it unloads it, unless others wait."""

        def done(reason: str) -> Mapping[str, Any]:
            fields = {**reply.head(call.name), **answer_fields("", "", [])}
            return {**fields, "done": True, "done_reason": reason, **call.clock.durations()}

        if keep_alive(call.fields) != 0:
            return self._answer(call, LocalAnswer(lambda: done("load")))
        self._pool.unload_unless_awaited(call.model.spec.name)
        return json_response(done("unload"))

    async def _read_call(self, request: Request) -> _Call:
        clock, body = RequestClock(), await self._gateway.read_body(request)
        fields = await in_thread_if_large(len(body), all_fields, body)
        model = await self._find(model_name(fields))
        name_model(request.scope, model.spec.name)
        return _Call(Head.from_scope(request.scope), fields, model, clock, len(body))

    async def _find(self, name: str | None) -> NamedModel:
        """The model, also one that is not here yet but may be downloaded."""
        try:
            return self._names.find(name)
        except UnknownModel:
            try:
                return NamedModel.of(await self._gateway.resolve(without_tag(without_host(name or ""))))
            except UnknownModel as exc:
                raise not_found(name, exc) from None

    def _answer(
        self,
        call: _Call,
        translation: Translation,
        time_limit: float | None = None,
        *,
        stream: bool = False,
        notes: Headers = (),
    ) -> Response:
        spec, ttl = call.model.spec, keep_alive(call.fields)
        # The lease must not hold the call: its fields are many times as large as the body was, and it may wait long.
        head, clock = call.head, call.clock
        self._gateway.check_may_load(spec, head, self._gateway.autoload)

        async def lease() -> PoolLease:
            granted = await self._pool.lease(spec, ttl=ttl, background=self._gateway.is_background(head))
            clock.mark_loaded()
            return granted

        get_lease: Callable[[], Awaitable[Lease]]
        end: Callable[[], Awaitable[None]] | None
        conversation, get_lease, end = self._gateway.conversation_of(head, lease) if stream else ("", lease, None)
        return ProxiedRequest(  # type: ignore[return-value]
            get_lease,
            self._gateway.upstream,
            OLLAMA,
            head,
            time_limit=time_limit,
            translation=translation,
            notes=notes,
            conversation=conversation,
            end_conversation=end,
            model=spec.name,
            background=self._gateway.is_background(head),
        )
