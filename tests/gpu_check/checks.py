"""The checks: what each runs, for how long it may, and what its output says."""

import dataclasses
import json
import os
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import process
from sizes import Sizes

OK, FAILED = "ok", "FAILED"
TAIL = 15
# How programs begin the line that says why they fail: ours, python, Rust's tests, the loader of libraries.
CAUSE = re.compile(
    r"^(error\b|[\w.]*Error\b).*:|panicked at|symbol lookup error|cannot open shared"
)
# Below it a GPU cannot hold 7B weights in bf16 with gradients, and masters and moments in fp32: 106 GiB, says `strand plan`.
WHOLE_MIB = 128 << 10
# LoRA as the paper has it: the products q and v; the projector is trained beside the factors.
LORA_RANK = 32
LORA = (
    f"model.lora={{rank: {LORA_RANK}, alpha: 32}}",
    'stages.step.train=["proj.*", "*.lora_A.weight", "*.lora_B.weight"]',
)
OFFLOAD = ("memory.offload_optimizer=true",)
STRAND, PYTORCH = "strand", "PyTorch"
GROUPS = ["nccl", "golden", "step", "half", "lora"]


class Unfit(Exception):
    """A program has ended well and said something else than it should."""


@dataclass(frozen=True)
class Check:
    """A process with a time limit. `judge` makes a figure and a report of what it printed, or is `Unfit`."""

    name: str
    command: list[str]
    variables: dict[str, str]
    judge: Callable
    limit_s: float
    # What it needs at least, and earlier checks have to leave.
    least_s: float
    about: dict = field(default_factory=dict)


@dataclass
class Result:
    """What came of a check. `report` is what a step measured; `notes` and `tail` are lines."""

    name: str
    result: str
    figure: str
    seconds: float = 0.0
    report: dict | None = None
    notes: list[str] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)
    about: dict = field(default_factory=dict)


def attempt(command, variables, limit):
    """Runs a program; one that cannot be started has failed like others."""
    try:
        return process.run(command, variables, limit)
    except OSError as error:
        return process.Ended(127, "", f"error: {error}", None)


def judged(check, ended, seconds, limit):
    """The result of a check whose process has ended."""
    result = Result(check.name, FAILED, "", seconds, about=check.about)
    try:
        if ended.code is None:
            raise Unfit(f"stopped after {limit:.0f} s")
        if ended.code != 0:
            raise Unfit(reason(ended))
        result.figure, result.report, result.notes = check.judge(ended.out)
        result.result = OK
    except Unfit as unfit:
        result.figure = str(unfit)
        result.tail = (ended.error.strip() or ended.out.strip()).splitlines()[-TAIL:]
    return result


def reason(ended):
    """The line that says why a program failed, among those that it printed."""
    lines = [line.strip() for line in (ended.error + "\n" + ended.out).splitlines() if line.strip()]
    causes = [index for index, line in enumerate(lines) if CAUSE.search(line)]
    said = lines[causes[0]] if causes else (lines or ["it printed nothing"])[-1]
    if "panicked at" in said:
        # The place; the next line has the words.
        said = " ".join([said, *lines[causes[0] + 1 : causes[0] + 2]])
    help_with = "; `--site FOLDER` adds packages" if "No module named" in said else ""
    return f"code {ended.code}: {said}{help_with}"


class Programs:
    """The folder of the programs, and the variables that they need."""

    NAMES = ("strand", "strand-worker", "conformance", "golden")

    def __init__(self, folder, torch, root):
        self.folder = os.path.realpath(folder)
        variables = {**os.environ, "LD_LIBRARY_PATH": torch.library_path()}
        variables["STRAND_GOLDEN"] = os.path.join(root, "tests", "golden")
        variables["STRAND_WORKER"] = os.path.join(self.folder, "strand-worker")
        self.variables = {**variables, "STRAND_TEST_DEVICE": "cuda"}

    def path(self, name):
        return os.path.join(self.folder, name)

    def lacking(self):
        return [name for name in self.NAMES if not os.access(self.path(name), os.X_OK)]


def nccl(programs):
    """The suite of all backends, with as many ranks as there are GPUs for."""
    command = [programs.path("conformance"), "nccl", "--nocapture", "--test-threads=1"]
    return Check("NCCL", command, programs.variables, judge_nccl, 90, 30)


def judge_nccl(out):
    done = re.findall(r"nccl: \w+: ok", out)
    not_run = re.findall(r"nccl: .*NOT RUN.*", out)
    if not done:
        raise Unfit(not_run[0] if not_run else "no check of NCCL ran")
    more = f", {len(not_run)} need more GPUs" if not_run else ""
    return f"{len(done)} of {len(done) + len(not_run)} checks{more}", None, not_run


