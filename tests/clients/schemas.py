"""The published schemas as editors use them: each example names that of its kind, holds against it and against that of all
kinds, and manifests that are wrong do not."""

import copy
import json
import pathlib
import re

import jsonschema_rs
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
HINT = re.compile(r"^# yaml-language-server: \$schema=(\S+)$", re.MULTILINE)


def problems(schema, manifest):
    """What a schema says against a manifest: the path and the words of each."""
    validator = jsonschema_rs.validator_for(
        json.loads(schema.read_text()), base_uri=schema.as_uri(), validate_formats=True
    )
    return [("/".join(map(str, e.instance_path)), e.message) for e in validator.iter_errors(manifest)]


def documents():
    """The file, the hint and the content of each manifest; a chart's are templates."""
    for file in sorted(ROOT.glob("examples/**/*.yaml")):
        if any((parent / "Chart.yaml").exists() for parent in file.parents):
            continue
        for text in re.split(r"^---$", file.read_text(), flags=re.MULTILINE):
            yield file, HINT.findall(text), yaml.safe_load(text)


def change(manifest, path, value):
    """The manifest with another value at a path, or without one."""
    changed = copy.deepcopy(manifest)
    *parents, last = path
    place = changed
    for name in parents:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return changed


every = ROOT / "specs/schema/all.json"
checked, hello = 0, None
for file, hints, manifest in documents():
    assert len(hints) == 1, f"{file}: {len(hints)} schemas are named for {manifest['kind']} {manifest['metadata']['name']}"
    schema = (file.parent / hints[0]).resolve()
    assert schema == ROOT / f"specs/schema/{manifest['kind'].lower()}.json", f"{file} names {schema}"
    for used in [schema, every]:
        found = problems(used, manifest)
        assert not found, f"{file} does not hold against {used.name}: {found}"
    # A field that does not exist is marked in each kind.
    typo = change(manifest, ["unknown"], 1)
    assert problems(schema, typo) and problems(every, typo), f"{schema.name} takes a field that does not exist"
    checked += 1
    if file == ROOT / "examples/hello.yaml":
        hello = manifest
assert checked > 8, f"only {checked} examples"

schema = ROOT / "specs/schema/instance.json"
for path, value, where, words in [
    (["spec", "ports", 0, "containerPrt"], 80, "spec/ports/0", "containerPrt"),
    (["spec", "ports", 0, "containerPort"], "eighty", "spec/ports/0/containerPort", "eighty"),
    (["spec", "ports", 0, "containerPort"], 99999, "spec/ports/0/containerPort", "99999"),
    (["spec", "power"], "Sometimes", "spec/power", "Sometimes"),
    (["spec", "image"], None, "spec", "image"),
    (["metadata", "labels"], ["tier"], "metadata/labels", "tier"),
    (["kind"], "Pod", "kind", "Pod"),
    (["apiVersion"], "portreeve.dev/v2", "apiVersion", "portreeve.dev/v2"),
]:
    broken = change(hello, path, value)
    found = problems(schema, broken)
    assert any(at == where and words in message for at, message in found), f"{path} = {value!r}: {found}"
    assert problems(every, broken), f"all.json takes {path} = {value!r}"
print(f"{checked} examples hold against the published schemas")
