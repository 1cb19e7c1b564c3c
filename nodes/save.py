"""Sounds and soundscapes as files: in any usual form, with the graph that made them, and as stems for an editor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..sounding.audio.files import DEPTHS, Tags, check_depth, write_audio
from ..sounding.audio.scene import Scene
from ..sounding.audio.stems import KINDS, plain_name, write_stems
from ..sounding.audio.vorbis_comments import check_comments
from .host.conversions import audio_waveform
from .host.schemas import schema, text_input
from .host.wires import SceneType

SAVED = "sounding_saved"  # key of a node's output for the page: files and their names
FORMATS = ["wav", "flac", "ogg"]
OWN_RATE = "as it is"
RATES = [OWN_RATE, "16000", "44100", "48000"]


class SoundingSave(io.ComfyNode):
    """Sounds to files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingSave",
            display_name="Sounding Save",
            description="Saves each sound of a batch or a list to a file of its own, as WAV, FLAC or OGG, with its "
            "name and the workflow in it. Plays them in the node.",
            search_aliases=["save wav", "save audio", "export", "24 bit", "flac", "ogg", "broadcast wave"],
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Audio.Input(
                    "audio", lazy=True, tooltip="The sounds, at any sample rate, with any number of channels."
                ),
                _prefix_input("audio/Sounding"),
                *_form_inputs(),
                _names_input(),
            ],
            outputs=[],
        )

    @classmethod
    def check_lazy_status(cls, format: list[str] | None = None, **others: Any) -> list[str]:
        """Ask for the sounds, unless their files would be refused after all the work."""
        _check_graph(cls, format[0] if format else None)
        return ["audio"]

    @classmethod
    def execute(
        cls,
        audio: list[Any],
        filename_prefix: list[str],
        format: list[str] | None = None,
        bits: list[str] | None = None,
        sample_rate: list[str] | None = None,
        names: list[Any] | None = None,
    ) -> io.NodeOutput:
        """Write the files; nothing is overwritten."""
        ending, depth, rate = _form(format, bits, sample_rate)
        checked = [audio_waveform(each) for each in audio]
        sounds = [(sound, own) for waveform, own in checked for sound in waveform]
        titles = _titles(names, len(sounds))
        graph, saved = _graph(cls), []
        for number, (sound, own) in enumerate(sounds):
            name = titles[number] if titles else ""
            prefix = filename_prefix[0] + (f"_{plain_name(name)}" if plain_name(name) else "")
            path, subfolder = _reserved(prefix, ending, number)
            try:
                tags = Tags(name or path.stem, graph=graph)
                write_audio(path, sound, own, depth=depth, to_rate=rate, tags=tags)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            saved.append({"filename": path.name, "subfolder": subfolder, "type": "output", "name": name})
        files = [{key: each[key] for key in ("filename", "subfolder", "type")} for each in saved]
        return io.NodeOutput(ui={"audio": files, SAVED: saved})


