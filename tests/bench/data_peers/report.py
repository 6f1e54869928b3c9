"""What the measurements come to: figures, a Markdown table, ratios."""

import os

from bench import CLOUD, ERRORS, FAULTS, LOCAL, LOOPBACK, median

RATES = ("local", "checked", "loopback", "cloud", "errors")
HEAD = (
    "GB/s",
    "local",
    "with checksum",
    "S3 on loopback",
    "S3, 25 ms and 90 MB/s a request",
    "10 % errors there (lost)",
    "first batch local / that S3",
    "resumed at half an epoch",
    "memory",
    "downloaded ÷ unique",
)


def figures(bench, contender):
    """The figures of one contender; those that it has not are None, those that failed a word."""
    name = contender.name
    rates = {
        "local": rate(bench.of(name, LOCAL, "round", "search")),
        "checked": rate(bench.of(name, LOCAL, "checked")),
        "loopback": rate(bench.of(name, LOOPBACK, "round", "search")),
        "cloud": rate(bench.of(name, CLOUD, "round", "search")),
        "errors": rate(bench.of(name, ERRORS, "round")),
    }
    if name == "strand":
        # It has no other way of reading.
        rates["checked"] = rates["local"]
    return {
        **rates,
        "lost": lost(rates),
        "first_local_s": first_batch(bench.of(name, LOCAL, "round", "search")),
        "first_cloud_s": first_batch(bench.of(name, CLOUD, "round", "search")),
        **resumed(bench, name),
        "peak_bytes": peak(bench.of(name, LOCAL, "checked")),
        "peak_cloud_bytes": peak(bench.of(name, CLOUD, "round")),
        "downloaded_per_unique": downloaded(bench, contender),
        "settings": {
            condition: bench.best.get((name, condition)) for condition in (LOCAL, LOOPBACK, CLOUD)
        },
    }


def rate(results):
    """The median rate of the rounds; a word where they failed, or where every setting did."""
    rounds = [it for it in results if it["purpose"] != "search"]
    bad = [it["outcome"] for it in rounds or results if it["outcome"] != "ok"]
    if not rounds:
        return bad[0] if bad else None
    return bad[0] if bad else median(it["gb_per_s"] for it in rounds)


def lost(rates):
    """The share of the rate that errors cost."""
    whole, left = rates["cloud"], rates["errors"]
    return 1 - left / whole if is_number(whole) and is_number(left) else None


def first_batch(results):
    """The median of the setting that is soonest, which need not be the fastest one."""
    times = {}
    for result in results:
        if result["outcome"] == "ok":
            times.setdefault(result["setting"], []).append(result["first_batch_s"])
    return min((median(values) for values in times.values()), default=None)


def resumed(bench, name):
    """Seconds from opening to the first batch after half an epoch, and whether it was the right one."""
    if name == "strand":
        rounds = [it for it in bench.of(name, LOCAL, "round") if it["outcome"] == "ok"]
        return {"resume_s": median(it["resume_s"] for it in rounds), "resume_is_right": True}
    found = [it for it in bench.of(name, LOCAL, "resume") if it["outcome"] == "ok"]
    right = all(it["is_right"] for it in found) if found else None
    return {"resume_s": median(it["first_batch_s"] for it in found), "resume_is_right": right}


def peak(results):
    return median(it["peak_bytes"] for it in results if it.get("peak_bytes"))


def downloaded(bench, contender):
    """Bytes that the store sent ÷ bytes of the files, over whole epochs."""
    rounds = [it for it in bench.of(contender.name, LOOPBACK, "round") if it["outcome"] == "ok"]
    sent = median(it["downloaded"] for it in rounds)
    return sent / size(os.path.join(bench.data, contender.folder)) if sent else None


def size(folder):
    """Bytes of all files of a folder."""
    names = (os.path.join(parent, name) for parent, _, files in os.walk(folder) for name in files)
    return sum(map(os.path.getsize, names))


def is_number(value):
    return isinstance(value, (int, float))


def table(contenders, found):
    """The figures as a Markdown table, with a line for each contender and the ratios."""
    rows = [[it.title, *cells(found[it.name])] for it in contenders]
    rows += ratios(contenders, found)
    return markdown(HEAD, rows)


def fault_table(bench, whole):
    """strand's rates from a store that fails, and the share of its rate without failures that is left."""
    rows = []
    for name in FAULTS:
        left = rate(bench.of("strand", name, "round"))
        share = f"{left / whole:.0%}" if is_number(left) and is_number(whole) else ""
        rows.append([name, number(left, 2), share])
    return markdown(("strand, requests to the slow S3", "GB/s", "of the rate without"), rows)


def markdown(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cells(it):
    errors = number(it["errors"], 2)
    if it["lost"] is not None:
        errors += f" ({it['lost']:.0%})"
    first = f"{milliseconds(it['first_local_s'])} / {milliseconds(it['first_cloud_s'])}"
    resume = milliseconds(it["resume_s"])
    if it["resume_is_right"] is False:
        resume += ", a wrong batch"
    memory = it["peak_bytes"]
    return [
        *(number(it[name], 2) for name in RATES[:-1]),
        errors,
        first,
        resume,
        "" if memory is None else f"{memory / 2**20:.0f} MiB",
        number(it["downloaded_per_unique"], 2),
    ]


def number(value, digits):
    return f"{value:.{digits}f}" if is_number(value) else value or ""


def milliseconds(seconds):
    return f"{seconds * 1e3:.0f} ms" if is_number(seconds) else "–"


def ratios(contenders, found):
    """strand ÷ the best peer, ÷ LitData, ÷ plain reads. What strand checks is held against what they do not."""
    if "strand" not in found:
        return []
    peers = [found[it.name] for it in contenders if it.rival]
    rows = []
    one = {"LitData": "lit", "plain reads": "plain"}
    against = {title: [found.get(name, {})] for title, name in one.items()}
    for title, others in {"best peer": peers, **against}.items():
        cells = [ratio(found["strand"], others, name) for name in RATES]
        if any(cells):
            rows.append([f"strand ÷ {title}", *cells, "", "", "", ""])
    return rows


def ratio(ours, others, name):
    values = [it.get(name) for it in others if is_number(it.get(name))]
    if not values or not is_number(ours[name]):
        return ""
    return f"{ours[name] / max(values):.2f} ×"
