"""Finds out when a child serves that reports no states: older builds of llama-server do not. Called by `process`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from router.errors import UpstreamFailed
from router.node.child_protocol import model_info
from router.wire.address import Address
from router.wire.child_json import parse_json
from router.wire.request_head import RequestHead
from router.wire.upstream import Upstream

INTERVAL_S, TIMEOUT_S = 0.05, 5.0
MAX_ANSWER_BYTES = 1 << 18


async def poll_health(address: Address, key: str, is_needless: Callable[[], bool]) -> Mapping[str, Any] | None:
    """Request `/health` until the child serves. Returns its model info; None as soon as `is_needless`."""
    with contextlib.closing(Upstream(read_timeout=TIMEOUT_S)) as upstream:
        await asyncio.sleep(INTERVAL_S)
        while not is_needless():
            with contextlib.suppress(UpstreamFailed, ValueError):
                await _get(upstream, address, key, b"/health")
                match parse_json(await _get(upstream, address, key, b"/v1/models")):
                    case {"data": [info, *_]}:
                        return model_info(info)
            await asyncio.sleep(INTERVAL_S)
    return None


async def _get(upstream: Upstream, address: Address, key: str, path: bytes) -> bytes:
    """The body of the answer. Raises UpstreamFailed, also if the answer is an error."""
    answer = await upstream.open(address, key, RequestHead("GET", path, []))
    body = await answer.read_all(MAX_ANSWER_BYTES)
    if answer.status != 200:
        raise UpstreamFailed(f"The model's server refused {path.decode()} with {answer.status}.")
    return body
