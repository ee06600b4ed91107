"""What each entry of the queue waits for, in words and numbers: one example for each kind of reason."""

from __future__ import annotations

from router.scheduling.effects import Refusal, Refuse
from router.scheduling.planning import Planning
from router.scheduling.reasons import Blocker, Kind, Reason, Waiting, amounts, foreign, listed
from router.scheduling.resources import Demand
from tests.scheduling.bench import RAM, Bench
from tests.scheduling.records import Request

GIB = 1 << 30


def queue(bench: Bench) -> dict[str, Waiting]:
    return {waiting.model: waiting for waiting in bench.scheduler.queue(bench.now)}


def why(bench: Bench, model: str) -> Reason:
    return queue(bench)[model].why


def reason_of(request: Request) -> str:
    assert isinstance(request.answer, Refuse)
    return request.answer.reason


def test_an_empty_queue() -> None:
    assert Bench().scheduler.queue(0.0) == ()


def test_the_queue_in_the_order_of_turns() -> None:  # B-O2
    bench = Bench(room=9, drain_grace=0)
    for _ in range(3):
        bench.ask("coder", 9)
    bench.run(2)
    bench.ask("task", background=True)
    bench.run(4)
    bench.ask("b")
    bench.ask("b", background=True)
    bench.run(1)
    b, task = bench.scheduler.queue(bench.now)
    assert (b.position, b.model, b.requests, b.waited, b.background) == (1, "b", 2, 1.0, False)
    assert (task.position, task.model, task.requests, task.waited, task.background) == (2, "task", 1, 5.0, True)


# Requests that run


def test_a_busy_model_that_is_closed() -> None:  # B-O2
    bench = Bench(room=9, drain_grace=0)
    running = [bench.ask("coder") for _ in range(3)]
    bench.run(2)
    bench.ask("b", 6)
    bench.run(1)
    waits = why(bench, "b")
    assert waits == Reason(Kind.DRAINING, "waits for coder to finish 3 requests", (Blocker("coder", 3),), {RAM: 2})
    bench.end(running[0])
    assert why(bench, "b").text == "waits for coder to finish 2 requests"
    for request in running[1:]:
        bench.end(request)
    bench.run(0.2)
    assert why(bench, "b") == Reason(Kind.STOPPING, "waits for coder to stop", (Blocker("coder"),), {RAM: 2})


def test_a_busy_model_that_is_not_closed_yet() -> None:  # B-O2
    bench = Bench(room=9, drain_grace=10)
    bench.ask("coder")
    bench.run(2)
    bench.ask("b")
    bench.run(4)
    waits = why(bench, "b")
    assert (waits.kind, waits.drain_in) == (Kind.DRAIN_GRACE, 6.0)
    assert waits.text == "waits for coder to finish 1 request; new ones are still let in (--models-drain-grace)"
    bench.ask("coder")
    bench.run(5)
    assert why(bench, "b").drain_in == 1.0
    assert why(bench, "b").blockers == (Blocker("coder", 2),)
    bench.run(1)
    assert why(bench, "b").kind is Kind.DRAINING
    assert why(bench, "b").drain_in is None


def test_two_busy_models_and_those_behind() -> None:  # B-O2
    """The one behind is told what it takes for both: whatever is free first goes to the first."""
    bench = Bench(room=9, gpus=[4, 4], drain_grace=0)
    bench.ask("x", 4)
    bench.ask("y", 4)
    bench.run(4)
    bench.ask("a", 4)
    bench.ask("b", 4)
    bench.run(1)
    assert why(bench, "a").blockers == (Blocker("x", 1),)
    assert why(bench, "b").text == "waits for y to finish 1 request and x to finish 1 request"


def test_loads_on_one_device_take_turns() -> None:  # B-O2
    bench = Bench(room=9, drain_grace=0)
    bench.ask("x", 4)
    bench.ask("y", 4)
    bench.run(4)
    bench.ask("a", 4)
    bench.ask("b", 4)
    bench.run(1)
    # With x and y gone, a would be loading where b goes, too.
    assert why(bench, "b").text == "is behind a in the queue, and waits for y to finish 1 request"


def test_what_is_ahead_takes_the_room_first() -> None:  # B-O2
    bench = Bench(room=9, drain_grace=0)
    bench.ask("coder", 9)
    bench.run(2)
    bench.ask("big", 9)
    bench.ask("big", 9)
    bench.ask("small", 3)
    bench.run(1)
    waits = why(bench, "small")
    assert waits.kind is Kind.BEHIND
    assert waits.text == "is behind big in the queue, and waits for coder to finish 1 request"
    assert waits.blockers == (Blocker("coder", 1), Blocker("big", 2))


