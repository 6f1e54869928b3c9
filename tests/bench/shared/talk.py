"""What is said to people, on stderr: stdout belongs to the result."""

import sys
import time

STARTED = time.monotonic()


def say(text):
    """Says a line, with the minutes and seconds since the start."""
    minutes, seconds = divmod(int(time.monotonic() - STARTED), 60)
    print(f"{minutes}:{seconds:02} {text}", file=sys.stderr, flush=True)
