"""Tests of what outputs of programs are made into; they need no GPU, no torch and no strand."""

import os
import unittest

import checks
import gpu
import report
import sizes
from process import Ended

HERE = os.path.dirname(os.path.realpath(__file__))
SIZES = sizes.read(os.path.join(HERE, "recipe.yaml"))
H200 = gpu.Gpu("NVIDIA H200", 143771, "570.124.06", 1)
H100 = gpu.Gpu("NVIDIA H100 80GB HBM3", 81559, "570.124.06", 1)
NCCL = """
running 1 test
test nccl_conforms ... nccl: the_mesh_puts_tp_ranks_side_by_side: NOT RUN: it needs 4 GPUs, there are 1
nccl: all_reduce_knows_its_operations_and_types: NOT RUN: it needs 3 GPUs, there are 1
nccl: a_group_of_one_does_nothing: ok
ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 2.10s
"""
GOLDEN = """
running 1 test
test devices::gpu_losses_and_gradients_in_fp32 ... instruct_all                       Float: greatest deviation 1.2e-6
instruct_mean                      Float: greatest deviation 3.5e-6
ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 9.00s
"""
NOT_RUN = """
running 1 test
test devices::gpu_trajectories_in_bf16 ... NOT RUN: STRAND_TEST_DEVICE is not `cuda` (Err(NotPresent))
ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s
"""
# As `strand bench step --json` and peer.py print them.
OURS = """{
  "stage": "step", "samples_per_s": 20.0, "step_s": 0.8, "steps_s": [0.9, 0.7, 0.8],
  "tokens": {"visual_kept": 4096, "visual_all": 8192, "text": 1024}, "tflops": 388.0, "mfu": 0.392,
  "peak_mib": 118000, "parameters": 6750000000, "loss": 14.2, "dp": 1, "tp": 1, "device": "NVIDIA H200"
}"""
THEIRS = """{"steps_s": [1.0, 1.1, 1.0], "gradients_s": [0.9, 1.0, 0.9], "peak_mib": 70000, "reserved_mib": 74000,
"parameters": 6750000000, "versions": {"torch": "2.11.0+cu130", "transformers": "4.57.3"}}"""


def judged(judge, out="", code=0, error="", about=None):
    check = checks.Check("it", [], {}, judge, 10, 5, about or {})
    return checks.judged(check, Ended(code, out, error, None), 1.0, 10)


def step(out, group, who, card=H200):
    (variant,) = checks.variants([group], SIZES, card)
    return judged(checks.judge_step, out, about=variant.about(who))


class Judges(unittest.TestCase):
    def test_nccl_says_what_needs_more_gpus(self):
        result = judged(checks.judge_nccl, NCCL)
        self.assertEqual((result.result, result.figure), ("ok", "1 of 3 checks, 2 need more GPUs"))
        self.assertEqual(len(result.notes), 2)
        self.assertTrue(result.notes[0].endswith("it needs 4 GPUs, there are 1"), result.notes)

    def test_nccl_that_did_not_run_at_all_has_failed(self):
        result = judged(checks.judge_nccl, "nccl: NOT RUN: libtorch_cuda.so cannot be loaded\n")
        self.assertEqual(result.result, "FAILED")
        self.assertIn("libtorch_cuda.so", result.figure)

    def test_golden_cases_have_a_greatest_deviation(self):
        result = judged(checks.judge_golden, GOLDEN)
        expected = "2 comparisons, greatest deviation 3.5e-06 (instruct_mean Float)"
        self.assertEqual((result.result, result.figure), ("ok", expected))

    def test_golden_cases_that_did_not_run_have_failed(self):
        result = judged(checks.judge_golden, NOT_RUN)
        self.assertEqual(result.result, "FAILED")
        self.assertIn("STRAND_TEST_DEVICE is not `cuda`", result.figure)
        none = GOLDEN.replace("1 passed", "0 passed")
        self.assertIn("no test ran", judged(checks.judge_golden, none).figure)

    def test_a_failure_has_its_cause_and_its_last_lines(self):
        error = "error: rank 0 failed\n" + "\n".join(f"line {it}" for it in range(40))
        result = judged(checks.judge_step, code=1, error=error)
        self.assertEqual(result.figure, "code 1: error: rank 0 failed")
        self.assertEqual((len(result.tail), result.tail[-1]), (checks.TAIL, "line 39"))
        missing = (
            "Traceback (most recent call last):\nModuleNotFoundError: No module named 'torch'\n"
        )
        self.assertIn("--site", judged(checks.judge_step, code=1, error=missing).figure)

    def test_what_takes_too_long_and_what_is_no_report_has_failed(self):
        self.assertEqual(judged(checks.judge_step, code=None).figure, "stopped after 10 s")
        self.assertIn("not understood", judged(checks.judge_step, "{}").figure)
        self.assertIn("not understood", judged(checks.judge_step, "none").figure)
        self.assertEqual(judged(checks.judge_step, "talk\n" + THEIRS).figure, "1.000 s a step")


