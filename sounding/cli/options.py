"""Validation of the commands' options: what is wrong with them is found before long work, and said in one sentence."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from ..audio.curves import Keyframes
    from ..audio.placing import Place
    from ..config import Masks
    from ..editing import Edit

ModelOption = Annotated[str, typer.Option(help="'starter' or the path of a .safetensors checkpoint.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
PrecisionOption = Annotated[
    str,
    typer.Option(
        help="Of the weights: fp32, fp16, bf16, or auto, which is fp16 on CUDA, bf16 for a U-Net of full size on "
        "processors that are fast in it, and fp32 elsewhere."
    ),
]

MAX_SECONDS = 600.0  # of sound, as in the nodes
MAX_BATCH = 64  # as in the nodes
MAX_GAIN = 120.0  # dB
NAME_BYTES = 255  # of a file's name, on nearly all file systems


def numbered(path: Path, number: int) -> Path:
    """`sound.wav` -> `sound_1.wav`."""
    return path.with_name(f"{path.stem}_{number}{path.suffix}")


@dataclass(frozen=True)
class GenerateOptions:
    """What `sounding generate` was asked for, as far as it is not about the image."""

    image: Path
    out: Path
    masks: Sequence[Path]
    text: str | None
    negative_mask: Path | None
    negative_text: str | None
    by: str | None
    likely_names: int | None
    seconds: float
    steps: int | None
    cfg: float | None
    seed: int
    sampler: str | None
    batch: int
    device: str
    attention_map: Path | None
    gains: Sequence[float]
    place: bool
    depth: Path | None
    loudness: float | None
    level: bool
    fade_out: float | None
    window: float
    variation: int | None = None
    variation_strength: float = 0.3
    bits: str = "16"
    to_rate: int | None = None
    stems: Path | None = None
    stems_placed: bool = False
    loop: bool = False
    audio: Path | None = None
    region: str | None = None
    after: float = 0.0
    before: float = 0.0
    intensity: Sequence[str] = ()
    blend: bool = False

    @property
    def masks_by(self) -> Masks | None:
        """What masks do, as `SoundingModel.generate` takes it."""
        return cast("Masks | None", self.by)

    @property
    def selections(self) -> int:
        """How many masks make a sound each; with `blend` all of them make one."""
        return min(1, len(self.masks)) if self.blend else len(self.masks)

    @property
    def tracks(self) -> list[Path]:
        """The files of the sounds; a mix of several goes to `out` itself."""
        count = max(self.batch, self.selections)
        return [self.out] if count == 1 else [numbered(self.out, i + 1) for i in range(count)]

    def check(self) -> None:
        """Raise ValueError for anything that would fail later, whatever the model."""
        from ..audio.loudness import check_fade_out
        from ..config import MASKS, SAMPLERS
        from ..diffusion import check_strength, item_seeds
        from ..encoders.text import check_texts

        _fits("--seconds", self.seconds, 0, MAX_SECONDS, "a positive length of at most 600 seconds", above=True)
        _fits("--window", self.window, 0, MAX_SECONDS, "a positive length of at most 600 seconds", above=True)
        _fits("--batch", self.batch, 1, MAX_BATCH, f"1 to {MAX_BATCH} sounds")
        if self.steps is not None:
            _fits("--steps", self.steps, 1, 9_999, "1 or more, and less than the checkpoint's steps of training,")
        if self.cfg is not None:
            _fits("--cfg", self.cfg, 0, 1000, "0 to 1000")
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise ValueError(f"--sampler is {self.sampler!r}, but one of {', '.join(SAMPLERS)} is expected.")
        if self.by is not None and self.by not in MASKS:
            raise ValueError(f"--by is {self.by!r}, but one of {', '.join(MASKS)} is expected.")
        if self.likely_names is not None:
            _fits("--likely-names", self.likely_names, 1, 20, "1 to 20 names")
        for each in (self.seed, self.variation or 0):
            item_seeds(each, [])
        check_strength(self.variation_strength)
        check_fade_out(self.fade_out)
        if self.loop and self.fade_out is not None:
            raise ValueError("--fade-out came with --loop, but a loop does not end; leave one of them out.")
        self._check_time()
        check_device(self.device)
        self._check_selection()
        self._check_form()
        for text in (self.text, self.negative_text):
            if text is not None:
                check_texts([text])
        self._check_files()

    @property
    def edit(self) -> Edit | None:
        """Which parts of the sound file `audio` are made anew, if there is one."""
        from ..editing import Edit, read_region

        if self.audio is None:
            return None
        return Edit(None if self.region is None else read_region(self.region), self.after, self.before)

    def curve(self, track: int) -> Keyframes:
        """Keyframes of the intensity of a track, where there are any."""
        from ..audio.curves import read_curve

        return read_curve(self.intensity[track % len(self.intensity)])

    def _check_time(self) -> None:
        """What is made anew of a sound file, and the curves of intensity."""
        for track in range(len(self.intensity)):
            self.curve(track)
        if len(self.intensity) not in (0, 1, max(1, self.selections)):
            raise ValueError(
                f"--intensity came {len(self.intensity)} times with {self.selections} masks, but once for all, or once "
                "per mask, is expected."
            )
        if self.edit is None:
            if self.region is not None or self.after or self.before:
                raise ValueError(
                    "--region, --continue and --before are about a sound file; give it by --audio, or leave them out."
                )
            return
        others = {
            "--loop": self.loop,
            "--place": self.place,
            "--stems": self.stems is not None,
            "--fade-out": self.fade_out is not None,
            "--intensity": bool(self.intensity),
            "--variation": self.variation is not None,
            "A second --mask": self.selections > 1,
        }
        for option, given in others.items():
            if given:
                raise ValueError(
                    f"{option} came with --audio, of which parts are made anew and all else stays; leave one of them "
                    "out."
                )

    def _check_selection(self) -> None:
        from ..audio.tracks import check_loudness

        masks, gains = self.selections, len(self.gains)
        if len(self.masks) > MAX_BATCH:
            raise ValueError(
                f"--mask came {len(self.masks)} times, but at most {MAX_BATCH} are expected; make some at a time."
            )
        if self.blend:
            if len(self.masks) < 2:
                raise ValueError("--blend is about several masks; give two or more by --mask, or leave it out.")
            for option, given in {"--gain": gains > 0, "--loudness": self.loudness is not None}.items():
                if given:
                    raise ValueError(f"{option} came with --blend, which makes no mix; leave one of them out.")
        if self.batch > 1 and masks > 1:
            raise ValueError("--batch came with several masks, but one is expected; leave --batch out or use one mask.")
        if gains and (masks < 2 or gains != masks):
            raise ValueError(
                f"--gain came {gains} times with {masks} masks, but one per mask is expected, of two or more; it says "
                "how loud each is in their mix, so leave it out or give as many."
            )
        if self.place and not masks:
            raise ValueError("--place came without --mask, but masks say where objects are seen; give one per object.")
        if self.depth and not self.place:
            raise ValueError("--depth came without --place, which it belongs to; add --place or leave it out.")
        if self.loudness is not None and masks < 2:
            raise ValueError("--loudness is that of a mix of several masks, but there is no mix; leave it out.")
        check_loudness(self.loudness)
        for gain in self.gains:
            _fits("--gain", gain, -MAX_GAIN, MAX_GAIN, f"{-MAX_GAIN:g} to {MAX_GAIN:g} dB")

    def _check_form(self) -> None:
        from ..audio.files import WRITTEN_RATES, check_depth
        from ..audio.stems import check_stems

        check_depth(self.out, self.bits)
        if self.to_rate is not None and self.to_rate not in WRITTEN_RATES:
            expected = ", ".join(map(str, WRITTEN_RATES))
            raise ValueError(f"--rate is {self.to_rate}, but one of {expected} Hz is expected.")
        if self.stems is not None:
            if not self.masks:
                raise ValueError("--stems came without --mask, but stems are sounds of masks; give one per object.")
            check_stems(self.stems, self.out.suffix.lower(), self.bits, self._kind)
            check_folder(self.stems, "--stems")
        elif self.stems_placed:
            raise ValueError("--stems-placed came without --stems, which it belongs to; add a folder, or leave it out.")

    @property
    def _kind(self) -> str:
        return "placed" if self.stems_placed else "dry"

    def write_stems(
        self, sounds: Tensor, rate: int, places: Sequence[Place | None] | None, masks: Tensor
    ) -> list[Path]:
        """Write the folder of stems: its files. Sounds are [B, 1, samples] at `rate` Hz, masks [N, H, W]."""
        from ..audio.scene import Scene, boxes_of
        from ..audio.stems import write_stems
        from ..audio.tracks import Track
        from ..diffusion import item_seeds

        times = len(sounds) // len(masks)
        assert self.stems is not None
        scene = Scene(
            sounds,
            rate,
            [Track(gain) for gain in self.gains or [0.0] * len(sounds)],
            None if places is None else [*places] * times,
            loudness=self.loudness,
            boxes=boxes_of(masks) * times,
            sizes=[(masks.shape[2], masks.shape[1])] * len(sounds),
            seeds=item_seeds(self.seed, range(len(sounds))),
            loop=self.loop,
        )
        names = ["blend"] if self.blend else [path.stem for path in self.masks]
        if times > 1:
            names = [f"{name} {number + 1}" for number in range(times) for name in names]
        ending = self.out.suffix.lower()
        files = write_stems(
            self.stems, scene, names, kind=self._kind, ending=ending, depth=self.bits, to_rate=self.to_rate
        )
        return [self.stems / file.name for file in files]  # as the folder was given, like other files

    def _check_files(self) -> None:
        from ..audio.files import audio_format
        from ..images.files import image_format

        audio_format(self.out)
        negative = [self.negative_mask] if self.negative_mask else []
        depth = [self.depth] if self.depth else []
        given = (
            ("--image", [self.image]),
            ("--mask", self.masks),
            ("--negative-mask", negative),
            ("--depth", depth),
            ("--audio", [self.audio] if self.audio else []),
        )
        read = [(option, path) for option, paths in given for path in paths]
        written = [("--out", path) for path in dict.fromkeys([self.out, *self.tracks])]
        if self.attention_map is not None:
            image_format(self.attention_map)
            written.append(("--attention-map", self.attention_map))
        for option, path in written:
            check_file(path, option)
            for source, other in read:
                if path.exists() and other.exists() and path.samefile(other):
                    raise ValueError(f"{option} {path} is what {source} reads; give another name.")


def check_steps(steps: int | None, train_steps: int) -> None:
    """Raise ValueError for more steps than the checkpoint knows."""
    if steps is not None and steps >= train_steps:
        raise ValueError(f"--steps is {steps}, but 1 to {train_steps - 1} is expected by this checkpoint.")


def check_device(device: str) -> None:
    """Raise ValueError unless torch can compute there."""
    import torch

    kind, colon, number = device.partition(":")
    if device != "auto" and (
        kind not in ("cpu", "cuda", "mps") or (colon and not (number.isdecimal() and len(number) < 4))
    ):
        raise ValueError(f"--device is {device!r}, but one of auto, cpu, cuda, cuda:N and mps is expected.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"--device is {device}, but torch {torch.__version__} sees no CUDA device; leave --device out."
        )
    if kind == "cuda" and number and int(number) >= torch.cuda.device_count():
        raise ValueError(
            f"--device is {device}, but there are {torch.cuda.device_count()} CUDA devices, counted from 0; give one."
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device is {device}, but torch {torch.__version__} sees no Apple GPU; leave --device out.")


def check_precision(precision: str) -> None:
    """Raise ValueError for an unknown precision."""
    from ..networks.precision import AUTO, PRECISIONS

    if precision not in (AUTO, *PRECISIONS):
        raise ValueError(f"--precision is {precision!r}, but one of {AUTO}, {', '.join(PRECISIONS)} is expected.")


def check_folder(folder: Path, option: str = "--out") -> None:
    """Raise ValueError unless files can be written to `folder`; what is missing of it is made with the first one."""
    place = Path(os.path.abspath(folder))
    for part in place.parts:
        if len(os.fsencode(part)) > NAME_BYTES:
            raise ValueError(f"{option} names a folder of {len(os.fsencode(part))} bytes; give a shorter name.")
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        kind = "a link to nothing" if place.is_symlink() and not place.exists() else "a file"
        raise ValueError(f"{option} {folder}: {place} is {kind}, but a folder is expected; give another one.")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ValueError(
            f"{option} {folder}: {place} cannot be written to ({error.strerror or error}); give a folder of your own."
        ) from None


def check_file(file: Path, option: str = "--out") -> None:
    """Raise ValueError unless `file` can be written, over a file that is there or anew."""
    length = len(os.fsencode(file.name))
    if length > NAME_BYTES:
        raise ValueError(f"{option} names a file of {length} bytes, but at most {NAME_BYTES} are possible; shorten it.")
    if not file.name or file.is_dir():
        raise ValueError(f"{option} {file} is a folder, but the name of a file is expected; add one.")
    if file.exists() and not file.is_file():
        raise ValueError(f"{option} {file} is no regular file; give the name of one.")
    check_folder(file.parent, option)


def check_demo(out: Path, device: str, seed: int) -> None:
    """Raise ValueError for anything about `sounding demo` that would fail later."""
    from ..diffusion import item_seeds

    item_seeds(seed, [])
    check_device(device)
    check_folder(out)


def _fits(option: str, value: float, low: float, high: float, expected: str, *, above: bool = False) -> None:
    if not (math.isfinite(value) and low <= value <= high) or (above and value == low):
        raise ValueError(f"{option} is {value}, but {expected} is expected; give another number.")
