"""Ollama's API: a dialect that the engine does not speak, so requests and answers are translated here.

Stands on proxy and pool, and on the modules of `api` that all APIs share. Begin with `endpoints`, the table of routes.
A request that a model answers passes through `inference` (which model), `prompt` (its fields in llama-server's words)
and `generation` or `embedding` (the child's answer in Ollama's words).

Words::

    fields    PURE: single fields of a request      -> nothing
    version   which version of Ollama's API this is -> nothing
    options   PURE: options in the engine's names   -> fields
    messages  PURE: messages, images, tool calls    -> fields
    creation  PURE: what a model is to be made of   -> fields options messages
    prompt    PURE: prompts in the engine's words   -> fields options messages
    reply     the common parts of answers           -> nothing
    events    what a child's stream says            -> nothing

Answers::

    context     too long chats              -> nothing
    generation  lines of JSON, or one       -> prompt reply events context
    embedding   embeddings of long texts    -> reply events context
    names       tags, and clients' names    -> options
    library     tags, ps and show           -> reply names
    blobs       files that clients send     -> nothing
    makers      create, copy and delete     -> options creation names library blobs
    inference   what a model answers        -> fields options prompt reply context generation embedding names
    cloud       what is on ollama.com alone -> reply
    endpoints   the routes; downloads       -> fields version creation reply names library blobs makers inference cloud
"""
