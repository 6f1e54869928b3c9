"""Takes measurements: first each contender's best setting, then rounds in which all take turns."""

import itertools
import os
import shutil
import statistics

import talk
from contenders import Task

LOCAL, LOOPBACK, CLOUD, ERRORS = "local", "loopback", "cloud", "errors"
REMOTE = (LOOPBACK, CLOUD, ERRORS)
SLOW = ["--latency-ms", "25", "--mb-per-s", "90"]
FLAGS = {LOOPBACK: [], CLOUD: SLOW, ERRORS: [*SLOW, "--errors", "0.1", "--seed", "1"]}
# How else a store can fail: what strand alone is measured under, on the same slow store.
FAULTS = {
    "5 % answered with 500 or 503": ["--errors", "0.05"],
    "5 % never answered": ["--stalls", "0.05"],
    "5 % reset": ["--resets", "0.05"],
    "5 % cut short": ["--cuts", "0.05"],
    "5 % with one of these": [
        *("--errors", "0.0125", "--stalls", "0.0125", "--resets", "0.0125", "--cuts", "0.0125")
    ],
}
FLAGS |= {name: [*SLOW, *flags, "--seed", "1"] for name, flags in FAULTS.items()}
# Parts of an epoch that are read to find the best setting.
SEARCH = {LOCAL: 2, LOOPBACK: 2, CLOUD: 4}


class Bench:
    """The folders and programs of all measurements, and their results so far."""

    batch, seed = 8, 1

    def __init__(self, work, environment, strand, samples, limits):
        self.work, self.environment, self.strand = work, environment, strand
        self.samples, self.limits = samples, limits
        self.data = os.path.join(work, "s3", "bench")
        self.stores, self.forkers, self.results, self.best = {}, {}, [], {}
        self.numbers = itertools.count()

    def cache(self):
        """A folder that is not there yet, for loaders that keep what they download."""
        folder = os.path.join(self.work, "cache")
        shutil.rmtree(folder, ignore_errors=True)
        return os.path.join(folder, str(next(self.numbers)))

    def measure(self, contender, task, purpose):
        """Takes one measurement, and keeps and returns its result."""
        store = self.stores.get(task.condition)
        before = store.downloaded() if store else 0
        ended = contender.run(self, task)
        result = {"contender": contender.name, "condition": task.condition, "purpose": purpose}
        result |= {"setting": task.setting, "load": os.getloadavg()[0], **outcome(contender, ended)}
        if store:
            result["sent"] = store.downloaded() - before
            # strand tells it for itself: its one program reads an epoch and then a resumed start.
            result.setdefault("downloaded", result["sent"])
        if task.watch:
            result["peak_bytes"] = ended.peak
        whole = task.mode == "epoch" and not task.batches
        if whole and result["outcome"] == "ok" and not self.is_right(result):
            result["outcome"] = "wrong"
        self.results.append(result)
        talk.say(describe(contender, result))
        return result

    def is_right(self, result):
        """Whether an epoch held each sample once, undamaged."""
        counts = {result["samples"], result["unique"]}
        return counts == {self.samples} and not result["bad"]

    def find_best(self, contender, condition):
        """Reads a part of an epoch with each setting; notes the best, or how all of them failed."""
        batches = max(2, self.samples // self.batch // SEARCH[condition])
        best = None
        for setting in contender.settings[: self.limits.settings]:
            result = self.measure(contender, Task(condition, setting, batches), "search")
            best = max(best or result, result, key=lambda it: it.get("gb_per_s", 0))
        self.best[contender.name, condition] = best["setting"] if best["outcome"] == "ok" else None

    def setting(self, contender, condition):
        """The best setting; faults are met with that of the same store without them."""
        return self.best[contender.name, condition if condition in SEARCH else CLOUD]

    def is_done(self, contender, condition):
        """Whether it is not to be measured again: it failed, or takes too long to repeat."""
        found = self.of(contender.name, condition, "round")
        return any(it["outcome"] != "ok" or it["seconds"] > self.limits.once for it in found)

    def of(self, name, condition, *purposes):
        """The results so far of a contender."""
        rows = (it for it in self.results if it["purpose"] in purposes)
        return [it for it in rows if (it["contender"], it["condition"]) == (name, condition)]

    def round(self, contenders, conditions):
        """One turn of every contender under every condition, and one resumed start."""
        for condition in conditions:
            for contender in contenders:
                if condition in REMOTE and not contender.remote:
                    continue
                setting = self.setting(contender, condition)
                if setting is not None and not self.is_done(contender, condition):
                    watch = condition == CLOUD
                    self.measure(contender, Task(condition, setting, watch=watch), "round")

    def check(self, contender):
        """An epoch with checksums in the consumer's loop, whose memory is watched."""
        setting = self.setting(contender, LOCAL)
        if setting is not None:
            self.measure(contender, Task(LOCAL, setting, check=True, watch=True), "checked")

    def resume(self, contender, runs):
        """Saves the position at half an epoch, then starts there; is the first batch the one that came next?"""
        setting = first_setting(self.of(contender.name, LOCAL, "search"))
        if setting is None:
            return
        half = self.samples // self.batch // 2
        saved = self.measure(contender, Task(LOCAL, setting, half, "save"), "save")
        for _ in range(runs if saved["outcome"] == "ok" else 0):
            resumed = self.measure(contender, Task(LOCAL, setting, 1, "resume"), "resume")
            resumed["is_right"] = resumed.get("last_ids") == saved["last_ids"]


def first_setting(results):
    """The setting whose first batch came earliest."""
    good = [it for it in results if it["outcome"] == "ok"]
    return min(good, key=lambda it: it["first_batch_s"])["setting"] if good else None


def outcome(contender, ended):
    if ended.code is None:
        return {"outcome": "hangs"}
    if ended.code == 0:
        result = contender.result(ended.out)
        return {"outcome": "ok", **result, "gb_per_s": result["bytes"] / result["seconds"] / 1e9}
    lines = [line for line in ended.error.splitlines() if line.strip()]
    return {"outcome": "dies", "code": ended.code, "message": "\n".join(lines[-5:])}


def describe(contender, result):
    where = f"{result['condition']}, {contender.title}, {result['setting']} {contender.unit}"
    if result["outcome"] != "ok":
        return f"{where}: {result['outcome']} {result.get('message', '')}".rstrip()
    rate, first = f"{result['gb_per_s']:.2f} GB/s", f"{result['first_batch_s'] * 1e3:.0f} ms"
    return f"{where}: {rate}, first batch {first} ({result['purpose']})"


def median(values):
    values = list(values)
    return statistics.median(values) if values else None
