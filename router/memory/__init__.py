"""What a model needs, in bytes for each device.

Stands on models, engine and scheduling. Begin with `estimate`, which takes the best source there is;
`demand` computes a need from header and flags.

::

    kv          what a context keeps for each layer                 -> nothing
    compute     the buffers in which a batch is computed            -> kv
    weights     where the engine puts each tensor                   -> kv
    demand      header and flags, or the engine's measure, to bytes -> kv compute weights
    footprints  what models really took, kept across restarts       -> nothing
    estimate    a model's need from the best source there is        -> demand footprints
    forecast    what a model would take, and who would go for it    -> demand estimate
"""
