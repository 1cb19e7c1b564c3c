"""Runs the commands of docs/reproduce.md, in order, on the small world of `world.py`.

What is run is what the page says, but for sizes and for what cannot be here (`REPLACED`, `ADDED`): eight GPUs,
downloads, a language model, and SAM 3.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from ..training.refine.fake_endpoint import Handler, raw, serving
from .world import CLIP_MODEL, write_world

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reproduce.md"
UNCAPTIONED = "Rain"
Words = tuple[str, ...]
LAUNCH: Words = ("accelerate", "launch", "--multi_gpu", "--num_processes", "8", "-m")
# Words of the page, and those that take their place.
REPLACED: dict[Words, Words] = {
    ("--device", "cuda"): ("--device", "cpu"),
    ("--size", "224"): ("--size", "48"),
    ("--sam", "models/sam3"): ("--sam", "starter"),
}
# What a command, by its first words, gets besides.
ADDED: dict[Words, Words] = {
    ("training", "prepare", "videos"): ("--workers", "0"),  # processes of their own take seconds to begin
    ("training", "run", "training/recipes/matching.yaml"): (
        *("loop.epochs=0", "loop.steps=4", "loop.batch=4", "loop.warmup=1", "loop.precision=fp32", "data.workers=0"),
        *(
            "matching.width=16",
            "matching.layers=1",
            "matching.heads=2",
            "matching.hidden=16",
            "matching.feedforward=16",
        ),
    ),
    ("training", "evaluate", "matching"): ("--resamples", "10"),
    ("training", "refine"): (
        *(
            "engine.kind=local",
            "matching.size=48",
            "matching.threshold=0",
            "split.test_hours=0.023",
            "captions.frames_per_second=0.2",
        ),
        *("rephrase.url={endpoint}", "rephrase.tries=2", "rephrase.wait=0"),
    ),
    ("training", "run", "training/recipes/paper.yaml"): (
        *("loop.epochs=0", "loop.steps=1", "loop.batch=8", "loop.log_every=1", "loop.precision=fp32", "data.workers=0"),
        *("model.grounding.key_width=16", "model.grounding.mlp_width=16", "model.grounding.condition_width=16"),
        *("validation.every=1", "validation.share=0.2", "preview.every=1", "preview.steps=2", "preview.seconds=1.28"),
    ),
    ("sounding", "generate"): ("--steps", "2"),
    ("training", "evaluate", "baselines"): ("--steps", "2", "--seconds", "1.5"),
    ("training", "evaluate", "folders"): ("--resamples", "5", "--seconds", "1.5"),
}
# `python -m training` in a process of its own, whose open_clip knows the small CLIP.
TRAINING = f"""\
import runpy, sys
import open_clip
open_clip.add_model_config("{CLIP_MODEL}.json")
runpy.run_module("training", run_name="__main__", alter_sys=True)
"""


@dataclass
class Walk:
    """A walk through the page in the working directory."""

    endpoint: str  # where a language model answers
    say: Callable[[str], None] = lambda text: None
    used: set[Words] = field(default_factory=set)  # of REPLACED and ADDED

    def run(self, line: str) -> None:
        """One command of the page.

        Raises:
            AssertionError: it does not do what the page says.
        """
        words = tuple(shlex.split(line, comments=True))
        began = time.monotonic()
        if words[0] == "uv":
            self._check_installed(words)
        elif words[0] == "curl":
            assert Path(words[words.index("-o") + 1]).is_file(), line
        elif words[:2] == ("hf", "download"):
            assert Path(words[words.index("--local-dir") + 1]).is_dir(), line
        elif words[:2] == ("vllm", "serve"):
            self._check_server(words)
        elif words[:2] == ("sounding", "fetch"):
            in_process(("sounding", *words[1:], "--dry-run"))
            assert Path("weights", words[2]).is_dir(), line
        elif words[: len(LAUNCH)] == LAUNCH:
            launched(self.small(words[len(LAUNCH) :]))
        else:
            assert words[0] == "sounding" or words[:2] == ("python", "-m"), line
            in_process(self.small(words if words[0] == "sounding" else words[2:]))
        self.say(f"{time.monotonic() - began:6.1f} s  {line}")

    def small(self, words: Words) -> Words:
        """A command with what takes the place of its words, and what comes besides."""
        for old, new in REPLACED.items():
            places = [at for at in range(len(words)) if words[at : at + len(old)] == old]
            self.used |= {old} if places else set()
            for at in places:
                words = (*words[:at], *new, *words[at + len(old) :])
        for first, more in ADDED.items():
            if words[: len(first)] == first:
                self.used.add(first)
                words += tuple(word.format(endpoint=self.endpoint) for word in more)
        return words

    @staticmethod
    def _check_installed(words: Words) -> None:
        """Whether what is installed is known here, and installed here."""
        if words[1] == "sync":
            known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
            assert {words[at + 1] for at, word in enumerate(words) if word == "--extra"} <= set(known)
        else:
            assert words[1:3] == ("pip", "install")
            assert all(find_spec(name) for name in words[3:])

    @staticmethod
    def _check_server(words: Words) -> None:
        """Whether the recipe asks the server that the page starts."""
        asked = yaml.safe_load((ROOT / "training" / "recipes" / "refine.yaml").read_text())["rephrase"]
        assert asked["model"] == words[2]
        assert asked["url"] == f"http://127.0.0.1:{words[words.index('--port') + 1]}/v1"


def commands() -> list[str]:
    """All command lines of the page."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [" ".join(line.split()) for line in lines if line and "pytest" not in line]


