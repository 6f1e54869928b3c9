"""The side of transformers and PEFT: makes random models and adapters, and answers prompts with what folders hold."""

import json
import sys

import peft
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    LlamaConfig,
)

SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
}
QFORMER = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "encoder_hidden_size": 32,
}


def make(folder, changes, dtype, shard, instructblip):
    """Saves a random model."""
    torch.manual_seed(0)
    config = LlamaConfig(**{**SIZES, **changes})
    if instructblip:
        whole = InstructBlipConfig(
            vision_config=VISION, qformer_config=QFORMER, text_config=config.to_dict()
        )
        model = InstructBlipForConditionalGeneration(whole)
    else:
        model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)


def adapt(folder, adapter, lora):
    """Saves a random adapter of a folder's model."""
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        target_modules=lora["targets"],
        lora_dropout=lora["dropout"],
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(load(folder, False), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(adapter)


def load(folder, instructblip):
    """A folder's language model, whose names have to be exactly those of transformers."""
    kind = InstructBlipForConditionalGeneration if instructblip else AutoModelForCausalLM
    model, info = kind.from_pretrained(folder, torch_dtype=torch.float32, output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[what]:
            sys.exit(f"{folder}: {what}: {info[what]}")
    return model.language_model if instructblip else model


def answer(folder, instructblip, adapter, prompts, new_tokens):
    """Logits of all tokens of the prompts, and the likeliest tokens behind them."""
    model = load(folder, instructblip)
    if adapter:
        model = peft.PeftModel.from_pretrained(model, adapter)
    model.eval()
    reply = {"logits": [], "greedy": []}
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            reply["logits"].append(model(ids).logits[0].tolist())
        options = {"do_sample": False, "min_new_tokens": new_tokens, "max_new_tokens": new_tokens}
        # Without an end symbol nothing is forbidden and nothing ends.
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        reply["greedy"].append(made[0, len(prompt) :].tolist())
    return reply


def main():
    request = json.load(sys.stdin)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    reply = {"make": make, "adapt": adapt, "answer": answer}[sys.argv[1]](**request)
    json.dump(reply, sys.stdout)


main()
