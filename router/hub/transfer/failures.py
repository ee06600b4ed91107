"""What went wrong with the hub, as an error of the router: all exceptions of huggingface_hub are mapped here."""

from __future__ import annotations

import errno
import re
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from router.errors import Forbidden, HubUnavailable, InsufficientDisk, RouterError, UnknownModel, UpstreamFailed
from router.hub.transfer.web import Unsafe

DEFAULT_RETRY_AFTER_S = 10.0
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Damaged(UpstreamFailed):
    """A file whose size or checksum is not what the hub listed."""


def explain(error: Exception, repo: str) -> RouterError:
    """The error of the router, with a message that says what to do next."""
    page = f"{constants.ENDPOINT}/{repo}"
    match error:
        case Damaged():
            return UpstreamFailed(error.message)
        case GatedRepoError():
            return Forbidden(
                f"{repo} is gated: accept its licence at {page}, and set HF_TOKEN to a token of that account, "
                "or send it as hf_token"
            )
        case RepositoryNotFoundError():
            return UnknownModel(
                f"there is no {page}, or it is private: check the name, or set HF_TOKEN to read it, or send hf_token"
            )
        case RevisionNotFoundError():
            return UnknownModel(f"{page} has no such revision: check what stands behind the @")
        case EntryNotFoundError():
            return UnknownModel(f"{page} has lost a file since it was listed: try again")
        case OfflineModeIsEnabled():
            return UnknownModel(f"{repo} is not in the cache, and HF_HUB_OFFLINE forbids to download it")
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            return Forbidden(
                f"the hub does not let you read {page}: set HF_TOKEN to a token that may, or send it as hf_token"
            )
        case HfHubHTTPError() if error.response.status_code == 429 or error.response.status_code >= 500:
            return HubUnavailable(
                f"the hub answered {error.response.status_code} for {repo}: try again later",
                retry_after=retry_after(error) or DEFAULT_RETRY_AFTER_S,
            )
        case httpx2.HTTPStatusError():
            return _of_server(error, repo)
        case Unsafe():
            return UpstreamFailed(f"{repo}: {error}")
        case HfHubHTTPError():
            return UpstreamFailed(f"the hub gave an unexpected answer for {repo}: {error.response.status_code}")
        case httpx2.HTTPError():
            where = urlsplit(repo).netloc if "://" in repo else constants.ENDPOINT
            return HubUnavailable(
                f"{where} cannot be reached ({type(error).__name__}: {error}): check the network, "
                f"{'the address' if '://' in repo else 'HF_ENDPOINT'}, and the proxy's variables",
                retry_after=DEFAULT_RETRY_AFTER_S,
            )
        case ImportError() if "socks" in str(error).lower():
            return RouterError(
                "a proxy's variable (ALL_PROXY, HTTPS_PROXY) names a SOCKS proxy, and the package socksio is missing: "
                "pip install 'llama-router[socks]'"
            )
        case OSError() if error.errno in DISK_FULL:
            return InsufficientDisk(
                f"the disk is full ({error.strerror}); the parts of {repo} that have arrived are kept: make room"
            )
        case OSError():
            return RouterError(
                f"{repo} cannot be stored ({error.strerror}: {error.filename}): check the cache's folder"
            )
    return RouterError(f"{repo} could not be fetched ({type(error).__name__}: {error})")


def _of_server(error: httpx2.HTTPStatusError, what: str) -> RouterError:
    """The error for the answer of a server that is not the hub."""
    status = error.response.status_code
    if status in (401, 403):
        return Forbidden(
            f"the server does not let you read {what} ({status}): put user:password@ before the host, if it wants that"
        )
    if status in (404, 410):
        return UnknownModel(f"{what} is not there ({status}): check the address")
    if status == 429 or status >= 500:
        return HubUnavailable(
            f"the server answered {status} for {what}: try again later",
            retry_after=retry_after(error) or DEFAULT_RETRY_AFTER_S,
        )
    return UpstreamFailed(f"the server gave an unexpected answer for {what}: {status}")


def retry_after(error: HfHubHTTPError | httpx2.HTTPStatusError) -> float | None:
    """Seconds, from the standard header or from the hub's own `"api";r=0;t=55`."""
    headers = error.response.headers
    found = re.fullmatch(r"\d+", headers.get("Retry-After", "")) or re.search(r"t=(\d+)", headers.get("RateLimit", ""))
    return float(found[found.lastindex or 0]) if found else None
