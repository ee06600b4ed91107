"""What goes wrong at the hub, as errors of the router; and the hub of these tests."""

from __future__ import annotations

import errno

import httpx2
import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile as RepoFileInfo

from router.errors import (
    Forbidden,
    HubUnavailable,
    InsufficientDisk,
    RouterError,
    UnknownModel,
    UpstreamFailed,
)
from router.hub.transfer.failures import Damaged, explain
from router.hub.transfer_process import ERRORS
from tests.hub.downloads import DATA, SIZE, Serve, one_model
from tests.hub_server import Repo, RepoFile


def answered(kind: type[HfHubHTTPError], status: int, **headers: str) -> HfHubHTTPError:
    request = httpx2.Request("GET", "http://hub/user/m")
    return kind("no", response=httpx2.Response(status, headers=headers, request=request))


@pytest.mark.parametrize(
    ("error", "kind", "message", "retry_after"),
    [
        (answered(GatedRepoError, 403), Forbidden, "accept its licence at ", None),
        (answered(RepositoryNotFoundError, 401), UnknownModel, "or set HF_TOKEN", None),
        (answered(RevisionNotFoundError, 404), UnknownModel, "no such revision", None),
        (EntryNotFoundError(), UnknownModel, "lost a file", None),
        (OfflineModeIsEnabled(), UnknownModel, "HF_HUB_OFFLINE", None),
        (answered(HfHubHTTPError, 401), Forbidden, "set HF_TOKEN", None),
        (answered(HfHubHTTPError, 403), Forbidden, "set HF_TOKEN", None),
        (answered(HfHubHTTPError, 429, **{"Retry-After": "7"}), HubUnavailable, "429", 7),
        (answered(HfHubHTTPError, 429, RateLimit='"api";r=0;t=55'), HubUnavailable, "429", 55),
        (answered(HfHubHTTPError, 503, **{"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}), HubUnavailable, "503", 10),
        (answered(HfHubHTTPError, 418), UpstreamFailed, "418", None),
        (httpx2.ReadTimeout("slow"), HubUnavailable, "ReadTimeout: slow", 10),
        (Damaged("arrived damaged"), UpstreamFailed, "damaged", None),
        (OSError(errno.ENOSPC, "No space left on device"), InsufficientDisk, "No space left", None),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), RouterError, "Permission denied: /x", None),
        (ValueError("odd"), RouterError, "ValueError: odd", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_exceptions_become_errors_of_the_router(
    error: Exception, kind: type[RouterError], message: str, retry_after: float | None
) -> None:  # B-H4
    explained = explain(error, "user/m")
    assert type(explained) is kind
    assert ERRORS.get(kind.__name__, RouterError) is kind  # the router makes the same error of its name
    assert message in explained.message
    assert explained.retry_after == retry_after


async def test_the_hub_of_these_tests_speaks_the_protocol(serve: Serve) -> None:
    server = serve(one_model() | {"user/gated": Repo({"m.gguf": RepoFile(DATA)}, token="t0", gated=True)})
    api = HfApi(endpoint=server.url)
    (entry,) = api.list_repo_tree("user/m", recursive=True)
    assert isinstance(entry, RepoFileInfo)
    assert (entry.path, entry.size, entry.lfs and entry.lfs.size) == ("m-Q8_0.gguf", SIZE, SIZE)
    assert [ref.name for ref in api.list_repo_refs("user/m").branches] == ["main"]
    metadata = get_hf_file_metadata(hf_hub_url("user/m", "m-Q8_0.gguf", endpoint=server.url))
    assert (metadata.etag, metadata.size) == (entry.lfs and entry.lfs.sha256, SIZE)
    assert metadata.commit_hash == api.model_info("user/m", securityStatus=True).sha
    api.auth_check("user/m")
    with pytest.raises(GatedRepoError):
        api.auth_check("user/gated")
