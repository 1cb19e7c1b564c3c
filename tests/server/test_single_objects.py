"""An object alone, as the page plays it, is what it is in a run with others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .comfyui import Graph
from .graphs import THREE, clicked, graph_of, node

pytestmark = pytest.mark.server


SETTINGS: list[dict[str, Any]] = [{}, {"cfg": 1.0, "steps": 2}, {"level": False}, {"fade_out": 0.05}]


@pytest.mark.parametrize("settings", SETTINGS, ids=["own", "unguided", "not leveled", "short fade"])
@pytest.mark.parametrize("seed", [7, 2**64 - 1])
def test_an_object_alone_is_to_the_bit_what_it_is_in_the_run(server, settings, seed):
    """As the page does to hear one: its place among those that are on and clicked is added to the seed."""
    run = [sound for sound, _ in server.sounds(server.run(graph_of(clicked(*THREE), seed, **settings)))["raw"]]
    assert len(run) == 2
    assert not np.array_equal(*run)
    for place, index in enumerate((0, 3)):
        alone = [{**each, "on": i == index} for i, each in enumerate(THREE)]
        graph = graph_of(clicked(*alone), (seed + place) % 2**64, **settings)
        ((heard, _),) = server.sounds(server.run(graph))["raw"]
        np.testing.assert_array_equal(heard, run[place])


def test_an_object_alone_is_what_it_is_in_a_run_of_single_nodes(server):
    def graph(state: str, seed: int) -> Graph:
        return {
            "load": node("SoundingLoadModel", checkpoint="starter (in the box)"),
            "click": node("SoundingClick", picture="farm.png", state=state),
            "see": node("SoundingEncodeImage", model=["load", 0], image=["click", 0]),
            "ground": node("SoundingGroundMask", patches=["see", 0], mask=["click", 1], clamp="on"),
            "latent": node("SoundingEmptyLatent", model=["load", 0], seconds=1.0, batch_size=1),
            "sample": node(
                "SoundingSampler",
                model=["load", 0],
                condition=["ground", 0],
                latent=["latent", 0],
                seed=seed,
                steps=2,
                cfg=3.0,
                scheduler="ddim",
                denoise=1.0,
            ),
            "decode": node("SoundingDecode", model=["load", 0], latent=["sample", 0]),
            "vocode": node("SoundingVocode", model=["load", 0], mel=["decode", 0]),
            "raw": node("SaveAudio", audio=["vocode", 0], filename_prefix="chain"),
        }

    run = [sound for sound, _ in server.sounds(server.run(graph(clicked(*THREE), 3)))["raw"]]
    alone = clicked(*({**each, "on": each["name"] == "cow"} for each in THREE))
    ((heard, _),) = server.sounds(server.run(graph(alone, 4)))["raw"]
    np.testing.assert_array_equal(heard, run[1])
