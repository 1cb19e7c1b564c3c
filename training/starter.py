"""Train the starter, all stages in order: `python -m training.starter --data data/stamps --out runs/starter`.

Every stage keeps its state in the output folder: an interrupted run goes on where it was, a finished stage is
only read. The last stage writes `starter.safetensors` there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from pathlib import Path
from typing import TypeVar

from safetensors.torch import load_file, save_file
from torch import Tensor

from sounding.checkpoint import save_model
from sounding.config import SoundingConfig
from sounding.files import replacing, write_atomic
from sounding.model import SoundingModel

from .data.stamps import LICENCE, Stamps
from .encoders import EncodersRecipe, train_encoders
from .grounded import GroundedRecipe, train_grounded
from .recipe import RECIPES, read_model, read_recipe
from .vae import VaeRecipe, latent_scale, train_vae
from .vocoder import VocoderRecipe, train_vocoder

T = TypeVar("T")
STAGES = ("vae", "vocoder", "encoders", "grounded", "vocoder_restored", "export")

# Stages that train one part name its tensors without the part.
PREFIXES = {"vae": "vae.", "vocoder": "vocoder.", "vocoder_restored": "vocoder."}

DESCRIPTION = (
    "The small Sounding Objects model in the box: about 80 animals, instruments and things, from photographic "
    "cut-outs and recordings of tuxpaint-stamps-default. See MODEL_CARD.md."
)


class StarterRun:
    """Stages of one training, each of which needs the weights of those before it.

    `start` is a checkpoint to begin from instead of from scratch, of the same sizes.
    """

    def __init__(self, data: Stamps, recipes: Path, folder: Path, start: Path | None = None):
        self.data, self.recipes, self.folder = data, recipes, folder
        self.base = read_model(recipes / "model.yaml")
        self.start = load_file(start) if start is not None else {}
        folder.mkdir(parents=True, exist_ok=True)

    def weights(self, stage: str) -> dict[str, Tensor]:
        """A stage's weights, trained now if its file is not there yet."""
        file = self.folder / f"{stage}.safetensors"
        if not file.is_file():
            result = self._train(stage)
            with replacing(file) as temporary:
                save_file({name: value.contiguous() for name, value in result.items()}, temporary)
        return load_file(file)

    def _train(self, stage: str) -> dict[str, Tensor]:
        base, data, folder = self.base, self.data, self.folder
        if stage == "vae":
            return train_vae(base, self.recipe(stage, VaeRecipe), data, folder, start=self._started("vae."))
        if stage == "encoders":
            start = self._started("patches.", "query.")
            return train_encoders(base, self.recipe(stage, EncodersRecipe), data, folder, start=start)
        if stage == "grounded":
            model, start = self.assemble("vae", "encoders"), self._started("grounding.", "unet.")
            return train_grounded(model, self.recipe(stage, GroundedRecipe), data, folder, start=start)
        restored = stage == "vocoder_restored"
        return train_vocoder(
            base,
            self.recipe(stage, VocoderRecipe),
            data,
            folder,
            state=stage,
            start=self.weights("vocoder") if restored else self._started("vocoder."),
            vae_weights=self.weights("vae") if restored else None,
        )

    def _started(self, *prefixes: str) -> dict[str, Tensor] | None:
        """The parts of `start` under the names that their trainer uses, in float32."""
        cut = len(prefixes[0]) if len(prefixes) == 1 else 0
        found = {
            name[cut:]: value.float() if value.is_floating_point() else value
            for name, value in self.start.items()
            if name.startswith(prefixes)
        }
        return found or None

    def recipe(self, name: str, cls: type[T]) -> T:
        """The recipe file of a stage."""
        return read_recipe(self.recipes / f"{name}.yaml", cls)

    def config(self) -> SoundingConfig:
        """The model's configuration with what is only known once the VAE is trained: the latents' scale.

        It is measured once: the U-Net has to be given at export what it was trained with.
        """
        file = self.folder / "latent_scale.json"
        if not file.is_file():
            model = SoundingModel(self.base)
            model.vae.load_state_dict(self.weights("vae"))
            scale = round(latent_scale(self.base, model.vae, self.data), 4)
            write_atomic(file, json.dumps(scale).encode())
        vae = dataclasses.replace(self.base.vae, scale=json.loads(file.read_text()))
        return dataclasses.replace(self.base, vae=vae)

    def assemble(self, *stages: str) -> SoundingModel:
        """A model holding the weights of the given stages; other parts stay random."""
        model = SoundingModel(self.config()).requires_grad_(False)
        own = model.state_dict()
        for stage in stages:
            part = PREFIXES.get(stage, "")
            for name, value in self.weights(stage).items():
                if f"{part}{name}" not in own:
                    raise KeyError(f"{stage} has {name!r}, which the model does not; remove the stage's files.")
                own[f"{part}{name}"] = value
        model.load_state_dict(own)
        return model

    def export(self) -> Path:
        """Write the checkpoint with all parts."""
        path = self.folder / "starter.safetensors"
        model = self.assemble("vae", "encoders", "grounded", "vocoder_restored")
        save_model(model, path, title="Sounding Objects starter", description=DESCRIPTION, licence=LICENCE)
        return path


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/stamps"))
    parser.add_argument("--out", type=Path, default=Path("runs/starter"))
    parser.add_argument("--recipes", type=Path, default=RECIPES / "starter", help="folder of the stages' recipes")
    parser.add_argument("--start", type=Path, help="a checkpoint to begin from, such as models/starter.safetensors")
    parser.add_argument("--stage", choices=STAGES, action="append", help="only these; all without it")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    training = StarterRun(Stamps(arguments.data), arguments.recipes, arguments.out, arguments.start)
    for stage in arguments.stage or STAGES:
        if stage == "export":
            print(training.export())
        else:
            training.weights(stage)


if __name__ == "__main__":
    main()
