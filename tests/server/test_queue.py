"""`sounding queue`, and the examples of docs/headless.md, against the real server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner, Result

from sounding.cli.app import app

from ..conftest import heed_ctrl_c

pytestmark = pytest.mark.server

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "headless.md").read_text()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An image and two masks that the server has not seen."""
    x, y = np.meshgrid(np.arange(64), np.arange(48))
    Image.fromarray(np.stack([x * 3, y * 4, 0 * x + 90], -1).astype(np.uint8)).save(tmp_path / "scene.png")
    for name, inside in {"left": x < 20, "right": x > 40}.items():
        Image.fromarray((inside * 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def queue(server, folder: Path, graph, *arguments: str) -> Result:
    (folder / "graph.json").write_text(json.dumps(graph))
    command = ["queue", str(folder / "graph.json"), "--server", server.url, "--out", str(folder / "out"), *arguments]
    return CliRunner().invoke(app, command)


def test_own_image_masks_and_values(server, tiny_graph, images):
    """The files come under the graph's names and hold what the same graph makes when it is filled by hand."""
    masks = ("--mask", str(images / "left.png"), "--mask", str(images / "right.png"))
    graph = tiny_graph("two_objects_tracks_and_mix", seed=1)
    values = ("--set", "Sounding Sampler (dog).seed=41", "--set", "6.seconds=0.6", "--set", "12.scheduler=ddim")
    result = queue(server, images, graph, "--image", str(images / "scene.png"), *masks, *values, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert set(report["nodes"]) == {"15", "18"}  # what is saved, not what the mixer only plays in the page
    names = {Path(name).name.partition("_0")[0] for files in report["nodes"].values() for name in files}
    assert names == {"track", "mix"}
    for name in ("scene", "left", "right"):
        os.link(images / f"{name}.png", server.folder / "input" / f"by_hand_{name}.png")
    graph["2"]["inputs"]["image"] = "by_hand_scene.png"
    graph["3"]["inputs"] |= {"image": "by_hand_left.png", "channel": "green"}
    graph["4"]["inputs"] |= {"image": "by_hand_right.png", "channel": "green"}
    graph["9"]["inputs"]["seed"], graph["12"]["inputs"]["scheduler"], graph["6"]["inputs"]["seconds"] = 41, "ddim", 0.6
    expected = server.sounds(server.run(graph))
    for node, files in report["nodes"].items():
        for path, (made, _) in zip(files, expected[node], strict=True):
            samples, rate = soundfile.read(path)
            assert rate == 16_000
            assert len(samples) == 9_600
            np.testing.assert_array_equal(samples, made)


def test_an_image_is_there_once_and_anothers_is_left_alone(server, tiny_graph, images):
    """The same image sent again adds nothing to the input folder, a changed one has a name of its own."""
    folder = server.folder / "input"
    (images / "scene.png").rename(images / "porch.png")
    (folder / "porch.png").write_bytes(b"another's")
    arguments = ("--image", str(images / "porch.png"), "--mask", str(images / "left.png"), "--json")
    names = []
    for _ in range(3):
        result = queue(server, images, tiny_graph("one_object", seed=1), *arguments)
        assert result.exit_code == 0, result.output
        names.append(sorted(path.name for path in folder.rglob("porch*")))
    assert names[0] == names[1] == names[2]
    assert len(names[0]) == 2
    Image.new("RGB", (64, 48), (9, 90, 200)).save(images / "porch.png")
    assert queue(server, images, tiny_graph("one_object", seed=1), *arguments).exit_code == 0
    assert len(list(folder.rglob("porch*"))) == 3
    assert not list(folder.rglob("porch*(1)*"))
    assert (folder / "porch.png").read_bytes() == b"another's"


def test_progress_is_shown_node_by_node(server, tiny_graph, images):
    result = queue(server, images, tiny_graph("text_grounded", seed=501, steps=30))
    assert result.exit_code == 0, result.output
    assert "7 (Sounding Sampler)" in result.stderr.splitlines()


def test_a_mask_for_an_image_with_transparency(server, tiny_graph, images):
    graph = tiny_graph("one_object", seed=1)
    inputs = ("--image", str(images / "scene.png"), "--mask", str(images / "left.png"))
    result = queue(server, images, graph, *inputs, "--all", "--json")
    assert result.exit_code == 0, result.output
    nodes = json.loads(result.stdout)["nodes"]
    assert set(nodes) == {"3", "4"}  # the sound and the spectrogram
    os.link(images / "scene.png", server.folder / "input" / "opaque_scene.png")
    os.link(images / "left.png", server.folder / "input" / "opaque_left.png")
    graph["mask"] = {"class_type": "LoadImageMask", "inputs": {"image": "opaque_left.png", "channel": "red"}}
    graph["1"]["inputs"]["image"], graph["2"]["inputs"]["mask"] = "opaque_scene.png", ["mask", 0]
    ((expected, _),) = server.sounds(server.run(graph))["3"]
    np.testing.assert_array_equal(soundfile.read(nodes["3"][0])[0], expected)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("7.steps=-1", "Node 7 (Sounding Sampler): Value -1 smaller than min of "),
        ('7.latent=["2", 0]', "Node 7 (Sounding Sampler): Return type mismatch between linked nodes: latent"),
        ("4.text=  ", "Node 4 (Sounding Ground by Text) failed:"),
        (
            "7.shceduler=ddim",
            "it has cfg, condition, denoise, latent, model, negative, scheduler, seed, steps, variation, "
            "variation_strength.",
        ),
        ("6.seconds=long", "a number is expected"),
    ],
)
def test_what_is_wrong_is_one_sentence(server, tiny_graph, images, value, words):
    result = queue(server, images, tiny_graph("text_grounded", seed=502), "--set", value)
    assert result.exit_code == 1
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 12
    assert "Traceback" not in result.output


def test_ctrl_c_stops_the_run_on_the_server(server, tiny_graph, images):
    (images / "graph.json").write_text(json.dumps(tiny_graph("text_grounded", seed=503, seconds=20.0, steps=900)))
    command = [sys.executable, "-m", "sounding", "queue", str(images / "graph.json"), "--server", server.url]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c) as ran:
        try:
            assert ran.stderr is not None
            for line in ran.stderr:
                if "Sounding Sampler" in line:
                    break
            prompt_id = server.get("/queue").json()["queue_running"][0][1]
            ran.send_signal(signal.SIGINT)
            _, said = ran.communicate(timeout=600)
        finally:
            ran.kill()
    assert ran.returncode == 130
    assert "the server was told to cancel" in said
    kinds = [kind for kind, _ in server.wait(prompt_id)["status"]["messages"]]
    assert kinds[-1] == "execution_interrupted"


