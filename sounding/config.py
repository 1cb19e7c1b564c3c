"""The whole model described by frozen dataclasses, as stored in the checkpoint's header.

The defaults are the paper's full size: CLIP ViT-B/32, CLAP, and AudioLDM-S's U-Net, VAE and HiFi-GAN
(section 4.1). The starter in the box uses the same classes with smaller numbers (`training/recipes`).
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_VERSION = 2


@dataclass(frozen=True)
class AudioConfig:
    """Waveform and log-mel geometry; the values are AudioLDM's (64 ms window, 10 ms hop)."""

    sample_rate: int = 16_000
    fft_size: int = 1024
    hop: int = 160
    mel_bands: int = 64
    f_min: float = 0.0
    f_max: float = 8_000.0
    log_floor: float = 1e-5


@dataclass(frozen=True)
class PatchConfig:
    """Patch encoder: an open_clip image tower, seen as a grid of patch embeddings.

    `tower` is "vit" (open_clip's `VisionTransformer`, sized by `model`, an open_clip model name) or "timm"
    (open_clip's `TimmModel`, `model` is a timm name). `geometry` says how a picture reaches the square.
    """

    tower: Literal["vit", "timm"] = "vit"
    model: str = "ViT-B-32"
    width: int = 512  # L
    grid: int = 7  # the map is grid x grid patches
    image_size: int = 224
    geometry: Literal["squeeze", "crop", "pad"] = "squeeze"
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    quick_gelu: bool = True  # OpenAI's weights were trained with it


@dataclass(frozen=True)
class QueryConfig:
    """Query encoder: "clap" (transformers' CLAP text tower), "open_clip" (a text tower) or "clap_audio" (HTS-AT).

    For "clap_audio", `hidden` and `heads` are the first level's and `depths` says the blocks of each level.
    """

    tower: Literal["clap", "open_clip", "clap_audio"] = "clap"
    width: int = 512  # L
    layers: int = 12
    heads: int = 12
    hidden: int = 768
    context_length: int = 77
    depths: tuple[int, ...] = (2, 2, 6, 2)
    tokenizer: str = "laion/clap-htsat-unfused"  # folder or cached name with the CLAP tokenizer's files
    tokenizer_bytes: int = 0  # length of the tokenizer that travels in the checkpoint; 0 is none


@dataclass(frozen=True)
class GroundingConfig:
    """Grounding attention (equations 3 and 4) and what the paper's ablations vary (section 4.3)."""

    heads: int = 1
    scoring: Literal["dot", "additive"] = "dot"
    query: Literal["text", "audio"] = "text"
    positions: bool = True
    key_width: int = 512  # d_k, over all heads
    mlp_width: int = 1024
    condition_width: int = 512  # D
    mask_training: float = 0.0  # share of training items whose weights come from the mask
    clamp_weights: bool = False  # matched weights below 0 are cut off and the rest renormalised
    match_length: bool = False  # conditions that say little are brought to the usual length, see `grounding`
    backdrops: bool = False  # backdrops' say nothing, and are told by their direction, not by being short


@dataclass(frozen=True)
class VaeConfig:
    """`diffusers.AutoencoderKL` over [B, 1, T, mel_bands]; each level after the first halves both axes."""

    channels: tuple[int, ...] = (128, 256, 512)
    layers: int = 2
    latent_channels: int = 8
    norm_groups: int = 32
    scale: float = 0.9227914214134216  # latents are multiplied by it before diffusion (AudioLDM-S's value)
    mel_mean: float = 0.0  # mel is normalised before the encoder; AudioLDM's is used raw
    mel_std: float = 1.0

    @property
    def stride(self) -> int:
        """Mel frames (and bands) a latent cell covers."""
        return 2 ** (len(self.channels) - 1)

    def normal(self, mel: Tensor) -> Tensor:
        """Log-mel [B, T, bands] -> [B, 1, T, bands] as the encoder takes it."""
        return ((mel - self.mel_mean) / self.mel_std)[:, None]

    def log_mel(self, normal: Tensor) -> Tensor:
        """What the decoder gives, [B, 1, T, bands] -> log-mel [B, T, bands] float32."""
        return normal[:, 0].float() * self.mel_std + self.mel_mean