def test_requests_for_a_model_that_is_closed_for_others() -> None:  # B-O2
    """It opens again when those leave for whom it was closed."""
    bench = Bench(room=9, drain_grace=0)
    bench.ask("coder", 9)
    bench.run(2)
    waiter = bench.ask("big", 9)
    bench.run(1)
    late = bench.ask("coder", 9)
    waits = why(bench, "coder")
    assert waits == Reason(Kind.BEHIND, "is behind big in the queue", (Blocker("big", 1),))
    bench.leave(waiter)
    assert late.granted


def test_a_model_that_ends_for_its_own_next_process() -> None:  # B-O2
    bench = Bench(room=9)
    running = bench.ask("a")
    bench.run(2)
    bench.load_with_settings("a", 6, 5)
    assert why(bench, "a") == Reason(Kind.DRAINING, "waits for a to finish 1 request", (Blocker("a", 1),))
    bench.end(running)
    assert why(bench, "a") == Reason(Kind.STOPPING, "waits for a to stop", (Blocker("a"),))


# What ends by itself


def test_its_own_load() -> None:  # B-O2
    bench = Bench(room=9)
    bench.ask("a")
    assert why(bench, "a") == Reason(Kind.OWN_LOAD, "is about to start")  # there is no reading yet
    bench.run(0.5)
    assert why(bench, "a") == Reason(Kind.OWN_LOAD, "waits for its own load", (Blocker("a"),))


def test_the_load_of_another() -> None:  # B-O2
    bench = Bench(room=9, gpus=[9])
    bench.ask("a", 2)
    bench.run(0.5)
    bench.ask("b", 2)
    bench.run(0.1)
    assert why(bench, "b") == Reason(Kind.ANOTHER_LOAD, "waits for a to load", (Blocker("a"),))


def test_downloads_take_turns() -> None:  # B-O2
    bench = Bench(room=9, downloads_max=2)
    bench.missing = {"a", "b", "c", "d", "e"}
    bench.download_seconds = lambda model: 100.0
    for model in "abcde":
        bench.ask(model)
    assert why(bench, "b").text == "waits for its files, which are downloaded"
    assert why(bench, "b").blockers == (Blocker("b"),)
    assert why(bench, "c").text == "waits for its files, which are downloaded after those of a and b"
    assert why(bench, "c").blockers == (Blocker("a"),)  # either of them will do
    assert why(bench, "e").text == "waits for its files, which are downloaded after those of a, b and 2 others"
    assert why(bench, "e").blockers == (Blocker("a"), Blocker("b"), Blocker("c"))
    assert {each.why.kind for each in queue(bench).values()} == {Kind.DOWNLOAD}
    bench.unload("a")
    assert why(bench, "c").blockers == (Blocker("c"),)


def test_memory_that_is_not_back_yet() -> None:  # B-O2
    bench = Bench(room=9, gpus=[9])
    bench.reclaim_seconds = lambda: 5.0
    bench.ask("a", 6, serve=0.5)
    bench.run(3)
    bench.ask("b", 6)
    bench.run(2)
    waits = why(bench, "b")
    assert (waits.kind, waits.blockers) == (Kind.STOPPING, ())
    assert waits.text == "waits until the memory of models that have ended is free again"
    bench.run(6)
    assert not queue(bench)


def test_those_who_ended_while_the_memory_is_read_are_not_named() -> None:  # B-O2
    bench = Bench(room=9, drain_grace=0)
    bench.probe_seconds = lambda: 2.0
    running = bench.ask("a")
    bench.run(6)
    bench.ask("b")
    bench.run(2.1)
    assert why(bench, "b").blockers == (Blocker("a", 1),)
    bench.end(running)
    assert why(bench, "b").kind is Kind.STOPPING
    assert why(bench, "b").blockers == ()


def test_what_was_found_holds_while_the_machine_is_still() -> None:  # B-O2
    bench = Bench(room=4000, drain_grace=0)
    bench.ask("coder", 3000)
    bench.run(2)
    bench.ask("b", 3000)
    bench.run(1)
    assert why(bench, "b").missing == {RAM: 2000}
    found = bench.scheduler.obstacles._replanning
    for held in (0, 3, 6, 0):  # it is read every half second, and what others hold is never still
        bench.others[RAM] = held
        bench.run(1)
        assert why(bench, "b").missing == {RAM: 2000}
    assert bench.scheduler.obstacles._replanning is found
    bench.others[RAM] = 500
    bench.run(1)
    assert why(bench, "b").missing == {RAM: 2500}
    bench.ask("c", 600)
    bench.run(1)
    assert why(bench, "c").kind is Kind.BEHIND


