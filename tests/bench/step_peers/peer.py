"""The step as the reference writes it: Hugging Face's LLaMA, logits everywhere, a teacher that sees all.

Prints one JSON line: seconds of each step, of them those before the update, and the greatest memory: resident, or of the
GPU as torch counts what it has allocated.
"""

import argparse
import json
import resource
import time

import torch
import transformers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Where no label is.
IGNORED = -100


def arguments():
    parser = argparse.ArgumentParser()
    sizes = {"hidden": 512, "layers": 8, "heads": 8, "intermediate": 1376, "vocab": 32001}
    sizes |= {"frames": 16, "tokens": 32, "feature": 768, "prompt": 48, "answer": 16, "batch": 2}
    for name, usual in {**sizes, "steps": 5, "warmup": 1, "threads": 2}.items():
        parser.add_argument("--" + name, type=int, default=usual)
    parser.add_argument("--precision", choices=KINDS, default="fp32")
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    lora = "train factors of this width beside q and v, and the projector, alone"
    parser.add_argument("--lora", type=int, metavar="RANK", help=lora)
    return parser.parse_args()


class Adapted(torch.nn.Module):
    """A product with two narrow factors beside it (LoRA)."""

    def __init__(self, product, rank):
        super().__init__()
        self.product = product
        self.down = torch.nn.Linear(product.in_features, rank, bias=False)
        self.up = torch.nn.Linear(rank, product.out_features, bias=False)

    def forward(self, values):
        return self.product(values) + self.up(self.down(values))


def adapt(llama, rank):
    """Freezes the model but for new factors."""
    llama.requires_grad_(False)
    for layer in llama.model.layers:
        attention = layer.self_attn
        attention.q_proj = Adapted(attention.q_proj, rank)
        attention.v_proj = Adapted(attention.v_proj, rank)


class Step:
    """The model with its optimizer."""

    def __init__(self, sizes):
        self.sizes, self.kind = sizes, KINDS[sizes.precision]
        config = LlamaConfig(
            vocab_size=sizes.vocab,
            hidden_size=sizes.hidden,
            intermediate_size=sizes.intermediate,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.heads,
            max_position_embeddings=4096,
            use_cache=False,
            attn_implementation="sdpa",
        )
        # Weights of 7B are drawn where they are used: the CPU takes minutes.
        with torch.device(sizes.device):
            self.make(config)
        trained = [it for it in self.parameters if it.requires_grad]
        fused = sizes.device == "cuda"
        self.optimizer = torch.optim.AdamW(trained, lr=2e-5, weight_decay=0.0, fused=fused)

    def make(self, config):
        sizes = self.sizes
        self.llama = LlamaForCausalLM(config)
        if sizes.lora:
            adapt(self.llama, sizes.lora)
        self.llama.to(self.kind)
        if sizes.checkpointing:
            self.llama.gradient_checkpointing_enable()
        self.llama.train()
        self.projector = torch.nn.Linear(sizes.feature, sizes.hidden).to(self.kind)
        head = torch.nn.Linear(sizes.hidden, sizes.hidden), torch.nn.LayerNorm(sizes.hidden)
        self.decoder = torch.nn.Sequential(*head).to(self.kind).requires_grad_(not sizes.lora)
        modules = [self.llama, self.projector, self.decoder]
        self.parameters = [it for module in modules for it in module.parameters()]

    def made_up(self):
        """Features, prompts and answers of a batch."""
        it = self.sizes
        with torch.device(it.device):
            features = torch.randn(it.batch, it.frames * it.tokens, it.feature, dtype=self.kind)
            prompts = torch.randint(3, it.vocab, (it.batch, it.prompt))
            return features, prompts, torch.randint(3, it.vocab, (it.batch, it.answer))

    def run(self, batch):
        """Forward, backward, update: seconds of all, and of what comes before the update."""
        self.synchronize()
        started = time.perf_counter()
        self.gradients(*batch)
        self.synchronize()
        between = time.perf_counter()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.synchronize()
        return time.perf_counter() - started, between - started

    def synchronize(self):
        """A GPU works behind the host's back."""
        if self.sizes.device == "cuda":
            torch.cuda.synchronize()

    def gradients(self, features, prompts, answers):
        """Forward and backward."""
        visual = self.projector(features)
        batch, length, _ = visual.shape
        masked = torch.zeros(batch, length, dtype=torch.bool, device=visual.device)
        for row in masked:
            row[torch.randperm(length, device=row.device)[: int(self.sizes.rate * length)]] = True
        kept = visual[~masked].view(batch, -1, self.sizes.hidden)
        text = self.llama.get_input_embeddings()(torch.cat([prompts, answers], 1))
        student = self.llama.model(inputs_embeds=torch.cat([kept, text], 1)).last_hidden_state
        before = batch, kept.shape[1] + prompts.shape[1]
        without = torch.full(before, IGNORED, device=visual.device)
        labels = torch.cat([without, answers], 1)[:, 1:].reshape(-1)
        logits = self.llama.lm_head(student)[:, :-1].reshape(-1, self.sizes.vocab).float()
        loss = functional.cross_entropy(logits, labels, ignore_index=IGNORED)
        with torch.no_grad():
            everything = torch.cat([visual, text], 1)
            teacher = self.llama.model(inputs_embeds=everything).last_hidden_state
        wanted = teacher[:, :length][~masked].view(kept.shape).float()
        guessed = self.decoder(student[:, : kept.shape[1]]).float()
        distance = 2 - 2 * functional.cosine_similarity(guessed, wanted, dim=-1)
        (loss + distance.mean()).backward()


def forget_peak(sizes):
    """What making the model took is not the step's."""
    if sizes.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory(sizes):
    """The greatest memory in MiB: what tensors took, and on a GPU what torch kept for them."""
    if sizes.device == "cpu":
        return {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    kept = {"peak_mib": torch.cuda.max_memory_allocated() >> 20}
    return {**kept, "reserved_mib": torch.cuda.max_memory_reserved() >> 20}


def versions(sizes):
    found = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {**found, "device": torch.cuda.get_device_name()} if sizes.device == "cuda" else found


def main():
    sizes = arguments()
    torch.set_num_threads(sizes.threads)
    torch.manual_seed(0)
    step, times = Step(sizes), []
    forget_peak(sizes)
    for _ in range(sizes.warmup + sizes.steps):
        batch = step.made_up()
        times.append(step.run(batch))
    steps, gradients = zip(*times[sizes.warmup :])
    count = sum(it.numel() for it in step.parameters)
    measured = {"steps_s": steps, "gradients_s": gradients, **memory(sizes), "parameters": count}
    print(json.dumps({**measured, "versions": versions(sizes)}))


main()
