"""What `sounding fetch` can bring: addresses, licences, sizes, and checksums where their publishers state them.

Mirrors: `HF_ENDPOINT` takes the place of https://huggingface.co (as in huggingface_hub); `SOUNDING_MIRROR` stands
before everything: with it, https://host/path is asked for as SOUNDING_MIRROR/host/path.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .transfer import FetchError

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class File:
    """One file: its address, its name in the folder, and its checksum and size where they are known.

    The checksum is its SHA-256, or the 40 digits of Git's hash where its publisher keeps it in a repository. `instead`
    is an address to try where the first does not exist (older uploads have .bin, newer .safetensors): (url, path).
    """

    url: str
    path: str
    checksum: str = ""
    instead: tuple[str, str] | None = None  # (url, path)
    size: int = 0  # bytes; 0 is unknown

    def address(self) -> str:
        """The URL with the mirrors of the environment."""
        return mirrored(self.url)


@dataclass(frozen=True)
class Entry:
    """One set of weights to fetch; `size` is approximate, in bytes."""

    name: str
    what: str
    licence: str
    size: int
    files: tuple[File, ...]

    @property
    def checked_by(self) -> str:
        """How the files are verified."""
        lengths = {len(file.checksum) for file in self.files}
        if 0 in lengths:
            return "the hub's word and the format"
        return "SHA-256" if lengths == {64} else "Git's hash"


def mirrored(url: str) -> str:
    """`url` by way of `HF_ENDPOINT` or `SOUNDING_MIRROR`, if they are set."""
    endpoint, mirror = os.environ.get("HF_ENDPOINT", ""), os.environ.get("SOUNDING_MIRROR", "")
    if endpoint and url.startswith(f"{HUB}/"):
        return endpoint.rstrip("/") + url.removeprefix(HUB)
    return f"{mirror.rstrip('/')}/{url.partition('://')[2]}" if mirror else url


def _hub(repository: str, *paths: str) -> tuple[File, ...]:
    """Files of a hub repository; a path without suffix is weights, as .safetensors or else .bin."""
    files = []
    for path in paths:
        url = f"{HUB}/{repository}/resolve/main/{path}"
        if "." in Path(path).name:
            files.append(File(url, path))
        else:
            legacy = (
                path.removesuffix("model") + "pytorch_model" if path.endswith("/model") or path == "model" else path
            )
            old = f"{HUB}/{repository}/resolve/main/{legacy}.bin"
            files.append(File(f"{url}.safetensors", f"{path}.safetensors", instead=(old, f"{legacy}.bin")))
    return tuple(files)


TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
_AUDIOLDM = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    *(f"tokenizer/{name}" for name in TOKENIZER),
    *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder", "vocoder")),
    *(f"{part}/diffusion_pytorch_model" for part in ("unet", "vae")),
    *(f"{part}/model" for part in ("text_encoder", "vocoder")),
)
_CLAP = "laion/clap-htsat-unfused"
_ZENODO = "https://zenodo.org/record/3987831/files"
_AUDIOSET = File(  # names of its classes, for models that know them
    "https://github.com/qiuqiangkong/audioset_tagging_cnn/raw/master/metadata/class_labels_indices.csv",
    "class_labels_indices.csv",
    "3a2767e81114adecde59992cf6607f31c1862f4c",
)
_SAM = "https://dl.fbaipublicfiles.com/segment_anything"


def _clip(name: str, size: str, repository: str, length: int) -> Entry:
    return Entry(name, f"CLIP {size} by OpenAI", "MIT", length, _hub(repository, "config.json", "model"))


def _sam(size: str, tag: str, length: int, sha256: str) -> Entry:
    name = f"sam_vit_{size}_{tag}.pth"
    file = File(f"{_SAM}/{name}", name, sha256, size=length)
    return Entry(f"sam-{size}", f"Segment Anything ViT-{size.upper()}", "Apache-2.0", length, (file,))


NC = "CC-BY-NC-SA-4.0"
CC = "CC-BY-4.0"
CATALOGUE = (
    Entry("audioldm-s", "AudioLDM small, full, v2", NC, 1_700_000_000, _hub("cvssp/audioldm-s-full-v2", *_AUDIOLDM)),
    Entry("audioldm-m", "AudioLDM medium, full", NC, 2_600_000_000, _hub("cvssp/audioldm-m-full", *_AUDIOLDM)),
    Entry("audioldm-l", "AudioLDM large, full", NC, 3_900_000_000, _hub("cvssp/audioldm-l-full", *_AUDIOLDM)),
    _clip("clip-b32", "ViT-B/32", "openai/clip-vit-base-patch32", 605_000_000),
    _clip("clip-b16", "ViT-B/16", "openai/clip-vit-base-patch16", 599_000_000),
    _clip("clip-l14", "ViT-L/14", "openai/clip-vit-large-patch14", 1_710_000_000),
    Entry(
        "clap",
        "CLAP by LAION, HTSAT-tiny, not fused",
        "Apache-2.0",
        620_000_000,
        _hub(_CLAP, "config.json", "preprocessor_config.json", "model", *TOKENIZER),
    ),
    Entry("clap-tokenizer", "CLAP's tokenizer (RoBERTa)", "Apache-2.0", 4_000_000, _hub(_CLAP, *TOKENIZER)),
    Entry(
        "clap-630k",
        "CLAP by LAION, 630k + AudioSet",
        "CC0-1.0",
        1_900_000_000,
        _hub("lukewys/laion_clap", "630k-audioset-best.pt"),
    ),
    Entry(
        "clap-music",
        "CLAP by LAION, music + AudioSet, HTSAT-base",
        "CC0-1.0",
        2_400_000_000,
        (
            File(
                f"{HUB}/lukewys/laion_clap/resolve/main/music_audioset_epoch_15_esc_90.14.pt",
                "music_audioset_epoch_15_esc_90.14.pt",
                "fae3e9c087f2909c28a09dc31c8dfcdacbc42ba44c70e972b58c1bd1caf6dedd",
            ),
        ),
    ),
    _sam("b", "01ec64", 375_042_383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    _sam("l", "0b3195", 1_249_524_607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    _sam("h", "4b8939", 2_564_550_879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
    # For `python -m training evaluate`.
    Entry(
        "panns",
        "PANNs' CNN14, 32 kHz",
        CC,
        330_000_000,
        (File(f"{_ZENODO}/Cnn14_mAP%3D0.431.pth", "Cnn14_mAP=0.431.pth"), _AUDIOSET),
    ),
    Entry(
        "panns-16k",
        "PANNs' CNN14, 16 kHz",
        CC,
        330_000_000,
        (File(f"{_ZENODO}/Cnn14_16k_mAP%3D0.438.pth", "Cnn14_16k_mAP=0.438.pth"), _AUDIOSET),
    ),
    Entry(
        "vggish",
        "VGGish, PyTorch",
        "Apache-2.0",
        289_000_000,
        (
            File(
                "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
                "vggish-10086976.pth",
            ),
        ),
    ),
    Entry(
        "openl3",
        "OpenL3, env, linear, of sounds and images",
        CC,
        35_000_000,
        tuple(
            File(f"https://github.com/marl/openl3/raw/models/{name}", name, git)
            for name, git in (
                ("openl3_audio_linear_env-v0_4_0.h5.gz", "7837407f033f3564c7e8d53fc4a4241fe160478b"),
                ("openl3_image_linear_env-v0_4_0.h5.gz", "a1e527ad5367efb19b18cd051523bf3fadd02feb"),
            )
        ),
    ),
    Entry(
        "imagebind",
        "ImageBind, huge",
        NC,
        4_800_000_000,
        (File("https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth", "imagebind_huge.pth"),),
    ),
    Entry(
        "wav2clip",
        "Wav2CLIP, beside clip-b32",
        "MIT",
        47_000_000,
        (
            File(
                "https://github.com/descriptinc/lyrebird-wav2clip/releases/download/v0.1.0-alpha/Wav2CLIP.pt",
                "Wav2CLIP.pt",
            ),
        ),
    ),
    Entry(
        "passt",
        "PaSST-S, AudioSet, 10 s",
        "Apache-2.0",
        345_000_000,
        (
            File(
                "https://github.com/kkoutini/PaSST/releases/download/v0.0.1-audioset/"
                "passt-s-f128-p16-s10-ap.476-swa.pt",
                "passt-s-f128-p16-s10-ap.476-swa.pt",
            ),
            _AUDIOSET,
        ),
    ),
)


# AudioLDM and CLIP, which together sound a masked object without training, and where they go if no place is named.
RECOMMENDED = ("audioldm-s", "clip-b32")
FOLDER = Path("weights")


def recommended_licence() -> str:
    """The licences of the recommended weights, for the header of what is made from them."""
    return "; ".join(f"{entry.what}: {entry.licence}" for entry in map(find, RECOMMENDED))


def find(name: str) -> Entry:
    """The entry of that name.

    Raises:
        FetchError: there is none; lists what there is.
    """
    for entry in CATALOGUE:
        if entry.name == name:
            return entry
    raise FetchError(f"name is {name!r}, but one of {', '.join(entry.name for entry in CATALOGUE)} is expected.")
