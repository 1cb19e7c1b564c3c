"""A broken library is named with what it said, never taken for a damaged file; one that nothing needs is no matter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sounding.utils.libraries import LibraryError, importing, library_error, missing_library

from ..conftest import ROOT

# As the newest torchaudio says beside the newest torch.
MISMATCH = "Detected that PyTorch and TorchAudio were compiled with different CUDA versions."
KINDS = ("RuntimeError", "ImportError", "OSError", "ValueError")
# Some that inference imports, early and late, and the kinds of errors that broken builds raise.
LIBRARIES = ("diffusers", "transformers", "timm", "pyloudnorm")

# The main job: a picture and a mask become a sound, with whatever is on PYTHONPATH. Prints the sound's first samples.
MAIN_JOB = """
import sys, torch
import sounding
from sounding.images.files import read_image, read_mask
folder, checkpoint = sys.argv[1:]
model = sounding.load(checkpoint, device="cpu")
sound = model.generate(
    image=read_image(f"{folder}/farm.png"), mask=read_mask(f"{folder}/farm_mask_dog.png"), seconds=0.5, steps=2, seed=1
)
assert sound.waveform.shape == (1, 1, 8000) and sound.waveform.abs().max() > 0.01
print(*sound.waveform[0, 0, ::800].tolist())
print("torchaudio" in sys.modules)
"""
# torchaudio as if it were not installed.
HIDDEN = """
import importlib.machinery, sys
class Hidden:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "torchaudio":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "torchaudio" else found(name, package)
sys.meta_path.insert(0, Hidden)
"""


def put_stub(folder: Path, name: str, code: str) -> Path:
    """A package that is found before the real one and raises as it is imported."""
    package = folder / "site-packages" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code + "\n")
    return folder / "site-packages"


def run(code: str, *arguments: str, first: Path | None = None) -> subprocess.CompletedProcess[str]:
    paths = [*([str(first)] if first else []), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=first or ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def main_job(prelude: str = "", *, first: Path | None = None) -> tuple[list[float], bool]:
    """What the main job makes with the starter, and whether torchaudio came with it."""
    ran = run(prelude + MAIN_JOB, str(ROOT / "example_workflows" / "input"), "starter", first=first)
    assert ran.returncode == 0, ran.stderr[-3000:]
    samples, loaded = ran.stdout.splitlines()[-2:]
    return [float(sample) for sample in samples.split()], loaded == "True"


def test_the_main_job_needs_no_torchaudio(tmp_path: Path) -> None:
    """Without one, and beside one that cannot be imported, the same sound is made."""
    usual, _ = main_job()
    hidden, loaded = main_job(HIDDEN)
    assert not loaded
    assert hidden == usual
    broken, loaded = main_job(first=put_stub(tmp_path, "torchaudio", f"raise RuntimeError({MISMATCH!r})"))
    assert not loaded
    assert broken == usual


def test_other_packs_find_transformers_whole_afterwards(tmp_path: Path) -> None:
    """What was imported while a broken torchaudio was out of sight stays; the rest says of it what it said before."""
    code = """
import importlib, sys
from sounding.utils.libraries import importing
with importing("transformers"):
    from transformers import AutoImageProcessor, SpeechT5HifiGan
from transformers import AutoImageProcessor
from diffusers import AutoencoderKL
assert "torchaudio" not in sys.modules
try:
    import torchaudio
except RuntimeError as error:
    print(error)
"""
    ran = run(code, first=put_stub(tmp_path, "torchaudio", f"raise RuntimeError({MISMATCH!r})"))
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.strip() == MISMATCH


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_broken_library_is_named_by_the_command(library: str, tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Wherever it is imported on the way to a sound: one sentence with what it said, no word of a damaged file."""
    kind = KINDS[LIBRARIES.index(library)]
    first = put_stub(tmp_path, library, f"raise {kind}('this build is broken:\\\\nno symbol')")
    picture = tmp_path / "picture.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(picture)
    arguments = [
        "generate",
        "--image",
        str(picture),
        "--out",
        str(tmp_path / "out.wav"),
        "--model",
        str(tiny_checkpoint),
    ]
    arguments += ["--seconds", "0.2", "--steps", "1", "--device", "cpu"]
    ran = run("from sounding.cli.app import app; import sys; app(sys.argv[1:])", *arguments, first=first)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    assert library in ran.stderr
    assert "this build is broken" in ran.stderr
    assert "at fault and no file" in ran.stderr
    assert not any(word in ran.stderr for word in ("damaged", "configuration", "export", "checkpoint's"))
    assert not (tmp_path / "out.wav").exists()


def test_a_broken_sound_library_is_no_broken_sound(tmp_path: Path) -> None:
    first = put_stub(tmp_path, "soundfile", "raise OSError('cannot load library libsndfile.so')")
    sound = tmp_path / "sound.wav"
    sound.write_bytes(b"RIFF")
    code = "import sys; from sounding.audio.files import read_audio; read_audio(sys.argv[1], 16000)"
    ran = run(code, str(sound), first=first)
    assert "LibraryError: soundfile cannot be imported here (OSError: cannot load library libsndfile.so)" in ran.stderr
    assert "cannot be read as audio" not in ran.stderr


def test_the_error_names_who_is_at_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only the library that was asked for: the one at the bottom, through any number of lazy layers."""
    folder = put_stub(tmp_path, "bottom_library", "raise RuntimeError('operator does not exist')")
    put_stub(tmp_path / "more", "middle_library", "import bottom_library")
    layers = "try:\n    import middle_library\nexcept RuntimeError as error:\n    raise ModuleNotFoundError from error"
    put_stub(tmp_path / "top", "top_library", layers)
    for path in (folder, tmp_path / "more" / "site-packages", tmp_path / "top" / "site-packages"):
        monkeypatch.syspath_prepend(str(path))
    message = r"top_library .* because of bottom_library \(RuntimeError: operator does"
    with pytest.raises(LibraryError, match=message), importing("top_library"):
        import top_library  # type: ignore[import-not-found]  # noqa: F401
    message = r"nothing_of_this_name cannot .*ModuleNotFoundError"
    with pytest.raises(LibraryError, match=message), importing("nothing_of_this_name"):
        import nothing_of_this_name  # type: ignore[import-not-found]  # noqa: F401


def test_libraries_compute_while_a_model_is_sketched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchvision 0.21 does at its import: within `torch.device("meta")` its numbers would be none."""
    code = "import torch\nSIZE = torch.ones(2).sum().item()"
    monkeypatch.syspath_prepend(str(put_stub(tmp_path, "computing_library", code)))
    with torch.device("meta"):
        with importing("computing_library"):
            import computing_library  # type: ignore[import-not-found]
        assert torch.ones(1).is_meta
    assert computing_library.SIZE == 2


def test_errors_of_the_environment_are_told_from_others() -> None:
    cause = ImportError("cannot open shared object", name="lib")
    error = RuntimeError("Failed to import because of the following error")
    error.__cause__ = cause
    assert missing_library(error) is cause
    assert "cannot open shared object" in str(library_error("diffusers", error))
    assert missing_library(ValueError("a bad number")) is None
