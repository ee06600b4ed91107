"""The commands, in the order of `--help`."""

from __future__ import annotations

from collections.abc import Mapping

from router.commands import models, serving
from router.commands.command import Command

COMMANDS: Mapping[str, Command] = {
    "serve": Command(
        serving.run_server,
        "[serve] [options] [llama-server's options, for all models]",
        "Serves models on one port. Each model has a llama-server of its own, which a request for the model starts.",
    ),
    "demo": Command(
        serving.run_demo,
        "demo [--once] [options]",
        "Makes three tiny models with random weights, serves them with room for two, and asks each a question.\n"
        "With --once it then ends. Without, it prints commands to try, and goes on serving. It takes the options of\n"
        "serve.",
        takes_options=False,
    ),
    "list": Command(
        models.list_models,
        "list [--all] [--json] [options]",
        "Lists the models that serve would have with the same options, and what is wrong with them. With --all also\n"
        "the files in folders of models that are no models, and what they are.",
        takes_options=False,
    ),
    "import": Command(
        models.import_configuration,
        "import CONFIG.yaml [-o FILE.ini] [--force] [--engine PATH]",
        "Makes a preset file of the configuration of llama-swap, for --models-preset. What cannot be carried over is\n"
        "told line by line, with the reason. Without -o the preset file goes to stdout. A file that is there already\n"
        "is replaced with --force alone. Other formats are not understood.",
        takes_options=False,
    ),
    "pull": Command(
        models.download,
        "pull NAME [NAME ...] [--fallback] [--offline]",
        "Downloads models from the hub into the cache: user/repo, user/repo:QUANT or user/repo:QUANT@REVISION. An\n"
        "interrupted download continues where it stopped. With --fallback, a smaller quantization is downloaded if\n"
        "the disk is too small.",
        takes_options=False,
    ),
    "rm": Command(
        models.remove_models,
        "rm NAME [NAME ...] [options]",
        "Removes models from the cache. If a router runs with the same options and has the model, that router removes\n"
        "it after the model's last requests.",
        takes_options=False,
    ),
    "estimate": Command(
        models.estimate_model,
        "estimate MODEL_OR_FILE.gguf [--json] [options]",
        "Shows what a model would take on each device, where these figures come from, the longest context that fits,\n"
        "and, if a router runs with the same options, which models it would stop for this one now. Starts nothing.",
        takes_options=False,
    ),
    "check": Command(
        models.check_files,
        "check [FILE.ini ...] [--config FILE.ini] [--models-dir PATH] [--json] [--engine PATH]",
        "Reports every mistake in preset files, or folders of them, and in a file of settings, with its line: unknown\n"
        "keys with the nearest known one, wrong values, sections without a model, names that mean two models, files\n"
        "that are missing. It knows the keys of the engine that serve would use. Variables of the environment that\n"
        "set nothing are reported too. The exit code is 1 for a mistake, 0 for warnings alone.",
        takes_options=False,
    ),
}
