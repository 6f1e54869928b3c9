"""Tests of what measurements are made into; they need neither the peers nor strand."""

import unittest

import process
import report
from bench import FAULTS, Bench
from contenders import CONTENDERS


def measured(rate, first=0.1, setting=0, purpose="round", outcome="ok"):
    result = {"outcome": outcome, "purpose": purpose, "setting": setting}
    return {**result, "gb_per_s": rate, "first_batch_s": first} if outcome == "ok" else result


class Report(unittest.TestCase):
    def test_a_rate_is_the_median_of_the_rounds(self):
        results = [measured(9, purpose="search"), measured(1), measured(3), measured(2)]
        self.assertEqual(report.rate(results), 2)
        self.assertIsNone(report.rate([]))

    def test_what_failed_is_a_word(self):
        self.assertEqual(report.rate([measured(1), measured(0, outcome="hangs")]), "hangs")
        self.assertEqual(report.rate([measured(0, purpose="search", outcome="dies")]), "dies")

    def test_the_first_batch_is_that_of_the_soonest_setting(self):
        results = [measured(1, 0.3, 0), measured(1, 0.1, 0), measured(1, 0.2, 0)]
        self.assertEqual(report.first_batch([*results, measured(5, 0.4, 2)]), 0.2)

    def test_ratios_are_to_the_best_peer(self):
        found = {it.name: dict.fromkeys(report.RATES) for it in CONTENDERS}
        found["strand"]["local"], found["lit"]["local"], found["mds"]["local"] = 3.0, 2.0, 1.0
        found["lit"]["cloud"] = "hangs"
        rows = report.ratios(CONTENDERS, found)
        self.assertEqual([row[1] for row in rows], ["1.50 ×", "1.50 ×"])
        self.assertEqual({len(row) for row in rows}, {len(report.HEAD)})
        self.assertEqual(rows[0][4], "")

    def test_a_rate_under_faults_is_held_against_the_whole_one(self):
        bench = Bench("", None, "", 8, None)
        name = next(iter(FAULTS))
        bench.results = [{**measured(0.5), "contender": "strand", "condition": name}]
        lines = report.fault_table(bench, 1.0).splitlines()
        self.assertEqual(lines[2], f"| {name} | 0.50 | 50% |")
        self.assertEqual(len(lines), 2 + len(FAULTS))


class Process(unittest.TestCase):
    def test_a_program_is_stopped_at_its_limit(self):
        ended = process.run(["sleep", "100"], None, 0.1)
        self.assertIsNone(ended.code)

    def test_what_it_printed_and_held_is_kept(self):
        command = ["sh", "-c", "echo out; echo error >&2; sleep 0.3; exit 3"]
        ended = process.run(command, None, 60, watch=True)
        self.assertEqual((ended.code, ended.out, ended.error), (3, "out\n", "error\n"))
        self.assertGreater(ended.peak, 0)


if __name__ == "__main__":
    unittest.main()
