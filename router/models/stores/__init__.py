"""Stores of other programs: Ollama's and LM Studio's. They are only read; nothing in them is copied or changed.

Stands on `spec` and `folder`: a store finds the same as a folder of models (`FoundModel`), and for Ollama's models also
a `Package`, with the parameters and prompts that belong to the name. Begin with `ollama`. Whoever may write to a store
is not trusted with more than to choose which models are served: every number, name and path in it is checked.

::

    parameters  PURE: Ollama's parameters in the engine's names -> nothing
    manifest    PURE: a manifest of Ollama: names and layers    -> nothing
    blobs       the files of Ollama's layers                    -> manifest
    ollama      Ollama's store                                  -> parameters manifest blobs
    lmstudio    LM Studio's folder                              -> nothing
    twins       PURE: several names of one model                -> nothing
    places      where the stores are                            -> manifest ollama lmstudio
"""
