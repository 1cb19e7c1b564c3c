"""Settings of a refinement: a YAML file, as recipes are, with every key checked before any work begins."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import yaml

from sounding.utils.fields import Checked, Length, Range, Text, from_dict

from ..cluster.settings import EngineSettings, Resources
from ..data.storage import check_address
from ..recipe_files import merge, parse_overrides, read_yaml

File = Annotated[str, Text(4096)]
Classes = Annotated[tuple[Annotated[str, Text(200)], ...], Length(0, 1000)]
# Appendix B.1, "Audio filtering": human voices (speech, singing, narration, ...), babble, chatter, and music. Bells are
# kinds of musical instruments in the ontology, and of things, too.
DROPPED = ("/m/09l8g", "/m/07qfr4h", "/m/07rkbfh", "/m/04rlf")
SPARED = ("/m/0395lw",)


@dataclass(frozen=True)
class ListSettings(Checked):
    """One list of clips and where its videos lie.

    Attributes:
        form: "folder" has no list: each video below `videos` is cut into clips, and labelled by the name of the folder
            that it lies in.
        csv: the list, for the other forms.
        videos: folder with YTID.ext (whole) or YTID_START.ext (the clip alone).
        classes: AudioSet's class_labels_indices.csv, for its lists.
        split: of VGG-Sound's list, which says train or test.
    """

    form: Literal["audioset", "vggsound", "audiocaps", "folder"]
    videos: File
    csv: File = ""
    classes: File = ""
    licence: Annotated[str, Text(200)] = "unknown"
    split: Literal["train", "test", "all"] = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.csv == "") != (self.form == "folder"):
            raise ValueError(f"lists: csv is {self.csv!r}, but a list is expected for all forms but folder.")
        if self.form == "audioset" and not self.classes:
            raise ValueError("lists: classes is missing, but AudioSet's labels are codes; give its CSV of classes.")


@dataclass(frozen=True)
class LabelSettings(Checked):
    """Which of the list's labels drop a clip: ids of the ontology (with all kinds of them), names, * for anything."""

    drop: Classes = DROPPED
    spare: Classes = SPARED


@dataclass(frozen=True)
class ClipSettings(Checked):
    """Which clips can be used at all."""

    least: Annotated[float, Range(0.05, 1)] = 0.95  # share of the asked seconds that has to be there
    least_peak: Annotated[float, Range(0, 1)] = 1e-3  # of the waveform; what is below counts as silent (-60 dB)
    resources: Resources = field(default_factory=lambda: Resources(workers=64, batch=16))


@dataclass(frozen=True)
class MatchingSettings(Checked):
    """How well sound and images match (appendix B.1, "Audio-visual matching").

    Attributes:
        scorer: "model" is a matching model that `run training/recipes/matching.yaml` trained; "names" is the stand-in
            of the starter's encoders; "none" leaves the step out.
        model: for "model", its file.
        visual, audio: likewise, where its encoders' weights lie, if elsewhere than in training.
        sounds: for "names", the classifier of sounds.
        threshold: clips below it are dropped.
        frames_per_second, size: of the frames that the scorer gets; the paper's are 8 and 224.
    """

    scorer: Literal["model", "names", "none"] = "model"
    model: File = ""
    visual: File = ""
    audio: File = ""
    sounds: File = ""
    threshold: Annotated[float, Range(0, 1)] = 0.6
    frames_per_second: Annotated[float, Range(0.1, 60)] = 8.0
    size: Annotated[int, Range(32, 1024)] = 224
    device: Annotated[str, Text(40)] = "auto"
    resources: Resources = field(default_factory=lambda: Resources(workers=8, batch=8))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scorer == "names" and not self.sounds:
            raise ValueError("matching.sounds is missing, but the scorer 'names' needs a classifier of sounds.")
        if self.scorer == "model" and not self.model:
            raise ValueError("matching.model is missing, but the scorer 'model' is one; name its file.")


