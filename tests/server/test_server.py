"""The pack in a real server: nodes, graphs, errors, interruption, caching."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import websocket

from .graphs import CORE_DECODES, OTHER_MODELS, node

pytestmark = pytest.mark.server

ROOT = Path(__file__).parent.parent.parent
API = sorted((ROOT / "example_workflows" / "api").glob("*.json"))
API = [path for path in API if path.stem not in OTHER_MODELS | CORE_DECODES]
NODES = (
    "SoundingLoadModel",
    "SoundingEncodeImage",
    "SoundingGroundMask",
    "SoundingGroundText",
    "SoundingEmptyLatent",
    "SoundingSampler",
    "SoundingDecode",
    "SoundingVocode",
    "SoundingEncodeAudio",
    "SoundingMixTracks",
    "SoundingSoundscape",
    "SoundingSave",
    "SoundingSaveStems",
    "SoundingThisObject",
    "SoundingClick",
    "SoundingNameObject",
    "SoundingInpaint",
    "SoundingIntensity",
    "SoundingVideo",
    "SoundingNative",
    "SoundingLoadSam",
    "SoundingSamMask",
)
RATE = 16_000


def forms_of(path: Path, seconds: float) -> set[tuple[tuple[int, ...], int]]:
    """Shapes and rates of an example's sounds: a soundscape is in stereo, one sound goes on for a second, stems are
    dry, their mix is longer, and a video has the length of its frames.
    """
    if path.stem == "stems":
        return {((round(seconds * 48_000),), 48_000), ((round((seconds + 1.5) * 48_000), 2), 48_000)}
    if path.stem == "video":  # 18 frames, 4 per second
        return {((72_000, 2), RATE)}
    samples = round((seconds + (path.stem == "inpaint")) * RATE)
    return {((samples, 2) if path.stem == "soundscape" else (samples,), RATE)}


def only(sounds: dict[str, list[tuple[Any, int]]]) -> np.ndarray:
    """Samples of the only file."""
    ((files,),) = (sounds.values(),)
    return np.asarray(files[0][0])


def cached(entry: dict[str, Any]) -> set[str]:
    """Nodes that the host did not run again."""
    return {name for kind, data in entry["status"]["messages"] if kind == "execution_cached" for name in data["nodes"]}


def test_nodes_and_tooltips(object_info):
    for name in NODES:
        info = object_info[name]
        assert info["category"] == "audio/Sounding"
        assert info["description"]
        assert all(info["output_tooltips"])
        for group in ("required", "optional"):
            for key, spec in info["input"].get(group, {}).items():
                assert spec[1].get("tooltip"), f"{name}.{key} has no tooltip"
    assert {name for name in object_info if name.startswith("Sounding")} == set(NODES)


def test_only_safetensors_are_offered(object_info):
    options = object_info["SoundingLoadModel"]["input"]["required"]["checkpoint"][1]["options"]
    assert options[0] == "starter (in the box)"
    assert {"tiny.safetensors", "foreign.safetensors"} <= set(options[1:])


def test_what_is_listed_is_read_and_links_that_lead_out_are_not_listed(server):
    models = server.folder / "models" / "sounding"
    (models / "sub").mkdir(exist_ok=True)
    shutil.copy(models / "tiny.safetensors", models / "UPPER.SAFETENSORS")
    shutil.copy(models / "tiny.safetensors", models / "sub" / "a:b.SafeTensors")
    try:
        info = server.get("/object_info/SoundingLoadModel").json()["SoundingLoadModel"]
        options = set(info["input"]["required"]["checkpoint"][1]["options"])
        assert {"UPPER.SAFETENSORS", "sub/a:b.SafeTensors"} <= options
        assert "linked.safetensors" not in options
        for name in ("UPPER.SAFETENSORS", "sub/a:b.SafeTensors"):
            graph = {
                "load": node("SoundingLoadModel", checkpoint=name),
                "latent": node("SoundingEmptyLatent", model=["load", 0], seconds=0.2, batch_size=1),
                "decode": node("SoundingDecode", model=["load", 0], latent=["latent", 0]),
                "show": node("PreviewImage", images=["decode", 1]),
            }
            server.run(graph)
    finally:
        (models / "UPPER.SAFETENSORS").unlink()
        shutil.rmtree(models / "sub")


@pytest.mark.parametrize("path", API, ids=lambda path: path.stem)
def test_examples_run_with_the_starter(server, path):
    """As they are, but for the number of steps: those of one example are all taken."""
    graph = json.loads(path.read_text())
    for each in graph.values():
        if "steps" in each["inputs"] and path.stem != "one_object":
            each["inputs"]["steps"] = 2
    seconds = next((n["inputs"]["seconds"] for n in graph.values() if "seconds" in n["inputs"]), 0.0)
    found = server.sounds(server.run(graph))
    assert found
    for files in found.values():
        for samples, rate in files:
            assert (samples.shape, rate) in forms_of(path, seconds)
            assert np.abs(samples).max() > 0.01


@pytest.mark.parametrize("path", API, ids=lambda path: path.stem)
def test_examples_run_with_another_model(server, tiny_graph, path):
    found = server.sounds(server.run(tiny_graph(path.stem, seconds=0.7)))
    for files in found.values():
        for samples, rate in files:
            assert (samples.shape, rate) in forms_of(path, 0.7)
            assert np.abs(samples).max() > 0


def test_same_seed_same_sound_other_seed_other_sound(server, tiny_graph):
    first = only(server.sounds(server.run(tiny_graph("text_grounded", seed=1))))
    other = only(server.sounds(server.run(tiny_graph("text_grounded", seed=2))))
    server.post("/free", {"unload_models": True, "free_memory": True})
    again = only(server.sounds(server.run(tiny_graph("text_grounded", seed=1))))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_tracks_differ_and_are_mixed(server, tiny_graph):
    found = server.sounds(server.run(tiny_graph("two_objects_tracks_and_mix", seed=5)))
    (dog, _), (cow, _) = found["15"]
    ((mix, _),) = found["18"]
    assert not np.array_equal(dog, cow)
    assert mix.shape == dog.shape
    # Both tracks, turned down as a whole if at all.
    assert np.corrcoef(np.asarray(mix), np.asarray(dog) + np.asarray(cow))[0, 1] > 0.999


def test_a_batch_of_masks_is_a_batch_of_sounds(server, tiny_graph):
    """Item i is drawn from seed + i, so it is the sound that its mask makes alone with that seed."""
    batch = tiny_graph("one_object", seed=3)
    batch["dog"] = node("LoadImageMask", image="farm_mask_dog.png", channel="red")
    batch["cow"] = node("LoadImageMask", image="farm_mask_cow.png", channel="red")
    batch["dogs"] = node("MaskToImage", mask=["dog", 0])
    batch["cows"] = node("MaskToImage", mask=["cow", 0])
    batch["both"] = node("ImageBatch", image1=["dogs", 0], image2=["cows", 0])
    batch["masks"] = node("ImageToMask", image=["both", 0], channel="red")
    batch["2"]["inputs"]["mask"] = ["masks", 0]
    sounds = server.sounds(server.run(batch))["3"]
    alone = tiny_graph("one_object", seed=4)
    alone["cow"] = batch["cow"]
    alone["2"]["inputs"]["mask"] = ["cow", 0]
    assert len(sounds) == 2
    np.testing.assert_allclose(sounds[1][0], only(server.sounds(server.run(alone))), atol=2e-4)


def masks(kind: str) -> dict[str, dict[str, Any]]:
    """Ways to select that come with the host; the node "mask" has the mask."""
    if kind == "LoadImage alpha":
        return {"picture": node("LoadImage", image="dog.webp"), "mask": node("InvertMask", mask=["picture", 1])}
    if kind == "LoadImageMask":
        return {"mask": node("LoadImageMask", image="farm_mask_cow.png", channel="red")}
    return {
        "nothing": node("SolidMask", value=0.0, width=96, height=64),
        "square": node("SolidMask", value=1.0, width=32, height=32),
        "mask": node("MaskComposite", destination=["nothing", 0], source=["square", 0], x=8, y=8, operation="add"),
    }


@pytest.mark.parametrize("kind", ["LoadImage alpha", "LoadImageMask", "MaskComposite"])
def test_masks_of_core_nodes(server, tiny_graph, kind):
    graph = tiny_graph("one_object", seed=1)
    plain = only(server.sounds(server.run(graph)))
    graph |= masks(kind)
    graph["2"]["inputs"]["mask"] = ["mask", 0]
    assert not np.array_equal(plain, only(server.sounds(server.run(graph))))


def test_a_sound_can_be_varied(server, tiny_graph):
    graph = tiny_graph("text_grounded", seed=1)
    graph["silence"] = node("EmptyAudio", duration=0.45, sample_rate=44_100, channels=2)
    graph["encode"] = node("SoundingEncodeAudio", model=["1", 0], audio=["silence", 0])
    graph["7"]["inputs"] |= {"latent": ["encode", 0], "denoise": 0.5}
    assert only(server.sounds(server.run(graph))).shape == (round(0.45 * RATE),)


def test_latents_may_be_taken_apart_and_joined_by_core_nodes(server, tiny_graph):
    """An item taken out of a batch keeps its noise; joined latents are as long as their frames say."""
    second = tiny_graph("text_grounded", seed=30)
    second["6"]["inputs"]["batch_size"] = 2
    second["take"] = node("LatentFromBatch", samples=["6", 0], batch_index=1, length=1)
    second["7"]["inputs"]["latent"] = ["take", 0]
    plain = only(server.sounds(server.run(tiny_graph("text_grounded", seed=31))))
    np.testing.assert_array_equal(only(server.sounds(server.run(second))), plain)
    joined = tiny_graph("text_grounded", seed=31)
    joined["join"] = node("LatentConcat", samples1=["7", 0], samples2=["7", 0], dim="y")
    joined["8"]["inputs"]["latent"] = ["join", 0]
    assert only(server.sounds(server.run(joined))).size >= 2 * plain.size


def test_another_seed_does_not_read_the_model_again(server, tiny_graph):
    reads = lambda: server.log.read_text().count("Sounding: read")  # noqa: E731
    server.run(tiny_graph("text_grounded", seed=11))
    before = reads()
    again = cached(server.run(tiny_graph("text_grounded", seed=12)))
    assert {"1", "3", "4", "6"} <= again
    assert "7" not in again
    assert reads() == before


def test_another_seed_does_not_read_the_starter_again(server, tiny_graph):
    """Without a model the node takes the starter, through the host's own cache."""
    graph = tiny_graph("one_object", seed=21)
    del graph["loader"], graph["2"]["inputs"]["model"]
    first = only(server.sounds(server.run(graph)))
    before = server.log.read_text().count("Sounding: read")
    graph["2"]["inputs"]["seed"] = 22
    assert not np.array_equal(first, only(server.sounds(server.run(graph))))
    assert server.log.read_text().count("Sounding: read") == before


