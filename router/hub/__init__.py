"""Hugging Face: names, the cache on disk, and downloads in a child program.

Stands on the ground alone. Begin with `names` (what a name is) and `repo` (which files it means), then `resolve` (from
a name to files) and `fetch` (from files to the cache). The catalog reads `cache`; the pool downloads by `resolve` and
`fetch`. Only `transfer`, a program of its own, imports huggingface_hub; it gets the token in its environment. What
counts as a quantization, and which is the default, is in `repo`.

::

    names             PURE: user/repo:quant@revision                             -> nothing
    tokens            PURE: a token that comes with one request                  -> nothing
    endpoint          PURE: where the hub is                                     -> nothing
    repo              PURE: which files of a repository are a model              -> names
    progress          how far a download is                                      -> nothing
    change_times      when paths last changed                                    -> nothing
    layout            where things lie in the cache on disk                      -> names
    cache             the models in the cache                                    -> names repo change_times layout
    links             files by address, and models of Docker's registries        -> repo layout
    snapshots         what the cache has of a repository, and places             -> names repo layout
    removal           deletes models from the cache                              -> names repo layout cache
    transfer          a program of its own: huggingface_hub behind lines of JSON -> repo links
    transfer_process  starts that program, and passes its answers on             -> endpoint

    resolve     a name becomes files that fit    -> names endpoint repo layout snapshots transfer_process
    link_fetch  files of addresses come to disk  -> progress layout links transfer_process resolve
    fetch       files on the hub come to disk    -> names repo progress layout snapshots transfer_process resolve
    pull        `llama-router pull`: bars, lines -> names repo progress resolve fetch
"""
