from __future__ import annotations

import errno

import httpx2
import pytest
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from router.errors import Forbidden, HubUnavailable, InsufficientDisk, RouterError, UnknownModel, UpstreamFailed
from router.hub.transfer.failures import Damaged, explain
from router.hub.transfer_process import ERRORS


def answered(kind: type[HfHubHTTPError], status: int, **headers: str) -> HfHubHTTPError:
    request = httpx2.Request("GET", "http://hub/user/m")
    return kind("no", response=httpx2.Response(status, headers=headers, request=request))


@pytest.mark.parametrize(
    ("error", "kind", "told", "retry_after"),
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
def test_what_went_wrong_is_told(
    error: Exception, kind: type[RouterError], told: str, retry_after: float | None
) -> None:  # B-H4
    explained = explain(error, "user/m")
    assert type(explained) is kind
    assert ERRORS.get(kind.__name__, RouterError) is kind  # the router makes the same error of its name
    assert told in explained.message
    assert explained.retry_after == retry_after
