"""Folders of transformers with tiny models of random weights, large enough that their words differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

WILD = 1.0  # standard deviation of weights: with the usual 0.02 a model says one word over and over
WORDS = [
    "a", "the", "dog", "cat", "bark", "rain", "while", "and", "then", "runs", "quiet", "loud", "water", "train", "bird",
]  # fmt: skip
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} {{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)


def words_tokenizer(*special: str, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Whole words; `special` ones come after <unk> and </s>."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    vocabulary = ["<unk>", "</s>", *special, *WORDS]
    plain = Tokenizer(WordLevel({word: number for number, word in enumerate(vocabulary)}, unk_token="<unk>"))
    plain.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", eos_token="</s>", additional_special_tokens=list(special)
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def write_language_model(folder: Path, chat_template: str | None = None) -> None:
    """Llama, with settings of its own that draw words and punish what came before."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = words_tokenizer("<|im_start|>", "<|im_end|>", chat_template=chat_template)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=4096, bos_token_id=1, eos_token_id=1,
            initializer_range=WILD,
        )
    )  # fmt: skip
    for name, value in {"do_sample": True, "temperature": 2.0, "repetition_penalty": 5.0}.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)


def write_blip(folder: Path) -> None:
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]))
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tiny = {**size, "initializer_range": WILD}
    config = BlipConfig(
        text_config={
            **tiny, "vocab_size": len(special) + len(WORDS), "max_position_embeddings": 64, "encoder_hidden_size": 16,
            "bos_token_id": 5, "eos_token_id": 3, "pad_token_id": 0, "sep_token_id": 3,
        },
        vision_config={**tiny, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(images, BertTokenizer(str(folder / "vocab.txt"))).save_pretrained(folder)


def write_whisper(folder: Path) -> None:
    """As the published captioners have it: bytes, the tokens of languages and tasks, and nothing new."""
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    pieces = sorted(bytes_to_unicode().values())
    tokenizer = WhisperTokenizer(
        vocab={piece: number for number, piece in enumerate([*pieces, "<|endoftext|>"])}, merges=[]
    )
    languages = [f"<|{code}|>" for code in LANGUAGES]
    rest = ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|startoftranscript|>", *languages, *rest]})
    end, start = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|startoftranscript|>"])
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_target_positions=160,
            decoder_start_token_id=start, bos_token_id=end, eos_token_id=end, pad_token_id=end, init_std=WILD,
            suppress_tokens=None, begin_suppress_tokens=None,
        )
    )  # fmt: skip
    model.generation_config.suppress_tokens = [pieces.index("#")]
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)


def as_published(folder: Path) -> None:
    """`write_whisper`'s folder as published captioners are: of an older transformers, weights in PyTorch's format."""
    from safetensors.torch import load_file

    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    tokens = json.loads((folder / "tokenizer.json").read_text())
    added = {one["content"]: one["id"] for one in tokens["added_tokens"]}
    end = "<|endoftext|>"
    special = {"bos_token": end, "eos_token": end, "pad_token": end, "unk_token": end}
    texts = {
        "added_tokens.json": {name: number for name, number in added.items() if name != end},
        "merges.txt": "#version: 0.2\n",
        "normalizer.json": {},
        "special_tokens_map.json": {**special, "additional_special_tokens": list(added)},
        "tokenizer_config.json": {
            **special, "add_bos_token": False, "add_prefix_space": False, "errors": "replace",
            "model_max_length": 1024, "processor_class": "WhisperProcessor", "return_attention_mask": False,
            "tokenizer_class": "WhisperTokenizer",
        },
        "vocab.json": tokens["model"]["vocab"],
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text if isinstance(text, str) else json.dumps(text))
    (folder / "tokenizer.json").unlink()
    processor = json.loads((folder / "processor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(processor["feature_extractor"]))
    (folder / "processor_config.json").unlink()
    # What generates transcriptions stands in both configurations.
    start = added["<|startoftranscript|>"]
    forced = [[1, start + 1], [2, added["<|transcribe|>"]], [3, added["<|notimestamps|>"]]]
    transcribing = {"begin_suppress_tokens": [220, added[end]], "forced_decoder_ids": forced, "max_length": 448}
    change(folder / "config.json", architectures=["WhisperForAudioCaptioning"], **transcribing)
    change(
        folder / "generation_config.json", **transcribing, is_multilingual=True, return_timestamps=False,
        lang_to_id={"<|en|>": start + 1}, task_to_id={"transcribe": added["<|transcribe|>"]},
        no_timestamps_token_id=added["<|notimestamps|>"], max_initial_timestamp_index=50, prev_sot_token_id=start + 3,
        alignment_heads=[[0, 0]],
    )  # fmt: skip


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def write_qwen_audio(folder: Path) -> None:
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    special = ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = words_tokenizer(*special)
    tokenizer.pad_token = "<|im_end|>"
    config = Qwen2AudioConfig(
        audio_config={
            "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16,
            "init_std": WILD, "num_mel_bins": 128,
        },
        text_config={
            "model_type": "qwen2", "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": WILD,
            "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": tokenizer.pad_token_id,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2AudioForConditionalGeneration(config)
    model.generation_config.eos_token_id = [1, tokenizer.pad_token_id]
    model.save_pretrained(folder)
    Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=128), tokenizer).save_pretrained(folder)
