"""What the checks found, as tables in markdown."""

import statistics

from checks import FAILED, PYTORCH, STRAND

TARGET_MFU = 0.45
STEP_HEAD = [
    "step",
    "samples/s",
    "step, s",
    "TFLOP/s",
    "MFU",
    "peak MiB",
    "in use on the card, MiB",
]
COUNTED = """\
FLOPs of all rows are counted alike, the teacher's forward pass with them: 2 a weight and token forward, 4 backward, 2 where \
weights are frozen. What is computed again is not counted."""
BESIDE = f"""\
{STRAND} keeps masters and moments in fp32. {PYTORCH} trains as the reference does, in bf16 alone: transformers' LLaMA with \
SDPA and gradient checkpointing, fused AdamW, moments in bf16, no masters; logits everywhere, a teacher that sees the text \
too."""
MEMORY = """\
Peak MiB is what each program says of its own allocations; in use on the card is the most that nvidia-smi said while it \
ran."""


def cells(row):
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |"


def table(head, rows):
    return "\n".join([cells(head), cells(["---"] * len(head)), *map(cells, rows)])


def shortened(text, most=160):
    return text if len(text) <= most else text[: most - 1] + "…"


def overview(results):
    """A row for each check."""
    rows = [[it.name, it.result, shortened(it.figure)] for it in results]
    return table(["check", "result", "figure"], rows)


class Steps:
    """The table of the steps."""

    def __init__(self, results, gpu):
        self.gpu = gpu
        self.found = {
            (it.about["variant"], it.about["who"]): it for it in results if it.report is not None
        }

    def measured(self, result):
        """The figures of a step: None for each that is not known."""
        step_s = result.report["step_s"]
        tflops = result.about["flops"] / step_s / 1e12
        peak = self.gpu.peak_tflops()
        return {
            "samples_per_s": result.about["batch"] / step_s,
            "step_s": step_s,
            "tflops": tflops,
            "mfu": tflops / peak if peak else None,
            "peak_mib": result.report.get("peak_mib"),
            "card_mib": result.report.get("card_mib"),
        }

    def text(self):
        """Empty where no step was measured."""
        variants = dict.fromkeys(variant for variant, _ in self.found)
        rows = [row for variant in variants for row in self.rows(variant)]
        head = [f"{it} (target {TARGET_MFU:.0%})" if it == "MFU" else it for it in STEP_HEAD]
        return table(head, rows) if rows else ""

    def rows(self, variant):
        found = {who: self.found.get((variant, who)) for who in (STRAND, PYTORCH)}
        rows = []
        for who, result in found.items():
            if result:
                where = ", masters and moments on the host" if result.about["offload"] else ""
                rows.append([f"{variant}, {who}{where}", *self.figures(self.measured(result))])
                rows += self.alone(variant, who, result)
        if all(found.values()):
            rows.append([f"{variant}, {STRAND} ÷ {PYTORCH}", *self.ratios(*found.values())])
        return rows

    def figures(self, it):
        shown = [f"{it['samples_per_s']:.2f}", f"{it['step_s']:.3f}", f"{it['tflops']:.0f}"]
        shown.append("not known" if it["mfu"] is None else f"{it['mfu']:.1%}")
        memory = (it[key] for key in ("peak_mib", "card_mib"))
        return shown + ["not known" if mib is None else f"{mib:.0f}" for mib in memory]

    def ratios(self, ours, theirs):
        ours, theirs = self.measured(ours), self.measured(theirs)

        def ratio(key):
            known = ours[key] is not None and theirs[key]
            return f"{ours[key] / theirs[key]:.2f} ×" if known else ""

        keys = ("samples_per_s", "step_s", "tflops")
        return [*map(ratio, keys), "", ratio("peak_mib"), ratio("card_mib")]

    def alone(self, variant, who, result):
        """Forward and backward pass without the update, where the report has them."""
        times = result.report.get("gradients_s")
        if not times:
            return []
        seconds = statistics.median(times)
        return [[f"{variant}, {who}, without the update", "", f"{seconds:.3f}", "", "", "", ""]]

    def notes(self):
        """What a reader of the table has to know."""
        if not self.found:
            return []
        notes = [COUNTED, BESIDE, MEMORY]
        return notes + self.other_counts() + self.versions()

    def other_counts(self):
        """The report of strand counts itself: a step that is not the one counted here shows."""
        notes = []
        for (variant, who), result in self.found.items():
            said = result.report.get("tflops") if who == STRAND else None
            if said and abs(said / self.measured(result)["tflops"] - 1) > 0.02:
                notes.append(f"{STRAND} itself counts {said:.0f} TFLOP/s for {variant}.")
        return notes

    def versions(self):
        for (_, who), result in self.found.items():
            if who == PYTORCH:
                known = result.report.get("versions", {}).items()
                return [
                    f"{PYTORCH}'s side: " + ", ".join(f"{name} {it}" for name, it in known) + "."
                ]
        return []


def listed(lines):
    return "\n".join(f"- {line}" for line in lines)


def failures(results):
    """The last words of each check that failed."""
    parts = []
    for it in results:
        if it.result == FAILED:
            tail = "\n".join(it.tail) or "(it printed nothing)"
            parts.append(f"{it.name}: {it.figure}\n\n```\n{tail}\n```")
    return parts


def whole(head, results, gpu):
    """The report: head, checks, steps, what did not run, what failed."""
    steps = Steps(results, gpu)
    not_run = [note for it in results for note in it.notes]
    parts = [head, overview(results), steps.text(), listed(steps.notes()), listed(not_run)]
    return "\n\n".join(part for part in [*parts, *failures(results)] if part)