def in_process(words: Words) -> str:
    """What one of our programs prints."""
    from sounding.cli.app import app as sounding_app
    from training.__main__ import app as training_app

    result = CliRunner().invoke({"sounding": sounding_app, "training": training_app}[words[0]], list(words[1:]))
    if result.exit_code:
        raise AssertionError(f"{shlex.join(words)}: {result.output}") from result.exception
    return result.output


def launched(words: Words) -> str:
    """The same in two processes, as `accelerate launch` begins them for two GPUs (for CPUs it begins one alone)."""
    assert words[0] == "training"
    Path("training_with_clip.py").write_text(TRAINING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "training_with_clip.py", *words[1:]], env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def caption(handler: Handler, body: dict[str, Any]) -> None:
    """What a language model might answer; of one kind of clips nothing that can be used."""
    (event,) = json.loads(body["messages"][1]["content"])["sound_events"]
    text = f"A {event.lower()} is heard while it is seen." if event != UNCAPTIONED else "Sure! Here is your caption:"
    raw(json.dumps({"choices": [{"message": {"content": text}}]}).encode())(handler, body)


@contextmanager
def small_clip_known() -> Iterator[None]:
    """The CLIP of the working directory as a size that can be converted."""
    import open_clip

    from sounding.convert import clip

    from ..sounding.published_weights import FILM, TINY_CLIP

    open_clip.add_model_config(Path(f"{CLIP_MODEL}.json"))
    size = (TINY_CLIP["width"], TINY_CLIP["layers"], TINY_CLIP["patch_size"], FILM, TINY_CLIP["image_size"])
    before = dict(clip.MODELS)
    clip.MODELS[size] = CLIP_MODEL
    try:
        yield
    finally:
        clip.MODELS.clear()
        clip.MODELS.update(before)


def walk(folder: Path, say: Callable[[str], None] = lambda text: None) -> Walk:
    """Run all commands of the page in a new folder.

    Raises:
        AssertionError: a command fails, or what is replaced here is no longer on the page.
    """
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    write_world(folder, ROOT)
    say(f"{time.monotonic() - began:6.1f} s  the small world")
    before = Path.cwd()
    os.chdir(folder)
    try:
        with serving(caption) as server, small_clip_known():
            walked = Walk(server.url, say)
            for line in commands():
                walked.run(line)
    finally:
        os.chdir(before)
    unused = {*REPLACED, *ADDED} - walked.used
    assert not unused, f"{PAGE.name} has no {unused} any more"
    return walked
