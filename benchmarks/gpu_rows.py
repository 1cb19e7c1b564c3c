"""What `benchmarks.gpu` measures: each row's code, its time limit, and what the tiny configuration changes."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import finetune as finetune_step
from benchmarks import generate, growth, many, memory, training
from benchmarks.models import as_published, build_model, write_tiny
from training.engine.estimate import measure_speed
from training.finetune.plan import FinetuneRecipe
from training.finetune.run import finetune

for library in ("timm", "open_clip", "scipy.signal", "transformers.models.clap.modeling_clap"):
    import_module(library)  # which models import when they are built: once here, instead of in each row
OWN_SOUNDS = Path(__file__).parent.parent / "examples" / "own-sounds"
STEPS = 25  # of a generation at full size


@dataclass(frozen=True)
class Row:
    """A figure: what prints it, and the seconds it may take on a GPU, imports not counted."""

    name: str
    run: Callable[[], object]
    limit: float


@dataclass(frozen=True)
class Setting:
    """What all rows share."""

    device: str
    tiny: bool
    out: Path

    @property
    def seconds(self) -> float:
        """Length of a sound at full size."""
        return 0.64 if self.tiny else 10.24

    def checkpoint(self) -> str:
        """The starter, or the tiny model, written to a file."""
        return str(write_tiny(self.out / "tiny.safetensors")) if self.tiny else "starter"


def against_diffusers(setting: Setting, dtype: str) -> None:
    """Steady state and memory beside `AudioLDMPipeline`."""
    generate.main(
        device=setting.device,
        dtype=dtype,
        steps=1 if setting.tiny else STEPS,
        repeats=1 if setting.tiny else 5,
        seconds=setting.seconds,
        tiny=setting.tiny,
    )


def first_calls(setting: Setting) -> None:
    """The first call of each side in a process of its own, forked from this one, which has not touched the device."""
    taken = {}
    for side in generate.SIDES:
        with multiprocessing.get_context("fork").Pool(1) as pool:
            taken[side] = pool.apply(first_call, (side, setting))
    mine, theirs = (taken[side] for side in generate.SIDES)
    print("| first call of two steps, seconds | ours | AudioLDMPipeline | ours / theirs |\n| --- | --- | --- | --- |")
    print(f"| bf16 | {mine:.2f} | {theirs:.2f} | {mine / theirs:.2f} |")


def first_call(side: str, setting: Setting) -> float:
    """Seconds of the first generation."""
    task = generate.build_task(setting.device, torch.bfloat16, setting.seconds, 2, tiny=setting.tiny)
    return generate.run_once(side, task).whole


def roofline(setting: Setting) -> None:
    """Operations of a guided pair, divided by the speed of large matrix products, beside the time that it takes."""
    device, repeats = torch.device(setting.device), 1 if setting.tiny else STEPS
    model = build_model(setting.device, torch.bfloat16, setting.tiny)
    noise = model.noise(setting.seconds, [0]).to(device, torch.bfloat16)
    tokens = torch.randn(2, 1, model.config.grounding.condition_width, device=device, dtype=torch.bfloat16)
    pair, step = torch.cat([noise, noise]), torch.tensor(500, device=device)
    run = partial(model.unet, pair, step, encoder_hidden_states=tokens)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            run()
        start = generate.now(device)
        for _ in range(repeats):
            run()
        spent = (generate.now(device) - start) / repeats
    speed, work = measure_speed(device, torch.bfloat16), counter.get_total_flops()
    print(f"A guided pair is {work / 1e9:.1f} GFLOP, bf16 matrix products run at {speed / 1e12:.2f} TFLOP/s: at least")
    print(f"{work / speed * 1e3:.2f} ms. It takes {spent * 1e3:.2f} ms, {work / speed / spent:.0%} of that speed.")


def codec(setting: Setting) -> None:
    """VAE and vocoder in several precisions; the first line is the libraries' own modules, which are the peer.

    "TF32" is float32 with matrix products and convolutions in TF32; in the other float32 lines both are exact.
    """
    device, repeats = torch.device(setting.device), 1 if setting.tiny else 10
    model = build_model(setting.device, torch.float32, setting.tiny)
    ours = model.vae, model.vocoder
    latents = torch.randn(1, 8, round(setting.seconds * 25), 16, device=device)
    peer = 0.0

    def measure(name: str, tf32: bool = False) -> None:
        nonlocal peer
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        start = generate.now(device)
        model.vocode(model.decode(latents))
        first = generate.now(device) - start
        start = generate.now(device)
        for _ in range(repeats):
            model.vocode(model.decode(latents))
        spent = (generate.now(device) - start) / repeats
        peer = peer or spent
        print(f"| {name} | {first:.3f} | {spent:.4f} | {peer / spent:.2f} |", flush=True)

    print("| decode and vocode | first call, seconds | later ones, seconds | speed |\n| --- | --- | --- | --- |")
    model.vae, model.vocoder = map(as_published, ours)
    measure("the libraries' modules, float32")
    measure("the libraries' modules, TF32", tf32=True)
    model.vae, model.vocoder = ours
    measure("float32")
    measure("TF32", tf32=True)
    model.vae.half()
    model.vocoder.half()
    measure("float16")
    model.vae.decoder = torch.compile(model.vae.decoder)
    model.vocoder.forward = torch.compile(model.vocoder.forward)  # type: ignore[method-assign]
    measure("float16, torch.compile (trial)")


def objects(setting: Setting) -> None:
    """Four objects of one image beside one."""
    growth.main(
        device=setting.device,
        items="1",
        seconds="0.64" if setting.tiny else "5",
        objects="1,4",
        steps=None,
        repeats=1 if setting.tiny else 5,
        model=setting.checkpoint(),
        out=setting.out / "growth.svg",
    )


def peaks(setting: Setting) -> None:
    """Memory, stage by stage."""
    memory.main(device=setting.device, dtype="bfloat16", seconds=setting.seconds, batches="1,4", tiny=setting.tiny)


def many_sounds(setting: Setting) -> None:
    """Jobs by one command, and how busy they keep the device."""
    many.main(
        device=setting.device,
        jobs=2 if setting.tiny else 512,
        seconds=0.64 if setting.tiny else 5.0,
        steps=None,
        repeats=1,
        at_once=None,
        model=setting.checkpoint(),
    )


def training_step(setting: Setting, amp: bool, compiled: bool) -> None:
    """A step beside the plain loop."""
    training.main(
        device=setting.device,
        batch=2 if setting.tiny else 32,
        repeats=1 if setting.tiny else 3,
        amp=amp,
        precision="bf16",
        compiled=compiled,
        checkpointing=False,
        tiny=setting.tiny,
    )


def fine_tuning(setting: Setting) -> None:
    """A step of the longest stage, then the command of docs/finetune.md from its start, with its log as it goes on."""
    base, folder = setting.checkpoint(), setting.out / "finetuning"
    finetune_step.main(
        batch=2 if setting.tiny else 16,
        repeats=1 if setting.tiny else 3,
        variants="fp32,bf16",
        device=setting.device,
        model=base,
    )
    print(flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    data, rehearse, recipe = OWN_SOUNDS, "starter", finetune_step.recipe_of()
    if setting.tiny:
        data, rehearse = copied(folder / "new", "cat", "fire"), str(copied(folder / "known", "dingo", "guitar"))
        recipe = shortened(recipe)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="    %(asctime)s %(message)s", force=True)
    start = time.perf_counter()
    finetune(data, base, folder / "mine.safetensors", rehearse=[rehearse], licence="private", recipe=recipe)
    print(f"\nFine-tuned in {time.perf_counter() - start:.1f} s, imports not counted; the aim is 60 s")


def copied(folder: Path, *names: str) -> Path:
    """A folder of some of the examples' objects."""
    folder.mkdir()
    for name in names:
        for file in OWN_SOUNDS.glob(f"{name}.*"):
            shutil.copy(file, folder)
    return folder


