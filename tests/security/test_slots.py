"""A client saves and restores slots only in the folder that the operator configured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.api.dialects import OPENAI
from router.api.slots import Slots, action
from router.engine import flags
from router.memory.need import Need
from router.models.catalog import Catalog
from router.models.spec import ModelSpec
from router.pool.pool import Pool
from router.proxy.endpoints import ModelFromBody
from router.proxy.gateway import Gateway
from router.proxy.head import Head
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from router.wire.upstream import Upstream
from tests.conftest import Starter
from tests.fakes import FakeNode
from tests.routers import ENGINES, Router
from tests.security.test_load_args import TABLE

NAMES = ("s.bin", "a", "a b.bin", "ü.bin", "x" * 128, "a-b_c.d")


BAD_NAMES: list[object] = [
    *("../x", "/etc/passwd", "a/b", "a\\b", "..", ".", ".hidden", "a..b", "a\0b", "a\nb", "x" * 129, "", "C:x"),
    *("ü" * 65, "a/", "a\x7f", "a\u2028b", "\ud800", "a.", "a ", " a", "-a", "a*", 'a"', "a|b", "\u202ea"),
    *(None, 5, ["a"], {}),
]


def slot(router: Router, query: str, body: Any = None, model: str = "saves", **more: Any) -> httpx.Response:
    content = body if isinstance(body, bytes | None) else json.dumps({"model": model, **body}).encode()
    return router.client.post(httpx.URL(f"{router.url}/slots/0?{query}"), content=content, **more)


def test_slots_are_saved_in_the_configured_folder(router: Router) -> None:  # B-T2
    for verb in ("save", "restore"):
        for name in NAMES:
            answer = slot(router, f"action={verb}", {"filename": name})
            assert answer.status_code == 200, answer.text
            assert json.loads(answer.json()["body"])["filename"] == name
        for bad in BAD_NAMES:
            answer = slot(router, f"action={verb}", {"filename": bad})
            assert (bad, answer.status_code) == (bad, 400)
            assert "filename" in answer.json()["error"]["message"]
        for raw in (b"", b"x", b"[]", b'{"filename": "a", "filename": "b"}', b'{"filename": "a"}' + b" " * 2**17):
            assert slot(router, f"action={verb}&model=saves", raw).status_code == 400
        form = b'--b\r\nContent-Disposition: form-data; name="filename"\r\n\r\n../x\r\n--b--\r\n'
        kind = {"content-type": "multipart/form-data; boundary=b"}
        assert slot(router, f"action={verb}&model=saves", form, headers=kind).status_code == 400


def test_slots_are_not_saved_without_a_folder(router: Router) -> None:  # B-T2
    for verb in ("save", "restore"):
        answer = slot(router, f"action={verb}", {"filename": "s.bin"}, "plain")
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
        assert "--slot-save-path" in answer.json()["error"]["message"]
    for model in ("saves", "plain"):
        assert slot(router, "action=erase", {}, model).status_code == 200
        assert slot(router, f"action=erase&model={model}").status_code == 200


def test_ambiguous_query_is_refused(router: Router) -> None:  # B-T2
    for query in (
        *("action=erase&action=save", "action=save&action=erase", "action=save&action=save", "Action=save"),
        *("action=SAVE", "%61ction=save", "action=%73ave", "action=s%61ve", "action=save%00", "action%00=save"),
        *("action+=save", "+action=save", "action=+save", "action=save&ACTION=x", "action=erase;action=save"),
        *("x=1;action=save", "action", "action=", "action=copy", "action=erase&%41ction=save", "action=save&x=1;y=2"),
    ):
        answer = slot(router, query, {"filename": "../../x"}, "plain")
        assert (query, answer.status_code) == (query, 400)
    for target in (b"/slots/0", b"/slots/0?x=1", b"/slots/0?model=action", b"/slots/0?xaction=save", b"/slots/0?&&="):
        assert action(target) is None
    assert action(b"/slots/0?model=a&action=restore") == "restore"


KINDS = ("application/x-www-form-urlencoded", "application/x-www-form-urlencoded; charset=utf-8", "X-URLENCODED")


@pytest.mark.parametrize("engine", ["fake", "llama-server"])
def test_form_body_cannot_choose_the_action(
    engine: str, fake: str, routers: Starter, tiny_models: Path, tmp_path: Path
) -> None:  # B-T2
    """cpp-httplib takes the fields of a form for those of the query, and JSON may be read as a form."""
    file, folder = tmp_path / "presets.ini", tmp_path / "slots"
    folder.mkdir()
    file.write_text(f"[saves]\nmodel = {tiny_models}/tiny-a.gguf\nslot-save-path = {folder}\n")
    router = routers("--engine", fake if engine == "fake" else ENGINES[engine](), "--models-preset", str(file))
    for named in ("action", "Action", "%61ction", "+action"):
        body = json.dumps({"model": "saves", "filename": ".odd", "x": f"&{named}=save&y="}).encode()
        for kind in KINDS:
            for query in ("", "action=erase", "action=save"):
                answer = slot(router, query, body, headers={"content-type": kind})
                assert (query, answer.status_code) == (query, 400)
    assert list(folder.iterdir()) == []
    for kind in KINDS:  # curl -d
        for verb in ("save", "restore", "erase"):
            answer = slot(router, f"action={verb}", {"filename": "plain"}, headers={"content-type": kind})
            assert answer.status_code == 200, answer.text
    large = b'{"model": "saves", "x": "' + b"&" * 2**20 + b'"}'
    assert slot(router, "action=erase", large, headers={"content-type": KINDS[0]}).status_code == 400


async def test_fast_path_leaves_refusals_to_the_ordinary_way() -> None:  # B-T2
    """Refusals are made on the ordinary way alone."""
    spec = ModelSpec("a", "models_dir", flags.parse(("--model", "a.gguf"), TABLE))
    pool = Pool(Catalog([spec]), [FakeNode()], Limits(margins={"local/RAM": 0}), lambda spec: Need(Demand(host=1)))
    gateway, upstream = None, Upstream()
    try:
        gateway = Gateway(pool, upstream)
        (await pool.lease(spec)).release()
        endpoint = ModelFromBody(gateway, OPENAI, check=Slots(pool).check)
        body = b'{"model": "a", "filename": "s"}'
        for query, is_passed in ((b"save", False), (b"restore", False), (b"erase", True)):
            head = Head("POST", "/slots/0", b"/slots/0?action=" + query, [(b"content-type", b"application/json")])
            request = endpoint.try_now(head, body)
            assert (query, request is not None) == (query, is_passed)
            if request is not None:
                request.abort()
    finally:
        await pool.close()
        upstream.close()
