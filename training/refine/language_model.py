"""A language model in this process, asked for the captions of several clips at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jinja2 import TemplateError

from ..cluster.process import device_for
from ..evaluate.models.loading import read_pretrained
from .chat import TOKENS, Messages
from .model_files import ADVICE, decoded, likeliest
from .settings import RephraseSettings


class Local:
    """A causal language model of transformers, from a folder; the likeliest words, so that answers repeat.

    Raises:
        ValueError: the folder has no such model.
    """

    def __init__(self, settings: RephraseSettings):
        self.device = device_for(settings.device)
        model, self.tokenizer = read_pretrained(
            Path(settings.folder), "AutoModelForCausalLM", "AutoTokenizer", "a language model", ADVICE
        )
        self.model = model.to(self.device)
        self.settings = likeliest(self.model, TOKENS)
        self.tokenizer.padding_side = "left"  # the answer begins where the question ends
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if self.tokenizer.pad_token is None:
            raise ValueError(f"{settings.folder} has a tokenizer without an end of texts; give another language model.")

        self.templated = bool(self.tokenizer.chat_template)
        self.takes_system = True
        if self.templated:
            try:
                self._text([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
            except TemplateError:  # as Gemma's
                self.takes_system = False

    def answers(self, asked: Sequence[Messages]) -> list[str]:
        """What the model says to each of several clips, all at once; the same as to each of them alone."""
        texts = [self._text(messages) for messages in asked]
        given = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not self.templated)
        with torch.inference_mode():
            made = self.model.generate(
                given.input_ids.to(self.device),
                attention_mask=given.attention_mask.to(self.device),
                generation_config=self.settings,
            )
        return decoded(self.tokenizer, made[:, given.input_ids.shape[1] :], self.settings)

    def _text(self, messages: Messages) -> str:
        """What the model goes on from."""
        together = "\n\n".join(message["content"] for message in messages)
        if not self.templated:
            return together + "\n\n"
        if not self.takes_system:
            messages = [{"role": "user", "content": together}]
        # Templates of models that reason aloud know this name, and the others do not look at it.
        told = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        return str(self.tokenizer.apply_chat_template(messages, **told))