@dataclass(frozen=True)
class EventSettings(Checked):
    """Sound events that are heard, and those that drop a clip (appendix B.1, "Audio filtering").

    Attributes:
        model: PANNs' Cnn14 beside AudioSet's class_labels_indices.csv, or a classifier; "" leaves the step out.
        keep: events from this probability on are kept as tags.
        threshold: events from this probability on drop a clip, if they are among those to drop.
    """

    model: File = ""
    keep: Annotated[float, Range(0, 1)] = 0.1
    threshold: Annotated[float, Range(0, 1)] = 0.3
    drop: Classes = DROPPED
    spare: Classes = SPARED
    device: Annotated[str, Text(40)] = "auto"
    resources: Resources = field(default_factory=lambda: Resources(workers=8, batch=16))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold < self.keep:
            raise ValueError(f"events.threshold is {self.threshold:g}, but at least keep ({self.keep:g}) is expected.")


@dataclass(frozen=True)
class CaptionSettings(Checked):
    """What is heard and what is seen, in words.

    Attributes:
        audio: a CSV with the columns id and caption, of any audio captioner.
        audio_model: folder of an audio captioner as transformers saves it (Whisper that was trained for it, or
            Qwen2-Audio), for the clips that the CSV does not have. With neither of them, the tags of sound events and
            the list's labels are taken.
        audio_prompt: what the captioner is asked; "" takes what its authors trained it with.
        frames: "blip" captions one frame per second; "names" is the stand-in, the names of what each frame shows;
            "none" leaves them out.
        blip: folder of a BLIP model as transformers saves it.
    """

    audio: File = ""
    audio_model: File = ""
    audio_prompt: Annotated[str, Text(500)] = ""
    frames: Literal["blip", "names", "none"] = "names"
    blip: File = ""
    frames_per_second: Annotated[float, Range(0.05, 10)] = 1.0
    size: Annotated[int, Range(32, 1024)] = 384
    device: Annotated[str, Text(40)] = "auto"
    resources: Resources = field(default_factory=lambda: Resources(workers=8, batch=8))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames == "blip" and not self.blip:
            raise ValueError("captions.blip is missing, but frames are captioned by 'blip'; name the model's folder.")


@dataclass(frozen=True)
class RephraseSettings(Checked):
    """The one sentence of what is both seen and heard (appendix B.1, "Caption rephrasing").

    Attributes:
        by: "none" takes the labels' caption; "transformers" runs the model in `folder`; "endpoint" asks a server with
            OpenAI's chat interface.
        url: of the endpoint, up to and with /v1.
        key: the *name* of the environment variable that has the key; "" sends none.
        seconds: for one answer, from connecting to its last byte.
        tries: per clip, before the labels' caption is taken.
        wait: seconds before the second try; doubled for each further one.
        parallel: requests of one worker at a time.
    """

    by: Literal["none", "transformers", "endpoint"] = "none"
    folder: File = ""
    url: File = ""
    model: Annotated[str, Text(200)] = ""
    key: Annotated[str, Text(200)] = ""
    temperature: Annotated[float, Range(0, 2)] = 0.0
    most_words: Annotated[int, Range(5, 200)] = 60
    seconds: Annotated[float, Range(0.1, 3600)] = 60.0
    tries: Annotated[int, Range(1, 20)] = 4
    wait: Annotated[float, Range(0, 600)] = 1.0
    parallel: Annotated[int, Range(1, 256)] = 8
    device: Annotated[str, Text(40)] = "auto"
    resources: Resources = field(default_factory=lambda: Resources(cpus=0.1, workers=4, batch=16))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by == "endpoint" and (not self.url.startswith(("http://", "https://")) or not self.model):
            raise ValueError(
                "rephrase.url or rephrase.model is missing, but an endpoint has both, such as "
                "http://127.0.0.1:8000/v1 and the model's name there."
            )
        if self.by == "transformers" and not self.folder:
            raise ValueError("rephrase.folder is missing, but a model of transformers lies in one; name it.")


