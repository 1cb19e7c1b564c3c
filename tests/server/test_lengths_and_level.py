"""Sounds through the real server: as long as asked, to the sample, and at one level or as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sounding.audio.loudness import LOUDNESS, loudness

pytestmark = pytest.mark.server

RATE = 16_000
CHAINS = {"one_object": "2", "text_grounded": "9"}  # with the node that has the switch


def sound(server, graph) -> np.ndarray:
    ((files,),) = [server.sounds(server.run(graph)).values()]
    ((samples, rate),) = files
    assert rate == RATE
    return np.asarray(samples)


@pytest.mark.parametrize("seconds", [1.0, 2.555, 7.3, 20.0])
@pytest.mark.parametrize("chain", CHAINS)
def test_lengths_to_the_sample(server, tiny_graph, chain, seconds):
    made = sound(server, tiny_graph(chain, seconds=seconds, steps=1))
    assert made.shape == (round(seconds * RATE),)
    quarters = np.array_split(made, 4)
    assert min(quarter.std() for quarter in quarters) > 0.2 * made.std()  # to the end


@pytest.mark.parametrize(("chain", "switch"), CHAINS.items())
def test_level_is_a_switch(server, tiny_graph, chain, switch):
    on, off = tiny_graph(chain, seed=1), tiny_graph(chain, seed=1)
    off[switch]["inputs"]["level"] = False
    leveled, raw = sound(server, on), sound(server, off)
    assert float(loudness(torch.from_numpy(leveled).float(), RATE)) == pytest.approx(LOUDNESS, abs=0.1)
    assert (leveled[0], leveled[-1]) == (0, 0)
    before_fade = slice(0, len(raw) * 9 // 10)
    assert np.corrcoef(leveled[before_fade], raw[before_fade])[0, 1] > 0.99
    assert abs(float(loudness(torch.from_numpy(raw).float(), RATE)) - LOUDNESS) > 0.1
