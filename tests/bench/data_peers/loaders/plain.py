"""Plain reads of one file without format, texts or checks: what this machine can do, and no loader at all."""

import os
import random

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

import samples


class Plain(IterableDataset):
    def __init__(self, job):
        self.path, self.seed, self.batch = job.local("plain/features.bin"), job.seed, job.batch

    def __iter__(self):
        file = os.open(self.path, os.O_RDONLY)
        count = os.fstat(file).st_size // samples.BYTES
        order = random.Random(self.seed).sample(range(count), count)
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        batches = [order[at : at + self.batch] for at in range(0, count, self.batch)]
        for ids in batches[first::step]:
            features = empty(len(ids), worker is not None)
            memory = memoryview(features.numpy()).cast("B")
            for place, id in enumerate(ids):
                start = place * samples.BYTES
                os.preadv(file, [memory[start : start + samples.BYTES]], id * samples.BYTES)
            yield {"id": torch.tensor(ids), "features": features}
        os.close(file)


def empty(count, shared):
    """Memory for a batch, in a worker of the kind that needs no copy on its way out."""
    shape = (count, *samples.SHAPE)
    if not shared:
        return torch.empty(shape, dtype=torch.float16)
    storage = torch.UntypedStorage._new_shared(count * samples.BYTES, device="cpu")
    return torch.empty(0, dtype=torch.float16).set_(storage, 0, shape)


def load(job):
    return DataLoader(Plain(job), batch_size=None, **job.worker_options())


def ids(batch):
    return batch["id"].tolist()
