"""What all tests share: a model of the real classes, small enough to run at once."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.testing

from sounding.config import (
    GenerationConfig,
    GroundingConfig,
    PatchConfig,
    QueryConfig,
    SoundingConfig,
    UnetConfig,
    VaeConfig,
    VocoderConfig,
)
from sounding.model import SoundingModel

ROOT = Path(__file__).parent.parent
# Workers side by side share the processor, instead of each starting a thread on every core; so do their children.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
# Ray reads this as it is imported. Under `uv run` it would start each of its processes by `uv run` again, in a copy of
# the whole working directory.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# Typer's CliRunner builds all commands of a program at each call, which takes longer than most calls themselves.
typer.testing._get_command = functools.cache(typer.testing._get_command)
# Work for one worker of xdist, beyond single files: tests that share a server, and those that start clusters.
TOGETHER = {
    "tests/server/": "server",
    "tests/training/test_on_ray.py": "ray",
    "tests/training/refine/test_ray.py": "ray",
}


def group_of(nodeid: str) -> str:
    """What a test is kept together with in one worker: its file, or the tests of several files."""
    return next((name for start, name in TOGETHER.items() if nodeid.startswith(start)), nodeid.partition("::")[0])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-rounds", default=100, type=int, help="hostile inputs per area of tests/fuzz (some take 3x)"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, with the groups of `group_of` in the place of files."""
    from xdist.scheduler import LoadFileScheduling

    class Groups(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups of several files and files with slow tests begin first, in this order, so that at the end no worker waits
    long for another one's last file.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    groups = [*dict.fromkeys(TOGETHER.values())]

    def rank(item: pytest.Item) -> int:
        group = group_of(item.nodeid)
        return groups.index(group) if group in groups else len(groups) + (item.path not in slow)

    items.sort(key=rank)


def heed_ctrl_c() -> None:
    """For `preexec_fn`: what runs in the background of a shell ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def no_lazy_modules() -> Iterator[None]:
    """SpeechBrain leaves modules that import what is not installed as soon as somebody looks at them, and Hypothesis
    looks at all there are.
    """
    yield
    if "speechbrain" in sys.modules:
        for name, module in list(sys.modules.items()):
            if type(module).__module__ == "speechbrain.utils.importutils":
                del sys.modules[name]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random inputs, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_config() -> SoundingConfig:
    return SoundingConfig(
        name="tiny",
        train_seconds=1.28,
        patches=PatchConfig(
            tower="timm", model="test_efficientnet", width=16, grid=5, image_size=160, quick_gelu=False
        ),
        query=QueryConfig(tower="open_clip", width=16, layers=1, heads=1, hidden=4, context_length=16, tokenizer=""),
        grounding=GroundingConfig(key_width=16, mlp_width=16, condition_width=16),
        vae=VaeConfig(channels=(8, 8, 8), layers=1, norm_groups=4),
        generation=GenerationConfig(steps=25, cfg=7.0, sampler="dpm++"),
        unet=UnetConfig(channels=(16, 32), layers=1, head_width=16, norm_groups=8),
        vocoder=VocoderConfig(initial_channels=32, kernels=(3,), dilations=(1,)),
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_config: SoundingConfig) -> SoundingModel:
    torch.manual_seed(0)
    model = SoundingModel(tiny_config).requires_grad_(False)
    for weight in model.vocoder.parameters():
        if weight.ndim == 3:  # HiFi-GAN's own start is so small that nothing could be heard
            torch.nn.init.xavier_normal_(weight, gain=2.0)
    return model


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_model: SoundingModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    tiny_model.save_pretrained(path, dtype=torch.float32)
    return path
