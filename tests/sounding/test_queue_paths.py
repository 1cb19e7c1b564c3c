"""Names that a server gives its files decide about no path on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from sounding.client.files import ENDINGS, own_name

from .hostile_comfy import ESCAPE, SUCCESS, Hostile, files_in, hostile, one_sentence, sounding

__all__ = ["hostile", "sounding"]


NAMES = [
    ".",
    "..",
    "/",
    "",
    "../../evil.flac",
    "..\\..\\evil.flac",
    "/etc/cron.d/evil",
    "C:\\evil.flac",
    ".bashrc",
    "evil.flac/..",
    "con.flac",
    "nul",
    "-rf.wav",
    "a" * 900 + ".wav",
    "\u00e9" * 400 + ".flac",
    "a\x00b.wav",
    "a\nb.wav",
    ESCAPE + ".wav",
    "run.py",
    "x.pth",
    "x.desktop",
    "x.flac.exe",
    "a.flac:stream",
    "~",
    "$(touch x).flac",
]


@pytest.mark.parametrize("node", ["/../../../.config/x.pth", "../up", "1", ESCAPE, "\x00", "a" * 5000])
def test_a_server_decides_about_no_path(
    hostile: Hostile, sounding: Callable[..., Result], tmp_path: Path, node: str
) -> None:
    files = [{"filename": name, "subfolder": name, "type": name} for name in NAMES]
    hostile.entry = {"outputs": {node: {"audio": files}}, "status": SUCCESS}
    for number, name in enumerate(NAMES):
        hostile.files[name] = b"content %d" % number
    before = files_in(tmp_path)
    result = sounding("--all")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    made = {name: content for name, content in files_in(tmp_path).items() if name not in before}
    assert len(made) == len([name for name in NAMES if name])
    for name in made:
        folder, _, file = name.partition("/")
        assert folder == "out"
        assert Path(file).name == file
        assert file[0] not in ".-"
        assert Path(file).suffix in (*ENDINGS, ".bin")
        assert len(file.encode()) < 143


@pytest.mark.parametrize("name", NAMES)
def test_own_names_are_made_of_letters(name: str) -> None:
    made = own_name(name, "../x")
    assert made == Path(made).name
    assert made.isprintable()
    assert own_name(made) == made  # nothing is left to mend
    assert not set(made) & set('/\\:*?"<>|$~')


def test_what_lies_in_the_folder_is_neither_overwritten_nor_followed(
    hostile: Hostile, sounding: Callable[..., Result], tmp_path: Path
) -> None:
    out, secret = tmp_path / "out", tmp_path / "secret"
    out.mkdir()
    secret.write_bytes(b"mine")
    (out / "a.flac").symlink_to(secret)
    (out / "a (1).flac").symlink_to(tmp_path / "nothing")
    (out / "a (2).flac").mkdir()
    (out / "a (3).flac").write_bytes(b"older")
    os.mkfifo(out / "a (4).flac")
    result = sounding("--json")
    assert json.loads(result.stdout)["files"] == [str(out / "a (5).flac")]
    assert (out / "a (5).flac").read_bytes() == b"sound"
    assert secret.read_bytes() == b"mine"
    assert (out / "a.flac").is_symlink()
    assert not (tmp_path / "nothing").exists()
    assert (out / "a (3).flac").read_bytes() == b"older"
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["out", "there"])
def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_asked(
    hostile: Hostile, sounding: Callable[..., Result], tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("a file")
    said = one_sentence(sounding(*([] if name == "out" else ["--out", str(tmp_path / "there" / "below")])))
    assert "a folder is expected" in said
    assert hostile.hits == []
