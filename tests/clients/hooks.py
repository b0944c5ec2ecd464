"""How schemathesis meets our API: no endless streams, and names of objects that exist."""

import random

import schemathesis

STREAMS = {"watch", "follow"}


@schemathesis.hook
def before_load_schema(context, raw_schema):
    for item in raw_schema["paths"].values():
        for operation in item.values():
            if isinstance(operation, dict) and "parameters" in operation:
                operation["parameters"] = [p for p in operation["parameters"] if p["name"] not in STREAMS]


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    # Most requests should reach an object; the others stay as strange as they were made.
    for name in ("namespace", "name"):
        if path_parameters and name in path_parameters and random.random() < 0.8:
            path_parameters[name] = "seed"
    return path_parameters
