"""The table of transitions, every pair of it."""

from __future__ import annotations

from itertools import product

import pytest

from router.scheduling.books import Books
from router.scheduling.states import TRANSITIONS, Event, IllegalTransition, State


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_state_and_event(state: State, event: Event) -> None:
    books = Books()
    model = books.open("a")
    model.state = state
    if (state, event) in TRANSITIONS:
        books.transit(model, event)
        assert model.state is TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalTransition, match=f"^a: .*'{event.value}' in state '{state.value}'"):
            books.transit(model, event)
        assert model.state is state


def test_a_process_comes_to_an_end_from_every_state_in_which_there_is_one() -> None:
    alive = {State.LOADING, State.LOADED, State.SLEEPING, State.STOPPING}
    assert {state for state in State if (state, Event.EXIT) in TRANSITIONS} == alive | {State.DOWNLOADING}
    assert {state for state in State if (state, Event.SPAWN) in TRANSITIONS} == {State.UNLOADED, State.FAILED}
