"""How sure the model is: what the page and the history are told."""

from __future__ import annotations

import pytest

from .graphs import THREE, clicked, graph_of, node

pytestmark = pytest.mark.server


@pytest.mark.parametrize("linked", [True, False])
def test_the_history_says_how_sure_the_model_is(server, linked):
    graph = graph_of(clicked(*THREE), steps=1) | {"show": node("PreviewAny", source=["sound", 2])}
    graph["load"]["inputs"]["checkpoint"] = "starter (in the box)"
    if not linked:
        del graph["load"], graph["sound"]["inputs"]["model"]
    graph["see"] = node("SoundingEncodeImage", model=["more", 0], image=["click", 0])
    graph["more"] = node("SoundingLoadModel", checkpoint="starter (in the box)")
    clamp = "on" if linked else "off"  # else it would be known from the last time, and say nothing again
    graph["ground"] = node("SoundingGroundMask", patches=["see", 0], mask=["click", 1], clamp=clamp)
    graph["latent"] = node("SoundingEmptyLatent", model=["more", 0], seconds=0.2, batch_size=1)
    graph["sample"] = node("SoundingSampler", model=["more", 0], condition=["ground", 0], latent=["latent", 0], seed=1,
                           steps=1, cfg=0.0, scheduler="checkpoint", denoise=1.0)  # fmt: skip
    graph["decode"] = node("SoundingDecode", model=["more", 0], latent=["sample", 0])
    graph["saved"] = node("PreviewImage", images=["decode", 1])
    entry = server.run(graph)
    said = [outputs for outputs in entry["outputs"].values() if "sounding_sureness" in outputs]
    assert len(said) == 2
    (least,) = (float(value) for value in entry["outputs"]["show"]["text"])
    for outputs in said:
        assert min(each["sureness"] for each in outputs["sounding_sureness"]) == pytest.approx(least, abs=1e-3)
        assert len(outputs["sounding_sureness"]) == 2
        assert all(each["sure"] == (each["sureness"] >= 0.5) for each in outputs["sounding_sureness"])
        assert len(outputs["text"]) == 2


def test_what_the_model_is_unsure_of_is_said_in_words(server):
    graph = {
        "sound": node("SoundingThisObject", image=["plain", 0], mask=["mask", 0], seconds=0.2, seed=0, steps=1),
        "plain": node("EmptyImage", width=64, height=64, batch_size=1, color=255),
        "mask": node("SolidMask", value=1.0, width=64, height=64),
        "raw": node("SaveAudio", audio=["sound", 0], filename_prefix="unsure"),
    }
    entry = server.run(graph)
    (said,) = (outputs for outputs in entry["outputs"].values() if "sounding_sureness" in outputs)
    assert [each["sure"] for each in said["sounding_sureness"]] == [False]
    assert "it may sound like something else" in said["text"][0]
    # Of a node that was expanded, the page is told by the name that it knows.
    shown = {each.get("display_node") for each in entry["meta"].values()}
    assert "sound" in shown


@pytest.mark.parametrize(("words", "known"), [("a dog", True), ("a spaceship taking off", False)])
def test_unknown_words_are_told_the_nearest_known_ones(server, tiny_graph, words, known):
    graph = tiny_graph("text_grounded", seconds=0.2, steps=1)
    graph["1"]["inputs"]["checkpoint"] = "starter (in the box)"
    graph["4"]["inputs"]["text"] = words
    entry = server.run(graph)
    ((said,), (line,)) = (entry["outputs"]["4"][key] for key in ("sounding_sureness", "text"))
    assert said["name"] == words
    assert ("nearest known words are" in line) == (not known and not said["sure"])
    if known:
        assert "nearest" not in said
    else:
        assert not said["sure"]
        assert len(said["nearest"]) >= 1
        assert all(name in line for name in said["nearest"])
