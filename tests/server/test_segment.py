"""Clicks to masks to sound on the real server, which models it lists, and their memory."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sounding.images.files import read_image
from sounding.segment import Prompt, load_segmenter

from ..tiny_sams import tiny_sam1
from .comfyui import ROOT, run_beside
from .graphs import node

pytestmark = pytest.mark.server

INPUT = ROOT / "example_workflows" / "input"
SAM = "sams/sam_vit_b_tiny.pth"
Graph = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def sam_file(server) -> Path:
    """Models folders with a SAM, the same as .safetensors, and much that is none."""
    models = server.folder / "models"
    for name in ("sams", "sam2/bert", "sam2/half", "sam3"):
        (models / name).mkdir(parents=True, exist_ok=True)
    path = models / SAM
    state = tiny_sam1().state_dict()
    torch.save(state, path)
    save_file(state, models / "sams" / "mine.safetensors")
    save_file({"weight": torch.zeros(2)}, models / "sams" / "foreign.safetensors")
    save_file({"weight": torch.zeros(2)}, models / "sam2" / "bert" / "model.safetensors")
    (models / "sam2" / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    save_file({"weight": torch.zeros(2)}, models / "sam2" / "half" / "model.safetensors")
    (models / "sam2" / "half" / "config.json").write_text(json.dumps({"model_type": "sam2"}))
    for name in ("sams/upscaler.pth", "sams/notes.txt", "sam3/sam3.pth"):
        (models / name).write_text("not a model")
    return path


def graph(**inputs: Any) -> Graph:
    mask = {"segmenter": ["sam", 0], "image": ["picture", 0], "positive_coords": '[{"x": 60, "y": 90}]'}
    return {
        "picture": node("LoadImage", image="farm.png"),
        "sam": node("SoundingLoadSam", segmenter_name=SAM),
        "mask": node("SoundingSamMask", **(mask | inputs)),
        "hard": node("MaskToImage", mask=["mask", 0]),
        "soft": node("MaskToImage", mask=["mask", 1]),
        "save hard": node("SaveImage", images=["hard", 0], filename_prefix="hard"),
        "save soft": node("SaveImage", images=["soft", 0], filename_prefix="soft"),
        "score": node("PreviewAny", source=["mask", 2]),
    }


def saved(server: Any, entry: dict[str, Any], name: str) -> np.ndarray:
    (file,) = entry["outputs"][name]["images"]
    return np.asarray(Image.open(io.BytesIO(server.get("/view", **file).content)).convert("L"))


def test_only_sams_are_listed(server, sam_file):
    info = server.get("/object_info/SoundingLoadSam").json()["SoundingLoadSam"]
    options = info["input"]["required"]["segmenter_name"][1]["options"]
    assert options == ["starter (in the box)", "sams/mine.safetensors", SAM, "sam2/half"]


def test_points_become_the_mask_that_the_library_gives(server, sam_file):
    prompt = {"negative_coords": "[[5, 5]]", "box": "[10, 20, 150, 160]"}
    entry = server.run(graph(**prompt))
    segmenter, picture = load_segmenter(sam_file), read_image(INPUT / "farm.png")
    expected = segmenter.segment(
        segmenter.prepare(picture), Prompt(((60.0, 90.0),), ((5.0, 5.0),), (10.0, 20.0, 150.0, 160.0))
    )
    hard, soft = (saved(server, entry, f"save {name}") for name in ("hard", "soft"))
    assert hard.shape == expected.mask.shape
    assert set(np.unique(hard)) <= {0, 255}
    assert ((hard > 127) == (expected.logits > 0).numpy()).mean() > 0.999
    np.testing.assert_allclose(soft, expected.mask.numpy() * 255, atol=1.5)
    (shown,) = entry["outputs"]["score"]["text"]
    assert float(shown) == pytest.approx(expected.score, abs=1e-4)


def test_a_click_is_heard(server, sam_file, tiny_graph):
    """The soft mask goes where the paper's does; another click is another sound."""
    heard = []
    for point in ("[[30, 30]]", "[[150, 120]]"):
        whole = tiny_graph("two_objects_tracks_and_mix", seed=5)
        ours = graph(positive_coords=point)
        whole |= {name: ours[name] for name in ("picture", "sam", "mask")}
        whole["7"]["inputs"]["mask"] = ["mask", 1]
        heard.append(np.asarray(server.sounds(server.run(whole))["15"][0][0]))
    assert np.abs(heard[0]).max() > 0
    assert not np.array_equal(*heard)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask": {"positive_coords": "60, 90"}}, "which is not JSON"),
        ({"mask": {"positive_coords": ""}}, "no point on the object"),
        ({"mask": {"positive_coords": "[[6000, 9]]"}}, "outside of the image"),
        ({"mask": {"box": "[1, 2, 3]"}}, "one box is expected"),
        ({"mask": {"text": "a cow"}}, "understands points and boxes only; use SAM 3"),
        ({"sam": {"segmenter_name": "sams/upscaler.pth"}}, "a Segment Anything model in models/sams"),
        ({"sam": {"segmenter_name": "sams/../sams/sam_vit_b_tiny.pth"}}, "a Segment Anything model in models/sams"),
        ({"sam": {"segmenter_name": "/etc/passwd"}}, "a Segment Anything model in models/sams"),
        ({"sam": {"segmenter_name": "sam2/half"}}, "half"),
    ],
)
def test_bad_clicks_and_models_are_named(server, sam_file, changes, words):
    wrong = graph()
    for name, inputs in changes.items():
        wrong[name]["inputs"] |= inputs
    assert words in server.error(wrong)


