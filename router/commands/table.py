"""The commands, in the order of `--help`."""

from __future__ import annotations

from collections.abc import Mapping

from router.commands import clients, models, serving
from router.commands.command import Command

COMMANDS: Mapping[str, Command] = {
    "serve": Command(
        serving.run_server,
        "[serve] [options] [llama-server's options, for all models]",
        "Serves models on one port. Each model has a llama-server of its own, which a request for the model starts.",
    ),
    "demo": Command(
        serving.run_demo,
        "demo [--once | --busy] [options]",
        "Makes three tiny models with random weights, serves them with room for two, and asks each a question.\n"
        "With --once it then ends. Without, it prints commands to try, and goes on serving. With --busy there are\n"
        "five models and people who use them all the time, for a look at the pages. It takes the options of serve.",
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
    "ps": Command(
        clients.show_models,
        "ps [--all] [--watch] [--json]",
        "Shows the models that run: state, memory, context, requests, when they go, speed; and who waits, for what.\n"
        "\n"
        "  llama-router ps --watch\n"
        "  llama-router ps --json | jq '.queue[].why.text'",
        client="ps",
    ),
    "load": Command(
        clients.load_model,
        "load MODEL [settings] [llama-server's flags] [--json]",
        "Loads a model, with other settings if some are given, and waits until it serves. What is left out stays as\n"
        "earlier loads set it; `preset` as a value takes back what they set. Flags behind -- go on as they are.\n"
        "\n"
        "  llama-router load coder --ctx-size 32768 --cache-type-k q8_0 --top-k 20",
        client="load",
    ),
    "unload": Command(
        clients.unload_models,
        "unload MODEL [MODEL ...] | --all [--force] [--wait] [--json]",
        "Stops models, after their running requests.\n\n  llama-router unload --all --wait",
        client="unload",
    ),
    "logs": Command(
        clients.show_logs,
        "logs [MODEL] [-f] [-n N] [--json]",
        "Shows what a model's process wrote; without a model, what happened in the router and why. With -f it goes\n"
        "on, over restarts too.\n"
        "\n"
        "  llama-router logs coder -f -n 100",
        client="logs",
    ),
    "health": Command(
        clients.ask_health,
        "health [--timeout SECONDS] [--json]",
        "Says whether the router takes requests: 0 yes, 1 not now, 3 no router answers. Needs no key.\n"
        "\n"
        '  HEALTHCHECK CMD ["llama-router", "health"]',
        client="health",
    ),
    "run": Command(
        clients.converse,
        "run MODEL [question] [options]",
        "A conversation in the terminal; /? lists what can be typed. With a question, or with text on stdin, it\n"
        "answers that and ends, and prints the answer alone.\n"
        "\n"
        "  llama-router run coder\n"
        '  llama-router run coder "Explain this" < main.c',
        client="run",
    ),
    "completion": Command(
        clients.complete,
        "completion bash|zsh|fish",
        "Prints a script with which a shell completes commands, flags and the names of models.\n"
        "\n"
        '  eval "$(llama-router completion bash)"          in ~/.bashrc\n'
        '  eval "$(llama-router completion zsh)"           in ~/.zshrc, after compinit\n'
        "  llama-router completion fish | source            in ~/.config/fish/config.fish",
        client="completion",
    ),
}
