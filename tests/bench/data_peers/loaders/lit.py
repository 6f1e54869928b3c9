"""LitData: its own chunks, which it downloads to a folder."""

import litdata
from litdata.streaming import downloader


def load(job):
    remote, more = job.remote("lit"), {}
    if remote:
        # Its client refuses plain http, and has no setting for it.
        options = dict(downloader._OBSTORE_CLIENT_OPTIONS)
        downloader._OBSTORE_CLIENT_OPTIONS = {**options, "allow_http": True}
        more = {"cache_dir": job.cache, "storage_options": storage(job)}
    dataset = litdata.StreamingDataset(
        remote or job.local("lit"),
        shuffle=True,
        seed=job.seed,
        max_cache_size="100GB",
        **more,
    )
    return litdata.StreamingDataLoader(dataset, batch_size=job.batch, **job.worker_options())


def storage(job):
    return {
        "endpoint_url": job.endpoint,
        "aws_access_key_id": job.key,
        "aws_secret_access_key": job.secret,
        "region_name": job.region,
    }


def ids(batch):
    return batch["id"].tolist()


def save(loader):
    return loader.state_dict()


def resume(loader, state):
    loader.load_state_dict(state)
