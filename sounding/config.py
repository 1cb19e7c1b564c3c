"""The whole model described by frozen dataclasses, as stored in the checkpoint's header.

The defaults are the paper's full size: CLIP ViT-B/32, CLAP, and AudioLDM-S's U-Net, VAE and HiFi-GAN
(section 4.1). The starter in the box uses the same classes with smaller numbers (`training/recipes`).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

from .consistency import check_consistency
from .cost import check_cost
from .migrations import CONFIG_VERSION, migrated, with_generation
from .naming.config import NamingConfig
from .utils.fields import Checked, Length, Range, Text, from_dict, parse_json
from .utils.messages import shown

if TYPE_CHECKING:
    from torch import Tensor

PARTS = ("patches", "query", "grounding", "unet", "vae", "vocoder")  # of a model, as tensor names begin with them
SEGMENTER, NAMING = "segmenter", "naming"
OPTIONAL = (SEGMENTER, NAMING)  # parts that a checkpoint may do without

# Ranges: several times what published models have, and far below what would take all memory.
Width = Annotated[int, Range(1, 8192)]
HeadCount = Annotated[int, Range(1, 1024)]
Groups = Annotated[int, Range(1, 512)]
Depth = Annotated[int, Range(1, 64)]  # blocks in a row
Kernel = Annotated[int, Range(1, 256)]
Widths = Annotated[tuple[Width, ...], Length(1, 8)]  # of stages
Sampler = Literal["ddim", "dpm++", "dpm++ karras"]
SAMPLERS: tuple[str, ...] = get_args(Sampler)
Masks = Literal["grounding", "names"]  # what a mask does
MASKS: tuple[str, ...] = get_args(Masks)
Cosines = tuple[Annotated[float, Range(-1, 1)], Annotated[float, Range(-1, 1)]]
Ratios = tuple[Annotated[float, Range(0, 100)], Annotated[float, Range(0, 100)]]


@dataclass(frozen=True)
class AudioConfig(Checked):
    """Waveform and log-mel geometry; the values are AudioLDM's (64 ms window, 10 ms hop)."""

    sample_rate: Annotated[int, Range(4_000, 192_000)] = 16_000
    fft_size: Annotated[int, Range(16, 16_384)] = 1024
    hop: Annotated[int, Range(16, 8192)] = 160
    mel_bands: Annotated[int, Range(4, 256)] = 64
    f_min: Annotated[float, Range(0, 96_000)] = 0.0
    f_max: Annotated[float, Range(1, 96_000)] = 8_000.0
    log_floor: Annotated[float, Range(1e-12, 1)] = 1e-5


