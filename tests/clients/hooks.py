"""How schemathesis meets our API: no endless streams; shares of the requests are aimed; all are counted.

What is generated is nearly always about objects that are not there, with metadata that no object may have: the answers
would be 404 and 422 for ever. So AIMED of 100 requests are aimed at what exists: their path leads to an object that is there
(or to a free name), their selectors are left out, and their body has the metadata of an object, or is a patch of it. LOST of 100
lead to nothing. Which ones is decided by the request itself and its number, so that a run with the same seed can be
repeated. The others stay as strange as they were made.
"""

import collections
import os
import re
import zlib

import schemathesis
from schemathesis.core import NOT_SET
from seeds import SEEDS, Seeds

AIMED, LOST = 60, 8
STREAMS = {"watch", "follow"}
# What only fits where a list or an object is known.
NARROWING = {
    "labelSelector", "fieldSelector", "continue", "resourceVersion", "resourceVersionMatch", "sendInitialEvents", "limit",
}
# What makes an object one of another kind, or one that nobody may write again.
NOT_OF_ALL = {"apiVersion", "kind", "immutable", "type"}
# So many names are made in turn: an object that is going may still have the one before.
NAMES = 40

seeds = None
counted = None
made = 0
numbers = collections.Counter()
# Of the request under way; there is one at a time.
kind, mark = "strange", 0


@schemathesis.hook
def before_load_schema(context, raw_schema):
    for item in raw_schema["paths"].values():
        for operation in item.values():
            if isinstance(operation, dict) and "parameters" in operation:
                operation["parameters"] = [p for p in operation["parameters"] if p["name"] not in STREAMS]


def mark_of(case):
    """A number that is the same for the same request at the same place in a run."""
    numbers[case.method, case.path] += 1
    body = None if case.body is NOT_SET else case.body
    text = repr((numbers[case.method, case.path], case.method, case.path, case.path_parameters, case.query, body))
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def kind_of(number):
    # Not by its low bits: further choices are made by those.
    share = number // 1000 % 100
    return "aimed" if share < AIMED else "lost" if share < AIMED + LOST else "strange"


@schemathesis.hook
def before_call(context, case, kwargs):
    global seeds, kind, mark
    mark = mark_of(case)
    kind = kind_of(mark)
    if kind == "lost":
        lose(case)
    elif kind == "aimed":
        seeds = seeds or Seeds()
        seeds.ensure()
        aim(case)


def lose(case):
    if "name" in (case.path_parameters or {}):
        case.path_parameters = {**case.path_parameters, "name": f"nobody-{mark % 9}"}
    elif case.method in ("GET", "DELETE"):
        case.query = {**(case.query or {}), "fieldSelector": "no.such.field=1"}


def aim(case):
    ends = case.path.startswith("/api/v1/namespaces/{name}") or (case.method == "DELETE" and "/dockerhosts/" in case.path)
    name = "seed-ends" if ends else "seed"
    namespace = "kube-node-lease" if "/leases" in case.path else "seed"
    case.path_parameters = {key: name if key == "name" else namespace for key in case.path_parameters or {}}
    case.query = {key: value for key, value in (case.query or {}).items() if key not in NARROWING}
    if case.method == "PATCH":
        aim_patch(case, name)
    elif case.path.endswith("/selfsubjectaccessreviews"):
        case.body = {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "name": str(mark % 9)}}}
    elif isinstance(case.body, dict) and case.method in ("POST", "PUT") and "selfsubject" not in case.path:
        aim_body(case, name)


def aim_patch(case, name):
    scale = case.path.endswith("/scale")
    note = {"example.com/note": str(mark % 9)}
    change = {"spec": {"replicas": 1}} if scale else {"metadata": {"annotations": note}}
    if case.media_type == "application/json-patch+json":
        path, value = ("/spec/replicas", 1) if scale else ("/metadata/annotations", note)
        change = [{"op": "add", "path": path, "value": value}]
    elif case.media_type == "application/apply-patch+yaml":
        marks = case.operation.definition.raw["x-kubernetes-group-version-kind"]
        version = "/".join(part for part in (marks["group"], marks["version"]) if part)
        change = {"apiVersion": version, "kind": marks["kind"], **change}
        change["metadata"] = {**change.get("metadata", {}), "name": name}
        case.query = {**case.query, "fieldManager": "generated", "force": "true"}
    case.body = change


def aim_body(case, name):
    """Metadata that an object may have. Every other body keeps what else was generated; the rest are as a seed is."""
    global made
    metadata = {"name": name}
    path = case.path.replace("{namespace}", "seed")
    collection = path.split("/{name}")[0]
    body = {key: value for key, value in case.body.items() if key not in NOT_OF_ALL}
    if mark % 2 and path.removesuffix("/{name}") in SEEDS:
        body = {key: value for key, value in SEEDS[collection][0].items() if key != "metadata"}
    if path.startswith("/api/v1/namespaces/{name}") and isinstance(body.get("status"), dict):
        # The phase follows from the deletion; another is refused.
        body["status"] = {key: value for key, value in body["status"].items() if key != "phase"}
    if path.endswith("/scale"):
        # What does not say that it is one is refused: it might stop an instance by mistake.
        body |= {"apiVersion": "autoscaling/v1", "kind": "Scale"}
    if case.method == "PUT":
        # Our own kinds need the version that is replaced.
        there = seeds.ask("GET", path.replace("{name}", name)).json()
        metadata["resourceVersion"] = there.get("metadata", {}).get("resourceVersion", "")
    elif "{name}" not in path:
        made += 1
        metadata["name"] = f"made-{made % NAMES}"
        seeds.ask("DELETE", f"{path}/{metadata['name']}")
    case.body = {**body, "metadata": metadata}


@schemathesis.hook
def after_call(context, case, response):
    global counted
    counted = counted or open(os.environ["PORTREEVE_COUNTED"], "a", encoding="ascii", buffering=1)
    counted.write(f"{case.method} {case.path} {kind} {response.status_code}\n")
    if seeds and may_have_ended_a_seed(case, response.status_code):
        seeds.complete = False


def may_have_ended_a_seed(case, status):
    if status == 404:
        return case.path.endswith("/{name}") and not re.search(r"/(services|leases)/|metrics\.k8s\.io", case.path)
    return case.method == "DELETE" or case.path.endswith(("/status", "/finalize", "/eviction"))