@dataclass(frozen=True)
class UnetConfig:
    """`diffusers.UNet2DConditionModel`; attention at every level but the first.

    `film_width` 0 is the paper's: the U-Net attends to the condition. Otherwise the condition, of that width, is
    added to the time embedding as in AudioLDM as published, and the second attention attends to the latents.
    """

    channels: tuple[int, ...] = (128, 256, 384, 640)
    layers: int = 2
    head_width: int = 32
    heads: tuple[int, ...] = ()  # heads of each level, where they do not all have `head_width`
    norm_groups: int = 32
    film_width: int = 0


@dataclass(frozen=True)
class VocoderConfig:
    """`transformers.SpeechT5HifiGan`; the product of `rates` is the mel hop."""

    initial_channels: int = 1024
    rates: tuple[int, ...] = (5, 4, 2, 2, 2)
    rate_kernels: tuple[int, ...] = (16, 16, 8, 4, 4)
    kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)
    normalize: bool = False


@dataclass(frozen=True)
class DiffusionConfig:
    """Noise schedule: 1000 steps, beta 0.0015 to 0.0195, linear in sqrt(beta) as in the paper's base model."""

    train_steps: int = 1000
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    beta_schedule: str = "scaled_linear"
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"


@dataclass(frozen=True)
class GenerationConfig:
    """What suits a checkpoint when sounds are made with it. The sampler's defaults are the paper's (section 4.1).

    The thresholds say when a condition is taken for one of something (`grounding.Condition.sureness`): where the
    direction of backdrops is known, by the cosine with it, from `backdrop` (nothing, 0) down to `object` (1);
    elsewhere by the distance from the mean condition as a share of the usual, from `silent` (0) up to `clear` (1).
    """

    steps: int = 200
    cfg: float = 2.0
    sampler: Literal["ddim", "dpm++", "dpm++ karras"] = "ddim"
    silent: float = 0.3
    clear: float = 0.4
    object: float = 0.5
    backdrop: float = 0.6


@dataclass(frozen=True)
class SegmenterConfig:
    """The optional click decoder over the patch tower's feature maps (`sounding.segment.network`).

    Widths are those of the maps at 1/16, 1/8 and 1/4 of the picture, blocks likewise.
    """

    side: int = 320  # the picture's longer side as the tower sees it, in pixels
    widths: tuple[int, int, int] = (64, 48, 24)
    blocks: tuple[int, int, int] = (2, 2, 3)
    key_width: int = 32  # of what a clicked place is compared by


