"""A Llama of random weights that is sure of what it says, with the tokenizer of SmolLM2."""

from pathlib import Path

from pipeline import weights


def save(directory: Path) -> str:
    """Write it; return the directory."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(weights.language_model_directory("embedded:smollm2"))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.8, **sizes)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)