class Tables(unittest.TestCase):
    def text(self, *results, card=H200):
        return report.whole("head", list(results), card)

    def test_a_step_stands_beside_its_peer(self):
        ours = step(OURS, "step", checks.STRAND)
        theirs = step(THEIRS, "step", checks.PYTORCH)
        theirs.report["card_mib"] = 75000
        text = self.text(ours, theirs)
        for row in [
            "| step | samples/s | step, s | TFLOP/s | MFU (target 45%) | peak MiB | in use on the card, MiB |",
            "| all weights, strand | 20.00 | 0.800 | 388 | 39.2% | 118000 | not known |",
            "| all weights, PyTorch | 16.00 | 1.000 | 311 | 31.4% | 70000 | 75000 |",
            "| all weights, PyTorch, without the update |  | 0.900 |  |  |  |  |",
            "| all weights, strand ÷ PyTorch | 1.25 × | 0.80 × | 1.25 × |  | 1.69 × |  |",
            "- PyTorch's side: torch 2.11.0+cu130, transformers 4.57.3.",
        ]:
            self.assertIn(row, text)
        self.assertNotIn("itself counts", text)

    def test_masters_on_the_host_are_said(self):
        text = self.text(step(OURS, "step", checks.STRAND, H100), card=H100)
        self.assertIn("| all weights, strand, masters and moments on the host | 20.00 |", text)

    def test_another_count_of_flops_is_said(self):
        text = self.text(step(OURS.replace("388.0", "450.0"), "step", checks.STRAND))
        self.assertIn("strand itself counts 450 TFLOP/s for all weights.", text)

    def test_an_unknown_card_has_no_share_of_its_peak(self):
        card = gpu.Gpu("NVIDIA Z1", 200000, "1", 1)
        text = self.text(step(THEIRS, "lora", checks.PYTORCH), card=card)
        self.assertIn(
            "| LoRA, PyTorch | 16.00 | 1.000 | 244 | not known | 70000 | not known |", text
        )

    def test_failures_come_last_with_their_words(self):
        failed = judged(checks.judge_step, code=1, error="error: no | memory\n")
        text = self.text(judged(checks.judge_nccl, NCCL), failed)
        self.assertIn("| it | FAILED | code 1: error: no \\| memory |", text)
        self.assertIn("- nccl: the_mesh_puts_tp_ranks_side_by_side: NOT RUN", text)
        self.assertTrue(text.endswith("```\nerror: no | memory\n```"), text)
        self.assertNotIn("samples/s", text)


class Cards(unittest.TestCase):
    def test_the_peak_is_that_of_the_card(self):
        for name, peak in [
            ("NVIDIA H100 80GB HBM3", 989.4),
            ("NVIDIA H100 PCIe", 756.5),
            ("NVIDIA H100 NVL", 835.5),
            ("NVIDIA H200", 989.4),
            ("NVIDIA A100-SXM4-80GB", 312.0),
            ("NVIDIA T4", None),
        ]:
            self.assertEqual(gpu.Gpu(name, 1, "1", 1).peak_tflops(), peak, name)


class Variants(unittest.TestCase):
    def names(self, card, *only):
        return [it.name for it in checks.variants(only or checks.GROUPS, SIZES, card)]

    def test_what_a_card_cannot_hold_is_measured_in_part_too(self):
        self.assertEqual(self.names(H200), ["all weights", "LoRA"])
        half = "all weights, 16 of 32 layers"
        self.assertEqual(self.names(H100), ["all weights", half, "LoRA"])
        self.assertEqual(self.names(H200, "half"), [half])

    def test_the_part_has_its_own_flops(self):
        whole, half, _ = checks.variants(checks.GROUPS, SIZES, H100)
        self.assertEqual((whole.offload, half.offload), (True, False))
        ratio = half.about(checks.STRAND)["flops"] / whole.about(checks.STRAND)["flops"]
        self.assertAlmostEqual(ratio, 0.5, delta=0.01)


class Counts(unittest.TestCase):
    def test_the_recipes_sizes_are_read(self):
        self.assertEqual(SIZES, sizes.Sizes(32001, 4096, 11008, 32, 32, 768, 16, 16, 0.5))

    def test_flops_are_those_of_the_formula(self):
        # One layer of width 2, by hand: 4 weights in each of four products, 6 in each of three.
        small = sizes.Sizes(5, 2, 3, 1, 1, 7, 1, 1, 0.5, tokens=4, prompt=2, answer=1)
        # 2 kept and 3 of text; the teacher sees 1 before 4. Behind attention 3 of the student's and 2 of the teacher's are read.
        attention, behind = 2 * 12 * 5 + 2 * 2 * 25, 2 * 22
        student, teacher = attention + behind * 3, attention + behind * 2
        head = 2 * 2 * 5
        self.assertEqual(small.flops(), 3 * (student + head) + teacher)
        self.assertEqual(small.flops(frozen=True), 2 * (student + head) + teacher)


if __name__ == "__main__":
    unittest.main()