@dataclass(frozen=True)
class SplitSettings(Checked):
    """Which videos become the test set (appendix B.2).

    Attributes:
        test_hours: evenly over the categories; a category that has too little gives at most half of its hours.
        categories: ids of the ontology (or labels, where there is none); none: the largest ones.
        count: how many of the largest.
        seed: another one draws other videos.
    """

    test_hours: Annotated[float, Range(0, 1e6)] = 48.0
    categories: Classes = ()
    count: Annotated[int, Range(1, 1000)] = 8
    seed: Annotated[int, Range(0, 2**31)] = 0


@dataclass(frozen=True)
class ShardSettings(Checked):
    """What is written for training.

    Attributes:
        frames, size: images per clip, and their shorter side.
        shard_size: clips per shard.
        workers: processes that write; 0 works in the first one.
        model: a checkpoint whose encoders and VAE make features of the raw shards; "" leaves them to
            `python -m training prepare features`.
        resources: of the workers that make features on Ray; `batch` is the clips that the encoders take at once.
    """

    frames: Annotated[int, Range(1, 1000)] = 10
    size: Annotated[int, Range(16, 4096)] = 256
    shard_size: Annotated[int, Range(1, 100_000)] = 1000
    workers: Annotated[int, Range(0, 256)] = 0
    model: File = ""
    device: Annotated[str, Text(40)] = "auto"
    resources: Resources = field(default_factory=lambda: Resources(workers=64, batch=16))


@dataclass(frozen=True)
class RefineSettings(Checked):
    """One refinement; `out` keeps all of it."""

    out: File
    lists: Annotated[tuple[ListSettings, ...], Length(1, 32)]
    ontology: File = ""  # AudioSet's ontology.json
    exclude: Annotated[tuple[File, ...], Length(0, 64)] = ()  # lists of benchmarks whose videos are left out
    seconds: Annotated[float, Range(0.5, 3600)] = 10.0
    engine: EngineSettings = field(default_factory=EngineSettings)
    labels: LabelSettings = field(default_factory=LabelSettings)
    clips: ClipSettings = field(default_factory=ClipSettings)
    matching: MatchingSettings = field(default_factory=lambda: MatchingSettings(scorer="none"))
    events: EventSettings = field(default_factory=EventSettings)
    captions: CaptionSettings = field(default_factory=CaptionSettings)
    rephrase: RephraseSettings = field(default_factory=RephraseSettings)
    split: SplitSettings = field(default_factory=SplitSettings)
    shards: ShardSettings = field(default_factory=ShardSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ontology and any(each.form == "audioset" for each in self.lists):
            raise ValueError(
                "ontology is missing, but AudioSet's lists name the most specific classes, so that it takes the "
                "ontology to drop all kinds of music; give AudioSet's ontology.json."
            )
        check_address(self.to_yaml())  # the manifest has all settings
        for name in ("matching", "events", "captions", "rephrase", "shards"):
            device, gpus = getattr(self, name).device, getattr(self, name).resources.gpus
            if self.engine.kind == "ray" and device.startswith("cuda") and not gpus:
                raise ValueError(
                    f"{name}.device is {device}, but Ray gives its workers no GPU with {name}.resources.gpus 0; "
                    "set that to what one worker takes, such as 1 or 0.5, and leave device as auto."
                )

    def to_yaml(self) -> str:
        """All settings with every default written out; reads back as the same settings."""
        return yaml.safe_dump(_plain(dataclasses.asdict(self)), sort_keys=False, default_flow_style=None, width=120)


def read_settings(path: Path, overrides: list[str] | None = None) -> RefineSettings:
    """The settings in a file, overrides (`key.key=value`) on top.

    Raises:
        ValueError: naming the file and the key that is unknown, missing, of the wrong type or out of its range.
    """
    data = merge(read_yaml(path), parse_overrides(overrides or []))
    try:
        settings: RefineSettings = from_dict(RefineSettings, data)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
    return settings


def _plain(value: object) -> object:
    """Tuples as lists, which YAML's safe form knows."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
