"""Loaded models against the host's real memory management, without a server."""

from __future__ import annotations

import pytest

from .comfyui import ROOT, run_beside

pytestmark = pytest.mark.server

PROBE = """
import gc, importlib.util, sys, weakref
from pathlib import Path

class Calls(list):
    # Notes every call of some functions.
    def count(self, owner, name):
        plain = getattr(owner, name)
        setattr(owner, name, lambda *args, **more: self.append(name) or plain(*args, **more))

import torch
import comfy.cli_args
comfy.cli_args.args.cpu = True
from comfy import model_management
from comfy.model_patcher import ModelPatcher

root, checkpoint = Path(sys.argv[1]), Path(sys.argv[2])
spec = importlib.util.spec_from_file_location("pack", root / "__init__.py", submodule_search_locations=[str(root)])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])
from pack.nodes.host import loaded as loading
from pack.nodes.host.loaded import LoadedModel
from pack.sounding.config import PARTS

def loaded(model):
    return [patcher.loaded_size() == patcher.model_size() for patcher in model._patchers.values()]

def generate(model, seed=0, rows=4):
    image, mask = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0)), torch.ones(1, 8, 8)
    mask[:, :rows] = 0
    return model.generate(image=image, mask=mask, seconds=0.5, steps=2, seed=seed).waveform

calls = Calls()
calls.count(loading, "read_parts")
calls.count(ModelPatcher, "load")
with torch.inference_mode():
    model = LoadedModel(checkpoint, "auto")
    assert not model._patchers and not calls
    assert all(weight.is_meta for weight in model._model.parameters())
    first = generate(model)
    assert set(model._patchers) == set(PARTS) - {"query"}, "a mask asks no query encoder"
    assert sorted(calls) == ["load"] * 5 + ["read_parts"] * 5
    calls.clear()
    for changed in (generate(model, seed=1), generate(model, rows=2)):
        assert not torch.equal(first, changed)
    assert not calls, f"another seed or mask reloads: {calls}"
    assert torch.equal(first, generate(model))
    model.on_device(*PARTS)
    assert sorted(calls) == ["load", "read_parts"]
    assert all(loaded(model))
    # As the host acts under --novram on a GPU: it never loads plain layers, not even for force_full_load.
    model_management.vram_state = model_management.VRAMState.NO_VRAM
    model_management.is_device_cpu = lambda device: False
    model_management.unload_all_models()
    assert not any(loaded(model))
    model_management.load_models_gpu(list(model._patchers.values()), force_full_load=True)
    assert not all(loaded(model)), "the host loads all by itself now: LoadedModel.on_device need not help"
    assert torch.equal(first, generate(model))
    model.on_device(*PARTS)
    assert all(loaded(model))
    assert len(model_management.current_loaded_models) == len(PARTS)

maps = Path("/proc/self/maps")
assert not maps.exists() or str(checkpoint) in maps.read_text(), "float32 on a CPU is used where the file lies"
watched = [weakref.ref(thing) for thing in (model._model, *model._model.children(), *model._patchers.values())]
watched += [weakref.ref(weight) for weight in model._model.parameters()]
del model
gc.collect()
model_management.cleanup_models()
assert not any(one() is not None for one in watched), "the model is kept after its last owner is gone"
assert not model_management.current_loaded_models
assert not maps.exists() or str(checkpoint) not in maps.read_text(), "the file is held open"
print("fine")
"""


def test_parts_are_whole_when_used_and_gone_with_the_model(comfyui, tiny_checkpoint):
    ran = run_beside(comfyui, PROBE, ROOT, tiny_checkpoint)
    assert ran.stdout.endswith("fine\n"), ran.stderr
