"""The sizes of the recipe's step, and what it computes."""

import re
from dataclasses import dataclass

NAMES = {
    "vocab": "vocab_size",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "feature": "feature_size",
    "batch": "global",
    "frames": "frames",
    "rate": "mean",
}


@dataclass(frozen=True)
class Sizes:
    """Those of the recipe, and those that a recipe leaves to its data."""

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    feature: int
    batch: int
    frames: int
    # Share of the visual tokens that is dropped.
    rate: float
    # Tokens of a frame, of a prompt and of an answer: what `strand bench step` takes unless told.
    tokens: int = 32
    prompt: int = 48
    answer: int = 16

    def flops(self, frozen=False):
        """FLOPs of a step as `strand` counts them: 2 a weight and token forward, 4 backward, half of the attention's pairs.
        The teacher runs forward, up to the last visual token; the head is counted where labels are. What is computed
        again, and what one side computes in vain, does not count. Frozen weights have no gradients: 2 backward."""
        visual = self.frames * self.tokens
        student = visual - int(self.rate * visual) + self.prompt + self.answer
        # Half of the prompt stands behind the video.
        teacher = self.prompt // 2 + visual
        compared = visual - int(self.rate * visual)
        head = 2 * self.hidden * self.vocab * self.answer
        passes = 2 if frozen else 3
        student = self.forward(student, compared + self.answer) + head
        return self.batch * (passes * student + self.forward(teacher, compared))

    def forward(self, tokens, read):
        """The layers' forward pass over one sequence; behind the last attention, of what losses read."""
        behind = self.hidden * self.hidden + 3 * self.hidden * self.intermediate
        weights = 3 * self.hidden * self.hidden + behind
        all_layers = self.layers * (2 * weights * tokens + 2 * self.hidden * tokens * tokens)
        return all_layers - 2 * behind * (tokens - read)


def read(path):
    """The sizes that a recipe has: the few numbers that are looked for need no parser of YAML."""
    with open(path) as file:
        text = re.sub(r"#.*", "", file.read())
    found = {}
    for size, key in NAMES.items():
        number = re.search(rf"\b{key}: *([\d.]+)", text)
        if not number:
            raise ValueError(f"{path} has no `{key}: NUMBER`")
        found[size] = float(number[1]) if size == "rate" else int(number[1])
    return Sizes(**found)
