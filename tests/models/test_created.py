"""Names and models that clients made, in their file."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path

import pytest

from router.engine.flags import value_of
from router.errors import InvalidRequest
from router.models.catalog import Catalog
from router.models.created import MAX_NAMES, Created, CreatedStore, default_path, file_name
from router.models.folder import FoundModel
from router.models.spec import Filters, ModelSpec
from tests.models.rig import TABLE

DIGEST = "0123456789abcdef" * 4
MINE = Created(
    "Mine",
    "m",
    5.0,
    "Be brief.",
    {"num_predict": 2},
    {"n_predict": 2},
    ({"role": "user", "content": "hi"},),
    ("MIT",),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "created.json"


def test_names_live_past_a_restart_in_a_private_file(path: Path) -> None:  # B-C13
    store = CreatedStore(path)
    store.put(MINE)
    store.put(Created("own", "", 6.0, digests=(DIGEST,), template="{{ messages }}"))
    store.save()
    again = CreatedStore(path)
    assert [each.name for each in again] == ["Mine", "own"]
    found = again.get("mINE:Latest")
    assert found
    assert (found.system, found.parameters, list(found.messages)) == (MINE.system, MINE.parameters, [*MINE.messages])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]
    again.remove("MINE")
    again.save()
    assert [each.name for each in CreatedStore(path)] == ["own"]


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", '{"names": 1}', '{"names": [1]}', '{"names": [{"name": "x"}]}', "[" * 100_000, "\x00"),
        json.dumps({"names": [{"name": "x", "model": "m", "created_at": "yesterday"}]}),
    ],
    ids=range(9),
)
def test_a_spoilt_file_is_put_aside(path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:  # B-T8
    path.parent.mkdir()
    path.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert not CreatedStore(path)
    assert "created.json.bad" in caplog.text
    assert path.with_name("created.json.bad").read_text() == content


def test_a_digest_leads_out_of_no_folder(path: Path) -> None:
    store = CreatedStore(path)
    store.put(Created("evil", "", 1.0, digests=("../../etc/passwd",)))
    store.save()
    assert not CreatedStore(path)


def test_two_routers_keep_each_others_names(path: Path) -> None:
    one, two = CreatedStore(path), CreatedStore(path)
    one.put(MINE)
    one.put(Created("of-file", "", 0.0, digests=(DIGEST,)))
    one.save()
    two.put(Created("yours", "m", 0.0))
    two.save()
    assert {each.name for each in CreatedStore(path)} == {"Mine", "of-file", "yours"}
    assert two.used_digests() == {DIGEST}, "so no file of the other is removed"
    one.remove("mine")
    one.save()
    assert {each.name for each in CreatedStore(path)} == {"of-file", "yours"}


def test_a_file_that_cannot_be_written_costs_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.write_text("in the way")
    store = CreatedStore()
    store.put(MINE)
    store.save()
    assert not caplog.text
    blocked = CreatedStore(path.parent / "x.json")
    blocked.put(MINE)
    with caplog.at_level(logging.WARNING):
        blocked.save()
    assert "not kept" in caplog.text
    assert blocked.get("mine") is MINE


def test_the_number_of_names_is_bounded() -> None:  # B-T5
    store = CreatedStore()
    for number in range(MAX_NAMES):
        store.put(Created(f"m{number}", "m", 0.0))
    with pytest.raises(InvalidRequest, match="delete one"):
        store.put(Created("more", "m", 0.0))
    store.put(Created("M0", "other", 0.0))


def test_a_name_adds_its_prompt_and_parameters_below_those_of_the_request() -> None:  # B-C13
    forced = (("seed", "1"),)
    spec = ModelSpec("m", "cache", (), filters=Filters(forced, (("n_predict", "9"), ("top_k", "3"))))
    store = CreatedStore()
    store.put(MINE)
    catalog = Catalog([spec, ModelSpec("other", "cache", ())])
    found = store.resolve(catalog, "mine:latest")
    assert found is not None
    assert found.name == "m"
    assert found.filters == Filters(
        forced,
        (("n_predict", "2"), ("top_k", "3")),
        default_system="Be brief.",
        messages='[{"role": "user", "content": "hi"}]',
    )
    assert store.resolve(catalog, "MINE") is found, "made once"
    assert store.resolve(catalog, "nobody") is None
    assert store.resolve(Catalog([catalog.resolve("other")]), "mine") is None, "its model is gone"
    assert store.of_request(spec) is spec


def test_models_of_files_and_templates_join_the_catalog(path: Path) -> None:  # B-C13
    store = CreatedStore(path)
    assert store.folder
    store.put(Created("of-file", "", 0.0, parameters={"num_ctx": 512}, digests=(DIGEST,), template="{{ messages }}"))
    store.put(Created("other-words", "m", 0.0, template="{% if messages %}{% endif %}"))
    store.put(Created("wide", "m", 0.0, parameters={"num_ctx": 4096}))
    store.put(Created("taken", "m", 0.0, template="{{ messages }}"))
    store.put(Created("orphan", "gone", 0.0, template="{{ messages }}"))
    assert store.found_models() == {"of-file": FoundModel("models_dir", store.folder / file_name(DIGEST))}
    base = Catalog(
        [
            ModelSpec("m", "cache", (), pin=True, aliases=("alias",), load_on_startup=True),
            ModelSpec("taken", "preset", ()),
            ModelSpec("of-file", "models_dir", (), store.folder / file_name(DIGEST)),
        ]
    )
    catalog = store.add_models(base, TABLE)
    assert [spec.name for spec in catalog.models] == ["m", "taken", "of-file", "other-words", "wide"]
    assert value_of(catalog.resolve("wide").args, "--ctx-size") == "4096"
    own, copy = catalog.resolve("of-file"), catalog.resolve("other-words")
    assert (own.template, value_of(own.args, "--ctx-size")) == ("{{ messages }}", "512")
    assert (copy.pin, copy.load_on_startup, copy.aliases) == (False, False, ())
    made = {spec.name: store.made(spec) is not None for spec in catalog.models}
    assert made == {"m": False, "taken": False, "of-file": True, "other-words": True, "wide": True}


def test_the_only_model_stays_the_default(path: Path) -> None:  # B-C1
    store = CreatedStore(path)
    store.put(Created("other-words", "m", 0.0, template="{{ messages }}"))
    catalog = store.add_models(Catalog([ModelSpec("m", "cache", ())]), TABLE)
    assert len(catalog) == 2
    assert catalog.resolve(None).name == "m"


def test_the_file_is_in_the_users_folder_for_data() -> None:
    assert default_path({"XDG_DATA_HOME": "/d"}) == Path("/d/llama-router/created.json")
    assert default_path({}).parts[-4:] == (".local", "share", "llama-router", "created.json")