class SoundingSaveStems(io.ComfyNode):
    """A soundscape to a folder of stems."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return schema(
            node_id="SoundingSaveStems",
            display_name="Sounding Save Stems",
            description="Saves a soundscape as a new folder: a file per track, the mix, a list of what each is, and a "
            "REAPER session with all tracks in place.",
            search_aliases=["stems", "export", "multitrack", "REAPER", "rpp", "session", "DAW"],
            is_output_node=True,
            inputs=[
                SceneType.Input("scene", lazy=True, tooltip="From Sounding Soundscape."),
                _prefix_input("audio/stems"),
                *_form_inputs(),
                io.Combo.Input(
                    "stems",
                    options=list(KINDS),
                    default=KINDS[0],
                    optional=True,
                    tooltip="dry: sounds as they were made; the session pans them and sets their gain. placed: in "
                    "stereo at their places.",
                ),
                _names_input(),
            ],
            outputs=[io.String.Output(display_name="folder", tooltip="Where the files are.")],
        )

    @classmethod
    def check_lazy_status(cls, format: str | None = None, **others: Any) -> list[str]:
        """Ask for the scene, unless its files would be refused after all the work."""
        _check_graph(cls, format)
        return ["scene"]

    @classmethod
    def execute(
        cls,
        scene: Scene,
        filename_prefix: str,
        format: str = "wav",
        bits: str = "24",
        sample_rate: str = OWN_RATE,
        stems: str = KINDS[0],
        names: str = "",
    ) -> io.NodeOutput:
        """Write the folder, under a name that nothing has."""
        ending, depth, rate = _form([format], [bits], [sample_rate])
        titles = _titles([names], len(scene.sounds)) or [f"track {n + 1}" for n in range(len(scene.sounds))]
        folder = next(path for path, _ in _free(filename_prefix, "", 0) if not path.exists())
        written = write_stems(
            folder, scene, titles, kind=stems, ending=ending, depth=depth, to_rate=rate, graph=_graph(cls)
        )
        subfolder = folder.relative_to(folder_paths.get_output_directory()).as_posix()
        files = [
            {"filename": path.name, "subfolder": subfolder, "type": "output"}
            for path in written
            if path.suffix == ending
        ]
        mix, tracks = files[-1], files[:-1]
        shown = [{**file, "name": title} for file, title in zip([*tracks, mix], [*titles, "mix"], strict=True)]
        return io.NodeOutput(str(folder), ui={"audio": files, SAVED: shown})


def _prefix_input(default: str) -> io.String.Input:
    return io.String.Input(
        "filename_prefix", default=default, tooltip="Name in the output folder; a counter comes behind it."
    )


def _form_inputs() -> list[io.Input]:
    """What files are like."""
    return [
        io.Combo.Input(
            "format",
            options=FORMATS,
            default=FORMATS[0],
            optional=True,
            tooltip="Dropping a FLAC or OGG file on the page brings its workflow back; a WAV file's stays in the file.",
        ),
        io.Combo.Input(
            "bits",
            options=list(DEPTHS),
            default="24",
            optional=True,
            tooltip="Per sample of WAV and FLAC files; float is for WAV alone and cannot clip. OGG has none.",
        ),
        io.Combo.Input("sample_rate", options=RATES, default=OWN_RATE, optional=True, tooltip="Hz of the files."),
    ]


def _names_input() -> io.String.Input:
    return text_input("names", "A name per sound, one per line, such as the click node's names.")


def _form(formats: list[str] | None, bits: list[str] | None, rates: list[str] | None) -> tuple[str, str, int | None]:
    """Ending, depth and rate of the files; hosts do not check dropdowns, so this does.

    Raises:
        ValueError: one of them is none that is offered.
    """
    kind, depth, rate = (
        given[0] if given and given[0] is not None else default
        for given, default in ((formats, FORMATS[0]), (bits, "24"), (rates, OWN_RATE))
    )
    for name, value, options in (("format", kind, FORMATS), ("sample_rate", rate, RATES)):
        if value not in options:
            raise ValueError(f"{name} is {value!r}, but one of {', '.join(options)} is expected.")
    depth = "16" if kind == "ogg" and depth in DEPTHS else depth
    check_depth(f"sound.{kind}", depth)
    return f".{kind}", depth, None if rate == OWN_RATE else int(rate)


def _titles(names: list[Any] | None, sounds: int) -> list[str]:
    """A name per sound, or none at all.

    Raises:
        ValueError: another number of names.
    """
    found = [line.strip() for each in names or [] for line in str(each or "").splitlines() if line.strip()]
    if len(found) not in (0, sounds):
        raise ValueError(
            f"There are {len(found)} names for {sounds} sounds, but one per sound is expected; write one per line."
        )
    return found


def _free(prefix: str, ending: str, number: int) -> Iterator[tuple[Path, str]]:
    """Paths by the host's own counter, from the first that it takes for free on, each with its subfolder."""
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    name = name.replace("%batch_num%", str(number))
    while True:
        yield Path(folder) / f"{name}_{counter:05}_{ending}", subfolder
        counter += 1


def _reserved(prefix: str, ending: str, number: int) -> tuple[Path, str]:
    """The first of those paths that nothing has, taken by an empty file: others may write there at the same time."""
    for path, subfolder in _free(prefix, ending, number):
        try:
            path.open("x").close()
        except FileExistsError:
            continue
        return path, subfolder
    raise AssertionError


def _graph(node: type[io.ComfyNode]) -> dict[str, str]:
    """What the host's own nodes write into files: the workflow of the page and the prompt."""
    from comfy.cli_args import args

    if args.disable_metadata:
        return {}
    extra = node.hidden.extra_pnginfo or {}
    named = {**{key: extra[key] for key in ("workflow", *extra) if key in extra}, "prompt": node.hidden.prompt}
    return {key: json.dumps(value) for key, value in named.items() if value is not None}


def _check_graph(node: type[io.ComfyNode], kind: str | None) -> None:
    """Refuse a graph that a file of this kind does not take.

    Raises:
        ValueError: see `check_comments`.
    """
    if kind == "flac":
        check_comments(_graph(node))
