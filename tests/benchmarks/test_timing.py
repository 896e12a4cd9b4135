import gc
import time

import pytest
import torch

from var_core.benchmarks.timing import Times, figure, time_rounds

CPU = torch.device("cpu")


def test_every_contender_runs_once_a_round_and_the_order_changes():
    log = []
    contenders = {name: lambda round_, name=name: log.append((round_, name)) for name in "abcd"}
    times = time_rounds(contenders, rounds=20, device=CPU, warm_up=3)
    rounds = [[name for round_, name in log if round_ == number] for number in range(23)]
    assert [round_ for round_, _ in log] == sorted(round_ for round_, _ in log)
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert {order[0] for order in rounds} == set("abcd") == {order[-1] for order in rounds}
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == dict.fromkeys("abcd", 20)


def test_the_order_depends_on_the_seed_only():
    def order(seed):
        log = []
        runs = {name: lambda round_, name=name: log.append(name) for name in "abc"}
        time_rounds(runs, 9, CPU, seed=seed)
        return log

    assert order(1) == order(1) != order(2)


def test_ratios_are_paired_within_rounds():
    # A machine that gets ten times slower from round to round: paired, the ratio is 2 in each.
    times = Times({"slow": [2, 20, 200], "fast": [1, 10, 100], "drifting": [1, 40, 300]})
    assert vars(times.ratio("slow", "fast")) == {
        "median": 2, "minimum": 2, "maximum": 2, "n": 3, "unit": "ratio", "against": "fast",
    }  # fmt: skip
    found = times.ratio("drifting", "fast")
    assert (found.median, found.minimum, found.maximum) == (3, 1, 4)


def test_a_subset_s_time_is_scaled_and_the_others_are_not():
    times = Times({"few": [1.0, 2.0], "all": [4.0, 4.0]}).scaled({"few": 8})
    assert times.ratio("few", "all").median == 3.0
    assert times.rate("all", 100, "tokens a second").median == 25


def test_a_sleeping_contender_takes_its_time():
    times = time_rounds({"long": lambda _: time.sleep(0.03), "short": lambda _: None}, 3, CPU, warm_up=0)
    assert min(times.seconds["long"]) >= 0.03 > max(times.seconds["short"])


def test_no_garbage_is_collected_while_the_clock_runs_and_it_is_afterwards():
    seen = []
    time_rounds({"a": lambda _: seen.append(gc.isenabled())}, 2, CPU)
    assert seen == [False] * 4 and gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        time_rounds({"a": lambda _: 1 / 0}, 2, CPU)
    assert gc.isenabled()


def test_the_median_of_an_even_number_lies_between():
    assert figure([1.0, 2.0, 4.0, 9.0], "MB").median == 3.0
