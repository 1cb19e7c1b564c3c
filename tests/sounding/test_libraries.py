"""A broken library is named with what it said, never taken for a damaged file; one that nothing needs is no matter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sounding
from sounding.images.files import read_image, read_mask
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


# Runs each of several codes in a fork of one process that has imported torch, which takes longer than most of them.
FORKS = """
import json, os, sys
import torch
ended = []
for said, first, code, arguments in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{said}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        sys.argv[1:] = arguments
        if first:
            sys.path.insert(0, first)
            os.chdir(first)
        exec(code, {"__name__": "__main__"})
        sys.exit()
    ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(ended))
"""


@dataclass(frozen=True)
class Ended:
    returncode: int
    stdout: str
    stderr: str


def run_in_forks(folder: Path, *tasks: tuple[Path | None, str, list[str]]) -> list[Ended]:
    """Runs codes one after the other, each with a folder of packages to be found first and with arguments."""
    given = [(str(folder / f"fork-{n}"), first and str(first), *rest) for n, (first, *rest) in enumerate(tasks)]
    ran = run(FORKS, json.dumps(given))
    assert ran.returncode == 0, ran.stderr[-3000:]
    said = [[Path(f"{name}.{stream}").read_text() for stream in ("out", "err")] for name, *_ in given]
    return [Ended(code, *texts) for code, texts in zip(json.loads(ran.stdout), said, strict=True)]


def made(ran: Ended | subprocess.CompletedProcess[str]) -> tuple[list[float], bool]:
    """What the main job made, and whether torchaudio came with it."""
    assert ran.returncode == 0, ran.stderr[-3000:]
    samples, loaded = ran.stdout.splitlines()[-2:]
    return [float(sample) for sample in samples.split()], loaded == "True"


def main_job(*, first: Path | None = None) -> tuple[list[float], bool]:
    """What the main job makes with the starter, and whether torchaudio came with it."""
    return made(run(MAIN_JOB, str(ROOT / "example_workflows" / "input"), "starter", first=first))


def test_the_main_job_needs_no_torchaudio(tmp_path: Path) -> None:
    """Without one, and beside one that cannot be imported, the same sound is made as here."""
    threads, pictures = torch.get_num_threads(), ROOT / "example_workflows" / "input"
    torch.set_num_threads(1)  # as in the other processes
    try:
        sound = sounding.load("starter", device="cpu").generate(
            image=read_image(pictures / "farm.png"),
            mask=read_mask(pictures / "farm_mask_dog.png"),
            seconds=0.5,
            steps=2,
            seed=1,
        )
    finally:
        torch.set_num_threads(threads)
    broken = put_stub(tmp_path, "torchaudio", f"raise RuntimeError({MISMATCH!r})")
    arguments = [str(pictures), "starter"]
    for ran in run_in_forks(tmp_path, (None, HIDDEN + MAIN_JOB, arguments), (broken, MAIN_JOB, arguments)):
        assert made(ran) == (sound.waveform[0, 0, ::800].tolist(), False)


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


@pytest.fixture(scope="module")
def broken(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Ended, bool]]:
    """Each library -> what `sounding generate` said where that one is broken, and whether it wrote a sound."""
    folder = tmp_path_factory.mktemp("broken")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "picture.png")
    tasks: list[tuple[Path | None, str, list[str]]] = []
    for library, kind in zip(LIBRARIES, KINDS, strict=True):
        first = put_stub(folder / library, library, f"raise {kind}('this build is broken:\\nno symbol')")
        arguments = ["generate", "--image", str(folder / "picture.png"), "--out", str(folder / f"{library}.wav")]
        arguments += ["--model", str(tiny_checkpoint), "--seconds", "0.2", "--steps", "1", "--device", "cpu"]
        tasks.append((first, "from sounding.cli.app import app; import sys; app(sys.argv[1:])", arguments))
    ended = run_in_forks(folder, *tasks)
    return {library: (ran, (folder / f"{library}.wav").exists()) for library, ran in zip(LIBRARIES, ended, strict=True)}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_broken_library_is_named_by_the_command(library: str, broken: dict[str, tuple[Ended, bool]]) -> None:
    """Wherever it is imported on the way to a sound: one sentence with what it said, no word of a damaged file."""
    ran, written = broken[library]
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    assert library in ran.stderr
    assert "this build is broken" in ran.stderr
    assert "at fault and no file" in ran.stderr
    assert not any(word in ran.stderr for word in ("damaged", "configuration", "export", "checkpoint's"))
    assert not written


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
    message = r"nothing_of_this_name is not installed .*No module named.*; install it"
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


def test_a_package_that_is_not_installed_is_named_as_installers_know_it() -> None:
    missing = ModuleNotFoundError("No module named 'av'", name="av")
    assert str(library_error("av", missing)).startswith("The package av is not installed here (No module named 'av')")
    within = ModuleNotFoundError("No module named 'PIL'", name="PIL")
    assert "The package pillow, which diffusers needs, is not" in str(library_error("diffusers", within))
    moved = ModuleNotFoundError("No module named 'scipy.gone'", name="scipy.gone")
    assert "scipy cannot be imported here (ModuleNotFoundError: No" in str(library_error("scipy", moved))
