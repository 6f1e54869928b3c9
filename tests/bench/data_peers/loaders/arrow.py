"""PyArrow: a reader as people write it, over the very shards that strand reads. It has no position to save.

Files and row groups come in a shuffled order; the rows of WINDOW row groups are read at once and shuffled together.
"""

import glob
import random

import numpy as np
import torch
from pyarrow import fs, parquet
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

import samples

WINDOW = 10


class Rows(IterableDataset):
    def __init__(self, job):
        self.job = job

    def __iter__(self):
        info, system = get_worker_info(), filesystem(self.job)
        rank, size = (info.id, info.num_workers) if info else (0, 1)
        names = sorted(glob.glob(self.job.local("strand") + "/*.parquet"))
        if system:
            folder = f"{self.job.bucket}/strand/"
            names = [folder + name.rsplit("/", 1)[1] for name in names]
        order = random.Random(self.job.seed)
        order.shuffle(names)
        # Of its own: workers draw differently often for their rows, and have to agree on the row groups.
        mixing = random.Random(f"{self.job.seed} {rank}")
        for name in names:
            yield from self.file(name, system, (order, mixing), rank, size)

    def file(self, name, system, orders, rank, size):
        order, mixing = orders
        local = {} if system else {"memory_map": True}
        with parquet.ParquetFile(name, filesystem=system, pre_buffer=True, **local) as file:
            groups = list(range(file.num_row_groups))
            order.shuffle(groups)
            groups = groups[rank::size]
            for start in range(0, len(groups), WINDOW):
                columns = ["id", "features", "qa"]
                table = file.read_row_groups(groups[start : start + WINDOW], columns=columns)
                yield from rows(table, mixing)


def rows(table, order):
    ids = table["id"].to_pylist()
    pairs = table["qa"].to_pylist()
    features = [value.as_buffer() for chunk in table["features"].chunks for value in chunk]
    numbers = list(range(len(ids)))
    order.shuffle(numbers)
    for row in numbers:
        array = np.frombuffer(features[row], np.float16).reshape(samples.SHAPE)
        pair = pairs[row][0]
        yield {
            "id": int(ids[row]),
            "features": torch.from_numpy(array),
            "question": pair["question"],
            "answer": pair["answer"],
        }


def filesystem(job):
    if not job.endpoint:
        return None
    scheme, address = job.endpoint.split("://")
    return fs.S3FileSystem(
        access_key=job.key,
        secret_key=job.secret,
        endpoint_override=address,
        scheme=scheme,
        region=job.region,
    )


def load(job):
    return DataLoader(Rows(job), batch_size=job.batch, **job.worker_options())


def ids(batch):
    return batch["id"].tolist()
