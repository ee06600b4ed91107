"""OpenAI's Responses API, translated to chat completions: the engine's own is not what its clients expect.

Stands on proxy and pool, and on the modules of `api` that all APIs share. Begin with `endpoints`, the table of routes.
A request passes through `request` (its fields in a chat's words, with `items`, `tools` and `files`). `answer` asks the
child, and says the answer in this API's words: `output` makes items and events, `response` the object around them.

::

    fields     PURE: single fields, checked             -> nothing
    files      PURE: files as text                      -> fields
    tools      PURE: tools in a chat's words and back   -> fields
    items      PURE: a conversation's items as messages -> fields files tools
    request    PURE: a request in a chat's words        -> fields tools items
    response   the response object                      -> nothing
    output     output items and their events            -> tools items response
    answer     the answer: events, or one object        -> request response output
    store      responses that are kept, within bounds   -> fields items
    endpoints  the routes                               -> fields request answer store
"""
