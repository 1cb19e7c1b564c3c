"""What the tests share: a model of the real classes, small enough to run in a blink."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from sounding.audio.files import write_audio
from sounding.checkpoint import save_model
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
from training.data import stamps
from training.data.stamps import Stamps

ROOT = Path(__file__).parent.parent
# Workers side by side share the processor, instead of each starting a thread on every core; so do their children.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
TONES = {"disc": 220.0, "square": 660.0, "bar": 1760.0}  # a data set drawn and sung here


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-rounds", default=100, type=int, help="hostile inputs per area of tests/fuzz (some take 3x)"
    )


def heed_ctrl_c() -> None:
    """For `preexec_fn`: what runs in the background of a shell ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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
    save_model(tiny_model, path, dtype=torch.float32)
    return path


def draw_stamp(name: str) -> Image.Image:
    picture = Image.new("RGBA", (80, 60), (0, 0, 0, 0))
    pen = ImageDraw.Draw(picture)
    shapes = {"disc": pen.ellipse, "square": pen.rectangle, "bar": pen.rectangle}
    boxes = {"disc": (10, 5, 60, 55), "square": (20, 10, 60, 50), "bar": (5, 25, 75, 35)}
    shapes[name](boxes[name], fill=(200, 40, 40, 255))
    return picture


@pytest.fixture(scope="session")
def stamps_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as the unpacked Debian package."""
    root = tmp_path_factory.mktemp("package")
    folder = root / "usr/share/tuxpaint/stamps/animals/shapes"
    folder.mkdir(parents=True)
    times = torch.arange(8000) / 16000
    for name, tone in TONES.items():
        draw_stamp(name).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"A {name}.\nes=Una forma.\n", encoding="utf-8")
        write_audio(folder / f"{name}.ogg", torch.sin(2 * math.pi * tone * times), 16000)
    draw_stamp("disc").save(folder / "silent.png")
    (folder / "silent.txt").write_text("A silent thing.\n")
    write_audio(folder / "silent.ogg", torch.zeros(8000), 16000)
    draw_stamp("disc").save(folder / "ghost.png")  # a name from the list of drawings
    write_audio(folder / "ghost.ogg", torch.ones(8000), 16000)
    return root


@pytest.fixture(scope="session")
def stamps_folder(stamps_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stamps")
    stamps.build(stamps_package, out)
    return out


@pytest.fixture(scope="session")
def stamps_data(stamps_folder: Path) -> Stamps:
    return Stamps(stamps_folder)
