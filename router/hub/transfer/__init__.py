"""A child program that speaks to the Hugging Face hub, so that no other process has to import huggingface_hub.

It reads one request as a line of JSON from stdin. It writes its answers as lines of JSON to stdout; an error of
`router.errors` is the last line. The child ends when its stdin does. It may be killed at any time: the part of a blob
that is there stays, and the next transfer goes on from it. (As of 2.4, huggingface_hub itself begins again each time,
and checks no more than the size.)

::

    request  {"op": "list", "repo": R, "revision": V}
    answer   {"commit": C, "repo": R, "files": [[path, size, oid], ...]}

    request  {"op": "get", "repo": R, "files": [{"url", "size", "oid", "blob", "part", "lock", ...}, ...]}
    answers  {"url": U, "done": N} ...

    request  {"op": "heads", "repo": WHAT, "urls": [URL, ...]}
    answer   {"heads": [{"size", "etag", "sha256"}, ...]}

    request  {"op": "layers", "repo": WHAT, "registry": URL, "version": TAG or DIGEST}
    answer   {"layers": [{"kind": "model" or "mmproj", "sha256", "size", "name"}, ...]}

    error    {"error": NAME, "message": TEXT, "retry_after": SECONDS or null}

Stands on `repo` and `links`. Begin with `__main__`, which reads the request. `transfer_process` starts this program.

::

    reports   the lines of JSON on stdout                             -> nothing
    web       servers that are not the hub's                          -> nothing
    listings  what there is to download                               -> web
    failures  the hub's exceptions, as errors of the router           -> web
    download  files grow beside their place, are checked, and take it -> reports web failures
    __main__  lists a repository or downloads files                   -> reports listings failures download
"""
