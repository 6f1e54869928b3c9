"""WebDataset: tar files, over the network by curl. It has no position to save."""

import glob

import torch
import webdataset
from torch.utils.data import DataLoader

# Samples among which it shuffles.
BUFFER = 80


def load(job):
    files = sorted(glob.glob(job.local("web") + "/*.tar"))
    if job.endpoint:
        files = [f"{job.endpoint}/{job.bucket}/web/{file.rsplit('/', 1)[1]}" for file in files]
    dataset = webdataset.WebDataset(
        files, shardshuffle=len(files), seed=job.seed, empty_check=False
    )
    dataset = dataset.shuffle(BUFFER, initial=BUFFER).decode().map(sample)
    return DataLoader(dataset, batch_size=job.batch, **job.worker_options())


def sample(parts):
    text = parts["json"]
    return {
        "id": int(text["id"]),
        "features": torch.from_numpy(parts["npy"]),
        "question": text["question"],
        "answer": text["answer"],
    }


def ids(batch):
    return batch["id"].tolist()
