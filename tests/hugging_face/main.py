"""Imports, compares, exports and compares again: see tests/hugging_face.sh."""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

import talk
from environment import LAZY, TORCH, TORCH_NEEDS, Environment, Packages

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.realpath(os.path.join(HERE, "..", ".."))
# These two ask for a torch with CUDA.
PEFT = ["peft==0.18.0", "accelerate==1.12.0"]
OTHERS = [*TORCH_NEEDS, "transformers==4.57.3", "numpy==2.1.3", "psutil"]
PEER = Packages([*TORCH, *PEFT], OTHERS, {}, ["torch", "transformers", "peft"])
TOLERANCE = 1e-4
NEW_TOKENS = 16
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# What each random model has, its type on disk, its file size, and whether it is InstructBLIP's.
CASES = {
    "plain": ({}, "float32", "200KB", False),
    "tied-linear": (
        {"tie_word_embeddings": True, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        "float32",
        "200KB",
        False,
    ),
    "llama3-bf16": ({"rope_scaling": LLAMA3, "rope_theta": 500000.0}, "bfloat16", "1GB", False),
    "fp16": ({"num_key_value_heads": 8}, "float16", "100KB", False),
    "instructblip": ({}, "float32", "200KB", True),
}
LORA = {"rank": 4, "alpha": 8.0, "targets": ["q_proj", "v_proj", "down_proj"], "dropout": 0.1}


class Programs:
    """The programs of both sides, and the prompts."""

    def __init__(self, options, environment):
        self.folder = options.programs
        self.environment = environment
        draw = random.Random(0)
        lengths = (3, 40, 150)
        self.prompts = [[draw.randrange(512) for _ in range(length)] for length in lengths]

    def strand(self, *arguments):
        """The document of a command."""
        command = [f"{self.folder}/strand", *arguments, "--json", "--quiet"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"error: strand {' '.join(arguments)}\n{done.stderr}")
        return json.loads(done.stdout)

    def ours(self, recipe, checkpoint):
        """What strand's model answers."""
        request = {"prompts": self.prompts, "new_tokens": NEW_TOKENS}
        command = [f"{self.folder}/llama_logits", recipe, checkpoint]
        return talk_to(command, request, os.environ)

    def theirs(self, folder, instructblip=False, adapter=None):
        """What transformers' model answers, with an adapter of PEFT or without."""
        request = {"folder": folder, "instructblip": instructblip, "adapter": adapter}
        request |= {"prompts": self.prompts, "new_tokens": NEW_TOKENS}
        return self.oracle("answer", request)

    def oracle(self, verb, request):
        script = LAZY + f"import runpy; runpy.run_path({HERE + '/oracle.py'!r})"
        command = [self.environment.python, "-c", script, verb]
        return talk_to(command, request, self.environment.variables())


def talk_to(command, request, variables):
    """Gives a program a document and takes one."""
    told = json.dumps(request)
    done = subprocess.run(
        command, check=False, input=told, capture_output=True, text=True, env=variables
    )
    if done.returncode:
        sys.exit(f"error: {command[0]} ended with {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def recipe_of(llama, data, **changes):
    """A recipe of that model."""
    stage = {
        "name": "all",
        "data": [{"set": "train"}],
        "video": {"input": "all"},
        "train": ["*.lora_*", "proj.*"],
        "optimizer": {"lr": 0.01},
        "length": {"steps": 3},
        "start": changes.pop("start", "scratch"),
    }
    return {
        "name": "hugging-face",
        "model": {"llama": llama, "feature_size": 16, **changes},
        "tokenizer": f"{data}/tokenizer.json",
        "data": {"train": {"url": f"{data}/train"}},
        "batch": {"global": 2},
        "stages": [stage],
    }


def write(path, document):
    """JSON is YAML."""
    with open(path, "w") as file:
        json.dump(document, file)
    return path


def compare(what, ours, theirs):
    """The greatest deviation; ends where it is too great, or a greedy token differs."""
    pairs = [
        (a, b)
        for left, right in zip(ours["logits"], theirs["logits"], strict=True)
        for row, other in zip(left, right, strict=True)
        for a, b in zip(row, other, strict=True)
    ]
    worst = max(abs(a - b) for a, b in pairs)
    greatest = max(abs(b) for _, b in pairs)
    same = sum(
        a == b
        for left, right in zip(ours["greedy"], theirs["greedy"], strict=True)
        for a, b in zip(left, right, strict=True)
    )
    total = sum(map(len, theirs["greedy"]))
    words = f"{what}: logits deviate by {worst:.1e} of at most {greatest:.1f}"
    print(f"{words}, {same} of {total} greedy tokens", flush=True)
    # Written so that NaN fails.
    if not worst <= TOLERANCE or same != total:
        sys.exit(f"error: {what}: strand and transformers differ")


def check(name, case, programs, work, data):
    """One model in and out."""
    changes, dtype, shard, instructblip = case
    folder = f"{work}/{name}"
    request = {"folder": folder, "changes": changes, "dtype": dtype, "shard": shard}
    programs.oracle("make", {**request, "instructblip": instructblip})
    theirs = programs.theirs(folder, instructblip)
    imported = programs.strand("checkpoint", "import", folder, f"{folder}-imported")
    recipe = write(f"{folder}.yaml", recipe_of(imported["llama"], data))
    ours = programs.ours(recipe, imported["path"])
    compare(f"{name}: imported", ours, theirs)
    out = f"{folder}-exported"
    flags = ["--recipe", recipe, "--max-shard-size", "200KB"]
    exported = programs.strand("checkpoint", "export", imported["path"], out, *flags)
    if len(exported["files"]) < 3:
        sys.exit(f"error: {name}: {exported['files']} is not several files")
    if instructblip and exported["extra"] != ["proj.bias", "proj.weight"]:
        sys.exit(f"error: {name}: the projector is lost: {exported['extra']}")
    compare(f"{name}: exported", ours, programs.theirs(out))
    return imported["llama"]


def train(llama, programs, work, data):
    """A run that starts from the plain folder, with LoRA and a row more, and its export."""
    run = f"{work}/run"
    start = {"hugging_face": {"llama": f"{work}/plain"}}
    larger = {**llama, "vocab_size": llama["vocab_size"] + 1}
    recipe = write(f"{work}/lora.yaml", recipe_of(larger, data, lora=LORA, start=start))
    command = [
        f"{programs.folder}/strand",
        "launch",
        recipe,
        "--run-dir",
        run,
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run([*command, "--set", "parallel.tp=2", "--quiet"], check=False)
    if done.returncode:
        sys.exit("error: the run failed")
    checkpoint = f"{run}/checkpoints/step-00000003"
    ours = programs.ours(recipe, checkpoint)
    out = f"{work}/merged"
    programs.strand("checkpoint", "export", checkpoint, out, "--merge-lora")
    compare("trained with LoRA on tp 2: merged", ours, programs.theirs(out))
    programs.strand("checkpoint", "export", checkpoint, f"{work}/unmerged")
    before = programs.theirs(f"{work}/unmerged")
    if ours["logits"] == before["logits"]:
        sys.exit("error: LoRA changed nothing, so that merging it shows nothing")
    adapter = f"{work}/adapter"
    exported = programs.strand("checkpoint", "export", checkpoint, adapter, "--adapter")
    if exported["extra"] != ["proj.bias", "proj.weight"]:
        sys.exit(f"error: the trained projector is lost: {exported['extra']}")
    compare("its adapter in PEFT", ours, programs.theirs(f"{work}/unmerged", adapter=adapter))


def adapt(llama, programs, work, data):
    """An adapter that PEFT makes, by way of a checkpoint."""
    folder, adapter = f"{work}/plain", f"{work}/made-by-peft"
    programs.oracle("adapt", {"folder": folder, "adapter": adapter, "lora": LORA})
    flags = ["--adapter", adapter]
    imported = programs.strand("checkpoint", "import", folder, f"{work}/adapted", *flags)
    if imported["lora"] != {**LORA, "targets": imported["lora"]["targets"]}:
        sys.exit(f"error: another adapter: {imported['lora']}")
    recipe = write(f"{work}/adapted.yaml", recipe_of(llama, data, lora=imported["lora"]))
    ours = programs.ours(recipe, imported["path"])
    compare("PEFT's adapter: imported", ours, programs.theirs(folder, adapter=adapter))
    plain = programs.theirs(folder)
    if ours["logits"] == plain["logits"]:
        sys.exit("error: the adapter changes nothing, so that reading it shows nothing")


def main():
    parser = argparse.ArgumentParser(prog="hugging_face.sh")
    parser.add_argument(
        "--programs",
        metavar="FOLDER",
        default=f"{ROOT}/target/release",
        help="of strand and llama_logits",
    )
    parser.add_argument(
        "--work", metavar="FOLDER", default=f"{ROOT}/target/bench", help="for the environment"
    )
    options = parser.parse_args()
    options.programs = os.path.realpath(options.programs)
    environment = Environment(os.path.realpath(options.work), PEER)
    environment.ensure()
    talk.say(" ".join(f"{name} {version}" for name, version in environment.versions().items()))
    programs = Programs(options, environment)
    with tempfile.TemporaryDirectory() as work:
        data = f"{work}/data"
        sizes = "--train-rows 8 --held-out-rows 12 --frames 6 --feature-size 16"
        programs.strand("data", "synth", "--out", data, *sizes.split())
        models = {name: check(name, case, programs, work, data) for name, case in CASES.items()}
        train(models["plain"], programs, work, data)
        adapt(models["plain"], programs, work, data)


main()
