"""What there is to download: the files of a repository on the hub, of addresses, and of a registry's model.

`__main__` calls one of these functions, and reports what it returns.
"""

from __future__ import annotations

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url

from router.hub.repo import PRESET
from router.hub.transfer.web import Unsafe, web

MAX_HEADS = 500  # files of a mirror that tells no sizes
HEADS_AT_ONCE = 8
MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
# Layers of Docker's models (docker/model-spec): files of GGUF, and projectors.
MODEL_LAYER = re.compile(r"application/vnd\.docker\.ai\.gguf(?:\.v\d+)?")
PROJECTOR_LAYER = re.compile(r"application/vnd\.docker\.ai\.mmproj(?:\.v\d+)?")
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
FILE_PATH = "org.cncf.model.filepath"
_NO_HEAD = {400, 403, 404, 405, 501}  # of servers whose addresses are signed for GET alone


def repository(repo: str, revision: str) -> dict[str, Any]:
    """The GGUF files of a repository, and its preset file.

    The hub lists a gated repository to all. So of such a one a file is requested, which fails without its licence.
    A mirror may tell neither sizes nor contents: then each file's head is requested.
    """
    timeout = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=timeout)
    found = [file for file in info.siblings or () if file.rfilename.endswith(".gguf") or file.rfilename == PRESET]
    files = [
        [file.rfilename, file.lfs.size if file.lfs else file.size, file.lfs.sha256 if file.lfs else file.blob_id]
        for file in found
    ]
    if info.gated and files:
        get_hf_file_metadata(hf_hub_url(repo, str(files[0][0]), revision=info.sha), timeout=timeout)
    commit = info.sha
    if any(size is None or not oid for _, size, oid in files):
        with ThreadPoolExecutor(HEADS_AT_ONCE) as threads:
            files[:MAX_HEADS] = threads.map(lambda row: _completed(repo, commit or revision, row), files[:MAX_HEADS])
    if not commit and files:
        head = get_hf_file_metadata(hf_hub_url(repo, str(files[0][0]), revision=revision), timeout=timeout)
        commit = head.commit_hash
    same = isinstance(info.id, str) and info.id.casefold() == repo.casefold()
    return {"commit": commit, "repo": info.id if same else repo, "files": files}


def _completed(repo: str, revision: str, row: list[Any]) -> list[Any]:
    """The row with size and content name. A size that no head tells is 0; a content without a name has one by its path,
    and is not checked."""
    path, size, oid = row
    if size is not None and oid:
        return row
    url = hf_hub_url(repo, path, revision=revision)
    known = get_hf_file_metadata(url, timeout=float(constants.HF_HUB_DOWNLOAD_TIMEOUT))
    etag = known.etag or ""
    named = oid or (etag if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag) else None)
    return [
        path,
        size if size is not None else known.size or 0,
        named or hashlib.sha1(f"{repo}/{revision}/{path} {etag}".encode()).hexdigest(),
    ]


def heads(urls: list[str]) -> dict[str, Any]:
    """Size, etag and, if it is told, sha256 of the file at each address."""
    with ThreadPoolExecutor(HEADS_AT_ONCE) as threads:
        return {"heads": list(threads.map(_head, urls))}


def _head(url: str) -> dict[str, Any]:
    try:
        with web().stream("HEAD", url) as response:
            found = _facts(response)
        if found["size"]:
            return found
    except httpx2.HTTPStatusError as error:
        if error.response.status_code not in _NO_HEAD:
            raise
    with web().stream("GET", url, {"Range": "bytes=0-0"}) as response:
        return _facts(response)


def _facts(response: httpx2.Response) -> dict[str, Any]:
    headers, linked = response.headers, response.extensions["linked"]
    length = headers.get("Content-Length", "") if response.status_code != httpx2.codes.PARTIAL_CONTENT else ""
    whole = re.fullmatch(r"bytes \d+-\d+/(\d+)", headers.get("Content-Range", ""))
    size = linked.get("x-linked-size") or (whole[1] if whole else length)
    digest = linked.get("x-linked-etag", "").strip('"')
    modified = headers.get("Last-Modified", "")
    return {
        "size": int(size) if size.isascii() and size.isdigit() else None,
        "etag": headers.get("ETag", "") or (modified and f"W/{modified}"),
        "sha256": digest if re.fullmatch(r"[0-9a-f]{64}", digest) else None,
    }


def layers(registry: str, version: str) -> dict[str, Any]:
    """The layers of a model in a registry that are GGUF files (docker/model-spec, OCI distribution-spec)."""
    body = web().read(f"{registry}/manifests/{version}", {"Accept": MANIFESTS}, is_registry=True)
    if (digest := DIGEST.fullmatch(version)) and hashlib.sha256(body).hexdigest() != digest[1]:
        raise Unsafe("the manifest is not the one that its digest names")
    manifest = json.loads(body)
    rows = []
    for layer in manifest.get("layers") or ():
        kind = next((k for k, p in _KINDS.items() if p.fullmatch(str(layer.get("mediaType", "")))), None)
        if kind and (content := DIGEST.fullmatch(str(layer["digest"]))):
            name = str((layer.get("annotations") or {}).get(FILE_PATH, ""))
            rows.append({"kind": kind, "sha256": content[1], "size": int(layer["size"]), "name": name})
    return {"layers": rows}


_KINDS = {"model": MODEL_LAYER, "mmproj": PROJECTOR_LAYER}
