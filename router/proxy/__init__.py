"""What every dialect shares: from the name of a model to the bytes of the answer.

Stands on pool and wire. Begin with `endpoints`, then `gateway`, then `proxied_request`. What is done to a body as it
comes in belongs in `body`, what a model's preset or template wants of a request in `rewrite`, headers to the child in
`head`, headers of answers in `client_response`. `server.connection` writes the answers of the fast path itself, and
nothing here sees the small requests that `plain` lets through: what changes a request must be known there too.

The body of a request::

    budget          bytes of bodies that all clients may have held  -> nothing
    weight          how much work a JSON body is                    -> nothing
    compressed      compressed bodies                               -> nothing
    body            a request's body, received and parsed as JSON   -> budget weight compressed
    form            the fields of a multipart form                  -> nothing
    thinking        PURE: what clients want about thinking          -> nothing
    schema_merge    PURE: a schema that says one thing in one place -> nothing
    schema_pattern  PURE: patterns that grammars have               -> nothing
    schema_words    PURE: what a grammar holds of a schema          -> schema_merge schema_pattern
    schema          PURE: structured output in the engine's form    -> body schema_words
    keep_alive      PURE: how long a request wants its model        -> nothing
    routing         what a body says to the router                  -> weight body form thinking schema keep_alive
    rewrite         PURE: changes to a request because of a preset  -> body routing

A chat request as its model takes it::

    roles  PURE: messages in an order that the template takes -> nothing
    tools  PURE: which tools may be called                    -> body
    media  PURE: pictures and sound, and who takes them       -> nothing
    chat   PURE: all of it; what translations rely on         -> body thinking schema routing roles tools media

One request and its answer::

    head             a request's head             -> nothing
    protocols        types of what requests use   -> nothing
    client_response  the response to a client     -> head
    child_errors     PURE: errors of a child      -> nothing
    child_events     PURE: an event of a child    -> child_errors
    cut              PURE: a stream that is cut   -> nothing
    collected        PURE: a stream as one answer -> body routing rewrite child_events
    error_response   errors in a dialect          -> head protocols child_errors
    disconnect       who leaves, or stops it      -> nothing
    recording        where records begin          -> head protocols error_response
    proxied_request  a request, and its answer    -> head protocols client_response collected error_response disconnect
    conversation     streams outlive a client     -> nothing

What routes are made of::

    gateway    shared    -> budget body routing rewrite chat head protocols cut collected proxied_request conversation
    plain      unchanged -> routing chat head protocols client_response proxied_request gateway
    endpoints  passed on -> body routing head protocols collected disconnect recording proxied_request gateway plain
"""
