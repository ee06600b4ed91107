"""`list`, `estimate`, `check`, `import`, `pull` and `rm`: commands about models and their files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.commands.command import fail, switch
from router.errors import ConfigError, FlagError, RouterError, UnknownModel
from router.logs import streams as logs
from router.logs.letters import visible
from router.scheduling.snapshot import Snapshot
from router.units import size

if TYPE_CHECKING:
    from router.hub.names import Name
    from router.settings import Settings

# list


def list_models(argv: list[str]) -> int:
    from router.models import inventory
    from router.plan import read_plan

    as_json, argv = switch("--json", argv)
    shows_all, argv = switch("--all", argv)
    rows = inventory.rows(read_plan(argv, os.environ, needs_engine=False).catalog(), shows_all=shows_all)
    if as_json:
        print(json.dumps(rows, indent=2))
    elif rows:
        for line in inventory.table(rows):
            print(line)
    return 0 if rows else 1


# check and import


def check_files(argv: list[str]) -> int:
    from router import check

    return check.run(argv, os.environ)


def import_configuration(argv: list[str]) -> int:
    from router import imports

    return imports.run(argv, os.environ)


# pull and rm


def download(argv: list[str]) -> int:
    import asyncio

    from router.engine import flags
    from router.hub.cache import cache_root
    from router.hub.pull import pull

    switches = ("--fallback", "--offline")
    table = flags.FlagTable([flags.Flag(name, (name,), (), 0, None, repeatable=False) for name in switches])
    words, args = flags.parse_among_words(argv, table)
    fallback, offline = (bool(flags.switch_of(args, name)) for name in switches)
    names = _hub_names(words, "pull")
    root, failed = cache_root(os.environ), 0
    for name in names:
        try:
            resolved = asyncio.run(pull(name, root, fallback=fallback, offline=offline))
        except RouterError as exc:
            failed += fail(exc, 1)
        except (KeyboardInterrupt, SystemExit):
            logs.say(
                f"llama-router: {name} is not complete; the bytes so far are kept, and the same command continues from "
                "there"
            )
            raise
        else:
            print(visible(f"{resolved.name}: {size(resolved.bytes)} in {root}"), flush=True)
    return 1 if failed else 0


def _hub_names(words: Sequence[str], command: str) -> list[Name]:
    """Names of models on the hub. Raises FlagError."""
    from router.hub.names import Name

    if not words:
        raise FlagError(f"name a model on the hub: llama-router {command} user/repo:QUANT")
    try:
        return [Name.parse(word) for word in words]
    except RouterError as exc:
        raise FlagError(exc.message) from exc


def remove_models(argv: list[str]) -> int:
    from router.hub.cache import cache_root
    from router.plan import read_plan

    count = next((index for index, word in enumerate(argv) if word.startswith("-")), len(argv))
    names = _hub_names(argv[:count], "rm")
    settings = read_plan(argv[count:], os.environ, needs_engine=False).settings
    root, failed = cache_root(os.environ), 0
    for name in names:
        try:
            freed = _remove_model(settings, root, name)
            print(visible(f"{name}: removed, which freed {size(freed)}"), flush=True)
        except RouterError as exc:
            failed += fail(exc, 1)
    return 1 if failed else 0


def _remove_model(settings: Settings, root: Path, name: Name) -> int:
    """Remove one model; returns the bytes that this freed.

    If a router runs with these options and has the model, that router removes it, after the model's last requests."""
    from router.client.session import ask_if_running, message_of
    from router.hub.removal import only_model, remove

    model = only_model(root, name)
    status, answer = ask_if_running(settings, "DELETE", "/models", str(model)) or (UnknownModel.status, {})
    if status == UnknownModel.status:
        return remove(root, model)
    if status == 200:
        return int(answer.get("freed", 0))
    raise RouterError(f"the router at port {settings.port} says: {message_of(answer)}")


# estimate


def estimate_model(argv: list[str]) -> int:
    """If a router runs with these options, it makes the estimate: it knows which models it would have to stop."""
    import asyncio

    from router.memory import forecast
    from router.plan import Machine, read_plan

    as_json, argv = switch("--json", argv)
    if not argv or argv[0].startswith("-"):
        raise FlagError("name a model or a file: llama-router estimate MODEL_OR_FILE.gguf [options]")
    model, argv = argv[0], argv[1:]
    is_file = model.lower().endswith(".gguf") and Path(model).is_file()
    plan = read_plan([*argv, *(["--model", model] if is_file else [])], os.environ)
    estimate = None if is_file else _estimate_of_running_router(plan.settings, model)
    if estimate is None:
        assert plan.engine is not None
        try:
            catalog = plan.catalog()
            own = [spec for spec in catalog.models if is_file and spec.source == "command_line"]
            spec = own[0] if own else catalog.resolve(model)
        except UnknownModel as exc:
            if model.endswith(".gguf"):
                raise ConfigError(f"there is no file {model[-200:]}, and no model of that name") from exc
            raise
        if spec.problem:
            raise ConfigError(spec.problem)
        machine = Machine.of_plan(plan, plan.engine)
        now = Snapshot(asyncio.run(machine.devices.read()), margins=machine.limits.margins)
        estimate = forecast.forecast(machine.estimator, spec, now).as_json()
    text = json.dumps(estimate, indent=2) if as_json else forecast.table(estimate)
    print("\n".join(map(visible, text.splitlines())))
    return 0 if estimate["fits"] else 1


def _estimate_of_running_router(settings: Settings, model: str) -> dict[str, Any] | None:
    from router.client.session import ask_if_running

    status, answer = ask_if_running(settings, "GET", "/models/estimate", model) or (0, {})
    return answer if status == 200 and "verdict" in answer else None
