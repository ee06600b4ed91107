"""Pools over catalogs of a test's own, without processes."""

from __future__ import annotations

from pathlib import Path

from router.memory.need import Need
from router.models.catalog import Catalog
from router.models.spec import ModelSpec
from router.pool.pool import Pool
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from tests.fakes import FakeNode


def pool_of(*models: ModelSpec) -> Pool:
    return Pool(Catalog(models), [FakeNode()], Limits(), lambda spec: Need(Demand()))


def spec(name: str, path: Path | None = None) -> ModelSpec:
    return ModelSpec(name, "cache", (), path)
