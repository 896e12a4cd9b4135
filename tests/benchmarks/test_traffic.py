import torch

from var_core.benchmarks.decisions import Decisions
from var_core.benchmarks.traffic import Copy, least_bytes
from var_core.routing.batch import RoutedBatch
from var_core.statistics.accumulator import TokenBatch


def test_least_bytes_counts_inputs_once_and_touched_state_twice():
    tokens = TokenBatch(torch.tensor([5, 5, 9]), torch.tensor([True, True, False]), 1)
    experts = torch.tensor([[[0, 1], [0, 2], [0, 1]]])
    routed = RoutedBatch(torch.zeros(1, 3, 4), experts, torch.ones(1, 3, 2))
    inputs = 12 * 4 + 6 * 8 + 6 * 4 + 3 * 8
    rows, cells = 2, 5  # ids 5 and 9; (5,0) twice, (5,1), (5,2), (9,0), (9,1)
    assert least_bytes([Decisions(tokens, routed)], experts=4) == inputs + 2 * (rows * 56 + cells * (4 + 4 + 8))


def test_a_copy_copies_all():
    copy = Copy(torch.device("cpu"))
    copy(0)
    assert copy._target.sum().item() * 4 * 2 == Copy.moved_bytes
