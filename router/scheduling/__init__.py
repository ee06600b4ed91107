"""Decides and remembers; does no I/O, so that every case can be written down in a test.

`policy` decides what fits where and which models go: pure functions over a frozen snapshot of the machine. `scheduler`
remembers: states, leases, the queue. Events go in, effects come out, and `pool` performs them.

Stands on errors and units alone. Begin with `policy`; then the rules and the theory at the top of `scheduler`. A new
reason to evict, or another order of victims, belongs in `policy`, or in `timing` if it is about time; a new bound on
what may run in `limits`, and `snapshot` carries it to `policy`; a new bound on waiting in `limits` and `waiting_line`;
a new state in `states`. `memory_levels` only knows how much should be free by now: `node.settling` does the waiting.

What is decided, PURE::

    resources      devices, readings, demands, allocations                 -> nothing
    snapshot       the machine at one moment, and its free memory          -> resources
    placement      on which devices a demand goes                          -> resources snapshot
    causes         why a process is stopped, as a cause and as a sentence  -> nothing
    effects        what the scheduler wants done                           -> resources causes
    reasons        what a request waits for, as words for people           -> nothing
    refusals       why a request is refused, as a sentence and as an error -> resources snapshot effects
    prompt_caches  how much RAM a prompt cache may take                    -> resources
    policy         where a model goes, and which models go for it          -> resources snapshot placement refusals

What is remembered, SANS-I/O::

    states        the states of a model, one table of transitions -> snapshot
    limits        the operator's bounds                           -> nothing
    books         one record for each model; writes its state     -> resources snapshot causes effects states
    waiting_line  the requests that wait, by arrival and by turn  -> resources policy states books

What the memory does, SANS-I/O::

    next_start     what must be free for a start  -> resources snapshot placement states books
    pressure       what others took of the margin -> resources causes states books
    memory_levels  what is free, and should be    -> resources snapshot effects states books next_start pressure

Whose turn it is, SANS-I/O::

    downloads  which files are downloaded next -> effects states books waiting_line
    answers    grants and refusals             -> effects books waiting_line downloads

What time adds, PURE::

    timing  who is spared, closed, cut, and when -> resources snapshot causes policy limits books waiting_line

What starts and ends, SANS-I/O::

    runs  all -> resources effects prompt_caches states limits books waiting_line memory_levels downloads answers timing

One pass over the queue, SANS-I/O::

    planning  all -> resources snapshot effects limits books waiting_line memory_levels downloads timing runs

What would be decided if some had ended, PURE::

    replanning  the queue planned for again -> resources snapshot placement policy limits books waiting_line timing

What the queue waits for, SANS-I/O::

    obstacles  all -> resources snapshot reasons policy states limits books waiting_line timing planning replanning

The events, all of them, SANS-I/O::

    scheduler  all -> resources snapshot causes effects reasons states limits books waiting_line planning obstacles
"""
