"""The router that already runs with the same options: commands ask it, since it knows more than they can find out.

Called by `rm` and `estimate`.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

import httpx

from router.server.listeners import is_path
from router.settings import Settings

TIMEOUT_S = 60


def ask(settings: Settings, method: str, path: str, model: str) -> httpx.Response | None:
    """Its answer, if that is a JSON object; None if no router answers."""
    certificate, key = settings.ssl_cert_file, (*settings.admin_key, *settings.api_key, "")[0]
    uds, host = (settings.host[0], "localhost") if is_path(settings.host[0]) else (None, _reachable(settings.host))
    place = f"[{host}]" if ":" in host else host
    url = f"{'https' if certificate else 'http'}://{place}:{settings.port}{settings.api_prefix}{path}"
    try:
        transport = httpx.HTTPTransport(uds=uds, verify=_trust_only(certificate) if certificate else False)
        with httpx.Client(transport=transport, headers={"x-api-key": key}, timeout=TIMEOUT_S) as client:
            answer = client.request(method, url, params={"model": model})
            return answer if isinstance(answer.json(), dict) else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError):
        return None


def _reachable(hosts: Sequence[str]) -> str:
    """Where the first of these hosts is reached from here. A lone `::` takes IPv4 too."""
    host = hosts[0].strip("[]")
    if host == "::" and len(hosts) > 1:
        return "::1"
    return "127.0.0.1" if host in ("::", "0.0.0.0") else host


def _trust_only(certificate: Path) -> ssl.SSLContext:
    """Trusts the server that has this certificate, whatever its issuer and its host names are."""
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
