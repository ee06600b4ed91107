"""PURE: on which devices a demand goes, given the free memory of each.

The fewest devices win; among equals the tightest fit, so that large gaps stay whole. Over several GPUs a model is
divided in proportion to their free memory, by whole layers if the layers are known. `free` is bytes by device key
everywhere here, UNCHECKED where nothing is checked. Called by `policy`, once for each world in which a demand has to
fit.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from operator import attrgetter

from router.scheduling.resources import Allocation, Demand, Device
from router.scheduling.snapshot import UNCHECKED, NodeDevices

_index = attrgetter("index")


def find_place(
    nodes: Iterable[NodeDevices], demand: Demand, free: Mapping[str, float], avoided: frozenset[str] = frozenset()
) -> Allocation | None:
    """The best allocation on one of these nodes that uses none of the `avoided` device keys; None if there is none."""
    options = []
    for node in nodes:
        if any(free[key] < demand.host for key in node.hosts):
            continue
        held = dict.fromkeys(node.hosts, demand.host) if demand.host else {}
        if not demand.split and not demand.fixed:
            if avoided.isdisjoint(node.hosts):
                options.append((0, min((free[key] for key in node.hosts), default=UNCHECKED), Allocation(held)))
            continue
        gpus = node.gpus
        if demand.names:
            gpus = {key: device for key, device in gpus.items() if device.name in demand.names}
        place_on_gpus = _as_user_divides if demand.user_split else _over_fewest_gpus
        for group in _groups(gpus) if node.has_alone else (gpus,):
            if found := place_on_gpus(group, demand, free, avoided):
                slack = sum(free[device.key] for device in found.devices)
                whole = replace(found, held={**held, **found.held}) if held else found
                options.append((len(found.devices), slack, whole))
    return min(options, key=lambda option: option[:2])[2] if options else None


def _groups(gpus: Mapping[str, Device]) -> list[Mapping[str, Device]]:
    """The sets of GPUs that one child may see at once."""
    alone = [key for key, device in gpus.items() if device.is_alone]
    return [{key: gpus[key] for key in gpus if key not in alone}, *({key: gpus[key]} for key in alone)]


def _as_user_divides(
    gpus: Mapping[str, Device], demand: Demand, free: Mapping[str, float], avoided: frozenset[str]
) -> Allocation | None:
    """The user's division (`--tensor-split`): it fits as it is, or not at all."""
    order = {name: position for position, name in enumerate(demand.names)}
    chosen = sorted(gpus.values(), key=lambda d: (order.get(d.name, 0), d.index))[: len(demand.user_split)]
    needs = [share + demand.fixed for share in demand.user_split]
    if len(chosen) < len(needs) or any(d.key in avoided for d in chosen):
        return None
    fits = all(free[device.key] >= need for device, need in zip(chosen, needs, strict=True))
    return _allocation(chosen, needs, free) if fits else None


def _over_fewest_gpus(
    gpus: Mapping[str, Device], demand: Demand, free: Mapping[str, float], avoided: frozenset[str]
) -> Allocation | None:
    """The fewest GPUs that can hold the demand.

    The GPUs are sorted by free memory. Among the windows of neighbours that have room enough, the one that leaves least
    over wins. Layers of different sizes may go into no window; then any set of GPUs that holds them will do.
    """
    split, fixed = demand.split, demand.fixed
    usable = [key for key in gpus if free[key] >= fixed and key not in avoided]
    room = [free[key] - fixed for key in usable]
    if not room or sum(room) < split or max(demand.layers, default=0) > max(room):
        return None
    room.sort()
    usable.sort(key=free.__getitem__)
    devices = [gpus[key] for key in usable]
    if free[usable[0]] == UNCHECKED:
        # Nothing is checked: the engine chooses among all GPUs, as it does without a router.
        return Allocation({}, tuple(sorted(devices, key=_index)))
    ends = [*accumulate(demand.layers, initial=0)]
    # What the largest one can hold, the two largest ones, and so on.
    together = [*accumulate(reversed(room))]
    for count in range(bisect_left(together, split) + 1, len(usable) + 1):
        # Without layers the largest GPUs can hold it, if so many can at all.
        is_by_layers = count > 1 and demand.layers
        enough = _that_hold_all_layers(devices, count, demand, free, ends) if is_by_layers else devices[-count:]
        if not enough:
            continue
        starts = range(len(usable) - count + 1)
        first = next(start for start in starts if sum(room[start : start + count]) >= split)
        for start in starts[first:]:
            # A window of equal devices is like the one before it.
            if start == first or room[start - 1] < room[start + count - 1]:
                window = sorted(devices[start : start + count], key=_index)
                if found := _divide(window, demand, free, ends):
                    return found
        return _divide(enough, demand, free, ends)
    return None


