"""`sounding generate`: the sound of what a mask or a text selects in an image."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..utils.libraries import uncollected
from .options import DeviceOption, GenerateOptions, ModelOption, PrecisionOption, check_precision, check_steps
from .terminal import JsonOption, plain_errors, progress, say, show, show_json
from .video import VideoOptions, check_together, generate_video, given_options

# Headings of `--help`
SCENES = "Scenes of several masks"
TIME = "Length, loops, intensity and variants"
VIDEO = "Videos"
PARTS = "Parts of a sound file made anew"
FILES = "Loudness and files"
JOBS = "Many sounds"


def generate(
    context: typer.Context,
    image: Annotated[Path | None, typer.Option(help="The image.")] = None,
    out: Annotated[Path | None, typer.Option(help="Sound file to write (.wav, .flac, .ogg, .mp3).")] = None,
    mask: Annotated[
        list[Path] | None,
        typer.Option(
            help="White where the object is. Several make several tracks and their mix. Without mask "
            "and text the whole image sounds."
        ),
    ] = None,
    blend: Annotated[
        bool,
        typer.Option(
            "--blend",
            rich_help_panel=SCENES,
            help="All masks make one sound together, as one mask of all their objects, instead of a track each.",
        ),
    ] = False,
    text: Annotated[
        str | None,
        typer.Option(help="What sounds: a sentence, instead of a mask; or which sound of what is masked is meant."),
    ] = None,
    negative_mask: Annotated[
        Path | None,
        typer.Option(help="White where something is that is not to be heard: guidance leads away from it."),
    ] = None,
    negative_text: Annotated[str | None, typer.Option(help="What is not to be heard, such as 'music, voices'.")] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="What a mask does: grounding (the model sees what is masked) or names (what is masked is named, and "
            "the sentence with the name sounds); the checkpoint's own without it."
        ),
    ] = None,
    likely_names: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=20,
            help="Where only a general name is sure, such as 'bird': how many likely specific ones are averaged; 1 "
            "takes the general name. The checkpoint's own without it.",
        ),
    ] = None,
    model: ModelOption = "starter",
    seconds: Annotated[
        float, typer.Option(help="Length of the sound in seconds; with --audio or --video, theirs decides.")
    ] = 5.0,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; the checkpoint's own without it.")] = None,
    cfg: Annotated[
        float | None, typer.Option(help="Guidance scale, 1 is none; the checkpoint's own without it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same sound.")] = 0,
    sampler: Annotated[
        str | None, typer.Option(help="ddim, dpm++ or 'dpm++ karras'; the checkpoint's own without it.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(hidden=True, help="The former spelling of --sampler.")] = None,
    variation: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=TIME, help="Seed of a near variant of the sound of --seed; item i of several uses it + i."
        ),
    ] = None,
    variation_strength: Annotated[
        float, typer.Option(rich_help_panel=TIME, help="With --variation: how far from the sound of --seed, 0 to 1.")
    ] = 0.3,
    batch: Annotated[int, typer.Option(help="Sounds to make, from seed, seed + 1, and so on.")] = 1,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    attention_map: Annotated[
        Path | None, typer.Option(rich_help_panel=FILES, help="Image file to write: where the attention lies.")
    ] = None,
    level: Annotated[
        bool,
        typer.Option(
            rich_help_panel=FILES,
            help="One loudness, no DC, no clicks at the ends; off gives the vocoder's own samples.",
        ),
    ] = True,
    gain: Annotated[
        list[float] | None,
        typer.Option(rich_help_panel=SCENES, help="With several masks: dB of each track in the mix, one per mask."),
    ] = None,
    place: Annotated[
        bool,
        typer.Option(
            "--place",
            rich_help_panel=SCENES,
            help="Write stereo: each track left or right, near or far, as its mask's object is seen.",
        ),
    ] = False,
    depth: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=SCENES,
            help="With --place: a depth map of the image, near is white; it decides on distances.",
        ),
    ] = None,
    loudness: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=SCENES, help="With several masks: LUFS of the mix, such as -23, as far as -1 dBTP allows."
        ),
    ] = None,
    fade_out: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=FILES,
            help="Seconds in which the sound dies away at its end; without it 0.3, or a tenth of sounds below 3.",
        ),
    ] = None,
    window: Annotated[
        float,
        typer.Option(
            rich_help_panel=TIME,
            help="Longer sounds are made in overlapping windows of so many seconds; with --video, 5.12 without it.",
        ),
    ] = 20.48,
    bits: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=FILES,
            help="How samples are written: 16, 24 or float; 16 without it, or as in the file of --audio.",
        ),
    ] = None,
    to_rate: Annotated[
        int | None,
        typer.Option(
            "--rate",
            rich_help_panel=FILES,
            help="Sampling rate of the files in Hz, such as 44100 or 48000; the model's without it.",
        ),
    ] = None,
    stems: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=SCENES,
            help="With --mask: a new folder to write, with a file per track, the mix, a list of what each is, and a "
            "REAPER session.",
        ),
    ] = None,
    stems_placed: Annotated[
        bool,
        typer.Option(
            "--stems-placed",
            rich_help_panel=SCENES,
            help="Stems in stereo at their places; without, the session places them.",
        ),
    ] = False,
    loop: Annotated[
        bool,
        typer.Option(
            "--loop",
            rich_help_panel=TIME,
            help="Make a sound whose end goes on with its beginning, so that it repeats without a seam; its length is "
            "rounded to 10 ms.",
        ),
    ] = False,
    audio: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=PARTS,
            help="A sound file of which --region, --continue or --before make parts anew; all else stays.",
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PARTS, help="With --audio: from when to when it is made anew, in seconds: 1.0:2.5."
        ),
    ] = None,
    after: Annotated[
        float,
        typer.Option(
            "--continue", rich_help_panel=PARTS, help="With --audio: seconds by which it goes on beyond its end."
        ),
    ] = 0.0,
    before: Annotated[
        float, typer.Option(rich_help_panel=PARTS, help="With --audio: seconds by which it begins earlier.")
    ] = 0.0,
    video: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=VIDEO,
            help="Instead of an image: a video of up to a minute, or a folder with one image per frame. The sound is "
            "as long, and heard while the object of --mask-video is seen.",
        ),
    ] = None,
    mask_video: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=VIDEO,
            help="With --video: a video, or a folder with one image per frame, white where the object is; black frames "
            "are silence. --place lets the sound move with the object.",
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=VIDEO, help="With --video: frames per second, 1 to 60; the video's own without it."
        ),
    ] = None,
    follow_size: Annotated[
        float,
        typer.Option(
            rich_help_panel=VIDEO,
            help="With --video: how far loudness follows the object's size; 0 is not at all, at 1 half as far is 6 dB "
            "louder.",
        ),
    ] = 1.0,
    intensity: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=TIME,
            help="Gain over time, as seconds and gains: '0:0, 1.5:1, 4:0.2'; where it is 0, there is silence. Once for "
            "all, or once per mask.",
        ),
    ] = None,
    jobs: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=JOBS,
            help="Many sounds: a file of one JSON object per line, with these options as keys, or - for standard "
            "input. The other options are for lines that leave them out.",
        ),
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(rich_help_panel=JOBS, help="With --jobs: the folder of all sounds, which none of them leaves."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=JOBS,
            help="With --jobs: the file of results; without it JOBS.results.jsonl, beside sounds or jobs.",
        ),
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=JOBS, help="With --jobs: sounds sampled together at most; without it what memory holds."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the sound of what a mask or a text selects in an image, or the sounds of many jobs."""
    with plain_errors(as_json=as_json):
        sampler = _one_spelling(sampler, scheduler)
        given = given_options(context)
        check_together(given)
        if jobs is not None:
            from .jobs import generate_jobs

            both: dict[str, object] = {"--out": out, "--attention-map": attention_map, "--stems": stems}
            both |= {"--stems-placed": stems_placed or None, "--audio": audio, "--region": region}
            both |= {"--continue": after or None, "--before": before or None}
            if alone := [option for option, value in both.items() if value is not None]:
                raise ValueError(f"{alone[0]} came with --jobs, but is about a single sound; leave it out.")
            defaults = {
                "image": image,
                "mask": mask,
                "blend": blend,
                "text": text,
                "negative_mask": negative_mask,
                "negative_text": negative_text,
                "by": by,
                "likely_names": likely_names,
                "seconds": seconds,
                "steps": steps,
                "cfg": cfg,
                "seed": seed,
                "variation": variation,
                "variation_strength": variation_strength,
                "sampler": sampler,
                "batch": batch,
                "level": level,
                "gain": gain,
                "place": place,
                "depth": depth,
                "loudness": loudness,
                "fade_out": fade_out,
                "window": window,
                "bits": bits,
                "rate": to_rate,
                "loop": loop,
                "intensity": intensity,
            }
            generate_jobs(
                jobs,
                model=model,
                device=device,
                precision=precision,
                defaults={key: _plain(value) for key, value in defaults.items() if value is not None},
                folder=out_dir,
                results=results,
                at_once=at_once,
            )
            return
        for option, value in {"--out-dir": out_dir, "--results": results, "--at-once": at_once}.items():
            if value is not None:
                raise ValueError(f"{option} came without --jobs, which it belongs to; give both or neither.")
        if audio is not None and "seconds" in given:
            raise ValueError(
                f"--seconds {seconds:g} came with --audio, whose length changes by --continue and --before alone; "
                "leave it out."
            )
        if "variation_strength" in given and variation is None:
            raise ValueError(
                f"--variation-strength {variation_strength:g} came without --variation, which it belongs to; give both "
                "or neither."
            )
        if video is not None and mask_video is not None:
            image, mask = video, [mask_video]
        if image is None or out is None:
            raise typer.BadParameter(f"Missing option '{'--image' if image is None else '--out'}', or --jobs.")
        options = GenerateOptions(
            image=image,
            out=out,
            masks=mask or [],
            blend=blend,
            text=text,
            negative_mask=negative_mask,
            negative_text=negative_text,
            by=by,
            likely_names=likely_names,
            seconds=seconds,
            steps=steps,
            cfg=cfg,
            seed=seed,
            sampler=sampler,
            batch=batch,
            device=device,
            attention_map=attention_map,
            gains=gain or [],
            place=place,
            depth=depth,
            loudness=loudness,
            level=level,
            fade_out=fade_out,
            window=window,
            variation=variation,
            variation_strength=variation_strength,
            bits=bits or "16",
            to_rate=to_rate,
            stems=stems,
            stems_placed=stems_placed,
            loop=loop,
            audio=audio,
            region=region,
            after=after,
            before=before,
            intensity=intensity or [],
        )
        if video is not None and mask_video is not None:
            generate_video(
                VideoOptions(video, mask_video, fps, follow_size, window if "window" in given else None),
                options,
                model=model,
                precision=precision,
                as_json=as_json,
            )
            return
        with uncollected():
            options.check()
            check_precision(precision)
            from ..audio.files import read_recording
            from ..checkpoint import read_header, resolve
            from ..jobs.inputs import parts_for, read_inputs
            from ..jobs.outputs import make_outputs
            from ..model import load
            from ..utils.files import write_atomic

        started = time.monotonic()
        recording = None if audio is None else read_recording(audio)
        if recording is not None and bits is None and out.suffix.lower() not in (".ogg", ".mp3"):
            options = replace(options, bits=recording.depth)
            options.check()
        inputs = read_inputs(options)
        config = read_header(resolve(model)).config
        check_steps(steps, config.diffusion.train_steps)
        loaded = load(model, device=device, dtype=precision, parts=parts_for(config, options))
        with progress("sampling", as_json) as on_step:
            selected: dict[str, Any] = {
                "image": inputs.image,
                "mask": inputs.selection,
                "text": text,
                "negative_mask": inputs.negative,
                "negative_text": negative_text,
                "by": options.masks_by,
                "likely_names": likely_names,
                "steps": steps,
                "cfg": cfg,
                "seed": seed,
                "batch": batch,
                "sampler": sampler,
                "on_step": on_step,
            }
            if recording is not None and options.edit is not None:
                sound = loaded.edit(recording.waveform, recording.sample_rate, options.edit, **selected)
            else:
                sound = loaded.generate(
                    **selected,
                    seconds=seconds,
                    variation=variation,
                    variation_strength=variation_strength,
                    level=level,
                    fade_out=fade_out,
                    window=window,
                    loop=loop,
                )
        waveform, rate = sound.waveform, sound.sample_rate
        outputs = make_outputs(options, loaded, sound.condition, waveform, inputs.places, inputs.image, rate)
        written = []
        for path, content in outputs.files():
            write_atomic(path, content)
            written.append(path)
        if stems is not None and inputs.selection is not None:
            files = options.write_stems(outputs.sounds, outputs.rate, inputs.places, inputs.selection)
            outputs.report["stems"] = [str(path) for path in files]
            written += files
        report = outputs.report | {"elapsed": round(time.monotonic() - started, 3)}
        for line in outputs.warnings:
            say(f"sounding: {line}")
        if as_json:
            show_json(report)
        else:
            for path in written:
                show(path)


def _plain(value: object) -> object:
    """An option as JSON has it."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _one_spelling(sampler: str | None, scheduler: str | None) -> str | None:
    """The sampler, under whichever option it was given."""
    if sampler is not None and scheduler is not None:
        raise ValueError("--sampler and --scheduler were both given, but they are one setting; leave --scheduler out.")
    return scheduler if sampler is None else sampler
