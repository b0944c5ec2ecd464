"""Runs schemathesis until enough requests were made; fails on a 5xx or on an answer that the document does not allow, and
when too few of the requests came to something: a run in which everything is refused proves nothing."""

import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import sys

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
# Connections that become something else have tests of their own, and so has what asks a host: the seeds' never answers (503).
STREAMS = r"/(log|exec|attach|portforward|containers)$"
# Per group of operations: how many percent of the answers must at least be 2xx, and how many 4xx.
LEAST_2XX, LEAST_4XX = 10, 1
# Fewer answers are no sample of the one or the other: of some deletions, little is generated. Most groups must have the first.
SAMPLE_2XX, SAMPLE_4XX, MOST_UNJUDGED = 20, 100, 0.2
# A run of fewer requests prints the spread and is not judged by it.
JUDGED = 2000
# The seed is bound to a host that is never reached, so that it cannot move: evictions are refused (429).
NO_2XX = {"write pods/eviction"}
COUNTED = "counted"
# As hooks.py counts them.
KINDS = {"aimed": "aimed at what exists", "lost": "at nothing", "strange": "left as they were made"}
FAILED = re.compile(r"^Test cases:\n\s+(\d+) generated", re.MULTILINE)


def run(arguments, phase, examples):
    command = [
        arguments.schemathesis, "run", arguments.document, "--url", arguments.url, "--tls-verify", arguments.ca,
        "--header", "Authorization: Bearer " + pathlib.Path(arguments.token_file).read_text().strip(),
        "--checks", CHECKS, "--exclude-path-regex", STREAMS, "--phases", phase, "--max-examples", str(examples),
        "--continue-on-failure", "--workers", "1", "--no-color", "--request-timeout", "60",
        "--suppress-health-check", "all",
    ]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "hooks",
        "PYTHONPATH": str(pathlib.Path(__file__).parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PORTREEVE_URL": arguments.url,
        "PORTREEVE_CA": str(pathlib.Path(arguments.ca).resolve()),
        "PORTREEVE_TOKEN_FILE": str(pathlib.Path(arguments.token_file).resolve()),
        "PORTREEVE_COUNTED": str(pathlib.Path(COUNTED).resolve()),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    found = FAILED.search(done.stdout)
    if done.returncode != 0 or not found:
        # Beginning and end: what failed, and the summary. A traceback of its own can quote whole files in one line.
        shown = "\n".join(line[:300] for line in done.stdout.splitlines())
        print(shown[:12000], shown[-3000:], done.stderr[-3000:], sep="\n...\n")
        sys.exit(f"schemathesis, {phase}: exit code {done.returncode}")
    return int(found.group(1))


def group_of(method, path):
    """Reads, writes or deletions of one resource: `write pods/eviction`."""
    resource = re.sub(r"^/(api/v1|apis)/|namespaces/\{namespace\}/|/\{name\}", "", path)
    return f"{ {'GET': 'read', 'DELETE': 'delete'}.get(method, 'write') } {resource}"


def expected(document):
    """Every group of operations that is asked for."""
    paths = json.loads(pathlib.Path(document).read_text(encoding="utf-8"))["paths"]
    methods = {"get", "post", "put", "patch", "delete"}
    return {
        group_of(method.upper(), path)
        for path, item in paths.items()
        if not re.search(STREAMS, path)
        for method in methods & set(item)
    }


def spread(document):
    """Prints how the answers of each group are spread, and returns what is wrong with that."""
    asked = expected(document)
    groups = {group: collections.Counter() for group in asked}
    kinds = collections.Counter()
    for line in pathlib.Path(COUNTED).read_text(encoding="ascii").splitlines():
        method, path, kind, status = line.split()
        groups.setdefault(group_of(method, path), collections.Counter())[int(status)] += 1
        kinds[kind] += 1
    told = ", ".join(f"{kinds[kind]} {what}" for kind, what in KINDS.items())
    print(f"\nrequests: {told}", flush=True)
    wrong, unjudged = [], 0
    for group, codes in sorted(groups.items(), key=lambda item: item[0].split()[::-1]):
        total = codes.total()
        share = {
            hundred: 100 * sum(n for code, n in codes.items() if code // 100 == hundred) / max(total, 1)
            for hundred in (2, 4)
        }
        told = "  ".join(f"{code}: {n}" for code, n in sorted(codes.items()))
        print(f"{group:58} {total:6}  2xx {share[2]:3.0f}%  4xx {share[4]:3.0f}%   {told}")
        if group not in asked:
            continue  # Methods that the document does not have: 405.
        unjudged += total < SAMPLE_2XX
        if total >= SAMPLE_4XX and share[4] < LEAST_4XX:
            wrong.append(f"{group}: less than {LEAST_4XX}% of {total} answers are 4xx")
        if total >= SAMPLE_2XX and share[2] < LEAST_2XX and group not in NO_2XX:
            wrong.append(f"{group}: less than {LEAST_2XX}% of {total} answers are 2xx")
    if unjudged > MOST_UNJUDGED * len(asked):
        wrong.append(f"{unjudged} of {len(asked)} groups have less than {SAMPLE_2XX} answers")
    return wrong


def main():
    parser = argparse.ArgumentParser()
    for name in ("document", "url", "ca", "token-file", "schemathesis"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--requests", type=int, required=True)
    arguments = parser.parse_args()
    made = 0
    # Generated values are new in each round; the coverage of every parameter's edges is the same each time.
    phases = iter([("fuzzing", 40), ("coverage", 1)] if arguments.requests > 5000 else [])
    while made < arguments.requests:
        # Each of about a hundred operations comes to nearly as many as it is asked for. Rounded up: a round costs a start.
        phase, examples = next(phases, ("fuzzing", max(5, min(150, -((made - arguments.requests) // 80)))))
        made += run(arguments, phase, examples)
        print(f"{made} requests: no 5xx, nothing that the document does not allow", flush=True)
    wrong = spread(arguments.document)
    if wrong and arguments.requests >= JUDGED:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
