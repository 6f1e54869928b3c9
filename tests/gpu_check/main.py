"""The command line: finds the GPU, runs one check after the other, prints tables."""

import argparse
import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
import time

import checks
import gpu as gpus
import libtorch
import report
import sizes as recipes
import talk
from missing import Missing

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.realpath(os.path.join(HERE, "..", ".."))
PROGRAMS = os.path.join(ROOT, "programs")
ARCHIVE = PROGRAMS + ".tar.gz"
PEER = os.path.join(ROOT, "tests", "bench", "step_peers", "peer.py")
FAILED, ENVIRONMENT = 1, 3
FOLDERS = [
    ("programs", "FOLDER", "strand, strand-worker, conformance, golden [default: as gathered]"),
    ("torch", "FOLDER", "a torch package or libtorch with CUDA [default: python's]"),
    ("recipe", "FILE", "the step [default: 7B, recipe.yaml beside this script]"),
]
EXAMPLES = """\
examples:
  cargo xtask gpu-check --site target/bench/site --json target/gpu-check.json
  tests/gpu_check/run --programs programs --torch /opt/venv/lib/python3.12/site-packages/torch
  tests/gpu_check/run --only step --only lora --steps 9

The tables go to stdout, all else to stderr. It ends with 0 where all went well, 1 where a check failed, 3 where there is
no GPU or no libtorch with CUDA. docs/gpu-check.md says what is checked."""


