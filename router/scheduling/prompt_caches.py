"""PURE: how much RAM the prompt cache of a new process may take.

llama-server keeps the prompts of past conversations in RAM, so that one that goes on need not be computed anew. The
cache fills with use, and the engine would let it grow to 8 GiB in each process. Here every process is told a bound that
the books can keep: the bytes are booked with the process, and come back only with its end.

The rule: a new process is promised a quarter of the RAM that is left beside the margin, all that is booked, and room
for the models that will want to run beside it. Those are the ones that wait, and the ones that ran before, the last
used first, as far as they fit and may run at once. So models that were seen before are not swapped for the sake
of a cache that is promised now. A promise that was made before they were seen may be too large: then its process ends
once for the first model that would fit but for it (`policy`), and the next one is promised less.

Called by `runs` for each start.
"""

from __future__ import annotations

from collections.abc import Iterable

from router.scheduling.resources import Allocation, Reading

SHARE = 4  # a process gets a fourth of what is left
MIB = 1 << 20
LEAST_BYTES = 16 * MIB  # less is of no use


def left_in_ram(
    reading: Reading,
    margin: int,
    *,
    booked: int,
    hidden: int,
    promised: int,
    ending: int,
    expected: Iterable[int],
    slots: float,
) -> int:
    """The bytes of this RAM that can be promised.

    `booked` is what all processes hold of it, with the promises made until now. `hidden` is the part of that which the
    reading does not show yet: loads, and promises. `promised` is the part of it that caches have. `ending` is what
    processes hold besides that stop, or will: it is for the `expected`, not for caches. These are the needs of models
    that will want to run, in their order, of which `slots` may.
    """
    left = most = reading.device.total - margin - booked
    if reading.free is not None:
        left = min(left, reading.free - margin - hidden)
        most = min(most, reading.free - margin - hidden + promised)  # caches that are full are in the reading, too
    room = most + promised + ending  # whether models fit beside each other does not depend on their caches
    later = left + ending
    for need in expected:
        if slots < 1:
            break
        if need <= room:
            room -= need
            later -= need
            slots -= 1
    return max(0, min(left, later))


def promise(left: int, most: int) -> int:
    """The bytes of which a cache that can use `most` is promised, if so many are left. The engine counts in MiB."""
    share = min(most, left // SHARE)
    return share - share % MIB if share >= LEAST_BYTES else 0


def with_cache(claim: Allocation, key: str, cache: int) -> Allocation:
    """The same place, with a prompt cache in the RAM of this key."""
    if not cache:
        return claim
    held = {**claim.held, key: claim.held.get(key, 0) + cache}
    return Allocation(held, claim.devices, claim.layer_counts, cache)
