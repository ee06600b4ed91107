"""Variables of the environment that set nothing are told, with the name that was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from router import settings, variables
from router.engine.flags import FlagTable, default_table
from router.errors import FlagError
from router.settings import OPTIONS
from tests.conftest import Starter
from tests.routers import FAKE
from tests.shell import Shell

TABLE = default_table()


def found(*names: str, table: FlagTable = TABLE) -> dict[str, str | None]:
    told = variables.without_effect(dict.fromkeys(names, "1"), OPTIONS, table)
    return {finding.name: finding.nearest for finding in told}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LLAMA_ROUTER_MODELS_TLL", "LLAMA_ROUTER_MODELS_TTL"),
        ("LLAMA_ROUTER_MODELS_MAX", "LLAMA_ARG_MODELS_MAX"),
        ("LLAMA_ROUTER_PORT", "LLAMA_ARG_PORT"),
        ("LLAMA_ROUTER_HOSTS", "LLAMA_ARG_HOST"),
        ("LLAMA_ARG_MODELS_TTL", "LLAMA_ROUTER_MODELS_TTL"),
        ("LLAMA_ROUTER_models_ttl", "LLAMA_ROUTER_MODELS_TTL"),
        ("LLAMA_ARG_CTX_SZIE", "LLAMA_ARG_CTX_SIZE"),
        ("LLAMA_ROUTER_XYZZY", None),
        ("LLAMA_ARG_", None),
        ("LLAMA_ROUTER_", None),
    ],
)
def test_a_name_that_is_none(name: str, meant: str | None) -> None:
    assert found(name) == {name: meant}


def test_names_that_are_right_or_of_other_programs() -> None:
    own = [name for option in OPTIONS for name in option.variables]
    engines = [flag.env for flag in TABLE.flags if flag.env and flag.env not in own]
    told = found(*own, *engines, "LLAMA_CACHE", "LLAMA_SERVER_PATH", "LLAMA_ROUTER_RUN", "HOME", "MY_LLAMA_ARG_X")
    assert set(told) <= {"LLAMA_ARG_CORS_METHODS", "LLAMA_ARG_CORS_HEADERS", "LLAMA_ARG_CORS_CREDENTIALS"} | {
        name for name in told if "UI" in name
    }
    # An engine that lacks a flag does not make its variable a mistake: another engine has it.
    assert not found("LLAMA_ARG_CTX_SIZE", "LLAMA_ARG_MODELS_MEMORY_MARGIN", table=FlagTable([]))


def test_what_a_router_does_not_obey_is_told() -> None:
    (one,) = variables.without_effect({"LLAMA_ARG_CORS_METHODS": "GET"}, OPTIONS, TABLE)
    assert one.message == "LLAMA_ARG_CORS_METHODS has no effect on a router"


@pytest.mark.parametrize(
    "name",
    [
        *("LLAMA_ROUTER_API_KEY", "LLAMA_ARG_API_KEY", "LLAMA_ARG_ADMIN_KEY", "LLAMA_ROUTER_API_KEYS"),
        *("LLAMA_ROUTER_APIKEY", "LLAMA_ROUTER_API-KEY", "LLAMA_ROUTER_API_KYE", "LLAMA_ROUTER_KEY"),
        *("LLAMA_ROUTER_ADMINKEY", "LLAMA_ROUTER_ADMIN_KEYS", "LLAMA_ADMIN_KEY", "llama_router_admin_key"),
    ],
)
def test_a_wrong_name_for_a_key_would_leave_the_router_open(name: str) -> None:
    with pytest.raises(FlagError, match=r"the router would be open: call it LLAMA_(API|ROUTER_ADMIN)_KEY"):
        found(name)


@pytest.mark.parametrize(
    "name",
    [
        *("LLAMA_ROUTER_SSL_CERT_FILE", "LLAMA_ROUTER_SSL_CERT", "LLAMA_API_KEY_FILE", "LLAMA_ROUTER_API_KEYFILE"),
        *("LLAMA_ADMIN_KEY_FILE", "LLAMA_ARG_ADMIN_KEYS_FILE"),
    ],
)
def test_a_wrong_name_for_a_file_of_keys_does_too(name: str) -> None:
    with pytest.raises(FlagError, match=r"the router would be open: call it LLAMA_(ARG|ROUTER)_[A-Z_]+_FILE"):
        found(name)


def test_keys_of_other_programs_are_none_of_ours() -> None:
    assert not found("LLAMA_CLOUD_API_KEY", "LLAMA_STACK_API_KEY", "LLAMA_API_KEY", "LLAMAAPI_KEY", "API_KEY")


def test_names_are_shown_as_one_line_and_not_for_ever() -> None:
    (one,) = variables.without_effect({f"LLAMA_ROUTER_\n\x1b[2J{'X' * 5000}": "s3cret"}, OPTIONS, TABLE)
    assert one.message.isprintable()
    assert len(one.message) < 300
    assert "s3cret" not in one.message


def test_a_start_warns_and_goes_on(routers: Starter, tiny_models: Path) -> None:
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), LLAMA_ROUTER_MODELS_MXA="1")
    assert "LLAMA_ROUTER_MODELS_MXA is no variable of this router or of its engine; did you mean" in router.log
    assert router.client.get("/health").status_code == 200


def test_a_start_refuses_a_wrong_name_for_a_key(shell: Shell) -> None:
    assert "call it LLAMA_API_KEY" in shell.refuses(LLAMA_ROUTER_API_KEY="k")


def test_the_margin_has_two_variables() -> None:
    def margin(**environ: str) -> tuple[int, ...]:
        return settings.parse([], environ, TABLE)[0].models_memory_margin

    assert margin(LLAMA_ARG_MODELS_MEMORY_MARGIN="5,6") == (5, 6)
    assert margin(LLAMA_ARG_MODELS_MEMORY_MARGIN="5", LLAMA_ROUTER_MODELS_MEMORY_MARGIN="7") == (7,)
    assert margin(LLAMA_ARG_MODELS_MEMORY_MARGIN="5", LLAMA_ROUTER_MODELS_MEMORY_MARGIN="") == (5,)
    with pytest.raises(FlagError, match="LLAMA_ARG_MODELS_MEMORY_MARGIN takes MiB"):
        margin(LLAMA_ARG_MODELS_MEMORY_MARGIN="many")
