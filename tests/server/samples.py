"""Responses of a child, and a form: what the tests of the client's connection send."""

from __future__ import annotations

from tests.front import (
    EVENTS,
    OK,
    answer,
)

ANSWERS = {
    "json": OK,
    "chunked": answer("200 OK", b'{"a": "bcd"}', "Content-Type: application/json", chunked=True),
    "empty": answer("200 OK"),
    "created": answer("201 Created", b"x" * 5000, "Content-Type: text/plain"),
    "headers": answer(
        "200 OK", b"{}", "X-One: 1", "X-One: 2", "Set-Cookie: a=b", "X-Odd: \xe4", "ETag: W/y", "X-Empty:"
    ),
    "hops": answer("200 OK", b"{}", "Connection: X-Hop", "X-Hop: 1", "TE: x", "Trailer: y", "Upgrade: z", "X-Stays: 1"),
    "cors": answer("200 OK", b"{}", "Access-Control-Allow-Origin: *", "access-control-max-age: 3", "Vary: Origin"),
    "ids": answer("200 OK", b"{}", "X-Request-Id: theirs", "Request-Id: theirs"),
    "date": answer("200 OK", b"{}", "Server: llama.cpp"),
    "bad": answer("400 Bad", b'{"error": {"code": 400, "message": "no such field", "type": "invalid_request_error"}}'),
    "lost": answer("404 No", b'{"error": {"code": 404, "message": "not here"}}', "Content-Type: application/json"),
    "broken": answer("500 Oops", b"<html>", "Retry-After: 3"),
    "moved": answer("301 Away", b"there", "Location: /elsewhere"),
    "nothing": b"HTTP/1.1 204 No Content\r\n\r\n",
    "same": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    "events": EVENTS,
    "lines": answer("200 OK", b'{"a": 1}\n{"b": 2}\n', "Content-Type: application/x-ndjson"),
    "interim": b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK,
    "closing": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    "rest": answer("200 OK", b"{}") + b"rubbish",
}


FORM = (
    b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n\0\xff\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\na\r\n--XX--\r\n'
)


MULTIPART = "Content-Type: multipart/form-data; boundary=XX"
