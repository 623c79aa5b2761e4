"""Models of every kind that the stages load, made here at a small size and saved in the real formats."""

from __future__ import annotations

from pathlib import Path

import torch

LETTERS = ["\u0120", *"abcdefghijklmnopqrstuvwxyz", ".", ",", "'"]  # U+0120 is a space
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def spread_weights(model: torch.nn.Module, seed: int, std: float = 1.0) -> None:
    """Weights so far apart that other inputs give other outputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=std, generator=generator)


def write_whisper(folder: Path, chunk_length: int = 2) -> str:
    """An encoder-decoder that hears 2 s and writes letters."""
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    special = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    vocab = {token: index for index, token in enumerate([*LETTERS, *special])}
    end, start, plain = (vocab[token] for token in special)
    tokenizer = WhisperTokenizer(vocab=vocab, merges=[])
    WhisperProcessor(WhisperFeatureExtractor(16, chunk_length=chunk_length), tokenizer).save_pretrained(folder)
    config = WhisperConfig(
        vocab_size=len(vocab),
        num_mel_bins=16,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_source_positions=chunk_length * 50,
        max_target_positions=32,
        decoder_start_token_id=start,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    spread_weights(model, 1)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start, eos_token_id=end, pad_token_id=end, bos_token_id=start, max_length=32
    )
    model.generation_config.no_timestamps_token_id = plain
    model.save_pretrained(folder)
    return str(folder)


def _tokenizer(special: list[str]):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: index for index, token in enumerate([*special, "<unk>", *LETTERS, "\u010a", *'0123456789:-"$'])}
    bare = Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        unk_token="<unk>",
        eos_token=special[0],
        pad_token=special[0],
        additional_special_tokens=special[1:],
    )


def write_qwen2_audio(folder: Path) -> str:
    """A chat model that hears 2 s, of Qwen2-Audio's classes."""
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    special = ["<|im_end|>", "<|im_start|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
    tokenizer = _tokenizer(special)
    extractor = WhisperFeatureExtractor(16, chunk_length=2)
    Qwen2AudioProcessor(extractor, tokenizer, chat_template=CHAT_TEMPLATE).save_pretrained(folder)
    config = Qwen2AudioConfig(
        audio_config={
            "num_mel_bins": 16,
            "d_model": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 16,
            "max_source_positions": 100,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    model = Qwen2AudioForConditionalGeneration(config)
    spread_weights(model, 2)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    return str(folder)


def write_language_model(folder: Path, *, chats: bool = True, seed: int = 3) -> str:
    """A GPT-2 that writes letters, with a chat template or without."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = _tokenizer(["<|im_end|>", "<|im_start|>"])
    tokenizer.chat_template = CHAT_TEMPLATE if chats else None
    tokenizer.save_pretrained(folder)
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=2048,
        bos_token_id=end,
        eos_token_id=end,
        tie_word_embeddings=False,  # a random model with tied ones repeats its last letter
    )
    model = GPT2LMHeadModel(config)
    spread_weights(model, seed, std=0.3)
    model.save_pretrained(folder)
    return str(folder)
