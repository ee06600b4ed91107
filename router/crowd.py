"""People who use a router all the time, so that there is something to see: for `llama-router demo --busy`.

Each person is a thread that asks a model, reads the answer, waits a while, and asks again. The hours change: it is
quiet first, then there is a rush, so that models come and go, requests wait for room, and some are given up. Nothing
is staged: what the page shows is what a router does with such a load. Ends with `stop`, or with the router.
"""

from __future__ import annotations

import http.client
import json
import random
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from urllib.parse import urlsplit

TIMEOUT_S = 120.0
HOURS_S = 20.0  # each of these takes so long
HOURS = (0.5, 1.0, 3.0, 1.5, 4.0, 0.7)  # how much is asked, against the usual
CONTROL = "Write on."


@dataclass(frozen=True, slots=True)
class Person:
    """`models` are asked in turn, for `tokens` (least and most), with about `pause` seconds between.

    `headers` are sent too. Of ten answers, `given_up` are not read to their end."""

    name: str
    models: tuple[str, ...]
    tokens: tuple[int, int] = (40, 200)
    pause: float = 4.0
    headers: tuple[tuple[str, str], ...] = ()
    given_up: int = 0


@dataclass(frozen=True, slots=True)
class Size:
    """Of a model of the demo."""

    layers: int
    width: int
    context: int = 4096


# From 1 to 80 MB of weights: the larger ones write for some seconds.
MODELS: Mapping[str, Size] = {
    "chat-small": Size(4, 128),
    "coder": Size(6, 384),
    "embedder": Size(2, 64, 1024),
    "summarizer": Size(6, 256),
    "writer-large": Size(6, 512),
}
# The models take about 580 MiB together, and there is room for three of them. Ctrl-C waits for nobody for long.
ROOM = (
    *("--models-max", "0", "--models-memory-limit", "480", "--models-memory-margin", "16", "--models-cache-ram", "32"),
    *("--models-drain-grace", "3", "--task-grace", "5", "--shutdown-grace", "1", "--threads", "1", "--parallel", "4"),
)
PEOPLE = (
    Person("ana", ("chat-small", "chat-small", "writer-large"), pause=3.0, given_up=1),
    Person("ben", ("coder",), tokens=(200, 900), pause=5.0),
    Person("cleo", ("coder", "coder", "chat-small"), tokens=(100, 400), pause=6.0),
    Person("dan", ("writer-large",), tokens=(300, 900), pause=15.0, given_up=3),
    Person("nightly", ("summarizer", "embedder"), tokens=(20, 120), pause=2.0, headers=(("X-Task", "nightly"),)),
    Person("eve", ("chat-small", "nobody-has-this"), tokens=(20, 60), pause=12.0),
)


class Crowd:
    """`people` at the router that listens on `url`. Example::

    crowd = Crowd("http://127.0.0.1:8080")
    crowd.start()
    ...
    crowd.stop()
    """

    def __init__(self, url: str, people: Sequence[Person] = PEOPLE, key: str = "", seed: int = 1) -> None:
        self._url = urlsplit(url)
        self._people, self._key, self._seed = people, key, seed
        self._is_over = threading.Event()
        self._begun = time.monotonic()
        self._threads: list[threading.Thread] = []

    def __repr__(self) -> str:
        return f"<Crowd of {len(self._people)}{', gone' if self._is_over.is_set() else ''}>"

    def start(self) -> None:
        for number, person in enumerate(self._people):
            dice = random.Random(self._seed + number)
            self._threads.append(threading.Thread(target=self._live, args=(person, dice), daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """Nobody asks anything more. Answers that are under way are left to themselves."""
        self._is_over.set()

    def wait(self, seconds: float) -> None:
        for thread in self._threads:
            thread.join(seconds)

    def _live(self, person: Person, dice: random.Random) -> None:
        models = cycle(person.models)
        self._is_over.wait(dice.uniform(0, person.pause))
        while not self._is_over.is_set():
            try:
                self._ask(person, next(models), dice)
            except (OSError, http.client.HTTPException):
                if not self._is_answered():
                    return  # the router has ended
            rush = HOURS[int((time.monotonic() - self._begun) / HOURS_S) % len(HOURS)]
            self._is_over.wait(person.pause / rush * dice.uniform(0.5, 1.5))

    def _ask(self, person: Person, model: str, dice: random.Random) -> None:
        tokens = dice.randint(*person.tokens)
        most = dice.randint(1, tokens) if dice.randrange(10) < person.given_up else tokens
        body = {
            "model": model,
            "stream": True,
            "max_tokens": tokens,
            "messages": [{"role": "user", "content": " ".join([person.name, CONTROL] * dice.randint(1, 20))}],
        }
        connection = self._connection()
        try:
            own = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            headers = {"Content-Type": "application/json", "User-Agent": person.name, **own, **dict(person.headers)}
            path = f"{self._url.path.rstrip('/')}/v1/chat/completions"
            connection.request("POST", path, json.dumps(body).encode(), headers)
            for count, _ in enumerate(_events(connection.getresponse())):
                if count >= most or self._is_over.is_set():
                    return
        finally:
            connection.close()

    def _is_answered(self) -> bool:
        connection = self._connection()
        try:
            connection.request("GET", f"{self._url.path.rstrip('/')}/livez")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        place = self._url.netloc
        if self._url.scheme == "https":  # its certificate is this machine's own
            return http.client.HTTPSConnection(place, timeout=TIMEOUT_S, context=ssl._create_unverified_context())
        return http.client.HTTPConnection(place, timeout=TIMEOUT_S)


def _events(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while line := answer.readline():
        if line.startswith(b"data: "):
            yield line


def instructions(url: str) -> str:
    """What a person can open next."""
    return "\n".join(
        (
            f"Five tiny models with random weights, and {len(PEOPLE)} people who use them. There is room for three.",
            "",
            f"Watch them:  {url}/router",
            f"Join in:     {url}/",
            "",
            "Ctrl-C ends it.",
            "",
        )
    )
