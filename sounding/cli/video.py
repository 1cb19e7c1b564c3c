"""`sounding generate --video`: the sound of an object in a video, by a video of its masks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..utils.libraries import uncollected
from .options import GenerateOptions, check_precision, check_steps
from .terminal import progress, say, show, show_json

if TYPE_CHECKING:
    from pathlib import Path

    import typer

# Parameters of `generate` that a video takes.
TAKEN = {
    *("video", "mask_video", "fps", "follow_size", "place", "out", "text", "negative_text", "by", "likely_names"),
    *("model", "steps", "cfg", "seed", "sampler", "scheduler", "device", "precision", "level", "window", "bits"),
    *("to_rate", "as_json"),
}
OWN = {"fps": "--fps", "follow_size": "--follow-size", "mask_video": "--mask-video"}


@dataclass(frozen=True)
class VideoOptions:
    """What only videos have."""

    video: Path
    masks: Path
    fps: float | None
    follow_size: float
    window: float | None  # seconds; None is the usual length


def given_options(context: typer.Context) -> dict[str, str]:
    """Parameters that were given on the command line, with the option's spelling."""
    found = {}
    for each in context.command.params:
        source = context.get_parameter_source(each.name) if each.name else None
        if each.name and source is not None and source.name == "COMMANDLINE":  # typer's own copy of click, or click's
            found[each.name] = each.opts[0]
    return found


def check_together(given: dict[str, str]) -> None:
    """Raise ValueError for options that do not fit a video, or that only fit one."""
    if "video" not in given:
        if alone := [option for name, option in OWN.items() if name in given]:
            raise ValueError(f"{alone[0]} came without --video, which it belongs to; give both or neither.")
        return
    if others := [option for name, option in given.items() if name not in TAKEN]:
        raise ValueError(f"{others[0]} came with --video, which does not take it; leave one of them out.")
    for name, option in (("mask_video", "--mask-video"), ("out", "--out")):
        if name not in given:
            raise ValueError(f"--video came without {option}, which it needs; give both.")


def generate_video(asked: VideoOptions, options: GenerateOptions, *, model: str, precision: str, as_json: bool) -> None:
    """Make the sound and write it.

    Args:
        asked: the video and its masks.
        options: the others; their image is the video, their only mask the masks.
        model, precision, as_json: as on the command line.
    """
    out = options.out
    for option, path in (("--video", asked.video), ("--mask-video", asked.masks)):
        if not path.exists():
            raise ValueError(f"{option} {path} does not exist; give a video, or a folder with one image per frame.")
        if out.exists() and path.samefile(out):
            raise ValueError(f"--out {out} is what {option} reads; give another name.")
    with uncollected():
        options.check()
        check_precision(precision)
        from ..audio.files import encode_audio
        from ..checkpoint import read_header, resolve
        from ..grounding import SURE
        from ..images.videos import frame_rate_of, read_video
        from ..jobs.inputs import parts_for
        from ..model import load
        from ..utils.files import write_atomic
        from ..video import WINDOW, check_follow, sound_video

    started = time.monotonic()
    check_follow(asked.follow_size)
    frame_rate = frame_rate_of(asked.video, asked.fps)
    config = read_header(resolve(model)).config
    check_steps(options.steps, config.diffusion.train_steps)
    loaded = load(model, device=options.device, dtype=precision, parts=parts_for(config, options))
    with progress("sampling", as_json) as on_step:
        sound = sound_video(
            loaded,
            read_video(asked.video, asked.masks),
            frame_rate,
            text=options.text,
            negative_text=options.negative_text,
            by=options.masks_by,
            likely_names=options.likely_names,
            steps=options.steps,
            cfg=options.cfg,
            sampler=options.sampler,
            seed=options.seed,
            follow=asked.follow_size,
            place=options.place,
            level=options.level,
            window=WINDOW if asked.window is None else asked.window,
            on_step=on_step,
        )
    content = encode_audio(out, sound.waveform[0], sound.sample_rate, depth=options.bits, to_rate=options.to_rate)
    write_atomic(out, content)
    sureness = float(sound.condition.sureness.min())
    if sureness < SURE:
        say(
            f"sounding: the model is not sure everywhere what the masks show (sureness {sureness:.2f} of 1), so the "
            "sound may not fit."
        )
    rate = options.to_rate or sound.sample_rate
    report: dict[str, Any] = {
        "files": [str(out)],
        "model": config.name,
        "sample_rate": rate,
        "samples": -(-sound.waveform.shape[-1] * rate // sound.sample_rate),
        "seed": options.seed,
        "source": sound.condition.source,
        "sureness": [round(sureness, 3)],
        "frames": sound.frames,
        "frame_rate": round(frame_rate, 3),
        "looked_at": sound.looked_at,
        "times": [[round(start, 3), round(end, 3)] for start, end in sound.times],
        "elapsed": round(time.monotonic() - started, 3),
    }
    if as_json:
        show_json(report)
    else:
        show(out)