def golden(programs):
    """A check for each test of the golden cases that is for GPUs: what one breaks, others may not."""
    command = [programs.path("golden"), "gpu"]
    ended = attempt([*command, "--list"], programs.variables, 30)
    names = re.findall(r"^(\S+): test$", ended.out, re.MULTILINE)
    if not names:
        # It says why when it runs.
        names = ["gpu"]
    flags = ["--nocapture", "--test-threads=1", *["--exact"] * (names != ["gpu"])]
    found = []
    for name in names:
        command = [programs.path("golden"), name, *flags]
        title = "golden, " + name.split("::")[-1].removeprefix("gpu_").replace("_", " ")
        found.append(Check(title, command, programs.variables, judge_golden, 100, 30))
    return found


def judge_golden(out):
    passed = re.search(r"test result: ok\. (\d+) passed", out)
    if not passed or passed[1] == "0":
        raise Unfit("no test ran: `golden` has none whose name holds `gpu`")
    lines = [line for line in out.splitlines() if "greatest deviation" in line]
    worst = [float(it) for it in re.findall(r"greatest deviation:? ([\d.]+(?:e[+-]?\d+)?)", out)]
    if not worst:
        said = re.search(r".*not run.*", out, re.IGNORECASE)
        raise Unfit(f"it did not run: {said[0].strip()}" if said else "it says no deviation")
    greatest = max(range(len(worst)), key=worst.__getitem__)
    where = re.sub(r"\s+", " ", lines[greatest].split("greatest deviation")[0]).strip(" :")
    where = re.sub(r"^test \S+ \.\.\. ", "", where)
    return f"{len(worst)} comparisons, greatest deviation {worst[greatest]:.1e} ({where})", None, []


@dataclass(frozen=True)
class Variant:
    """A step that strand and PyTorch take. `sets` are changes of the recipe."""

    name: str
    sizes: Sizes
    sets: tuple = ()
    lora: bool = False
    # Optimizer states lie on the host.
    offload: bool = False

    def about(self, who):
        """What the table has to know."""
        about = {"variant": self.name, "who": who, "batch": self.sizes.batch}
        offload = self.offload and who == STRAND
        return {**about, "flops": self.sizes.flops(frozen=self.lora), "offload": offload}

    def flags(self):
        """What `strand bench step` and peer.py both take."""
        names = ("frames", "tokens", "prompt", "answer")
        return [word for name in names for word in ("--" + name, str(getattr(self.sizes, name)))]


def variants(only, sizes, gpu):
    """The steps that are measured. Beside one whose states lie on the host, whose update is the transfer, stands one that
    the card can hold."""
    offload, half = gpu.memory_mib < WHOLE_MIB, sizes.layers // 2
    if "step" in only:
        yield Variant("all weights", sizes, OFFLOAD if offload else (), offload=offload)
    if "half" in only and (offload or "step" not in only):
        name = f"all weights, {half} of {sizes.layers} layers"
        sets = (f"model.llama.num_hidden_layers={half}",)
        yield Variant(name, dataclasses.replace(sizes, layers=half), sets)
    if "lora" in only:
        yield Variant("LoRA", sizes, LORA, lora=True)


def strand_step(programs, options, variant):
    command = [programs.path("strand"), "bench", "step", options.recipe, "--json", "-q"]
    sets = ("runtime.device=cuda", *variant.sets)
    command += [word for it in sets for word in ("--set", it)] + variant.flags()
    command += ["--nproc-per-node", "1", "--steps", str(options.steps), "--warmup", "2"]
    # The weights are drawn on the CPU.
    limits = (220, 110) if variant.offload else (150, 70)
    name, about = f"step, {variant.name}, {STRAND}", variant.about(STRAND)
    return Check(name, command, programs.variables, judge_step, *limits, about)


def peer_step(options, torch, script, variant):
    """The same step in PyTorch."""
    command = [options.python, script, "--device", "cuda", "--precision", "bf16", "--checkpointing"]
    own = ("vocab", "hidden", "intermediate", "layers", "heads", "feature", "batch", "rate")
    command += [word for name in own for word in ("--" + name, str(getattr(variant.sizes, name)))]
    command += [*variant.flags(), "--steps", str(options.steps), "--warmup", "2"]
    command += ["--lora", str(LORA_RANK)] * variant.lora
    name, about = f"step, {variant.name}, {PYTORCH}", variant.about(PYTORCH)
    return Check(name, command, peer_variables(options, torch), judge_step, 100, 45, about)


def peer_variables(options, torch):
    """A model is made from its sizes: nothing is to be looked up."""
    folders = [*map(os.path.realpath, options.site), *torch.python_path()]
    folders += filter(None, [os.environ.get("PYTHONPATH")])
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **offline, "PYTHONPATH": ":".join(folders)}


def judge_step(out):
    try:
        # Libraries may have talked before it.
        report = json.loads(out[max(0, out.find("{")) :])
        step_s = report["step_s"] = statistics.median(report["steps_s"])
        return f"{step_s:.3f} s a step", report, []
    except (ValueError, KeyError, TypeError) as error:
        raise Unfit(f"its report is not understood: {error!r}") from None
