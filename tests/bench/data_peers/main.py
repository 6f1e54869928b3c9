"""The command line of the benchmark, and the order of its work."""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import report
import talk
from bench import FAULTS, FLAGS, LOCAL, REMOTE, SEARCH, Bench
from contenders import CONTENDERS, LOADERS
from environment import LAZY, Environment
from packages import LOADERS as PACKAGES
from store import Store

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
SAMPLE_BYTES = 2 * 16 * 32 * 768
BATCH = 8
# Samples are a multiple of it, so that row groups are whole and workers have equal parts.
STEP = 128
EXAMPLES = """\
examples:
  tests/bench/data_peers/run --quick
  tests/bench/data_peers/run --json target/bench/result.json
  tests/bench/data_peers/run --only strand,lit --runs 5

It needs python3 with venv, a C compiler, curl, a way to PyPI, 9 GB of disk, and strand and s3_sim as
`cargo build --release --workspace --bins` makes them. The table goes to stdout, all else to stderr.
Contenders: """


@dataclass(frozen=True)
class Limits:
    """How much is measured."""

    # Settings tried of each contender; none is left out where there is no number.
    settings: int | None
    # Seconds after which a measurement is stopped and called hanging.
    seconds: float
    # Seconds over which a measurement is taken once only.
    once: float = 20


