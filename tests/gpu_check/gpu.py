"""The GPU: which there is, how fast it can be, and how much of its memory is used."""

import json
import os
import signal
import subprocess
import threading
from dataclasses import dataclass

from missing import Missing

NO_GPU = "this check needs a machine with an NVIDIA GPU and its driver: there `nvidia-smi` lists the GPU. "
NO_GPU += "docs/gpu-check.md says how to take the programs to one that has no cargo"
CSV = "--format=csv,noheader,nounits"
# Teraflops of dense products in bf16, by NVIDIA's data sheets; the first that the name holds all words of.
PEAKS = {
    "H100 PCIe": 756.5,
    "H100 NVL": 835.5,
    "H200 NVL": 835.5,
    "H100": 989.4,
    "H200": 989.4,
    "A100": 312.0,
    "L40S": 362.0,
    "4090": 165.2,
}
# Prints what nvidia-smi says, where there is none.
ASK_TORCH = """\
import json, torch
of = torch.cuda.get_device_properties(0)
print(json.dumps([of.name, of.total_memory >> 20, "not known", torch.cuda.device_count()]))
"""


@dataclass(frozen=True)
class Gpu:
    """The first GPU that programs see, and how many they see."""

    name: str
    memory_mib: int
    driver: str
    count: int

    def peak_tflops(self):
        """None where it is not known."""
        names = (peak for words, peak in PEAKS.items() if set(words.split()) <= self.words())
        return next(names, None)

    def words(self):
        return set(self.name.replace("-", " ").split())


def find(command, variables):
    """Asks nvidia-smi, then torch: some containers come without the program. `command` is python's."""
    try:
        return by_driver()
    except Missing:
        found = by_torch(command, variables)
        if found is None:
            raise
        return found


def by_driver():
    lines = ask("name,memory.total,driver_version")
    if not lines:
        raise Missing("there is no GPU: nvidia-smi lists none", NO_GPU)
    name, memory, driver = (cell.strip() for cell in lines[0].split(","))
    return Gpu(name, int(memory) if memory.isdigit() else 0, driver, len(lines))


def ask(fields):
    """A line of comma-separated values for each GPU that programs see."""
    query = ["nvidia-smi", f"--query-gpu={fields}", CSV, *chosen()]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        raise Missing("there is no GPU: nvidia-smi is not on PATH", NO_GPU) from None
    except subprocess.TimeoutExpired:
        raise Missing("nvidia-smi does not answer", NO_GPU) from None
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines() or [f"code {done.returncode}"]
        raise Missing(f"there is no GPU: nvidia-smi says: {said[0]}", NO_GPU)
    return done.stdout.strip().splitlines()


def chosen():
    """What CUDA_VISIBLE_DEVICES chooses, for nvidia-smi, which does not read it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [] if visible is None else ["-i", visible or "none"]


def by_torch(command, variables):
    """None where python has no torch, or torch sees no GPU."""
    asked = {"capture_output": True, "text": True, "timeout": 60}
    try:
        done = subprocess.run([*command, "-c", ASK_TORCH], check=False, env=variables, **asked)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Gpu(*json.loads(done.stdout)) if done.returncode == 0 else None


class MemoryWatch:
    """The most memory of a GPU that was in use, whoever used it: the same measure for all programs."""

    def __init__(self):
        query = ["nvidia-smi", "--query-gpu=memory.used", CSV, *chosen(), "-lms", "200"]
        self.peak, self.process = None, None
        try:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.process = subprocess.Popen(query, text=True, start_new_session=True, **pipes)
        except OSError:
            return
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.peak = max(self.peak or 0, int(line))

    def stop(self):
        """MiB, or None where nothing says."""
        if self.process:
            # With what it may have started, which would hold the pipe open.
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.thread.join()
            self.process.stdout.close()
        return self.peak