def test_the_books_may_have_changed_since_the_last_reading() -> None:  # B-O2
    bench = Bench(room=9, gpus=[4, 4], drain_grace=0, drain_timeout=20)
    bench.ask("x", Demand(4, names=("GPU0",)))
    running = bench.ask("y", Demand(4, names=("GPU1",)))
    bench.run(4)
    bench.ask("a", Demand(4, names=("GPU0",)))
    bench.ask("b", Demand(4, names=("GPU1",)))
    bench.run(1)
    first = bench.scheduler.why("a", bench.now)
    assert first
    assert first.blockers == (Blocker("x", 1),)
    bench.probe_seconds = lambda: 2.0
    bench.end(running)  # the memory is read now
    assert why(bench, "b") == Reason(Kind.OWN_LOAD, "is about to start")
    bench.ask("c", Demand(4, names=("GPU0",)))  # it was not there when the memory was read
    waits = why(bench, "c")
    assert (waits.kind, waits.blockers) == (Kind.BEHIND, (Blocker("x", 1), Blocker("a", 1)))


# What stays


def test_a_pinned_model() -> None:  # B-O2
    bench = Bench(room=9)
    bench.ask("boss", pinned=True, serve=1)
    bench.run(3)
    bench.ask("b")
    bench.run(1)
    waits = why(bench, "b")
    assert waits.kind is Kind.PINNED_OR_FOREIGN
    assert waits.text == "waits for boss to stop, which is pinned; it needs 0 MiB on RAM more"
    assert (waits.blockers, waits.missing, waits.drain_in) == ((Blocker("boss"),), {RAM: 1}, None)


def test_another_program() -> None:  # B-O2
    bench = Bench(room=40 * GIB, gpus=[24 * GIB])
    bench.ask("idle", 4 * GIB, serve=0.5)
    bench.run(3)
    bench.others["here/GPU0"] = 18 * GIB
    bench.ask("b", 9 * GIB)
    bench.run(1)
    waits = why(bench, "b")
    assert waits.kind is Kind.PINNED_OR_FOREIGN
    assert waits.text == (
        "needs 3.0 GiB on GPU0 more than all models together could give; other programs hold 18.0 GiB on GPU0"
    )
    assert (waits.blockers, waits.missing) == ((), {"here/GPU0": 3 * GIB})


def test_memory_that_cannot_be_read() -> None:  # B-O2
    bench = Bench(room=9)
    bench.ask("a")
    bench.scheduler.probed((), bench.now, failure="the driver hangs")
    assert why(bench, "a") == Reason(Kind.PINNED_OR_FOREIGN, "waits until the memory can be read")


def test_a_model_that_has_just_been_loaded() -> None:  # B-O2
    bench = Bench(room=9, queue_timeout=300)
    bench.ask("a", serve=0.5, min_loaded=30)
    bench.run(2)  # it was ready after 1 s
    bench.ask("b")
    bench.run(9)
    waits = why(bench, "b")
    assert (waits.kind, waits.drain_in, waits.blockers) == (Kind.DRAIN_GRACE, 20.0, (Blocker("a"),))
    assert waits.text == "waits for a to have been loaded for a while (--models-min-loaded)"


def test_a_young_model_stays_no_longer_than_the_queue_allows() -> None:  # B-O2
    bench = Bench(room=9, queue_timeout=100)
    bench.ask("a", serve=0.5, min_loaded=3000)
    bench.run(2)
    bench.ask("b")
    bench.run(10)
    assert why(bench, "b").drain_in == 80.0  # it goes 10 s before the request would fail


def test_a_background_request_spares_what_others_use() -> None:  # B-O2
    bench = Bench(room=9, task_grace=60, drain_grace=0)
    running = bench.ask("a")
    bench.run(2)
    bench.ask("b", background=True)
    bench.run(1)
    waits = why(bench, "b")
    assert (waits.kind, waits.drain_in) == (Kind.DRAIN_GRACE, None)  # nobody knows when its request ends
    assert waits.text == "waits for a to finish 1 request and to be unused for a while (--task-grace)"
    bench.end(running)
    bench.run(20)
    waits = why(bench, "b")
    assert (waits.kind, waits.drain_in) == (Kind.DRAIN_GRACE, 40.0)
    assert waits.text == "waits for a to be unused for a while (--task-grace)"


# Slots


