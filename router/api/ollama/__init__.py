"""Ollama's API: a dialect that the engine does not speak, so requests and answers are translated here.

Stands on proxy and pool, and on the modules of `api` that all APIs share. Begin with `endpoints`, the table of routes.
A request that a model answers passes through `inference` (which model), `prompt` (its fields in llama-server's words)
and `generation` or `embedding` (the child's answer in Ollama's words).

::

    fields      PURE: single fields of a request, checked -> nothing
    options     PURE: options in the engine's names       -> fields
    messages    PURE: messages, images and tool calls     -> fields
    prompt      PURE: prompts in the engine's words       -> fields options messages
    reply       the common parts of answers               -> nothing
    events      what a child's stream says                -> nothing
    generation  a generation: lines of JSON or one object -> prompt reply events
    embedding   embeddings, of long texts too             -> reply events
    names       names with tags, and aliases              -> options
    library     tags, ps and show                         -> reply names
    inference   the endpoints that a model answers        -> fields options prompt reply generation embedding names
    endpoints   the routes; aliases and downloads         -> fields options reply names library inference
"""
