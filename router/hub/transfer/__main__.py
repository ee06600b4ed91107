"""The child program itself: reads the request, lists a repository or downloads files, and reports errors."""

from __future__ import annotations

import json
import os
import sys
import threading

from huggingface_hub import get_token

from router.hub.transfer import listings
from router.hub.transfer.download import Blob, download
from router.hub.transfer.failures import explain
from router.hub.transfer.reports import report
from router.redaction import redactor, secrets_of


def main() -> int:
    with open(0, "rb", closefd=False) as stdin:
        request = json.loads(stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        match request["op"]:
            case "list":
                report(**listings.repository(request["repo"], request["revision"]))
            case "heads":
                report(**listings.heads(request["urls"]))
            case "layers":
                report(**listings.layers(request["registry"], request["version"]))
            case _:
                download([Blob(**file) for file in request["files"]])
    except Exception as exc:
        error = explain(exc, request["repo"])
        hide = redactor((*secrets_of(os.environ), *filter(None, [get_token()])))
        report(error=type(error).__name__, message=hide(error.message), retry_after=error.retry_after)
        os._exit(1)  # other files are still on their way
    return 0


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