@dataclass(frozen=True)
class PatchConfig(Checked):
    """Patch encoder: an image tower of open_clip or timm, seen as a grid of patch embeddings.

    `tower` is "vit" (open_clip's `VisionTransformer`, sized by `model`, an open_clip model name) or "timm"
    (a network of timm with a linear projection, `model` is a timm name). `geometry` says how an image is brought to
    the square, see `encoders.patches.to_square`.
    """

    tower: Literal["vit", "timm"] = "vit"
    model: Annotated[str, Text(100)] = "ViT-B-32"
    width: Width = 512  # L
    grid: Annotated[int, Range(1, 64)] = 7  # the map is grid x grid patches
    image_size: Annotated[int, Range(16, 1024)] = 224
    geometry: Literal["squeeze", "crop", "pad"] = "squeeze"
    mean: tuple[Annotated[float, Range(-10, 10)], float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[Annotated[float, Range(1e-3, 10)], float, float] = (0.26862954, 0.26130258, 0.27577711)
    quick_gelu: bool = True  # OpenAI's weights were trained with it


@dataclass(frozen=True)
class QueryConfig(Checked):
    """Query encoder: "clap" (transformers' CLAP text tower), "open_clip" (a text tower) or "clap_audio" (HTS-AT).

    For "clap_audio", `hidden` and `heads` are the first stage's and `depths` says the blocks of each stage.
    """

    tower: Literal["clap", "open_clip", "clap_audio"] = "clap"
    width: Width = 512  # L
    layers: Depth = 12
    heads: HeadCount = 12
    hidden: Width = 768
    context_length: Annotated[int, Range(2, 1024)] = 77
    depths: Annotated[tuple[Depth, ...], Length(1, 6)] = (2, 2, 6, 2)
    tokenizer: Annotated[str, Text(300)] = "laion/clap-htsat-unfused"  # where none travels in the file, see `text`
    tokenizer_bytes: Annotated[int, Range(0, 2**25)] = (
        0  # length of the tokenizer that travels in the checkpoint; 0 is none
    )


@dataclass(frozen=True)
class GroundingConfig(Checked):
    """Grounding attention (equations 3 and 4) and what the paper's ablations vary (section 4.3)."""

    heads: HeadCount = 1
    scoring: Literal["dot", "additive"] = "dot"
    query: Literal["text", "audio"] = "text"
    positions: bool = True
    key_width: Width = 512  # d_k, over all heads
    mlp_width: Width = 1024
    # Between the MLP's layers. After "softmax" a condition is a weighted mean of the second layer's columns.
    activation: Literal["gelu", "softmax"] = "gelu"
    condition_width: Width = 512  # D
    mask_training: Annotated[float, Range(0, 1)] = 0.0  # share of training items whose weights come from the mask
    clamp_weights: bool = False  # matched weights below 0 are cut off and the rest renormalised
    norm_matching: bool = False  # conditions of a small norm are brought to the usual one, see `grounding.match_norm`
    backdrops: bool = False  # the mean condition of backdrops is known: they are recognised by its direction


@dataclass(frozen=True)
class VaeConfig(Checked):
    """`diffusers.AutoencoderKL` over [B, 1, T, mel_bands]; each stage after the first halves both axes."""

    channels: Widths = (128, 256, 512)
    layers: Depth = 2
    latent_channels: Annotated[int, Range(1, 256)] = 8
    norm_groups: Groups = 32
    scale: Annotated[float, Range(1e-6, 1e6)] = (
        0.9227914214134216  # latents are multiplied by it before diffusion (AudioLDM-S's value)
    )
    mel_mean: Annotated[float, Range(-1000, 1000)] = 0.0  # mel is normalised before the encoder; AudioLDM's is used raw
    mel_std: Annotated[float, Range(1e-6, 1000)] = 1.0

    @property
    def stride(self) -> int:
        """Mel frames, and bands, per latent cell."""
        return 2 ** (len(self.channels) - 1)

    def normal(self, mel: Tensor) -> Tensor:
        """Log-mel [B, T, bands] -> [B, 1, T, bands] as the encoder takes it."""
        return ((mel - self.mel_mean) / self.mel_std)[:, None]

    def log_mel(self, normal: Tensor) -> Tensor:
        """What the decoder gives, [B, 1, T, bands] -> log-mel [B, T, bands] float32."""
        return normal[:, 0].float() * self.mel_std + self.mel_mean


@dataclass(frozen=True)
class UnetConfig(Checked):
    """`diffusers.UNet2DConditionModel`; attention at every stage but the first.

    `film_width` 0 is the paper's: the U-Net attends to the condition. Otherwise the condition, of that width, is
    added to the time embedding as in AudioLDM as published, and the second attention attends to the latents.
    `patch_size` cells of the latents, in time and frequency, are one position (`networks.variants`); the paper has 1.
    `modulated` adds the condition to the time embedding, too, and both shift and scale the normalised values of each
    layer ("adaptive group normalization", Dhariwal & Nichol 2021); the paper has attention alone.
    """

    channels: Widths = (128, 256, 384, 640)
    layers: Depth = 2
    head_width: Annotated[int, Range(1, 1024)] = 32
    heads: Annotated[tuple[HeadCount, ...], Length(0, 8)] = ()  # per stage, where heads are not all of `head_width`
    norm_groups: Groups = 32
    film_width: Annotated[int, Range(0, 8192)] = 0
    patch_size: Annotated[int, Range(1, 8)] = 1
    modulated: bool = False
    # Evaluations that a student of it needs, whose weights are changes of that rank (`networks.few_steps`); 0 is none.
    few_steps: Annotated[int, Range(0, 64)] = 0
    few_steps_rank: Annotated[int, Range(1, 1024)] = 16

    @property
    def stride(self) -> int:
        """Cells of the latents, in time, of which it takes whole multiples only."""
        return 2 ** (len(self.channels) - 1) * self.patch_size


@dataclass(frozen=True)
class VocoderConfig(Checked):
    """`transformers.SpeechT5HifiGan`, or `networks.vocos.Vocos` with `fft_size` and what follows it.

    The product of `rates` is the mel hop. `normalize` standardises log-mels first; `noise` gives Vocos as many
    bands of noise.
    """

    network: Literal["hifigan", "vocos"] = "hifigan"
    initial_channels: Width = 1024
    rates: Annotated[tuple[Kernel, ...], Length(1, 10)] = (5, 4, 2, 2, 2)
    rate_kernels: Annotated[tuple[Kernel, ...], Length(1, 10)] = (16, 16, 8, 4, 4)
    kernels: Annotated[tuple[Kernel, ...], Length(1, 10)] = (3, 7, 11)
    dilations: Annotated[tuple[Kernel, ...], Length(1, 10)] = (1, 3, 5)
    normalize: bool = False
    fft_size: Annotated[int, Range(16, 65_536)] = 640
    width: Width = 512
    hidden: Width = 1536
    # More would see beyond the frames that windows of long sounds have in common (`codec.VOCODER_MARGIN`).
    blocks: Annotated[int, Range(1, 8)] = 8
    noise: bool = False


@dataclass(frozen=True)
class DiffusionConfig(Checked):
    """Noise schedule: 1000 steps, beta 0.0015 to 0.0195, linear in sqrt(beta) as in the paper's base model."""

    train_steps: Annotated[int, Range(2, 10_000)] = 1000
    beta_start: Annotated[float, Range(1e-8, 0.999)] = 0.0015
    beta_end: Annotated[float, Range(1e-8, 0.999)] = 0.0195
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"

    @property
    def schedule(self) -> dict[str, Any]:
        """What diffusers' noise schedulers take."""
        return {
            "num_train_timesteps": self.train_steps,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "beta_schedule": self.beta_schedule,
            "prediction_type": self.prediction,
        }


@dataclass(frozen=True)
class GenerationConfig(Checked):
    """What suits a checkpoint when sounds are made with it. The sampler's defaults are the paper's (section 4.1).

    Settings that are pairs are thresholds of `grounding.Condition.sureness`: at the first number and beyond it the
    sureness is 0, at the second and beyond it 1, and it is linear between them. Without `grounding.norm_matching`
    only the last one is used.
    """

    steps: Annotated[int, Range(1, 9_999)] = 200
    cfg: Annotated[float, Range(0, 1000)] = 2.0
    sampler: Sampler = "ddim"
    # What a mask does: it takes the place of the attention weights (section 3.2), or the masked object is named and the
    # sentence with that name is the condition, for weights whose grounding is untrained.
    masks: Masks = "grounding"
    # Where no specific name is sure but a general one ("bird"), so many of the likeliest specific names are averaged
    # into one embedding, by their probabilities; 1 takes the general name.
    likely_names: Annotated[int, Range(1, 20)] = 3
    # Cosine between a condition and the mean condition of backdrops, both taken from the mean of all conditions.
    backdrop_cosine: Cosines = (0.6, 0.5)
    # Share of its own condition that a backdrop keeps; the rest becomes the mean condition of backdrops.
    backdrop_share: Annotated[float, Range(0, 1)] = 0.25
    # Distance of a condition from the mean one over the usual distance, where backdrops' direction is unknown ...
    norm_ratio: Ratios = (0.3, 0.4)
    # ... and where it is known, so that the cosine decides first.
    norm_ratio_beside_cosine: Ratios = (0.1, 0.5)
    # The lowest cosine of a patch with the mean patch: the patches of plain images and of noise are all alike.
    patch_cosine: Cosines = (1.0, 1.0)
    # Cosine of a text's embedding with that of the nearest name in `vocabulary`.
    name_cosine: Cosines = (0.84, 0.9)


@dataclass(frozen=True)
class SamplerSettings:
    """How sounds are sampled: with all that was left to the checkpoint, and whether its few-step student does it."""

    steps: int
    cfg: float
    sampler: str
    student: bool


@dataclass(frozen=True)
class SegmenterConfig(Checked):
    """The optional click decoder over the patch tower's feature maps (`sounding.segment.network`).

    Widths and blocks are those of the feature maps at 1/16, 1/8 and 1/4 of the image's resolution.
    """

    side: Annotated[int, Range(32, 1024)] = 320  # the image's longer side as the tower sees it, in pixels
    widths: tuple[Annotated[int, Range(1, 1024)], int, int] = (64, 48, 24)
    blocks: tuple[Annotated[int, Range(0, 8)], int, int] = (2, 2, 3)
    key_width: Annotated[int, Range(1, 1024)] = 32  # of the features by which positions are compared with clicked ones


@dataclass(frozen=True)
class SoundingConfig(Checked):
    """A whole model.

    `vocabulary` lists the names that it was trained on, such as "a dog", where there is such a list; `absent` tells for
    parts without weights in the checkpoint where to get them.
    """

    name: Annotated[str, Text(200)] = "sounding-full"
    version: Annotated[int, Range(1, CONFIG_VERSION)] = CONFIG_VERSION
    train_seconds: Annotated[float, Range(0.01, 120)] = 10.24
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
    naming: NamingConfig | None = None
    vocabulary: Annotated[tuple[Annotated[str, Text(200)], ...], Length(0, 10_000)] = ()
    absent: Annotated[dict[Annotated[str, Text(40)], Annotated[str, Text(200)]], Length(0, 16)] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_consistency(self)
        check_cost(self)

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
        """Latent frames that cover `seconds`, a multiple of the U-Net's stride.

        Raises:
            ValueError: `seconds` is shorter than one mel frame, or not a finite number.
        """
        if not self.audio.hop / self.audio.sample_rate <= seconds < float("inf"):
            raise ValueError(f"seconds is {seconds}, but a positive length is expected; ask for 0.1 or more.")
        frames = seconds * self.audio.sample_rate / (self.audio.hop * self.vae.stride)
        stride = self.unet.stride
        return max(1, -int(-(frames - 1e-6) // stride)) * stride

    def sampling(
        self, steps: int | None = None, cfg: float | None = None, sampler: str | None = None, *, plain: bool = True
    ) -> SamplerSettings:
        """What is sampled where some of it, or all, is left to the checkpoint (None).

        A checkpoint's few-step student makes sounds, by DDIM without guidance, unless anything else is asked for.

        Args:
            steps, cfg, sampler: as `SoundingModel.sample` takes them.
            plain: sounds are made from noise alone, and without a negative condition; others are the U-Net's own.
        """
        few, own = self.unet.few_steps, self.generation
        if few and plain and steps in (None, few) and cfg in (None, 1.0) and sampler in (None, "ddim"):
            return SamplerSettings(few, 1.0, "ddim", student=True)
        return SamplerSettings(
            own.steps if steps is None else steps,
            own.cfg if cfg is None else cfg,
            own.sampler if sampler is None else sampler,
            student=False,
        )

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
            data = parse_json(text)
        except ValueError as error:
            raise ValueError(f"The configuration is not JSON ({error}); the file is damaged.") from None
        if not isinstance(data, dict):
            raise ValueError(f"The configuration is a {type(data).__name__}, but an object is expected.")
        version = data.get("version", CONFIG_VERSION)
        if not isinstance(version, int) or version > CONFIG_VERSION:
            raise ValueError(
                f"The configuration has version {shown(version)}, but this code reads up to {CONFIG_VERSION}; "
                "update Sounding Objects."
            )
        return cast(SoundingConfig, from_dict(cls, migrated(with_generation(data))))
