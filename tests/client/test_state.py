"""The router's state in words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.client import ps
from router.client.state import Model, State, duration

MIB, GIB = 2**20, 2**30

STATE: dict[str, Any] = {
    "seq": 7,
    "totals": {"running": 4, "waiting": 3, "tokens_per_second": 61.25},
    "devices": [
        {
            "key": "GPU0",
            "label": "CUDA0",
            "name": "NVIDIA X",
            "total": 24 * GIB,
            "free": 8 * GIB,
            "held": [{"model": "coder", "bytes": 14 * GIB, "phase": "loaded"}],
        },
        {"key": "RAM", "label": "RAM", "total": 64 * GIB, "free": 60 * GIB, "held": []},
    ],
    "models": [
        {
            "id": "coder",
            "aliases": ["code"],
            "state": "loaded",
            "leases": 3,
            "waiting": 1,
            "context": 32768,
            "expires_in": 95.0,
            "pid": 4711,
            "held": {"GPU0": 14 * GIB, "RAM": 300 * MIB},
            "tokens_per_second": 41.26,
        },
        {"id": "vision", "state": "loading", "progress": 0.45, "eta": 3.2, "waiting": 2},
        {"id": "old", "state": "unloaded"},
        {"id": "bad", "state": "unloaded", "error": "no luck", "retry_in": 8.0},
        {"id": "going", "state": "unloaded", "stopping": True},
    ],
    "queue": [
        {
            "position": 1,
            "model": "big",
            "requests": 2,
            "waited": 12.3,
            "why": {"kind": "drain", "text": "waits for coder to finish 3 requests"},
        }
    ],
}


def test_ps_shows_what_runs_what_waits_and_why() -> None:
    lines = ps.plain(State.read(STATE))
    assert [" ".join(line.split()) for line in lines[:5]] == [
        "MODEL STATE MEMORY CONTEXT REQUESTS TTL PID TOKENS/S",
        "coder loaded CUDA0 14.0 GiB, RAM 300 MiB 32768 3 running, 1 waiting 95 s 4711 41.3",
        "vision loading 45%, 3 s left - - 2 waiting - - -",
        "bad failed, again in 8 s - - - - - -",
        "going stopping - - - - - -",
    ]
    assert len(set(map(len, lines[:5]))) == 1, "the last column stands on the right"
    assert lines[6:] == [
        "big: 2 requests for 12 s: waits for coder to finish 3 requests",
        "bad: no luck",
        "CUDA0 8.0 GiB of 24.0 GiB free, RAM 60.0 GiB of 64.0 GiB free",
        "4 running, 3 waiting, 61.2 tokens/s",
    ]
    assert any(line.startswith("old ") for line in ps.plain(State.read(STATE), shows_all=True))


def test_what_a_request_waits_for() -> None:
    state = State.read(STATE)
    assert state.outlook("big") == "big waits for coder to finish 3 requests"
    assert state.outlook("vision") == "vision: loading 45%, 3 s left"
    assert state.outlook("coder") == state.outlook("code") == state.outlook("unheard") == ""
    draining = State([Model("a", "loaded", is_draining=True)])
    assert draining.outlook("a") == "a finishes what it has, and then makes room for another model"


def test_without_anything() -> None:
    assert ps.plain(State.read({})) == ["no model runs", "", "no device", "0 running, 0 waiting"]


def test_what_is_written_on_each_device_is_known_by_the_devices_too() -> None:
    fields = {**STATE, "models": [{"id": "coder", "state": "loaded"}]}
    assert State.read(fields).models[0].held == {"CUDA0": 14 * GIB}


def test_hostile_names_are_shown_and_not_obeyed() -> None:
    fields = {
        "models": [{"id": "a\x1b]52;c;QUJD\x07\n", "state": "loaded"}],
        "queue": [{"model": "\x9b2J", "why": "x"}],
    }
    text = "\n".join(ps.plain(State.read(fields)))
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert r"a\x1b]52;c;QUJD\x07\n" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (-1, "0 s"), (95.0, "95 s"), (300, "5 min"), (10_000, "3 h")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*STATE, *STATE["models"][0]]), inner),
    max_leaves=12,
)


def test_numbers_without_an_end_are_none() -> None:
    fields = {"models": [{"id": "a", "leases": float("inf"), "pid": float("nan"), "context": 1e300}]}
    assert "a" in ps.plain(State.read(fields), shows_all=True)[1]


@given(st.dictionaries(st.sampled_from(list(STATE)), json_values))
def test_whatever_a_router_says_is_shown(fields: dict[str, Any]) -> None:
    ps.plain(State.read(fields), shows_all=True)