def arguments():
    parser = argparse.ArgumentParser(
        prog="gpu-check",
        description="Checks strand on an NVIDIA GPU: NCCL, the golden cases, a step of 7B beside PyTorch's.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag, default = parser.add_argument, {"programs": PROGRAMS}
    default["recipe"] = os.path.join(HERE, "recipe.yaml")
    for name, metavar, text in FOLDERS:
        flag(f"--{name}", metavar=metavar, default=default.get(name), help=text)
    flag("--python", metavar="PROGRAM", default="python3", help="runs PyTorch [default: python3]")
    site = "packages that PyTorch's step imports; may be given several times"
    flag("--site", metavar="FOLDER", action="append", default=[], help=site)
    flag("--steps", type=int, default=5, help="steps that are measured, after two [default: 5]")
    only = "some of the checks; may be given several times"
    flag("--only", choices=checks.GROUPS, action="append", help=only)
    flag("--no-peer", action="store_true", help="leave PyTorch's steps out")
    flag("--limit-s", type=float, default=560, help="time for all checks together [default: 560]")
    flag("--json", metavar="FILE", help="write everything to a file, anew after each check")
    flag("--look", action="store_true", help="only say which GPU and libtorch there are")
    return parser.parse_args()


def look(options):
    """What the machine has; `Missing` where that is too little."""
    try:
        torch, lacking = libtorch.find(options.torch, options.python), None
        path = {**os.environ, "PYTHONPATH": ":".join(torch.python_path())}
    except Missing as missing:
        torch, lacking, path = None, missing, dict(os.environ)
    # That there is no GPU is said first: then libtorch does not matter.
    gpu = gpus.find([options.python], path)
    if lacking:
        raise lacking
    return gpu, torch


def described(gpu, torch):
    """The head of the report: date, hardware, versions."""
    cores = len(os.sched_getaffinity(0))
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    count = f"{gpu.count} × " if gpu.count > 1 else ""
    card = f"{count}{gpu.name}, {gpu.memory_mib} MiB, driver {gpu.driver}"
    machine = f"{cores} cores ({platform.machine()}), {host} GiB"
    versions = f"libtorch {torch.version()}, python {platform.python_version()}"
    return f"{time.strftime('%Y-%m-%d')}, {card}; {machine}; {versions}"


def version(programs):
    """strand's own; it needs no libtorch."""
    ended = checks.attempt([programs.path("strand"), "--version"], programs.variables, 10)
    return ended.out.strip() or "strand of an unknown version"


def planned(options, programs, torch, gpu, sizes):
    """The checks, in their order."""
    only = options.only or checks.GROUPS
    plan = [checks.nccl(programs)] if "nccl" in only else []
    plan += checks.golden(programs) if "golden" in only else []
    for variant in checks.variants(only, sizes, gpu):
        plan.append(checks.strand_step(programs, options, variant))
        if not options.no_peer:
            plan.append(checks.peer_step(options, torch, PEER, variant))
    return plan


def run_all(plan, limit, each):
    """Runs the checks; `each` gets all results so far. A check may take what is left, less what later ones need."""
    ends, results = time.monotonic() + limit, []
    for index, check in enumerate(plan):
        left = ends - time.monotonic() - sum(later.least_s for later in plan[index + 1 :])
        # With nothing left a later one is tried all the same, for what it says at once.
        results.append(run(check, max(5, min(check.limit_s, left))))
        talk.say(f"{check.name}: {results[-1].result}: {results[-1].figure}")
        each(results)
    return results


def run(check, limit):
    talk.say(f"{check.name}: at most {limit:.0f} s")
    started, watch = time.monotonic(), gpus.MemoryWatch()
    ended = checks.attempt(check.command, check.variables, limit)
    card_mib = watch.stop()
    result = checks.judged(check, ended, time.monotonic() - started, limit)
    if result.report is not None:
        result.report["card_mib"] = card_mib
    return result


def of_version(torch):
    """A result of its own: with another libtorch nothing else need work."""
    found = torch.version()
    if found.split("+")[0] == libtorch.VERSION:
        return checks.Result("libtorch", checks.OK, found)
    wanted = f"{found}, but the programs are built for {libtorch.VERSION}"
    return checks.Result("libtorch", checks.FAILED, wanted, tail=[libtorch.HINT])


def unpack(options):
    """What was gathered comes as an archive, unless another folder is named. It is always unpacked: it may be new."""
    if options.programs == PROGRAMS and os.path.exists(ARCHIVE):
        shutil.unpack_archive(ARCHIVE, ROOT)


def begin(options):
    """The machine, the programs and the step, or the end of this program."""
    try:
        gpu, torch = look(options)
        if not options.look:
            unpack(options)
        programs = checks.Programs(options.programs, torch, ROOT)
        if programs.lacking() and not options.look:
            hint = "`cargo xtask gpu-check` builds them, `--gather FOLDER` for another machine"
            lacking = ", ".join(programs.lacking())
            raise Missing(f"{programs.folder} has no program {lacking}", hint)
        return gpu, torch, programs, recipes.read(options.recipe)
    except Missing as missing:
        print(f"error: {missing}\nhint: {missing.hint}", file=sys.stderr)
        sys.exit(ENVIRONMENT)


def main():
    options = arguments()
    gpu, torch, programs, sizes = begin(options)
    head = described(gpu, torch)
    talk.say(head)
    if options.look:
        return
    head += f", {version(programs)}"
    first = of_version(torch)

    def keep(results):
        if options.json:
            rows = [dataclasses.asdict(it) for it in [first, *results]]
            about = {"gpu": dataclasses.asdict(gpu), "sizes": dataclasses.asdict(sizes)}
            with open(options.json, "w") as file:
                json.dump({"head": head, **about, "checks": rows}, file, indent=1)

    # A file that cannot be written is known before minutes have gone.
    if options.json:
        os.makedirs(os.path.dirname(os.path.abspath(options.json)), exist_ok=True)
    keep([])
    plan = planned(options, programs, torch, gpu, sizes)
    results = [first, *run_all(plan, options.limit_s, keep)]
    print(report.whole(head, results, gpu))
    sys.exit(FAILED if any(it.result == checks.FAILED for it in results) else 0)


if __name__ == "__main__":
    try:
        main()
    except subprocess.SubprocessError as error:
        sys.exit(f"error: {error}")
