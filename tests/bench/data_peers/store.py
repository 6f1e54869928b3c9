"""The project's stand-in for S3, a process for each way in which a store behaves."""

import json
import subprocess

LIFE_S = 4 * 3600


class Store:
    """An `s3_sim` that serves a folder of buckets until it is closed."""

    def __init__(self, program, folder, flags):
        # It ends by itself where this program is killed.
        command = [program, "--root", folder, "--seconds", str(LIFE_S), *flags]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, bufsize=1, **pipes)
        words = self.process.stdout.readline().split()
        if words[:1] != ["export"]:
            raise OSError(f"{program} did not start")
        self.variables = dict(word.split("=", 1) for word in words[1:])
        self.endpoint = self.variables["AWS_ENDPOINT_URL"]
        # The names that the clients of the peers look for.
        self.variables["S3_ENDPOINT_URL"] = self.endpoint
        self.variables["AWS_DEFAULT_REGION"] = self.variables["AWS_REGION"]
        self.variables["AWS_EC2_METADATA_DISABLED"] = "true"

    def downloaded(self):
        """Bytes of objects sent so far."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())["bytes"]

    def close(self):
        self.process.kill()
        self.process.wait()
