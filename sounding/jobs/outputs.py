"""What a job writes: the files of its sounds, a report for programs and warnings for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..audio.curves import with_curve
from ..audio.files import encode_audio
from ..audio.loudness import programme_loudness
from ..audio.placing import Place, place_tracks
from ..audio.resampling import resample
from ..audio.tracks import mix_tracks
from ..grounding import SURE, Condition
from ..images.drawing import overlay
from ..images.files import encode_image

if TYPE_CHECKING:
    from ..cli.options import GenerateOptions
    from ..model import SoundingModel


@dataclass(frozen=True)
class Outputs:
    """The tracks of a job, and all that is written and said of them."""

    options: GenerateOptions
    sounds: Tensor  # [B, 1, samples] on the CPU, before they were placed
    tracks: Tensor  # [B, channels, samples]
    rate: int  # of both
    mix: Tensor | None  # [channels, samples]
    report: dict[str, Any]  # JSON
    warnings: list[str]
    attention: Tensor | None  # [H, W, 3], the image with the attention laid over it

    def files(self) -> Iterator[tuple[Path, bytes]]:
        """Files to write and what is in them, encoded one after the other."""
        form: dict[str, Any]
        out, form = self.options.out, {"depth": self.options.bits, "to_rate": self.options.to_rate}
        form["exact"] = self.options.audio is not None
        for path, track in zip(self.options.tracks, self.tracks, strict=True):
            yield path, encode_audio(path, track, self.rate, **form)
        if self.mix is not None:
            yield out, encode_audio(out, self.mix, self.rate, **form)
        if self.attention is not None and self.options.attention_map is not None:
            yield self.options.attention_map, encode_image(self.options.attention_map, self.attention)


def make_outputs(
    options: GenerateOptions,
    model: SoundingModel,
    condition: Condition,
    tracks: Tensor,
    places: list[Place | None] | None,
    image: Tensor | None,
    rate: int | None = None,
) -> Outputs:
    """Place and mix tracks, and describe them.

    Args:
        options: of the job.
        model: that made the tracks.
        condition: one row per selection.
        tracks: [B, 1, samples].
        places: of the selections, where the tracks are to be placed.
        image: [1, H, W, 3], needed only for the attention map.
        rate: of the tracks in Hz; without it, the model's.
    """
    sounds, rate = tracks.cpu(), rate or model.config.audio.sample_rate
    if options.loop and options.to_rate is not None:  # before anything else, which would take the ends for ends
        sounds, rate = resample(sounds, rate, options.to_rate, loop=True), options.to_rate
    if options.intensity:
        curves = [options.curve(track) for track in range(len(sounds))]
        curved = [with_curve(one, rate, curve, loop=options.loop) for one, curve in zip(sounds, curves, strict=True)]
        sounds = torch.stack(curved)
    tracks = sounds
    if places is not None:
        tracks = place_tracks(sounds, rate, places * (len(sounds) // len(places)), loop=options.loop)
    written_rate = options.to_rate or rate
    report: dict[str, Any] = {
        "files": [str(path) for path in options.tracks],
        "model": model.config.name,
        "sample_rate": written_rate,
        "samples": -(-tracks.shape[-1] * written_rate // rate),
        "seed": options.seed,
        "source": condition.source,
        "sureness": [round(float(sure), 3) for sure in condition.sureness],
    }
    warnings = []
    if places is not None:
        seen = [each and {"pan": round(each.pan, 3), "distance": round(each.distance, 2)} for each in places]
        report["places"] = seen
    if any(condition.sentences):
        report["sentences"] = list(condition.sentences)
    if options.text is not None:
        report["nearest"] = [{"name": name, "cosine": round(cosine, 3)} for name, cosine in condition.nearest[0]]
    mix = None
    if options.selections > 1:
        mix = mix_tracks(tracks, rate, list(options.gains) or None, options.loudness)
        report["mix"] = str(options.out)
        if options.loudness is not None and mix.any():
            reached = round(float(programme_loudness(mix, rate)), 1)
            report["loudness"] = reached
            if abs(reached - options.loudness) > 0.1:
                warnings.append(
                    f"the mix has {reached} LUFS instead of {options.loudness:g}, since its peaks reach -1 dBTP."
                )
    attention = None
    if options.attention_map is not None and image is not None:
        maps = condition.attention_map((image.shape[1], image.shape[2]))
        attention = torch.cat(list(overlay(image, maps)), dim=1)
        report["attention_map"] = str(options.attention_map)
    guided = model.config.sampling(cfg=options.cfg, plain=False).cfg != 1
    if (options.negative_mask or options.negative_text) and not guided:
        warnings.append("at guidance 1 there is nothing that leads away from what is not to be heard; raise --cfg.")
    return Outputs(options, sounds, tracks, rate, mix, report, warnings + doubts(condition, model), attention)


def doubts(condition: Condition, model: SoundingModel) -> list[str]:
    """A sentence for each text of unknown words, and one for each other selection that the model is not sure of."""
    lines = []
    for row, (sure, source) in enumerate(zip(condition.sureness.tolist(), condition.sources, strict=True)):
        if sure >= SURE:
            continue
        what = f"mask {row + 1}" if len(condition) > 1 else "the text" if source == "text" else "the selection"
        if source in ("text", "name"):
            said, found = condition.sentences[row], condition.nearest[row]
            if float(model.familiarity(said, [found])[0]) < SURE:
                nearest = ", ".join(f"'{name}' ({cosine:.2f})" for name, cosine in found)
                lines.append(
                    f"'{said}' is not among the {len(model.config.vocabulary)} known names, so the sound may not fit; "
                    f"nearest are {nearest}."
                )
                continue
        if source == "name":
            what += f", taken for '{condition.sentences[row]}',"
        lines.append(
            f"the model is not sure what {what} shows (sureness {sure:.2f} of 1), so the sound may not fit; select one "
            "whole object, or try another image."
        )
    return list(dict.fromkeys(lines))
