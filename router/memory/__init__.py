"""What a model needs, in bytes for each device, before it is loaded.

Stands on models, engine and scheduling (`Demand`, `plan`). Begin with `estimator`, which takes the best source there is
of a model's need. `demand` predicts a need from header and flags. A new architecture belongs in `architectures`, a new
memory flag in `flag_values`, a new type of cache or tensor in `models.metadata`. `footprints` holds what earlier runs
took; what a running process holds is in `pool.measurements`.

::

    architectures  PURE: what is special about each architecture, as tables  -> nothing
    layers         PURE: what each layer is: attention, window, recurrence   -> architectures
    kv             PURE: what a context keeps for each layer                 -> architectures layers
    compute        PURE: the buffers in which a batch is computed            -> architectures layers kv
    weights        PURE: where the engine puts each tensor                   -> architectures layers
    flag_values    PURE: what flags mean in numbers: contexts, slots, layers -> architectures kv

    graph       PURE: memory that a graph uses again and again -> nothing
    tower       PURE: the parts of encoders, as graphs         -> graph
    maps        PURE: encoders of pictures that work on maps   -> graph tower
    rows        PURE: what projectors make of a picture        -> graph tower
    pictures    PURE: what encoders of pictures compute        -> graph tower maps rows
    conformers  PURE: encoders of sound that convolve          -> graph tower
    sounds      PURE: what encoders of sound compute           -> graph tower conformers
    projectors  PURE: what a projector takes for one picture   -> graph tower pictures sounds

    overrides     PURE: the header under --override-kv -> nothing
    batches       PURE: how models embed               -> architectures flag_values
    model_bytes   what one model takes                 -> architectures layers kv compute weights flag_values
    demand        what a process takes                 -> compute weights flag_values projectors overrides model_bytes
    fit_params    PURE: the engine's measure           -> flag_values demand
    fitting       fits contexts to the empty machine   -> flag_values batches demand
    implied_args  PURE: flags that no user gave        -> demand
    faults        PURE: what the engine refuses        -> layers flag_values
    footprints    what models really took              -> nothing
    prompt_cache  PURE: prompts that are kept in RAM   -> nothing
    need          what one load needs                  -> demand

    estimator  need -> flag_values overrides demand fit_params fitting implied_args faults footprints prompt_cache need
    forecast   load -> demand need estimator
"""