def arguments():
    names = [it.name for it in CONTENDERS]
    parser = argparse.ArgumentParser(
        prog="run",
        description="Reads the same samples with strand and with the loaders that people use today.",
        epilog=EXAMPLES + ", ".join(names) + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    release, work = os.path.join(ROOT, "target", "release"), os.path.join(ROOT, "target", "bench")
    flag, once = parser.add_argument, "128 samples, one setting, one round: does it work?"
    limit = "seconds after which a reader hangs [default: 60]"
    flag("--strand", metavar="PATH", default=f"{release}/strand", help="the program strand")
    flag("--s3-sim", metavar="PATH", help="the program s3_sim [default: beside strand]")
    flag("--size", default="1GB", help="bytes of features: 100MB, 1GB [default: 1GB]")
    flag("--work", metavar="DIR", default=work, help="for all files [default: target/bench]")
    flag("--runs", type=int, default=3, help="rounds; medians are shown [default: 3]")
    flag("--only", metavar="NAME,…", help="contenders to measure [default: all]")
    flag("--limit", type=float, default=60, metavar="S", help=limit)
    flag("--json", metavar="FILE", help="write every measurement to a file")
    flag("--quick", action="store_true", help=once)
    parsed = parser.parse_args()
    parsed.strand, parsed.work = map(os.path.abspath, (parsed.strand, parsed.work))
    parsed.s3_sim = parsed.s3_sim or os.path.join(os.path.dirname(parsed.strand), "s3_sim")
    parsed.contenders = chosen(parser, parsed.only, names)
    parsed.samples = count(parser, "100MB" if parsed.quick else parsed.size)
    parsed.runs = 1 if parsed.quick else max(1, parsed.runs)
    return parsed


def chosen(parser, only, names):
    wanted = only.split(",") if only else names
    for name in wanted:
        if name not in names:
            parser.error(f"--only: there is no {name}, only {', '.join(names)}")
    return [it for it in CONTENDERS if it.name in wanted]


def count(parser, size):
    """Samples that come nearest to a size: 128 to every 100 MB."""
    units = {"MB": 10**6, "GB": 10**9}
    try:
        asked = float(size[:-2]) * units[size[-2:]]
    except (KeyError, ValueError):
        parser.error(f"--size: {size} is not a size like 500MB or 1GB")
    return max(1, round(asked / SAMPLE_BYTES / STEP)) * STEP


def make_samples(bench, environment):
    """Writes the samples in all formats, unless they are there from the last time."""
    mark = os.path.join(bench.work, "samples.json")
    shard = 64 if bench.samples >= 640 else 12
    formats = sorted({it.folder for it in CONTENDERS})
    wanted = {"samples": bench.samples, "shard_mb": shard, "formats": formats}
    wanted["peers"] = environment.folder
    if read_json(mark) == wanted:
        return
    talk.say(f"writing {bench.samples} samples in every format")
    for stale in (mark, bench.data):
        shutil.rmtree(stale, ignore_errors=True) if os.path.isdir(stale) else remove(stale)
    os.makedirs(bench.data)
    script = f"{LAZY}sys.path.insert(0, {LOADERS!r}); import write; write.main()"
    writer = [environment.python, "-c", script, bench.data, str(bench.samples), str(shard)]
    subprocess.run(writer, check=True, env=environment.variables(), stdout=sys.stderr)
    pack(bench)
    with open(mark, "w") as file:
        json.dump(wanted, file)


def pack(bench):
    """Makes strand's shards from the tars."""
    encoder = os.path.join(bench.work, "encoder.json")
    with open(encoder, "w") as file:
        sampling = {"image_size": 224, "sampling": "middle:16", "question_conditioned": False}
        json.dump({"kind": "random", "hash": "0", **sampling}, file)
    folder = os.path.join(bench.data, "web")
    tars = sorted(os.path.join(folder, name) for name in os.listdir(folder))
    command = [bench.strand, "data", "pack", "--features", *tars, "--encoder", encoder]
    command += ["--rows-per-group", str(BATCH), "--out", os.path.join(bench.data, "strand")]
    subprocess.run([*command, "--quiet"], check=True, stdout=sys.stderr)


def read_json(path):
    if not os.path.exists(path):
        return None
    with open(path) as file:
        return json.load(file)


def remove(path):
    if os.path.exists(path):
        os.remove(path)


def warm(folder):
    """Reads every file once, so that all are in the page cache."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                while file.read(1 << 24):
                    pass


def measure(bench, contenders, runs):
    """Best settings first, then the rounds."""
    for condition in SEARCH:
        for contender in contenders:
            if contender.remote or condition not in REMOTE:
                bench.find_best(contender, condition)
    for number in range(runs):
        talk.say(f"round {number + 1} of {runs}")
        bench.round(contenders, (LOCAL, *REMOTE))
        bench.round([it for it in contenders if it.name == "strand"], FAULTS)
    for contender in contenders:
        bench.check(contender)
        if contender.resumes and contender.name != "strand":
            bench.resume(contender, runs)


def machine():
    """What the figures depend on."""
    cores = len(os.sched_getaffinity(0))
    with open("/proc/cpuinfo") as file:
        models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return {
        "date": time.strftime("%FT%TZ", time.gmtime()),
        "cores": cores,
        "cpu": models[0] if models else platform.machine(),
        "load_at_start": os.getloadavg()[0],
    }


def run(options):
    environment = Environment(options.work, PACKAGES)
    environment.ensure()
    work = os.path.join(options.work, f"peers-{options.samples}")
    limits = Limits(1 if options.quick else None, options.limit)
    bench = Bench(work, environment, options.strand, options.samples, limits)
    make_samples(bench, environment)
    warm(bench.data)
    about = {**machine(), "samples": options.samples, "batch": BATCH, "runs": options.runs}
    about["versions"] = {"strand": version(options.strand), **environment.versions()}
    try:
        for name, flags in FLAGS.items():
            bench.stores[name] = Store(options.s3_sim, os.path.dirname(bench.data), flags)
        measure(bench, options.contenders, options.runs)
    finally:
        for started in (*bench.forkers.values(), *bench.stores.values()):
            started.close()
        shutil.rmtree(os.path.join(work, "cache"), ignore_errors=True)
    return bench, about


def version(strand):
    asked = subprocess.run([strand, "--version"], check=True, capture_output=True, text=True)
    return asked.stdout.strip()


def main():
    # So that what was started ends too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = arguments()
    for program in (options.strand, options.s3_sim):
        if not os.access(program, os.X_OK):
            hint = "`cargo build --release --workspace --bins` makes it"
            sys.exit(f"error: {program} is not there\nhint: {hint}")
    bench, about = run(options)
    found = {it.name: report.figures(bench, it) for it in options.contenders}
    load = f"load {about['load_at_start']:.1f} at the start"
    print(f"{about['date'][:10]}, {about['cores']} cores ({about['cpu']}), {load}\n")
    print(report.table(options.contenders, found))
    if "strand" in found:
        print(f"\n{report.fault_table(bench, found['strand']['cloud'])}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({**about, "figures": found, "measurements": bench.results}, file, indent=1)
        talk.say(f"every measurement: {options.json}")
    talk.say("done")


if __name__ == "__main__":
    main()
