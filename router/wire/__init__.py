"""HTTP to a child. It knows sockets and bytes, nothing of models or pools.

Stands on errors and units alone. Begin with `upstream`: other packages send their requests through it. Then `response`
(what an answer is, and the interface between it and its connection), then `connection` (which connections are kept).

How one request goes through the parts:

1. `Upstream` takes a kept UpstreamConnection of the child's ChildConnections, or has a new one opened.
2. `UpstreamConnection.send` writes the RequestHead and the body, and returns a Response.
3. The connection feeds the Response with the bytes that come. The Response parses them, or finds that it has seen this
   head before (HeadCache), and wakes its reader.
4. When the answer is complete, the Response releases the connection, and ChildConnections keeps it for the next
   request. A Response that is closed earlier aborts the connection: so the child stops generating.

::

    address       where a child can be reached                      -> nothing
    child_json    PURE: a child's JSON, read with suspicion         -> nothing
    headers       header fields, and which may cross a proxy        -> nothing
    head_cache    heads that were seen before, found by their bytes -> nothing
    request_head  the head of a request, encoded once               -> headers
    response      an answer: from bytes to head and body            -> headers head_cache
    connection    connections to a child, and which are kept        -> address head_cache response
    upstream      the HTTP client of the data path                  -> address headers request_head response connection
"""
