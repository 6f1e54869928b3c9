"""Hugging Face datasets, streaming the very shards that strand reads."""

import glob

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader

import samples

# Samples among which it shuffles.
BUFFER = 80


def load(job):
    files = sorted(glob.glob(job.local("strand") + "/*.parquet"))
    what = {"columns": ["id", "features", "qa"], "split": "train", "streaming": True}
    dataset = datasets.load_dataset("parquet", data_files=files, **what)
    dataset = dataset.shuffle(seed=job.seed, buffer_size=BUFFER).map(sample)
    dataset = dataset.remove_columns(["qa"])
    loader = DataLoader(dataset, batch_size=job.batch, **job.worker_options())
    loader.position = dataset
    return loader


def sample(row):
    array = np.frombuffer(row["features"], np.float16).reshape(samples.SHAPE)
    pair = row["qa"][0]
    return {
        "id": int(row["id"]),
        "features": torch.from_numpy(array),
        "question": pair["question"],
        "answer": pair["answer"],
    }


def ids(batch):
    return batch["id"].tolist()


def save(loader):
    return loader.position.state_dict()


def resume(loader, state):
    loader.position.load_state_dict(state)
