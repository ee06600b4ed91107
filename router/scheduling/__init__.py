"""Decides and remembers; does no I/O, so every case can be written down in a test.

Stands on errors and units alone. Begin with `policy` (what fits where, who must go), then
`scheduler` (states, leases, the queue).

::

    policy     PURE: where a model goes, and who must go for it       -> nothing
    scheduler  SANS-I/O: states, leases, the queue; events to effects -> policy
    refusals   PURE: why the scheduler refuses, as errors             -> scheduler
"""
