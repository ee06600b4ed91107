"""The words of each API: its endpoints, its errors, and what it translates. `app` puts the routes together.

Stands on proxy (requests to children) and pool (everything else). Begin with `app`, then `openai`, the shortest API;
`native` has llama.cpp's endpoints of a router, the package `ollama` an API that the engine does not speak.

::

    dialects           how each API's errors look                             -> nothing
    details            what model pickers show of a model                     -> nothing
    listing            the list of models as JSON, kept up to date            -> details
    load               load, unload and settings of one model                 -> nothing
    metrics            Prometheus metrics of the router                       -> nothing
    news               what happens to models, as a stream of events          -> nothing
    slots              which files a request may write and read               -> nothing
    download           downloads and removals, for all APIs                   -> nothing
    openai             OpenAI's API, and llama.cpp's paths for it             -> dialects
    anthropic          Anthropic's Messages API                               -> dialects
    native             llama.cpp's own API                                    -> dialects listing load metrics news slots download
    stream             llama.cpp's resumable streams                          -> dialects
    ollama.fields      PURE: single fields of a request, checked              -> nothing
    ollama.options     PURE: options in the engine's names                    -> ollama.fields
    ollama.messages    PURE: messages, images and tool calls                  -> ollama.fields
    ollama.prompt      PURE: a chat or generate request in the engine's words -> ollama.fields ollama.options ollama.messages
    ollama.reply       the common parts of answers                            -> nothing
    ollama.events      what a child's stream says                             -> nothing
    ollama.generation  a generation as lines of JSON, or as one object        -> ollama.prompt ollama.reply ollama.events
    ollama.embedding   embeddings, of long texts too                          -> ollama.reply ollama.events
    ollama.names       names with tags, and aliases of clients' own           -> ollama.options
    ollama.library     tags, ps and show                                      -> details ollama.reply ollama.names
    ollama.inference   the endpoints that a model answers                     -> dialects ollama.fields ollama.options ollama.prompt ollama.reply ollama.generation ollama.embedding ollama.names
    ollama.endpoints   the routes; aliases and downloads                      -> dialects download ollama.fields ollama.options ollama.reply ollama.names ollama.library ollama.inference
    app                create_app(): routes, doors, errors, start and end     -> dialects listing download openai anthropic native stream ollama.endpoints
"""
