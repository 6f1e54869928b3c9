"""Writes the samples in the format of every peer: write.py FOLDER COUNT SHARD_MB. Prints nothing.

strand's own format is made by `strand data pack` from the WebDataset tars.
"""

import json
import os
import sys

import numpy as np
import torch
import webdataset
from litdata.streaming import Cache
from streaming import MDSWriter

import samples

COLUMNS = {
    "id": "int",
    "features": "ndarray:float16:" + ",".join(map(str, samples.SHAPE)),
    "question": "str",
    "answer": "str",
}


def texts(index):
    return {"question": samples.question(index), "answer": samples.answer(index)}


def main():
    folder, count, shard = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) * 1_000_000
    sums = np.empty(count, np.uint64)
    lit_folder, tar_folder = f"{folder}/lit", f"{folder}/web"
    for name in (lit_folder, tar_folder, f"{folder}/plain"):
        os.makedirs(name)
    lit = Cache(input_dir=lit_folder, chunk_bytes=shard)
    tars = webdataset.ShardWriter(
        f"{tar_folder}/%05d.tar", maxcount=shard // samples.BYTES, maxsize=2 * shard, verbose=0
    )
    mds = MDSWriter(out=f"{folder}/mds", columns=COLUMNS, size_limit=shard)
    with mds, tars, open(f"{folder}/plain/features.bin", "wb") as plain:
        for index in range(count):
            array = samples.features(index)
            sums[index] = samples.checksum(array)
            plain.write(array)
            rest = {"id": index, **texts(index)}
            mds.write({"features": array, **rest})
            lit[index] = {"features": torch.from_numpy(array), **rest}
            record = {"id": str(index), "video": f"{index:07}.mp4", **texts(index)}
            tars.write({"__key__": f"{index:07}", "npy": array, "json": json.dumps(record)})
    lit.done()
    lit.merge()
    np.save(f"{folder}/sums.npy", sums)


if __name__ == "__main__":
    main()
