"""Writes the same twenty samples as .npy, .safetensors and a WebDataset tar, with questions as a list and as lines."""

import io
import json
import os
import tarfile

import numpy as np
from safetensors.numpy import save_file

FRAMES = (4, 5, 6)


def add(tar, name, body):
    info = tarfile.TarInfo(name)
    info.size = len(body)
    tar.addfile(info, io.BytesIO(body))


def main():
    os.makedirs("features/a", exist_ok=True)
    rng = np.random.default_rng(0)
    tensors, records = {}, []
    with tarfile.open("samples.tar", "w") as tar:
        for index in range(20):
            # Half and single floats, and one name too long for a plain tar header.
            kind = np.float16 if index % 2 else np.float32
            array = rng.standard_normal((FRAMES[index % 3], 32, 64)).astype(kind)
            name = "a/" + "long" * 30 * (index == 3) + str(index)
            video, pair = name + ".mp4", {"question": f"What of {index}?", "answer": "That."}
            np.save(f"features/{name}.npy", array)
            tensors[video] = array
            body = io.BytesIO()
            np.save(body, array)
            add(tar, name + ".npy", body.getvalue())
            line = {"id": f"{index:08}-{video}", "video": video, **pair}
            add(tar, name + ".json", json.dumps(line).encode())
            records.append(line)
    save_file(tensors, "samples.safetensors")
    with open("qa.json", "w") as file:
        pairs = [[{"i": "", "q": record["question"], "a": record["answer"]}] for record in records]
        json.dump([{"video": r["video"], "QA": qa} for r, qa in zip(records, pairs)], file)
    with open("qa.jsonl", "w") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


main()
