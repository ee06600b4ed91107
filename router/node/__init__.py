"""A machine that runs children: its memory, its processes, and how they end.

Stands on scheduling (devices as data), wire (requests to a child) and engine (its command). Begin with `interface`,
which is all that the pool knows of a machine. Then read `local`, this machine. `process` also stops a child: a line on
its stdin, SIGTERM, SIGKILL, each with its time. `crash` finds the cause in the lines that `child_log` kept. Each module
of GPUs (`nvidia`, `amd`) gives them the names that the engine has for them, such as CUDA0.

::

    interface  what the pool needs of a machine and of a child -> nothing

    platforms  PURE: what is true of Linux, macOS and Windows -> nothing

Memory. `devices` is the front; a new kind of GPU is a module beside `nvidia` and `amd`::

    kernel_files    small text files of the kernel                    -> nothing
    visibility      masks that hide GPUs, read and written            -> nothing
    gpus            GPUs, and questions to drivers that may hang      -> nothing
    nvidia          GPUs through NVML                                 -> kernel_files visibility gpus
    amd             GPUs through sysfs                                -> kernel_files visibility gpus
    host_memory     RAM, within the limits of control groups          -> kernel_files
    unified_memory  what Metal may use of an Apple computer's RAM     -> nothing
    settling        waits until the memory of ended processes is back -> nothing
    devices         all memory of the machine, and what is free now   -> gpus nvidia amd host_memory settling
    readahead       files of a start that waits, into the page cache  -> nothing

What a child is made of, and what keeps it from outliving its router::

    gpu_errors      PURE: what engines write when a GPU fails           -> nothing
    crash           how a child ended, as a sentence                    -> interface gpu_errors
    child_log       the last lines that a child wrote                   -> nothing
    pipe_reader     reads a child's output, line by line                -> child_log
    child_protocol  PURE: the states that a child reports               -> interface
    health_poll     when a child serves that reports no states          -> child_protocol
    processes       facts about any process of the system               -> nothing
    vitals          whether a child shows life                          -> processes
    own_process     what the router itself uses                         -> nothing
    watchdog        kills the children when the router dies             -> nothing
    run_roots       where such folders may be                           -> nothing
    run_directory   the folder of sockets; what dead routers left in it -> run_roots
    whereabouts     where this user's routers listen                    -> run_roots run_directory

The two that put it together::

    process  one child    -> interface crash child_log pipe_reader child_protocol health_poll processes vitals watchdog
    local    this machine -> interface visibility devices readahead processes watchdog run_roots run_directory process
"""
