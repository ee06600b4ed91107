"""A pool on a machine without processes, for tests of the pool and of what stands on it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from router import errors
from router.engine import flags
from router.hub.progress import DownloadProgress
from router.memory.need import Need
from router.models.catalog import Catalog
from router.models.spec import ModelSpec
from router.pool.download_source import CheckHeader, OnProgress
from router.pool.lease import Lease
from router.pool.pool import Pool
from router.pool.settings_loads import Loaded
from router.pool.settings_patch import read_patch
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from router.scheduling.states import State
from tests.fakes import GIB, FakeChild, FakeNode
from tests.waiting import eventually

RAM, CUDA = "local/RAM", "local/CUDA0"
TABLE = flags.default_table()


def spec(name: str, *argv: str, **more: Any) -> ModelSpec:
    """A model whose own settings are these arguments."""
    return ModelSpec(name, "models_dir", flags.parse(argv, TABLE), **more)


async def refused(request: Awaitable[object], error: type[errors.RouterError]) -> errors.RouterError:
    with pytest.raises(error) as caught:
        await request
    return caught.value


def _always(host: int) -> Callable[[ModelSpec], Need]:
    return lambda _: Need(Demand(host=host))


class Bench:
    """A pool over a fake node with 64 GiB. A model needs 30 GiB, so that two fit; `need` says otherwise."""

    def __init__(
        self,
        *models: str | ModelSpec,
        need: int | Callable[[ModelSpec], Need] = 30 * GIB,
        held: int = 30 * GIB,
        limits: Limits | None = None,
        **more: Any,
    ) -> None:
        self.specs = {each.name: each for each in (spec(m) if isinstance(m, str) else m for m in models)}
        estimate = need if callable(need) else _always(need)
        held = held if callable(need) else need
        self.node = FakeNode(held={name: {RAM: held} for name in self.specs})
        limits = limits or Limits(margins={RAM: GIB}, drain_grace=0.05)
        self.pool = Pool(Catalog(tuple(self.specs.values())), [self.node], limits, estimate, **more)
        self.requests: list[asyncio.Task[Any]] = []
        self.leases: list[Lease] = []  # both are a test's own

    async def lease(self, name: str) -> Lease:
        return await self.pool.lease(self.pool.catalog.resolve(name))

    async def use(self, name: str = "a", seconds: float = 0.0) -> FakeChild:
        lease = await self.lease(name)
        try:
            await asyncio.sleep(seconds)
        finally:
            lease.release()
        return self.node.of(name)

    def state(self, name: str) -> State:
        return self.pool.state(name)

    async def until_gone(self, name: str) -> float:
        """Sleeps until the model is unloaded; the time of the loop then."""
        while self.state(name) is not State.UNLOADED:
            await asyncio.sleep(0.25)
        return asyncio.get_running_loop().time()

    def is_open(self, name: str) -> bool:
        """Whether a lease of it can be had at once; the lease is given back."""
        lease = self.pool.lease_at_once(self.specs[name], used=False)
        if lease:
            lease.release()
        return lease is not None


B = TypeVar("B", bound=Bench)


@contextlib.asynccontextmanager
async def closing(made: B) -> AsyncIterator[B]:
    try:
        yield made
    finally:
        for child in made.node.alive:
            child.load()
            child.may_stop.set()
        await made.pool.close()
        await asyncio.gather(*made.requests, return_exceptions=True)  # else a later test is told of their errors
        assert not made.node.alive


def bench(*models: str | ModelSpec, **more: Any) -> contextlib.AbstractAsyncContextManager[Bench]:
    return closing(Bench(*models, **more))


# Loads with settings

HUGE = 2**30  # a context that does not fit at all
BAD = 2**20  # a context with which the need cannot be estimated
ODD = 2**19  # a context that the engine would refuse


def model(name: str, *argv: str, **more: Any) -> ModelSpec:
    """With a file of its own."""
    return spec(name, "--model", f"{name}.gguf", *argv, **more)


def need_of(spec: ModelSpec) -> Need:
    context = int(flags.value_of(spec.args, "--ctx-size") or 0)
    if context == BAD:
        raise errors.LoadFailed("this context cannot be estimated")
    if context == ODD:
        raise errors.SettingsRefused(spec.name, "too odd")
    return Need(Demand(host=100 * GIB if context >= HUGE else 10 * GIB + context))


class SettingsBench(Bench):
    """Six models fit. Estimates can be made to wait."""

    def __init__(self, *models: ModelSpec, health_timeout: float = 0.0, **limits: Any) -> None:
        bounds = Limits(**{"margins": {RAM: GIB}, "drain_grace": 0.05, **limits})
        super().__init__(*models, need=self._need, held=10 * GIB, limits=bounds, health_timeout=health_timeout)
        self.estimating = 0  # that many estimates are made to wait
        self._estimates = threading.Event()
        self._estimates.set()
        self.need: Callable[[ModelSpec], int] | None = None  # in bytes, if a test says so

    def _need(self, spec: ModelSpec) -> Need:
        if not (estimates := self._estimates).is_set():
            self.estimating += 1
            estimates.wait(5)
            self.estimating -= 1
        return Need(Demand(host=self.need(spec))) if self.need else need_of(spec)

    def slow_estimates(self) -> threading.Event:
        """From now on they wait for this event."""
        self._estimates = threading.Event()
        return self._estimates

    def fast_estimates(self) -> None:
        """From now on; those that wait go on waiting."""
        self.slow_estimates().set()

    async def load(self, name: str = "a", **body: Any) -> Loaded:
        return await self.pool.settings.load(name, read_patch(body, TABLE))

    async def begin_load(self, name: str = "a", **body: Any) -> asyncio.Task[Loaded]:
        """A load whose process has been started. From now on each process loads, or dies, when the test says so."""
        self.node.autoload = False
        before = self.node.loads()
        load = asyncio.create_task(self.load(name, **body))
        await eventually(lambda: self.node.loads() == before + 1)
        return load

    def argv(self, name: str = "a") -> list[str]:
        """Of the youngest process, without what says which model it is."""
        return list(self.node.of(name).launch.args[2:])


def settings_bench(*models: ModelSpec, **limits: Any) -> contextlib.AbstractAsyncContextManager[SettingsBench]:
    return closing(SettingsBench(*(models or (model("a"),)), **limits))


# Downloads


class FakeHub:
    """Has a model's files arrive when the test says so; `catalog` is what the pool's is then."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.gates: dict[str, asyncio.Future[None]] = {}
        self.begun: list[str] = []
        self.forgotten: list[str] = []
        self.on_progress: OnProgress = lambda file: None
        self.has_ended = False

    async def fetch(self, spec: ModelSpec, on_progress: OnProgress, check_header: CheckHeader) -> None:
        self.begun.append(spec.name)
        self.on_progress = on_progress
        on_progress(DownloadProgress("http://hub/file", 5, 10, "0" * 64))
        gate = self.gates[spec.name] = asyncio.get_running_loop().create_future()
        await gate
        await self.arrive(spec.name)

    async def arrive(self, name: str) -> None:
        """The catalog as it is with the files of this one."""
        models = [here(name) if spec.name == name else spec for spec in self.pool.catalog.models]
        await self.pool.exchange.replace(Catalog(models))

    def forget(self, name: str) -> None:
        self.forgotten.append(name)

    def end(self) -> None:
        self.has_ended = True

    async def until_begun(self, *names: str) -> None:
        await eventually(lambda: all(name in self.gates for name in names))


def missing(name: str, repo: str = "user/m:Q8_0", **more: Any) -> ModelSpec:
    """A model whose files are not here yet."""
    return ModelSpec(name, more.pop("source", "preset"), flags.parse(["--hf-repo", repo], TABLE), **more)


def here(name: str, repo: str = "user--m") -> ModelSpec:
    path = Path(f"/cache/models--{repo}/snapshots/{'c' * 40}/m-Q8_0.gguf")
    return ModelSpec(name, "preset", flags.parse(["--model", str(path)], TABLE), model_path=path)


@contextlib.asynccontextmanager
async def hub_bench(*models: str | ModelSpec, **more: Any) -> AsyncIterator[tuple[Bench, FakeHub]]:
    """Models named by a string are missing."""
    async with bench(*(missing(each) if isinstance(each, str) else each for each in models), **more) as b:
        hub = b.pool.downloads.source = FakeHub(b.pool)
        yield b, hub
