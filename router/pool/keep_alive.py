"""How long a model stays loaded without requests.

Three sources, the strongest first: what a request has set (its field `keep_alive`), for as long as the process lives;
the model's preset; the router's default. Only a preset or an operator pins a model (`pins`). A request that wants its
model to stay keeps it from ending by idleness, and it is evicted after all others: one client must not lock the others
out.

Called by `Pool` and `processes`.
"""

from __future__ import annotations

from router.models.spec import ModelSpec


class KeepAlive:
    """`default_ttl` is the idle time in seconds after which a model is stopped if its preset says nothing. None means
    never. `min_loaded` is for how many seconds after its load it is spared by other models then."""

    def __init__(self, default_ttl: float | None, min_loaded: float = 0.0) -> None:
        self._default_ttl = default_ttl
        self._min_loaded = min_loaded
        self.requested: dict[str, float] = {}  # seconds by model, `math.inf` to keep it
        self.pins: dict[str, bool] = {}  # what an operator wants, whatever the presets say
        self.version = 0  # changes with all that `idle_policy` may say

    def __repr__(self) -> str:
        return f"<KeepAlive default {self._default_ttl} s, {len(self.requested)} requested>"

    def request(self, name: str, ttl: float) -> None:
        self.requested[name] = ttl
        self.version += 1

    def drop_request(self, name: str) -> None:
        """The next process is stopped as the preset says."""
        self.requested.pop(name, None)
        self.version += 1

    def pin(self, name: str, pinned: bool | None) -> None:
        """None: as the preset says."""
        self.version += 1
        if pinned is None:
            self.pins.pop(name, None)
        else:
            self.pins[name] = pinned

    def is_pinned(self, spec: ModelSpec) -> bool:
        return self.pins.get(spec.name, spec.pin)

    def idle_policy(self, spec: ModelSpec) -> tuple[float | None, bool, float]:
        """The idle time in seconds after which the model is stopped; whether it is pinned, which protects it from
        eviction too; and for how many seconds after its load it is spared. None is never, `math.inf` is never because
        a request said so."""
        preset = self._default_ttl if spec.ttl is None else spec.ttl if spec.ttl > 0 else None
        min_loaded = self._min_loaded if spec.min_loaded is None else spec.min_loaded
        return self.requested.get(spec.name, preset), self.is_pinned(spec), min_loaded
