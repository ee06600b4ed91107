"""Where the hub is, by the environment."""

from __future__ import annotations

import pytest

from router.hub.endpoint import address, endpoint

HUB = "https://huggingface.co"


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, HUB),
        ({"HF_ENDPOINT": ""}, HUB),
        ({"HF_ENDPOINT": " ", "MODEL_ENDPOINT": ""}, HUB),
        ({"HF_ENDPOINT": "http://mirror/"}, "http://mirror"),
        ({"HF_ENDPOINT": "http://mirror", "MODEL_ENDPOINT": "  "}, "http://mirror"),
        ({"HF_ENDPOINT": "http://mirror", "MODEL_ENDPOINT": "http://other/"}, "http://other"),
        ({"HF_ENDPOINT": "", "MODEL_ENDPOINT": "http://other"}, "http://other"),
    ],
)
def test_an_empty_address_is_none(environ: dict[str, str], found: str) -> None:  # B-H6
    assert address(environ) == found


def test_credentials_are_not_shown() -> None:  # B-T7
    environ = {"MODEL_ENDPOINT": "http://user:secret@mirror"}
    assert address(environ) == "http://user:secret@mirror"
    assert endpoint(environ) == "http://***@mirror"
