"""What a request for a model waits for, as the router tells it: another thread asks while the request is under way."""

from __future__ import annotations

import time

from router.client.session import Session
from router.client.state import State
from router.client.target import Target
from router.errors import RouterError

TIMEOUT_S = 5.0
EVERY_S = 0.4


class Outlook:
    """`text` is the sentence of this moment, with the seconds so far. It has a connection of its own. A router that
    cannot tell costs only the reason."""

    def __init__(self, target: Target, model: str, otherwise: str) -> None:
        """`otherwise` is said while the model is ready, or nothing is known."""
        self._session = Session(target, TIMEOUT_S)
        self._model, self._otherwise = model, otherwise
        self._began = self._asked = time.monotonic()
        self._sentence = otherwise

    def text(self) -> str:
        now = time.monotonic()
        if now - self._asked > EVERY_S:
            self._asked = now
            try:
                state = State.read(self._session.json("GET", "/router/state"))
                self._sentence = state.outlook(self._model) or self._otherwise
            except RouterError:
                self._sentence = self._otherwise
        return f"{self._sentence} ({time.monotonic() - self._began:.0f} s)"

    def close(self) -> None:
        self._session.close()
