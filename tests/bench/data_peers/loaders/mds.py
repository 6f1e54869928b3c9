"""MosaicML Streaming: MDS shards, which it downloads to a folder."""

from streaming import StreamingDataLoader, StreamingDataset
from streaming.base.util import clean_stale_shared_memory


def load(job):
    clean_stale_shared_memory()
    remote = job.remote("mds")
    dataset = StreamingDataset(
        local=job.cache if remote else job.local("mds"),
        remote=remote,
        shuffle=True,
        shuffle_seed=job.seed,
        batch_size=job.batch,
        num_canonical_nodes=1,
    )
    # Forked workers would share the sockets of the client that fetched the index, and mix up their answers.
    for stream in dataset.streams:
        stream._downloader.clean_up()
    return StreamingDataLoader(dataset, batch_size=job.batch, **job.worker_options())


def ids(batch):
    return batch["id"].tolist()


def save(loader):
    return loader.state_dict()


def resume(loader, state):
    loader.load_state_dict(state)