def shortened(recipe: FinetuneRecipe) -> FinetuneRecipe:
    """The same stages, with a step each."""
    loops = {
        name: dataclasses.replace(getattr(recipe, name), steps=1, batch=2, warmup=0)
        for name in ("text_encoder", "grounding", "unet")
    }
    return dataclasses.replace(recipe, scenes=4, known_evaluated=1, **loops)


def all_rows(setting: Setting) -> list[Row]:
    """In the order in which they run; the last one may take what is left of the time."""
    return [
        Row("Full size against diffusers, bf16", partial(against_diffusers, setting, "bfloat16"), 30),
        Row("Full size against diffusers, fp16", partial(against_diffusers, setting, "float16"), 25),
        Row("First calls", partial(first_calls, setting), 30),
        Row("Roofline", partial(roofline, setting), 15),
        Row("VAE and vocoder", partial(codec, setting), 40),
        Row("Objects of one image", partial(objects, setting), 15),
        Row("Memory", partial(peaks, setting), 15),
        Row("Many sounds", partial(many_sounds, setting), 45),
        Row("Training step", partial(training_step, setting, False, False), 30),
        Row("Training step, compiled, plain loop in bf16", partial(training_step, setting, True, True), 45),
        Row("Fine-tuning", partial(fine_tuning, setting), 300),
    ]
