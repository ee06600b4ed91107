"""Anthropic's Messages API: requests become chat completions of the child, and its answers become messages.

llama-server has this API too, but its conversion drops what it does not know (llama.cpp b11434, server-chat.cpp:
`output_config`, seeds, documents, `thinking: disabled`). Chat completions take all of it, so the translation is done
here, and a wish is applied once for all APIs, by `proxy.gateway`. Stands on proxy and pool. Begin with `endpoints`; a
request passes through `request`, its answer through `generation`.

::

    fields        PURE: values of a request, checked; errors name the field -> nothing
    content       PURE: text, images and documents as parts of a chat       -> fields
    conversation  PURE: system and messages as messages of a chat           -> fields content
    tools         PURE: tools and the choice among them                     -> fields
    thinking      PURE: what a request wants about thinking                 -> fields
    request       PURE: a whole request as a chat completion                -> fields conversation tools thinking
    answer        PURE: a whole answer; usage and reason, also of streams   -> request
    stream        PURE: the events of a streamed answer                     -> request answer
    generation    one request to a child, and its answer                    -> request answer stream
    names         Anthropic's model names                                   -> nothing
    models        the list of models in Anthropic's shape                   -> names
    endpoints     the routes                                                -> fields request generation names
"""
