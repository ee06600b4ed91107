"""`ps`, `load`, `unload`, `logs`, `health`, `run` and `completion`: commands against a router that runs."""

from __future__ import annotations

import os


def show_models(argv: list[str]) -> int:
    from router.client import ps

    return ps.run(argv, os.environ)


def load_model(argv: list[str]) -> int:
    from router.client import loading

    return loading.load(argv, os.environ)


def unload_models(argv: list[str]) -> int:
    from router.client import loading

    return loading.unload(argv, os.environ)


def show_logs(argv: list[str]) -> int:
    from router.client import logs

    return logs.run(argv, os.environ)


def ask_health(argv: list[str]) -> int:
    from router.client import health

    return health.run(argv, os.environ)


def converse(argv: list[str]) -> int:
    from router.client.talk import command

    return command.run(argv, os.environ)


def complete(argv: list[str]) -> int:
    from router.client import completion

    return completion.run(argv, os.environ)
