"""The command line of the benchmark: strand and its peer in turns, and a table."""

import argparse
import json
import os
import platform
import statistics
import sys
import time

import process
import talk
from environment import LAZY, TORCH, TORCH_NEEDS, Environment, Packages

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.realpath(os.path.join(HERE, "..", "..", ".."))
PEER = Packages(
    TORCH, [*TORCH_NEEDS, "transformers==4.57.3", "numpy==2.1.3"], {}, ["torch", "transformers"]
)
LIMIT_S = 900
SLOW_S = 60
EXAMPLES = """\
examples:
  tests/bench/step_peers/run
  tests/bench/step_peers/run --rounds 5 --steps 9 --json target/bench/step.json

It needs python3 with venv, a C compiler, a way to PyPI, 3 GB of disk, and strand as `cargo build --release` makes it.
The table goes to stdout, all else to stderr."""


def arguments():
    parser = argparse.ArgumentParser(
        prog="run",
        description="Runs the same training step with strand and as PyTorch users write it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    release, work = os.path.join(ROOT, "target", "release"), os.path.join(ROOT, "target", "bench")
    cores = len(os.sched_getaffinity(0))
    flag = parser.add_argument
    flag("--strand", metavar="PATH", default=f"{release}/strand", help="the program strand")
    flag("--work", metavar="DIR", default=work, help="for all files [default: target/bench]")
    flag("--rounds", type=int, default=3, help="processes of each; medians are shown [default: 3]")
    flag("--steps", type=int, default=5, help="steps that each measures [default: 5]")
    flag("--threads", type=int, default=cores, help="compute threads [default: the cores]")
    flag("--json", metavar="FILE", help="write every measurement to a file")
    return parser.parse_args()


def strand(options, precision, checkpointing):
    """The command of strand's step."""
    recipe = os.path.join(HERE, "recipe.yaml")
    sets = [f"precision={precision}", f"runtime.threads_per_rank={options.threads}"]
    sets += ["memory.activation_checkpointing=full"] * checkpointing
    flags = [word for it in sets for word in ("--set", it)]
    command = [options.strand, "bench", "step", recipe, "--json", "-q", *flags]
    return [*command, "--nproc-per-node", "1", "--steps", str(options.steps)], dict(os.environ)


def peer(options, precision, checkpointing, environment):
    """The command of PyTorch's step."""
    script = LAZY + f"sys.argv[0] = {HERE!r}; import runpy; runpy.run_path({HERE + '/peer.py'!r})"
    flags = ["--precision", precision, "--steps", str(options.steps)]
    flags += ["--threads", str(options.threads), *["--checkpointing"] * checkpointing]
    return [environment.python, "-c", script, *flags], environment.variables()


def measure(name, command, variables):
    """A process of its own: its report."""
    ended = process.run(command, variables, LIMIT_S, watch=True)
    if ended.code != 0:
        sys.exit(f"error: {name} ended with {ended.code}\n{ended.error}")
    report = json.loads(ended.out)
    report["step_s"] = statistics.median(report["steps_s"])
    talk.say(f"{name}: {report['step_s']:.3f} s a step, {report['peak_mib']} MiB")
    return report


def is_due(reports):
    """Whether a further round is worth its time: what takes minutes is measured once."""
    return not reports or sum(reports[0]["steps_s"]) < SLOW_S


def row(what, ours, theirs, batch=2):
    """A line of the table: medians over the rounds."""
    step = [statistics.median(it["step_s"] for it in reports) for reports in (ours, theirs)]
    peak = [statistics.median(it["peak_mib"] for it in reports) for reports in (ours, theirs)]
    rates = [batch / seconds for seconds in step]
    cells = [f"{rates[0]:.2f}", f"{rates[1]:.2f}", f"{rates[0] / rates[1]:.2f} ×"]
    cells += [f"{peak[0]:.0f}", f"{peak[1]:.0f}", f"{peak[0] / peak[1]:.2f} ×"]
    return f"| {what} | " + " | ".join(cells) + " |"


def main():
    options = arguments()
    environment = Environment(options.work, PEER)
    environment.ensure()
    found, lines = {}, []
    for precision in ("fp32", "bf16"):
        for checkpointing in (False, True):
            what = precision + (", checkpointing" if checkpointing else "")
            reports = {"strand": [], "PyTorch": []}
            commands = {
                "strand": strand(options, precision, checkpointing),
                "PyTorch": peer(options, precision, checkpointing, environment),
            }
            for _ in range(max(1, options.rounds)):
                for name, command in commands.items():
                    if is_due(reports[name]):
                        reports[name].append(measure(f"{what}, {name}", *command))
            lines.append(row(what, *reports.values()))
            found[what] = reports
    about = f"{time.strftime('%Y-%m-%d')}, {options.threads} threads, {platform.processor() or platform.machine()}"
    print(f"{about}, {environment.versions()}\n")
    print("| step | strand, samples/s | PyTorch | ratio | strand, MiB | PyTorch | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |", *lines, sep="\n")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(found, file, indent=1)


main()
