"""Who is measured: what reads, and what its answer means."""

import json
import os
from dataclasses import dataclass

import process

HERE = os.path.dirname(os.path.abspath(__file__))
LOADERS = os.path.join(HERE, "loaders")


@dataclass(frozen=True)
class Task:
    """One measurement that is asked for."""

    condition: str
    setting: int
    batches: int | None = None
    mode: str = "epoch"
    check: bool = False
    watch: bool = False


class Peer:
    """A python loader, in a process of its own for each measurement."""

    unit = "workers"
    settings = (0, 1, 2, 4)

    def __init__(self, name, title, folder, remote=True, resumes=True, rival=True):
        self.name, self.title, self.folder = name, title, folder
        # Whether it is a loader that people use, and not a yardstick.
        self.remote, self.resumes, self.rival = remote, resumes, rival

    def run(self, bench, task):
        """Takes a measurement, and returns how its process ended."""
        store = bench.stores.get(task.condition)
        job = {
            "mode": task.mode,
            "folder": bench.data,
            "endpoint": store.endpoint if store else None,
            "cache": bench.cache(),
            "workers": task.setting,
            "batch": bench.batch,
            "batches": task.batches,
            "seed": bench.seed,
            "check": task.check,
            "state": os.path.join(bench.work, f"position-{self.name}"),
        }
        variables = store.variables if store else {}
        return self.forker(bench).run(job, variables, bench.limits.seconds, task.watch)

    def forker(self, bench):
        """The process that has imported it, started when first needed."""
        if self.name not in bench.forkers:
            command = [bench.environment.python, os.path.join(LOADERS, "read.py"), self.name]
            offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": os.path.join(bench.work, "hugging")}
            # The threads of torch would spin for each other where other programs want the cores too.
            calm = {"OMP_WAIT_POLICY": "passive"}
            variables = {**bench.environment.variables(), **offline, **calm}
            bench.forkers[self.name] = process.Forker(command, variables, bench.work)
        return bench.forkers[self.name]

    def result(self, text):
        return json.loads(text)


class Strand:
    """`strand data bench`, which checks and copies every sample into a batch buffer."""

    name, title, folder = "strand", "strand", "strand"
    unit = "MiB ahead"
    settings = (128, 256, 512)
    remote, resumes, rival = True, True, False

    def run(self, bench, task):
        store = bench.stores.get(task.condition)
        place = "s3://bench/strand" if store else f"{bench.data}/strand"
        command = [bench.strand, "data", "bench", place, "--json", "--quiet", "--runs", "1"]
        command += ["--batch", str(bench.batch), "--seed", str(bench.seed)]
        command += ["--prefetch-mib", str(task.setting)]
        command += ["--batches", str(task.batches)] if task.batches else []
        variables = {**os.environ, **(store.variables if store else {})}
        return process.run(command, variables, bench.limits.seconds, task.watch)

    def result(self, text):
        run = json.loads(text)["runs"][0]
        # It ends with an error where a sample is missing or its checksum is wrong.
        return {**run, "unique": run["samples"], "bad": 0}


CONTENDERS = (
    Strand(),
    Peer("mds", "MosaicML Streaming", "mds"),
    Peer("lit", "LitData", "lit"),
    Peer("arrow", "PyArrow", "strand", resumes=False),
    Peer("web", "WebDataset", "web", resumes=False),
    Peer("hugging", "Hugging Face datasets", "strand", remote=False),
    Peer("plain", "plain reads, no format", "plain", remote=False, resumes=False, rival=False),
)
