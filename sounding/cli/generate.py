"""`sounding generate`: the sound of what a mask or a text selects in an image."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .options import DeviceOption, GenerateOptions, ModelOption, check_steps
from .terminal import JsonOption, plain_errors, progress, say, show, show_json

if TYPE_CHECKING:
    from torch import Tensor

    from ..config import Masks
    from ..model import Sound, SoundingModel


def generate(
    image: Annotated[Path, typer.Option(help="The image.")],
    out: Annotated[Path, typer.Option(help="Sound file to write (.wav, .flac, .ogg).")],
    mask: Annotated[
        list[Path] | None,
        typer.Option(
            help="White where the object is. Several make several tracks and their mix. Without mask "
            "and text the whole image sounds."
        ),
    ] = None,
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
    seconds: Annotated[float, typer.Option(help="Length of the sound.")] = 5.0,
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
        int | None, typer.Option(help="Seed of a near variant of the sound of --seed; item i of several uses it + i.")
    ] = None,
    variation_strength: Annotated[
        float, typer.Option(help="With --variation: how far from the sound of --seed, 0 to 1.")
    ] = 0.3,
    batch: Annotated[int, typer.Option(help="Sounds to make, from seed, seed + 1, and so on.")] = 1,
    device: DeviceOption = "auto",
    attention_map: Annotated[Path | None, typer.Option(help="Image file to write: where the attention lies.")] = None,
    level: Annotated[
        bool, typer.Option(help="One loudness, no DC, no clicks at the ends; off gives the vocoder's own samples.")
    ] = True,
    gain: Annotated[
        list[float] | None, typer.Option(help="With several masks: dB of each track in the mix, one per mask.")
    ] = None,
    place: Annotated[
        bool,
        typer.Option(
            "--place",
            help="Write stereo: each track left or right, near or far, as its mask's object is seen.",
        ),
    ] = False,
    depth: Annotated[
        Path | None,
        typer.Option(help="With --place: a depth map of the image, near is white; it decides on distances."),
    ] = None,
    loudness: Annotated[
        float | None,
        typer.Option(help="With several masks: LUFS of the mix, such as -23, as far as -1 dBTP allows."),
    ] = None,
    fade_out: Annotated[
        float | None,
        typer.Option(
            help="Seconds in which the sound dies away at its end; without it 0.3, or a tenth of sounds below 3."
        ),
    ] = None,
    window: Annotated[
        float, typer.Option(help="Longer sounds are made in overlapping windows of so many seconds.")
    ] = 20.48,
    bits: Annotated[str, typer.Option(help="How samples are written: 16, 24 or float.")] = "16",
    to_rate: Annotated[
        int | None,
        typer.Option(
            "--rate", help="Sampling rate of the files in Hz, such as 44100 or 48000; the model's without it."
        ),
    ] = None,
    stems: Annotated[
        Path | None,
        typer.Option(
            help="With --mask: a new folder to write, with a file per track, the mix, a list of what each is, and a "
            "REAPER session."
        ),
    ] = None,
    stems_placed: Annotated[
        bool, typer.Option("--stems-placed", help="Stems in stereo at their places; without, the session places them.")
    ] = False,
    loop: Annotated[
        bool,
        typer.Option(
            "--loop",
            help="Make a sound whose end goes on with its beginning, so that it repeats without a seam; its length is "
            "rounded to 10 ms.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make the sound of what a mask or a text selects in an image."""
    with plain_errors(as_json=as_json):
        sampler = _one_spelling(sampler, scheduler)
        options = GenerateOptions(
            image=image,
            out=out,
            masks=mask or [],
            text=text,
            negative_mask=negative_mask,
            negative_text=negative_text,
            by=by,
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
            fade_out=fade_out,
            window=window,
            variation=variation,
            variation_strength=variation_strength,
            bits=bits,
            to_rate=to_rate,
            stems=stems,
            stems_placed=stems_placed,
            loop=loop,
        )
        options.check()
        import torch

        from ..audio.files import write_audio
        from ..audio.loudness import programme_loudness
        from ..audio.placing import place_tracks, places_of
        from ..audio.resampling import resample
        from ..audio.tracks import mix_tracks
        from ..checkpoint import read_header, resolve
        from ..conditioning import parts_to_ground
        from ..images.drawing import overlay
        from ..images.files import read_image, write_image
        from ..model import load

        started = time.monotonic()
        pixels = read_image(image)
        selection = None if text is not None and not options.masks else _read_masks(options.masks, pixels)
        negative = None if negative_mask is None else _read_masks([negative_mask], pixels)
        places = None
        if place and selection is not None:
            places = places_of(selection, None if depth is None else read_image(depth).mean(dim=-1))
        config = read_header(resolve(model)).config
        check_steps(steps, config.diffusion.train_steps)
        masks_by = cast("Masks | None", by)
        parts = {"patches", "unet", "vae", "vocoder"}
        for mask_given, text_given in ((selection, text), (negative, negative_text)):
            if mask_given is not None or text_given is not None:
                what = {"mask": mask_given is not None, "text": text_given is not None}
                parts.update(parts_to_ground(config, **what, by=masks_by))
        loaded = load(model, device=device, parts=parts)
        with progress("sampling", as_json) as on_step:
            sound = loaded.generate(
                image=pixels,
                mask=selection,
                text=text,
                negative_mask=negative,
                negative_text=negative_text,
                by=masks_by,
                likely_names=likely_names,
                seconds=seconds,
                steps=steps,
                cfg=cfg,
                seed=seed,
                variation=variation,
                variation_strength=variation_strength,
                batch=batch,
                sampler=sampler,
                level=level,
                fade_out=fade_out,
                window=window,
                loop=loop,
                on_step=on_step,
            )
        dry, rate = sound.waveform.cpu(), sound.sample_rate
        if loop and to_rate is not None:  # before anything else, which would take the ends for ends
            dry, rate = resample(dry, rate, to_rate, loop=True), to_rate
        tracks = dry
        if places is not None:
            tracks = place_tracks(tracks, rate, places * (len(tracks) // len(places)), loop=loop)
        for path, track in zip(options.tracks, tracks, strict=True):
            write_audio(path, track, rate, depth=bits, to_rate=to_rate)
        sureness = [round(float(sure), 3) for sure in sound.sureness]
        report: dict[str, object] = {
            "files": [str(path) for path in options.tracks],
            "model": loaded.config.name,
            "sample_rate": to_rate or rate,
            "samples": -(-tracks.shape[-1] * (to_rate or rate) // rate),
            "seed": seed,
            "source": sound.condition.source,
            "sureness": sureness,
        }
        if places is not None:
            seen = [each and {"pan": round(each.pan, 3), "distance": round(each.distance, 2)} for each in places]
            report["places"] = seen
        if any(sound.condition.sentences):
            report["sentences"] = list(sound.condition.sentences)
        if text is not None:
            nearest = sound.condition.nearest[0]
            report["nearest"] = [{"name": name, "cosine": round(cosine, 3)} for name, cosine in nearest]
        written = list(options.tracks)
        if len(options.masks) > 1:
            mix = mix_tracks(tracks, rate, gain, loudness)
            write_audio(out, mix, rate, depth=bits, to_rate=to_rate)
            written.append(out)
            report["mix"] = str(out)
            if loudness is not None and mix.any():
                reached = round(float(programme_loudness(mix, rate)), 1)
                report["loudness"] = reached
                if abs(reached - loudness) > 0.1:
                    say(f"sounding: the mix has {reached} LUFS instead of {loudness:g}, since its peaks reach -1 dBTP.")
        if stems is not None and selection is not None:
            files = options.write_stems(dry, rate, places, selection)
            report["stems"] = [str(path) for path in files]
            written += files
        if attention_map is not None:
            maps = sound.condition.attention_map((pixels.shape[1], pixels.shape[2]))
            write_image(attention_map, torch.cat(list(overlay(pixels, maps)), dim=1))
            written.append(attention_map)
            report["attention_map"] = str(attention_map)
        report["elapsed"] = round(time.monotonic() - started, 3)
        if (negative_mask or negative_text) and (config.generation.cfg if cfg is None else cfg) == 1:
            say("sounding: at guidance 1 there is nothing that leads away from what is not to be heard; raise --cfg.")
        for line in _warnings(sound, loaded):
            say(line)
        if as_json:
            show_json(report)
        else:
            for path in written:
                show(path)


def _one_spelling(sampler: str | None, scheduler: str | None) -> str | None:
    """The sampler, under whichever option it was given."""
    if sampler is not None and scheduler is not None:
        raise ValueError("--sampler and --scheduler were both given, but they are one setting; leave --scheduler out.")
    return scheduler if sampler is None else sampler


def _warnings(sound: Sound, model: SoundingModel) -> list[str]:
    """A sentence for each text of unknown words, and one for each other selection that the model is not sure of."""
    from ..grounding import SURE

    condition, lines = sound.condition, []
    for row, (sure, source) in enumerate(zip(sound.sureness.tolist(), condition.sources, strict=True)):
        if sure >= SURE:
            continue
        what = f"mask {row + 1}" if len(condition) > 1 else "the text" if source == "text" else "the selection"
        if source in ("text", "name"):
            said, found = condition.sentences[row], condition.nearest[row]
            if float(model.familiarity(said, [found])[0]) < SURE:
                nearest = ", ".join(f"'{name}' ({cosine:.2f})" for name, cosine in found)
                lines.append(
                    f"sounding: '{said}' is not among the {len(model.config.vocabulary)} known names, so the sound may "
                    f"not fit; nearest are {nearest}."
                )
                continue
        if source == "name":
            what += f", taken for '{condition.sentences[row]}',"
        lines.append(
            f"sounding: the model is not sure what {what} shows (sureness {sure:.2f} of 1), so the sound may not fit; "
            "select one whole object, or try another image."
        )
    return list(dict.fromkeys(lines))


def _read_masks(files: Sequence[Path], image: Tensor) -> Tensor:
    """Masks of any sizes as one batch of the image's size; a white one if there are none."""
    import torch

    from ..encoders.patches import check_orientation
    from ..images.files import read_mask

    size = (image.shape[1], image.shape[2])
    if not files:
        return torch.ones(1, *size)
    masks = [read_mask(file) for file in files]
    for one in masks:
        check_orientation((one.shape[-2], one.shape[-1]), size)
    resized = [
        torch.nn.functional.interpolate(one[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
        for one in masks
    ]
    return torch.cat(resized)
