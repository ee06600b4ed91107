"""Hugging Face: names, the cache on disk, and downloads in a child program.

Stands on the ground alone. Begin with `names` (what a name is) and `repo` (which files it means), then `resolve` (from
a name to files) and `fetch` (from files to the cache). The catalog reads `cache`; the pool downloads by `resolve` and
`fetch`. Only `transfer`, a program of its own, imports huggingface_hub.

::

    names      PURE: user/repo:quant@revision                -> nothing
    repo       PURE: which files of a repository are a model -> names
    progress   how far a download is                         -> nothing
    layout     where things lie in the cache                 -> names
    cache      the models in the cache                       -> names repo layout
    snapshots  what the cache has of a repository            -> names repo layout
    removal    models leave the cache                        -> names repo layout cache

The child program, and the process that speaks to it::

    transfer.reports   its lines of JSON                    -> nothing
    transfer.failures  the hub's exceptions, as errors      -> nothing
    transfer.download  files grow, are checked, get a name  -> transfer.reports transfer.failures
    transfer.__main__  a listing or files, as requested     -> repo transfer.reports transfer.failures transfer.download
    transfer_process   starts it, and passes its answers on -> nothing

From a name to files::

    resolve  a name becomes files that fit  -> names repo snapshots transfer_process
    fetch    files are downloaded           -> names repo progress layout snapshots transfer_process resolve
    pull     the command line's bars, lines -> names repo progress resolve fetch
"""
