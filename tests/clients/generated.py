"""Runs schemathesis until enough requests were made; fails on a 5xx or on an answer that the document does not allow."""

import argparse
import os
import pathlib
import re
import subprocess
import sys

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
# Connections that become something else have tests of their own.
STREAMS = r"/(log|exec|attach|portforward)$"
FAILED = re.compile(r"^Test cases:\n\s+(\d+) generated", re.MULTILINE)


def run(arguments, phase, examples):
    command = [
        arguments.schemathesis, "run", arguments.document, "--url", arguments.url, "--tls-verify", arguments.ca,
        "--header", "Authorization: Bearer " + pathlib.Path(arguments.token_file).read_text().strip(),
        "--checks", CHECKS, "--exclude-path-regex", STREAMS, "--phases", phase, "--max-examples", str(examples),
        "--continue-on-failure", "--workers", "1", "--no-color", "--request-timeout", "60",
        "--suppress-health-check", "all",
    ]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(pathlib.Path(__file__).parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    found = FAILED.search(done.stdout)
    if done.returncode != 0 or not found:
        # Beginning and end: what failed, and the summary. A traceback of its own can quote whole files in one line.
        shown = "\n".join(line[:300] for line in done.stdout.splitlines())
        print(shown[:12000], shown[-3000:], done.stderr[-3000:], sep="\n...\n")
        sys.exit(f"schemathesis, {phase}: exit code {done.returncode}")
    return int(found.group(1))


def main():
    parser = argparse.ArgumentParser()
    for name in ("document", "url", "ca", "token-file", "schemathesis"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--requests", type=int, required=True)
    arguments = parser.parse_args()
    made = 0
    # Generated values are new in each round; the coverage of every parameter's edges is the same each time.
    phases = iter([("fuzzing", 10), ("coverage", 1)] if arguments.requests > 5000 else [])
    while made < arguments.requests:
        phase, examples = next(phases, ("fuzzing", max(10, min(150, (arguments.requests - made) // 40))))
        made += run(arguments, phase, examples)
        print(f"{made} requests: no 5xx, nothing that the document does not allow", flush=True)


if __name__ == "__main__":
    main()