def test_as_many_run_as_may() -> None:  # B-O2
    bench = Bench(room=100, models_max=2, drain_grace=0)
    for model in "xy":
        bench.ask(model)
        bench.run(2)
    bench.ask("b")
    bench.run(1)
    waits = why(bench, "b")
    assert waits == Reason(
        Kind.SLOTS,
        "waits for x to finish 1 request; as many models run as may (--models-max 2)",
        (Blocker("x", 1),),
    )


def test_the_memory_would_not_do_either() -> None:  # B-O2
    bench = Bench(room=9, models_max=1, drain_grace=0)
    bench.ask("x")
    bench.run(2)
    bench.ask("b")
    bench.run(1)
    assert why(bench, "b").kind is Kind.DRAINING


# Far back


def test_those_too_far_back_to_be_planned_for() -> None:  # B-O2
    bench = Bench(room=9, drain_grace=0)
    bench.ask("x", 9)
    bench.run(2)
    for number in range(Planning.LOOKAHEAD + 5):
        bench.ask(f"m{number}", 9)
    bench.run(1)
    waits = why(bench, f"m{Planning.LOOKAHEAD}")
    assert waits == Reason(Kind.BEHIND, "is behind m0 in the queue", (Blocker("m0", 1),))
    last = why(bench, f"m{Planning.LOOKAHEAD + 4}")
    assert last.text == "is behind m0, m1 and 3 others in the queue"
    assert last.blockers == (Blocker("m0", 1), Blocker("m1", 1), Blocker("m2", 1))
    bench.unload("m0")
    bench.run(1)
    assert len(why(bench, f"m{Planning.LOOKAHEAD}").blockers) > 3  # it is planned for


def test_where_it_would_cost_too_much_those_are_named_that_the_plan_names() -> None:  # B-O2
    bench = Bench(room=50, drain_grace=0)
    for number in range(48):
        bench.ask(f"x{number}", 1)
    bench.run(60)
    for number in range(12):
        bench.ask(f"m{number}", 10 + number)
    bench.run(1)
    first, *others = bench.scheduler.queue(bench.now)
    assert others[0].why.kind is Kind.DRAINING
    assert len(others[0].why.blockers) == 11
    assert others[-1].why.kind is Kind.BEHIND
    assert others[-1].why.blockers == tuple(Blocker(f"m{number}", 1) for number in range(11))
    replanning = bench.scheduler.obstacles._replanning
    assert replanning is not None
    assert replanning._left < 0
    assert first.why.kind is Kind.DRAINING
    assert len(first.why.blockers) == 8  # of what is there two bytes are free


# Words


def test_a_refusal_says_what_is_in_the_way_if_no_requests_are() -> None:  # B-O2
    bench = Bench(room=9, queue_timeout=60)
    bench.ask("boss", pinned=True, serve=1)
    bench.run(3)
    waiter = bench.ask("b")
    bench.run(61)
    assert waiter.refused is Refusal.QUEUE_TIMEOUT
    assert reason_of(waiter) == (
        "it waited 60 s for memory or a free slot: pinned models, other programs or requests further ahead hold the "
        "memory or the slots; it waits for boss to stop, which is pinned; it needs 0 MiB on RAM more"
    )


def test_lists() -> None:
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a", "b", "c", "d"]) == "a, b and 2 others"
    assert listed(["a", "b", "c"], 7) == "a, b and 8 others"


def test_devices_are_named_with_their_node_where_there_are_several() -> None:
    assert amounts({"here/CUDA0": GIB, "here/RAM": GIB}) == "1.0 GiB on CUDA0 and 1.0 GiB on RAM"
    assert amounts({"here/CUDA0": GIB, "there/CUDA0": GIB}) == "1.0 GiB on here/CUDA0 and 1.0 GiB on there/CUDA0"


def test_other_programs_without_numbers() -> None:
    assert foreign({}, {}).text == "waits for memory that other programs hold"
    assert "other programs" not in foreign({RAM: 5}, {}).text


def test_a_demand_over_two_gpus_lacks_on_both() -> None:  # B-O2
    bench = Bench(room=9, gpus=[10, 10], drain_grace=0)
    bench.ask("a", Demand(8, names=("GPU0",)))
    bench.ask("b", Demand(6, names=("GPU1",)))
    bench.run(3)
    bench.ask("c", 18)
    bench.run(1)
    waits = why(bench, "c")
    assert waits.blockers == (Blocker("a", 1), Blocker("b", 1))
    assert waits.missing == {"here/GPU0": 7, "here/GPU1": 5}
