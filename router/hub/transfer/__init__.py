"""A child program that speaks to the Hugging Face hub, so that no other process has to import huggingface_hub.

It reads one request as a line of JSON from stdin. It writes its answers as lines of JSON to stdout; an error of
`router.errors` is the last line. The child ends when its stdin does. It may be killed at any time: the part of a blob
that is there stays, and the next transfer goes on from it. (As of 2.4, huggingface_hub itself begins again each time,
and checks no more than the size.)

::

    request  {"op": "list", "repo": R, "revision": V}
    answer   {"commit": C, "files": [[path, size, oid], ...]}

    request  {"op": "get", "repo": R, "files": [{"url", "size", "oid", "blob", "part", "lock"}, ...]}
    answers  {"url": U, "done": N} ...

    error    {"error": NAME, "message": TEXT, "retry_after": SECONDS or null}

`transfer_process` starts it. `__main__` reads the request, `download` gets files, `failures` explains errors.
"""
