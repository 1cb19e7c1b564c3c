"""A hub of published weights on this machine, with files of the true names and structure, only smaller."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AudioLDMPipeline
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from .published_weights import FILM, TINY_CLIP, roberta_tokenizer


@contextmanager
def serving(root: Path) -> Iterator[tuple[str, list[str]]]:
    """A server of the files below `root`: its address, and the paths that were asked for."""
    asked: list[str] = []

    class Answer(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            asked.append(self.path)

    handler = functools.partial(Answer, directory=str(root))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def publish_audioldm(folder: Path, pipeline: AudioLDMPipeline) -> None:
    """An AudioLDM as its publisher has it: all of the tokenizer's files, and part of the weights as .bin alone."""
    pipeline.save_pretrained(folder)
    backend = json.loads(roberta_tokenizer().backend_tokenizer.to_str())
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(backend["model"]["vocab"]))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer" / "special_tokens_map.json").write_text('{"pad_token": "<pad>"}')
    for part, stem in (("vae", "diffusion_pytorch_model"), ("text_encoder", "pytorch_model")):
        (path,) = (folder / part).glob("*.safetensors")
        torch.save(load_file(path), folder / part / f"{stem}.bin")
        path.unlink()


def publish_clip(folder: Path) -> CLIPModel:
    """Both towers of a small CLIP in transformers' form, with CLIP's own tokens."""
    text = CLIPTextConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=256)
    vision = CLIPVisionConfig(
        hidden_size=int(TINY_CLIP["width"]),
        num_hidden_layers=int(TINY_CLIP["layers"]),
        num_attention_heads=1,
        intermediate_size=4 * int(TINY_CLIP["width"]),
        patch_size=TINY_CLIP["patch_size"],
        image_size=TINY_CLIP["image_size"],
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=FILM)
    peer = CLIPModel(config).eval().requires_grad_(False)
    peer.logit_scale.fill_(6.9)  # so that random weights are sure of a name
    peer.save_pretrained(folder)
    return peer
