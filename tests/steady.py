"""Clients that ask at a steady rate, whatever becomes of their requests: for restarts under load."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.routers import chat
from tests.waiting import PATIENCE_S

RATE = 4.0  # requests a second of each client


class SteadyClient:
    """Asks RATE times a second, whatever becomes of the requests before: over a new connection each, or over one that
    is kept. `codes` are the statuses, or what went wrong; `longest` is the longest wait for an answer, in seconds."""

    def __init__(self, url: str, *, keeps: bool, models: tuple[str, ...]) -> None:
        self.codes: list[object] = []
        self.longest = 0.0
        self._url, self._keeps, self._models = url, keeps, models
        self._end = threading.Event()
        # A connection carries one request at a time, so this client waits for each answer.
        self._pool = ThreadPoolExecutor(1 if keeps else 64)
        self._kept = httpx.Client(timeout=PATIENCE_S) if keeps else None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> SteadyClient:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()
        self._pool.shutdown()
        if self._kept:
            self._kept.close()

    def _run(self) -> None:
        count = 0
        while not self._end.wait(1 / RATE):
            asked = self._pool.submit(self._ask, self._models[count % len(self._models)])
            if self._keeps:
                asked.result()
            count += 1

    def _ask(self, model: str) -> None:
        began = time.monotonic()
        try:
            post = self._kept.post if self._kept else httpx.post
            answer = post(f"{self._url}/v1/chat/completions", json=chat(model), timeout=PATIENCE_S)
            self.codes.append(answer.status_code)
        except httpx.HTTPError as error:
            self.codes.append(repr(error))
        self.longest = max(self.longest, time.monotonic() - began)

    @property
    def failed(self) -> int:
        return sum(code != 200 for code in self.codes)
