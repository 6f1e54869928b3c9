"""Measures one peer: read.py PEER imports it, then forks a process for each job, a line of JSON on stdin.

It prints "ready", and for each job the number of the process and then its exit status, null where it reached its
limit. The process writes one JSON object to the job's file. So a hundred measurements cost one import. The clock starts before the peer opens its data set and stops at its last batch: neither importing nor ending counts.
"""

import importlib
import json
import os
import pickle
import signal
import sys
import time
import traceback
import warnings

# Before torch: the empty libraries in place of CUDA's have no symbols to bind.
sys.setdlopenflags(os.RTLD_LAZY)
warnings.filterwarnings("ignore")

import numpy as np
import torch

import samples


class Job:
    """What to read, and how."""

    bucket, key, secret, region = "bench", "strand", "strand-local", "us-east-1"

    def __init__(self, fields):
        self.mode = fields["mode"]  # epoch, save or resume
        self.folder = fields["folder"]  # of all formats
        self.endpoint = fields["endpoint"]  # of S3, or null
        self.cache = fields["cache"]  # a folder that is not there yet
        self.workers = fields["workers"]
        self.batch = fields["batch"]
        self.batches = fields["batches"]  # null: all
        self.seed = fields["seed"]
        self.check = fields["check"]
        self.state = fields["state"]  # file of a saved position

    def local(self, name):
        return f"{self.folder}/{name}"

    def remote(self, name):
        return f"s3://{self.bucket}/{name}" if self.endpoint else None

    def worker_options(self):
        more = {"prefetch_factor": 4} if self.workers else {}
        return {"num_workers": self.workers, **more}


class Reading:
    """What came."""

    def __init__(self, job, peer):
        self.ids, self.bytes, self.first, self.bad = [], 0, None, 0
        self.peer = peer
        self.sums = np.load(f"{job.folder}/sums.npy") if job.check else None

    def take(self, batch, started):
        if self.first is None:
            self.first = time.perf_counter() - started
        features, ids = batch["features"], self.peer.ids(batch)
        if features.dtype != torch.float16 or tuple(features.shape[1:]) != samples.SHAPE:
            raise ValueError(f"not the features: {features.dtype} {tuple(features.shape)}")
        self.ids.append(ids)
        self.bytes += features.numel() * features.element_size()
        if self.sums is not None:
            pairs = zip(features.numpy(), ids)
            self.bad += sum(samples.checksum(array) != self.sums[id] for array, id in pairs)


def measure(job, peer):
    reading = Reading(job, peer)
    started = time.perf_counter()
    loader = peer.load(job)
    if job.mode == "resume":
        with open(job.state, "rb") as file:
            peer.resume(loader, pickle.load(file))
    batches = iter(loader)
    for batch in batches:
        reading.take(batch, started)
        if job.batches and len(reading.ids) == job.batches:
            break
    seconds = time.perf_counter() - started
    if job.mode == "save":
        with open(job.state, "wb") as file:
            pickle.dump(peer.save(loader), file)
        reading.take(next(batches), started)
    return reading, seconds


def work(fields, peer):
    """The forked process: a session of its own, so that its workers can be found and ended."""
    os.setsid()
    for number, name in ((0, os.devnull), (1, os.devnull), (2, fields["error"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(fields["variables"])
    reading, seconds = measure(Job(fields), peer)
    flat = [id for batch in reading.ids for id in batch]
    result = {
        "seconds": seconds,
        "first_batch_s": reading.first,
        "samples": len(flat),
        "unique": len(set(flat)),
        "bytes": reading.bytes,
        "bad": int(reading.bad),
        "last_ids": reading.ids[-1] if reading.ids else [],
    }
    with open(fields["out"], "w") as file:
        json.dump(result, file)


def fork(fields, peer):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work(fields, peer)
        code = 0
    except Exception:  # noqa: BLE001
        traceback.print_exc()
    finally:
        # Some loaders would wait for their threads for good, and no error may reach the loop over jobs.
        os._exit(code)


def wait(pid, limit):
    """The exit status of a process, or None where it had to be killed."""
    end = time.monotonic() + limit
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.01)


def main():
    peer = importlib.import_module(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        fields = json.loads(line)
        pid = fork(fields, peer)
        print(pid, flush=True)
        print(json.dumps(wait(pid, fields["limit"])), flush=True)


if __name__ == "__main__":
    main()
