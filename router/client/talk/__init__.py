"""`run`: a conversation with a model in the terminal, or one question and its answer.

Stands on the modules of `client` around it. Begin with `command`. `conversation` and `typed` are pure: what goes to the
model, and what a typed line means.

::

    conversation  PURE: messages and parameters -> nothing
    typed         PURE: what a typed line means -> nothing
    pictures      pictures from files           -> nothing
    answer        an answer as it comes         -> nothing
    editor        the line that somebody types  -> typed
    show          the answer on a terminal      -> answer
    command       run                           -> conversation typed pictures answer editor show
"""