def test_interrupt_while_sampling(server, tiny_graph):
    client = uuid.uuid4().hex
    page = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws?clientId={client}", timeout=600)
    prompt_id = server.queue(tiny_graph("text_grounded", seed=99, seconds=20.0, steps=900), client).json()["prompt_id"]
    steps = 0
    while steps < 3:
        message = page.recv()
        kind = json.loads(message)["type"] if isinstance(message, str) else "binary"
        assert kind not in ("execution_error", "execution_success")
        steps += kind == "progress"
    server.post("/interrupt")
    kinds = [kind for kind, _ in server.wait(prompt_id)["status"]["messages"]]
    page.close()
    assert kinds[-1] == "execution_interrupted"
    server.run(tiny_graph("text_grounded", seed=100))


@pytest.mark.gpu
@pytest.mark.parametrize("flag", ["--novram", "--lowvram", "--gpu-only"])
def test_little_or_much_gpu_memory(start_server: Callable[..., Any], tiny_graph, flag):
    if not torch.cuda.is_available():
        pytest.skip(f"the host has no {flag} without CUDA (it excludes --cpu)")
    server = start_server(flag)
    for seed in (1, 2):
        assert only(server.sounds(server.run(tiny_graph("text_grounded", seed=seed)))).shape == (RATE // 2,)
    server.stop()
