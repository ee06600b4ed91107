"""What every dialect shares: from a named model to the bytes of its answer.

Stands on pool and wire. Begin with `gateway`, then `proxied_request`.

::

    budget           bytes that may be held for clients         -> nothing
    weight           how much work a body is, before it is read -> nothing
    body             what a request body says to the router     -> budget weight
    rewrite          PURE: what the router changes in a request -> body
    head             a request's head, and what follows from it -> nothing
    proxied_request  one request through to a child             -> head
    conversation     streams that outlive their client          -> nothing
    gateway          from a named model to its passage          -> budget body rewrite head proxied_request conversation
"""