@dataclass(frozen=True)
class SoundingConfig:
    """A whole model. `absent` names parts whose weights are not in the checkpoint, with where to get them."""

    name: str = "sounding-full"
    version: int = CONFIG_VERSION
    train_seconds: float = 10.24
    audio: AudioConfig = field(default_factory=AudioConfig)
    patches: PatchConfig = field(default_factory=PatchConfig)
    query: QueryConfig = field(default_factory=QueryConfig)
    grounding: GroundingConfig = field(default_factory=GroundingConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    unet: UnetConfig = field(default_factory=UnetConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    segmenter: SegmenterConfig | None = None
    absent: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        film = self.unet.film_width
        if film and film != self.grounding.condition_width:
            raise ValueError(
                f"unet.film_width is {film} and grounding.condition_width is {self.grounding.condition_width}, but "
                "one width is expected; give both the same number."
            )
        if self.unet.heads and len(self.unet.heads) != len(self.unet.channels):
            raise ValueError(
                f"unet.heads has {len(self.unet.heads)} values, but {len(self.unet.channels)} are expected; give one a "
                "level."
            )

    @property
    def latent_bands(self) -> int:
        """Height of the latent in mel direction (16 for 64 bands)."""
        return self.audio.mel_bands // self.vae.stride

    @property
    def train_samples(self) -> int:
        """Samples of the clips that the model is trained on."""
        return round(self.train_seconds * self.audio.sample_rate)

    def mel_frames(self, seconds: float) -> int:
        """Mel frames in `seconds`, to the nearest."""
        return round(seconds * self.audio.sample_rate / self.audio.hop)

    def latent_frames(self, seconds: float) -> int:
        """Latent frames that cover `seconds`, a multiple of what the U-Net's levels divide by.

        Raises:
            ValueError: `seconds` is shorter than one mel frame, or not a finite number.
        """
        if not self.audio.hop / self.audio.sample_rate <= seconds < float("inf"):
            raise ValueError(f"seconds is {seconds}, but a positive length is expected; ask for 0.1 or more.")
        frames = seconds * self.audio.sample_rate / (self.audio.hop * self.vae.stride)
        step = 2 ** (len(self.unet.channels) - 1)
        return max(1, -int(-(frames - 1e-6) // step)) * step

    def to_json(self) -> str:
        """The configuration as one JSON object."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SoundingConfig:
        """Read `to_json`'s text.

        Raises:
            ValueError: not such a JSON, an unknown or ill-typed key, or a newer version than this code knows.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"The configuration is not JSON ({error}); the file is damaged.") from None
        if not isinstance(data, dict):
            raise ValueError(f"The configuration is a {type(data).__name__}, but an object is expected.")
        version = data.get("version", CONFIG_VERSION)
        if not isinstance(version, int) or version > CONFIG_VERSION:
            raise ValueError(
                f"The configuration has version {version}, but this code reads up to {CONFIG_VERSION}; "
                "update Sounding Objects."
            )
        return from_dict(cls, with_generation(data))


def with_generation(data: dict[str, Any]) -> dict[str, Any]:
    """Migration to version 2: files from before say nothing of generation, where these numbers were the library's."""
    if "generation" in data:
        return data
    before = {"steps": 25, "cfg": 7.0, "sampler": "dpm++"}
    thresholds = {"silent": 0.3, "clear": 0.4, "object": 0.5, "backdrop": 0.6}
    return data | {"version": CONFIG_VERSION, "generation": before | thresholds}


def from_dict(cls: type, data: dict[str, Any], where: str = "") -> Any:
    """Build the dataclass `cls` from nested dictionaries, checking names and types.

    Raises:
        ValueError: naming the key that is unknown, missing or has the wrong type.
    """
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        needed = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if needed and item.name not in data:
            raise ValueError(f"The key {where + item.name!r} is missing, but {cls.__name__} needs it; give it a value.")
    values = {}
    for key, value in data.items():
        name = f"{where}{key}"
        if key not in hints:
            raise ValueError(f"Unknown key {name!r}; {cls.__name__} has {', '.join(sorted(hints))}.")
        values[key] = _typed(hints[key], value, name)
    return cls(**values)


def _typed(hint: Any, value: Any, name: str) -> Any:
    """`value` as `hint` asks (lists become tuples, whole numbers floats), or a ValueError naming it."""
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(typing.cast(type, hint), value, f"{name}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, (list, tuple)):
        # tuple[X, ...] or tuple[X, X, X]
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ValueError(f"{name} has {len(value)} values, but {len(arguments)} are expected.")
        return tuple(_typed(arguments[0], item, name) for item in value)
    if origin is dict and isinstance(value, dict):
        return dict(value)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            try:
                return _typed(option, value, name)
            except ValueError:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
        raise ValueError(f"{name} is {value!r}, but one of {', '.join(map(str, arguments))} is expected.")
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{name} is {value!r}, but {getattr(hint, '__name__', hint)} is expected.")
