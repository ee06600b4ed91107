"""The child program itself: reads the request, lists a repository or downloads files, and reports errors."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_token, hf_hub_url

from router.hub.repo import PRESET
from router.hub.transfer.download import Blob, download
from router.hub.transfer.failures import explain
from router.hub.transfer.reports import report
from router.redaction import redactor, secrets_of


def main() -> int:
    with open(0, "rb", closefd=False) as stdin:
        request = json.loads(stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if request["op"] == "list":
            report(**listing(request["repo"], request["revision"]))
        else:
            download([Blob(**file) for file in request["files"]])
    except Exception as exc:
        error = explain(exc, request["repo"])
        hide = redactor((*secrets_of(os.environ), *filter(None, [get_token()])))
        report(error=type(error).__name__, message=hide(error.message), retry_after=error.retry_after)
        os._exit(1)  # other files are still on their way
    return 0


def listing(repo: str, revision: str) -> dict[str, Any]:
    """The GGUF files of a repository, and its preset file.

    The hub lists a gated repository to all. So of such a one a file is requested, which fails without its licence.
    """
    timeout = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=timeout)
    files = [
        [file.rfilename, file.lfs.size if file.lfs else file.size, file.lfs.sha256 if file.lfs else file.blob_id]
        for file in info.siblings or ()
        if file.rfilename.endswith(".gguf") or file.rfilename == PRESET
    ]
    if info.gated and files:
        get_hf_file_metadata(hf_hub_url(repo, str(files[0][0]), revision=info.sha), timeout=timeout)
    return {"commit": info.sha, "files": files}


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
