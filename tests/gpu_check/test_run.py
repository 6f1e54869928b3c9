"""Tests of whole runs, on a machine and with programs that are made up: scripts that print what is recorded."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

import test_report as recorded

HERE = os.path.dirname(os.path.realpath(__file__))
GPU = """\
case "$*" in
    *memory.used*) echo 70123; sleep 60 ;;
    *) echo "NVIDIA H100 80GB HBM3, 81559, 570.124.06" ;;
esac"""
LIST = "devices::gpu_losses_and_gradients_in_fp32: test\ndevices::gpu_trajectories_in_bf16: test\n\n2 tests, 0 benchmarks"
GOLDEN_SCRIPT = f"""\
case "$*" in
    *--list*) cat <<'X'\n{LIST}\nX\n;;
    *losses*) cat <<'X'\n{recorded.GOLDEN}\nX\n;;
    *) echo "thread panicked at tests/tests/golden/checks.rs:7:1" >&2; exit 101 ;;
esac"""
STRAND_SCRIPT = f"""\
case "$*" in
    --version) echo strand 0.1.0 ;;
    *lora*) sleep 60 ;;
    *num_hidden_layers=16*device=cuda*|*device=cuda*num_hidden_layers=16*) cat <<'X'\n{recorded.OURS}\nX\n;;
    *offload_optimizer=true*device=cuda*|*device=cuda*offload_optimizer=true*) cat <<'X'\n{recorded.OURS}\nX\n;;
    *) echo "error: 7B weights, masters and moments do not fit" >&2; exit 3 ;;
esac"""


class Machine:
    """A folder with programs and a libtorch that are made up."""

    def __init__(self, folder):
        self.folder = folder
        self.script("bin/nvidia-smi", GPU)
        self.script("programs/conformance", f"cat <<'X'\n{recorded.NCCL}\nX")
        self.script("programs/golden", GOLDEN_SCRIPT)
        self.script("programs/strand", STRAND_SCRIPT)
        self.script("programs/strand-worker", "exit 1")
        # The peer is asked with python's flags, which a made-up python need not know.
        self.script("bin/made-up-python", f"cat <<'X'\n{recorded.THEIRS}\nX")
        self.file("torch/lib/libtorch_cuda.so", "")
        self.file("torch/version.py", "__version__ = '2.11.0+cu130'\n")

    def file(self, name, text):
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        return path

    def script(self, name, text):
        os.chmod(self.file(name, f"#!/bin/sh\n{text}\n"), 0o755)

    def run(self, *flags):
        """The script's end: code, stdout, stderr."""
        at = {name: os.path.join(self.folder, name) for name in ("programs", "torch")}
        command = [os.path.join(HERE, "run"), "--python", "made-up-python"]
        command += [word for name, path in at.items() for word in ("--" + name, path)]
        path = os.path.join(self.folder, "bin") + ":" + os.environ["PATH"]
        variables = {**os.environ, "PATH": path}
        variables.pop("CUDA_VISIBLE_DEVICES", None)
        return subprocess.run(
            [*command, *flags], env=variables, capture_output=True, text=True, check=False
        )


class Runs(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.machine = Machine(folder.name)

    def test_what_fails_is_a_row_and_the_rest_goes_on(self):
        kept = os.path.join(self.machine.folder, "kept.json")
        done = self.machine.run(
            "--json",
            kept,
            "--limit-s",
            "200",
            "--only",
            "nccl",
            "--only",
            "golden",
            "--only",
            "step",
        )
        self.assertEqual(done.returncode, 1, done.stderr)
        for row in [
            "NVIDIA H100 80GB HBM3, 81559 MiB, driver 570.124.06",
            "strand 0.1.0",
            "| libtorch | ok | 2.11.0+cu130 |",
            "| NCCL | ok | 1 of 3 checks, 2 need more GPUs |",
            "| golden, losses and gradients in fp32 | ok | 2 comparisons,",
            "| golden, trajectories in bf16 | FAILED | code 101: thread panicked",
            "| step, all weights, strand | ok | 0.800 s a step |",
            "| all weights, strand, masters and moments on the host | 20.00 |",
            "| 118000 | 70123 |",
            "| all weights, strand ÷ PyTorch | 1.25 × |",
        ]:
            self.assertIn(row, done.stdout)
        with open(kept) as file:
            checks = json.load(file)["checks"]
        self.assertEqual([it["result"] for it in checks].count("FAILED"), 1)
        self.assertEqual(checks[-1]["report"]["peak_mib"], 70000)

    def test_a_hang_costs_its_own_time_alone(self):
        done = self.machine.run("--only", "lora", "--limit-s", "50")
        self.assertIn("| step, LoRA, strand | FAILED | stopped after 5 s |", done.stdout)
        self.assertIn("| LoRA, PyTorch | 16.00 |", done.stdout)

    def test_programs_of_another_machine_are_rows(self):
        for name in ("strand", "conformance", "golden"):
            self.machine.file(f"programs/{name}", "\x7fELF")
        done = self.machine.run()
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(done.stdout.count("code 127: error: [Errno 8] Exec format error"), 10)

    def test_another_libtorch_is_said(self):
        self.machine.file("torch/version.py", "__version__ = '2.9.1'\n")
        done = self.machine.run("--only", "nccl")
        self.assertEqual(done.returncode, 1)
        self.assertIn(
            "| libtorch | FAILED | 2.9.1, but the programs are built for 2.11.0 |", done.stdout
        )

    def test_programs_that_are_missing_are_named(self):
        os.remove(os.path.join(self.machine.folder, "programs", "golden"))
        done = self.machine.run()
        self.assertEqual((done.returncode, done.stdout), (3, ""))
        self.assertIn("has no program golden\nhint: `cargo xtask gpu-check`", done.stderr)

    def test_without_a_gpu_nothing_begins(self):
        self.machine.script("bin/nvidia-smi", "echo no driver is loaded; exit 9")
        self.machine.script("bin/made-up-python", "exit 1")
        for flags in [[], ["--look"]]:
            done = self.machine.run(*flags)
            self.assertEqual((done.returncode, done.stdout), (3, ""), done.stderr)
            self.assertIn(
                "there is no GPU: nvidia-smi says: no driver is loaded\nhint: ", done.stderr
            )

    def test_a_libtorch_without_cuda_is_refused(self):
        os.remove(os.path.join(self.machine.folder, "torch", "lib", "libtorch_cuda.so"))
        done = self.machine.run("--look")
        self.assertEqual(done.returncode, 3)
        self.assertIn("no libtorch_cuda.so", done.stderr)

    def test_a_machine_that_will_do_is_described(self):
        done = self.machine.run("--look")
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        self.assertIn("libtorch 2.11.0+cu130", done.stderr)


if __name__ == "__main__":
    sys.exit(unittest.main())
