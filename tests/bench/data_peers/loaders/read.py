"""One measurement of one peer in a process of its own: read.py JOB, a JSON object. Prints one JSON object.

The clock starts before the peer opens its data set and stops at its last batch: neither importing nor ending counts.
"""

import importlib
import json
import os
import pickle
import sys
import time
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
        self.peer = fields["peer"]
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


def main():
    job = Job(json.loads(sys.argv[1]))
    reading, seconds = measure(job, importlib.import_module(job.peer))
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
    print(json.dumps(result), flush=True)
    # Some loaders wait for their threads for good.
    os._exit(0)


if __name__ == "__main__":
    main()
