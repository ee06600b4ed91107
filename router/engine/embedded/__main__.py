"""The command line of the embedded engine: `--help`, `--list-devices`, or serve."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from router.engine.embedded.arguments import configure
from router.engine.embedded.library import StartError, xllamacpp
from router.engine.embedded.server import serve
from router.engine.embedded.table import usage

CHILD_MARK = "LLAMA_SERVER_ROUTER_PORT"


def main() -> NoReturn:
    if {"-h", "--help", "--usage"} & set(sys.argv[1:]):
        print(usage())
        sys.exit(0)
    try:
        if xllamacpp is None:
            raise StartError("the embedded engine is not installed: pip install 'llama-router[embedded]'", 1)
        if "--list-devices" in sys.argv[1:]:
            print(device_list())
            sys.exit(0)
        serve(configure(sys.argv[1:], os.environ), is_child=CHILD_MARK in os.environ)
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def device_list() -> str:
    """What llama-server prints for `--list-devices`: a line for every device that is not the CPU."""
    kinds = xllamacpp.ggml_backend_dev_type
    found = [d for d in xllamacpp.get_device_info() if d["type"] != kinds.GGML_BACKEND_DEVICE_TYPE_CPU]
    lines = [
        f"  {d['name']}: {d['description']} ({d['memory_total'] >> 20} MiB, {d['memory_free'] >> 20} MiB free)"
        for d in found
    ]
    return "\n".join(["Available devices:", *(lines or ["  (none)"])])


if __name__ == "__main__":
    main()
