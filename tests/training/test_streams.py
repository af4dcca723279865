import random

import numpy as np
import torch

from bench.training import checkpoint
from bench.training.streams import Streams, derive


def draw_all() -> tuple[list[float], list[float], float]:
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()


def test_purposes_and_seeds_give_different_streams():
    seeds = {derive(seed, purpose) for seed in range(20) for purpose in ("init", "batches", "augmentation", "method")}
    assert len(seeds) == 80


def test_what_a_method_draws_moves_no_other_stream():
    quiet, loud = Streams(3), Streams(3)
    with loud.world("method"):
        draw_all()
    with quiet.world("init"):
        expected = draw_all()
    with loud.world("init"):
        assert draw_all() == expected
    assert quiet.batches.integers(1 << 40) == loud.batches.integers(1 << 40)


def test_the_callers_generators_are_untouched():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    with Streams(1).world("method"):
        torch.rand(100)
    assert torch.equal(torch.rand(2), expected)


def test_a_world_goes_on_where_it_was_left():
    once, twice = Streams(5), Streams(5)
    with once.world("method"):
        expected = [draw_all(), draw_all()]
    with twice.world("method"):
        first = draw_all()
    with twice.world("method"):
        assert [first, draw_all()] == expected


def test_state_survives_a_file_also_when_taken_inside_a_world(tmp_path):
    streams = Streams(7)
    streams.augmentation.random(5)
    with streams.world("method"):
        draw_all()
        checkpoint.save(tmp_path / "s.pt", streams.state())
        expected = draw_all(), streams.augmentation.random(), streams.batches.random()
    resumed = Streams(99)
    resumed.load(checkpoint.load(tmp_path / "s.pt"))
    with resumed.world("method"):
        assert (draw_all(), resumed.augmentation.random(), resumed.batches.random()) == expected
