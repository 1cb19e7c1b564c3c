"""AudioLDM 2, BLIP and CLAP as published, only smaller, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AudioLDM2Pipeline, AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapProcessor,
    GPT2Config,
    GPT2Model,
    RobertaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from ...sounding.published_weights import audioldm_pipeline

WIDTH = 16
WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[DEC]",
    "a",
    "picture",
    "of",
    "dog",
    "cat",
    "frog",
    "on",
    "grass",
)


def roberta() -> RobertaTokenizer:
    """Single bytes, with RoBERTa's special tokens at RoBERTa's places."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *letters, "<mask>"]
    return RobertaTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def clap() -> ClapModel:
    """Both towers."""
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32}
    audio = {"patch_embeds_hidden_size": 8, "hidden_size": 16, "depths": [1, 1], "num_attention_heads": [1, 2]}
    config = ClapConfig(
        text_config=text | {"vocab_size": 300, "projection_dim": WIDTH},
        audio_config=audio | {"num_hidden_layers": 2, "projection_dim": WIDTH},
        projection_dim=WIDTH,
    )
    return ClapModel(config).eval().requires_grad_(False)


def save_clap(folder: Path) -> ClapModel:
    """A folder as laion/clap-htsat-unfused is."""
    model = clap()
    model.save_pretrained(folder)
    extractor = ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad")
    ClapProcessor(extractor, roberta()).save_pretrained(folder)
    return model


def save_audioldm(folder: Path) -> None:
    """A folder as cvssp/audioldm-s-full-v2 is."""
    pipeline = audioldm_pipeline((32, 64))
    pipeline.tokenizer = roberta()
    pipeline.save_pretrained(folder)


def save_audioldm2(folder: Path) -> None:
    """A folder as cvssp/audioldm2 is, whose language model is the bare `GPT2Model`."""
    wired = audioldm_pipeline((32, 64))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((c, -2.0) for c in "abcdefghijklmnoprstu")]
    unet = AudioLDM2UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=32,
        in_channels=8,
        out_channels=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=((None, WIDTH, 32), (None, WIDTH, 32)),  # GPT-2's states, then T5's
    )
    language = GPT2Model(GPT2Config(n_embd=16, n_head=1, n_layer=1, vocab_size=50, n_ctx=99, n_positions=99))
    language.config.max_new_tokens = 8
    pipeline = AudioLDM2Pipeline(
        vae=wired.vae,
        text_encoder=clap(),
        text_encoder_2=T5EncoderModel(T5Config(vocab_size=30, d_model=32, d_ff=37, d_kv=8, num_heads=1, num_layers=1)),
        projection_model=AudioLDM2ProjectionModel(text_encoder_dim=WIDTH, text_encoder_1_dim=32, langauge_model_dim=16),
        language_model=language,
        tokenizer=roberta(),
        tokenizer_2=T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=77),
        feature_extractor=ClapFeatureExtractor(),
        unet=unet,
        scheduler=wired.scheduler,
        vocoder=wired.vocoder,
    )
    pipeline.save_pretrained(folder)


def save_blip(folder: Path) -> None:
    """A folder as Salesforce/blip-image-captioning-base is."""
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(
        text_config=small | ids | {"vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 64},
        vision_config=small | {"image_size": 32, "patch_size": 16},
    )
    model = BlipForConditionalGeneration(config)
    for weight in model.parameters():  # so that random weights prefer some words to others, depending on the image
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5)
    with torch.no_grad():
        model.text_decoder.cls.predictions.decoder.bias[:6] = -100  # words alone, no special tokens
    model.save_pretrained(folder)
    tokenizer = BertTokenizer(
        vocab={word: i for i, word in enumerate(WORDS)}, additional_special_tokens=["[DEC]"], model_max_length=32
    )
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
