"""Runs a program with a time limit, and watches how much memory it and its children hold."""

import json
import os
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass

PERIOD_S = 0.05


@dataclass
class Ended:
    """How a program ended. `code` is None where it was stopped at its limit."""

    code: int | None
    out: str
    error: str
    peak: int | None


def run(command, variables, limit, watch=False):
    """Runs `command` for at most `limit` seconds; with `watch` its greatest memory is measured."""
    with tempfile.TemporaryFile("w+") as error:
        # In a session of its own, so that its workers end with it.
        process = subprocess.Popen(
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=error,
            text=True,
            start_new_session=True,
        )
        watcher = Watcher(process.pid) if watch else None
        try:
            out, _ = process.communicate(timeout=limit)
            code = process.returncode
        except subprocess.TimeoutExpired as late:
            out, code = (late.stdout or b"").decode(errors="replace"), None
        finally:
            end(process.pid)
            process.wait()
            process.stdout.close()
        error.seek(0)
        return Ended(code, out, error.read(), watcher.stop() if watcher else None)


class Forker:
    """A `loaders/read.py` that has imported its peer, and forks a process for each job."""

    def __init__(self, command, variables, folder):
        self.out, self.error = (os.path.join(folder, name) for name in ("result.json", "error.log"))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=variables, text=True, bufsize=1, **pipes)
        if self.process.stdout.readline() != "ready\n":
            raise OSError(f"{' '.join(command)} did not start: its message is above")

    def run(self, job, variables, limit, watch=False):
        """Does a job in a process of its own."""
        files = {"out": self.out, "error": self.error, "variables": variables, "limit": limit}
        with open(self.out, "w"):
            pass
        self.process.stdin.write(json.dumps({**job, **files}) + "\n")
        session = int(self.process.stdout.readline())
        watcher = Watcher(session) if watch else None
        code = json.loads(self.process.stdout.readline())
        peak = watcher.stop() if watcher else None
        end(session)
        with open(self.out) as out, open(self.error) as error:
            return Ended(code, out.read(), error.read(), peak)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def end(session):
    """Ends what is left of a session, but for the process of python's that then removes its shared memory."""
    for pid in members(session):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                if "resource_tracker" not in file.read():
                    os.kill(pid, signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            pass


def members(session):
    """The processes of a session."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                # After the name in brackets: state, parent, group, session.
                if int(file.read().rsplit(")", 1)[1].split()[3]) == session:
                    found.append(int(name))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def resident(session):
    """Bytes in memory of all processes of a session; pages that several share count once."""
    total = 0
    for pid in members(session):
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                pages = [line.split()[1] for line in file if line.startswith("Pss:")]
                total += 1024 * int(pages[0])
        except (FileNotFoundError, ProcessLookupError, PermissionError, IndexError):
            pass
    return total


class Watcher:
    """Samples the memory of a session in a thread."""

    def __init__(self, session):
        self.peak, self.session, self.done = 0, session, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        while not self.done.wait(PERIOD_S):
            self.peak = max(self.peak, resident(self.session))

    def stop(self):
        self.done.set()
        self.thread.join()
        return self.peak