def _that_hold_all_layers(
    usable: Sequence[Device], count: int, demand: Demand, free: Mapping[str, float], ends: Sequence[int]
) -> Sequence[Device]:
    """`count` of these devices that hold all layers, in the engine's order (by index); empty if there are none.

    A table by the number of devices used: the most layers that so many of the devices seen until now can hold, and
    which devices do. Each further device improves every row from the row above it.
    """
    best: list[tuple[int, tuple[Device, ...]]] = [(0, ())]
    for device in sorted(usable, key=_index):
        room = free[device.key] - demand.fixed
        longer = [(bisect_right(ends, ends[held] + room) - 1, (*some, device)) for held, some in best[:count]]
        best.append((-1, ()))
        best = [best[0], *(max(*pair, key=lambda row: row[0]) for pair in zip(best[1:], longer, strict=False))]
    held, some = best[count]
    return some if held == len(ends) - 1 else ()


def _divide(
    chosen: Sequence[Device], demand: Demand, free: Mapping[str, float], ends: Sequence[int]
) -> Allocation | None:
    """The demand over exactly these devices, in proportion to their room; None if it does not go in.

    `ends[n]` is what the first `n` layers take. Without layers the amounts are divided to the byte.
    """
    room = [free[device.key] - demand.fixed for device in chosen]
    if len(chosen) == 1:
        return _allocation(chosen, [demand.split + demand.fixed], free)
    if not demand.layers:
        return _allocation(chosen, [share + demand.fixed for share in _in_proportion(demand.split, room)], free)
    # From the last device to the first: how many layers must lie before it, so that the rest fits from it on.
    least = [len(ends) - 1]
    for amount in reversed(room):
        least.append(bisect_left(ends, ends[least[-1]] - amount))
    if least.pop():
        return None
    # From the first device to the last: the border behind it lies where the proportion says, but as far back as the
    # devices behind it need, and no further than the device itself can hold.
    borders, filled, whole = [0], 0.0, sum(room)
    for amount, low in zip(room, reversed(least), strict=True):
        filled += amount
        even = bisect_right(ends, ends[-1] * filled / whole) - 1
        most = bisect_right(ends, ends[borders[-1]] + amount) - 1
        borders.append(max(low, min(even, most)))
    needs = [ends[end] - ends[start] + demand.fixed for start, end in pairwise(borders)]
    return _allocation(chosen, needs, free, tuple(end - start for start, end in pairwise(borders)))


def _in_proportion(split: int, room: Sequence[float]) -> list[int]:
    """Shares of `split` as the engine makes them by free memory. No share is larger than its room."""
    rooms = [int(amount) for amount in room]
    whole = sum(rooms)
    shares = [split * amount // whole if whole else 0 for amount in rooms]
    left = split - sum(shares)  # what the rounding left over
    for index, amount in enumerate(rooms):
        more = min(left, amount - shares[index])
        shares[index] += more
        left -= more
    return shares


def _allocation(
    chosen: Sequence[Device], needs: Sequence[int], free: Mapping[str, float], layer_counts: tuple[int, ...] = ()
) -> Allocation:
    """Where nothing is checked, nothing is booked."""
    held = {d.key: need for d, need in zip(chosen, needs, strict=True) if free[d.key] != UNCHECKED}
    return Allocation(held, tuple(chosen), layer_counts)