PROBE = """
import gc, importlib.util, sys, weakref
from pathlib import Path

import torch
import comfy.cli_args
comfy.cli_args.args.cpu = True
from comfy import model_management

root, checkpoint = Path(sys.argv[1]), Path(sys.argv[2])
spec = importlib.util.spec_from_file_location("pack", root / "__init__.py", submodule_search_locations=[str(root)])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])
from pack.nodes.host.loaded import LoadedSegmenter
from pack.sounding.segment import Prompt, load_segmenter

with torch.inference_mode():
    segmenter = LoadedSegmenter(load_segmenter(checkpoint))
    loaded = lambda: segmenter._patcher.loaded_size() == segmenter._patcher.model_size()
    runs = []
    segmenter._segmenter.module.image_encoder.register_forward_hook(lambda *_: runs.append(1))
    picture = torch.rand(1, 40, 60, 3, generator=torch.Generator().manual_seed(0))
    assert not loaded()
    asked, load = [], model_management.load_models_gpu
    model_management.load_models_gpu = lambda models, memory_required=0, **more: (
        asked.append(memory_required), load(models, memory_required=memory_required, **more))
    first = segmenter.segment(picture, Prompt(((10.0, 10.0),)))
    assert loaded()
    segmenter.segment(picture.clone(), Prompt(((50.0, 10.0),)))
    assert runs == [1], "the picture was embedded again for another click"
    encoder = segmenter._segmenter.module.image_encoder
    tokens, heads = encoder.pos_embed.shape[1] * encoder.pos_embed.shape[2], encoder.blocks[0].attn.num_heads
    assert min(asked) >= 3 * 4 * heads * tokens**2, "the host was not told of the attention of all to all"
    # As the host acts under --novram on a GPU: it never loads plain layers, not even for force_full_load.
    model_management.vram_state = model_management.VRAMState.NO_VRAM
    model_management.is_device_cpu = lambda device: False
    model_management.unload_all_models()
    assert not loaded()
    assert torch.equal(first.logits, segmenter.segment(picture, Prompt(((10.0, 10.0),))).logits)
    assert loaded() and runs == [1]

watched = weakref.ref(segmenter._segmenter.module)
del segmenter, loaded
gc.collect()
model_management.cleanup_models()
assert watched() is None, "the model is kept after its last owner is gone"
assert not model_management.current_loaded_models
print("fine")
"""


def test_the_host_moves_the_weights_and_frees_them(comfyui, tmp_path):
    path = tmp_path / "sam.pth"
    torch.save(tiny_sam1().state_dict(), path)
    ran = run_beside(comfyui, PROBE, ROOT, path)
    assert ran.stdout.endswith("fine\n"), ran.stderr
