"""Compressed request bodies: unpacked within limits, or refused."""

from __future__ import annotations

import gzip
import os
import zlib

import pytest

from router.errors import InvalidRequest, UnsupportedType
from router.proxy.compressed import PIECE_BYTES, coding_of, unpacked

BODY = b'{"model": "tiny-a"}' * 100_000
RANDOM = os.urandom(300_000)


def raw(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


async def whole(packed: bytes, coding: str) -> bytes:
    pieces = [piece async for piece in unpacked(packed, coding)]
    assert all(len(piece) <= PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize("body", [b"{}", BODY, RANDOM], ids=["small", "large", "random"])
@pytest.mark.parametrize(
    ("coding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", raw)],
    ids=["gzip", "z", "raw"],
)
async def test_it_comes_out_as_it_went_in(body: bytes, coding: str, pack: object) -> None:
    assert callable(pack)
    assert await whole(pack(body), coding) == body


@pytest.mark.parametrize(
    "packed",
    [
        b"x",
        b"{}",
        gzip.compress(BODY)[:-1],
        gzip.compress(BODY)[:10],
        gzip.compress(RANDOM)[:200_000],
        gzip.compress(BODY) + b"x",
        gzip.compress(RANDOM) + gzip.compress(RANDOM),
        gzip.compress(b"{}") + b"x" * 100_000,
        gzip.compress(b"{}")[:-5] + b"xxxxx",
    ],
    ids=range(9),
)
async def test_damaged_is_an_error(packed: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"gzip"):
        await whole(packed, "gzip")


@pytest.mark.parametrize(
    ("values", "coding"),
    [
        ([], ""),
        (["identity"], ""),
        ([""], ""),
        (["gzip"], "gzip"),
        (["GZip"], "gzip"),
        (["x-gzip"], "gzip"),
        (["identity, gzip"], "gzip"),
        (["deflate"], "deflate"),
    ],
)
def test_codings(values: list[str], coding: str) -> None:
    assert coding_of(values) == coding


@pytest.mark.parametrize("values", [["zstd"], ["br"], ["gzip, gzip"], ["gzip", "deflate"], ["x" * 1000]])
def test_other_codings_are_refused(values: list[str]) -> None:
    with pytest.raises(UnsupportedType, match="gzip or deflate") as caught:
        coding_of(values)
    assert len(caught.value.message) < 250