def test_a_timeout_stops_the_run_and_leaves_those_of_others(server, tiny_graph, images):
    others = server.queue(tiny_graph("text_grounded", seed=504, seconds=20.0, steps=900)).json()["prompt_id"]
    result = queue(server, images, tiny_graph("text_grounded", seed=505), "--timeout", "2")
    assert result.exit_code == 1
    assert "last seen: waiting for 1 other" in result.stderr
    queued = server.get("/queue").json()
    assert [item[1] for item in queued["queue_running"]] == [others]
    assert queued["queue_pending"] == []
    server.post("/interrupt", {"prompt_id": others})
    server.wait(others)


@pytest.mark.parametrize("number", [0, 1], ids=["with the package", "with requests"])
def test_the_pages_examples_run(server, tmp_path, number):
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[number]
    assert "http://127.0.0.1:8188" in code
    (tmp_path / "example_workflows").symlink_to(ROOT / "example_workflows")
    started = time.time()
    ran = subprocess.run(
        [sys.executable, "-c", code.replace("http://127.0.0.1:8188", server.url)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (made,) = [path for path in tmp_path.rglob("*.flac") if path.stat().st_mtime >= started - 5]
    samples, rate = soundfile.read(made)
    assert len(samples) == 2 * rate
    assert np.abs(samples).max() > 0.01
