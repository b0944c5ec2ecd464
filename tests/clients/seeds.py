"""Objects for generated requests to meet: what they are, and how they are made (again)."""

import os
import time

import requests

# By the path of their collection, in the order in which they need each other. Everything is in and on `seed`; `seed-ends`
# is there for requests that may end a namespace or a host.
SEEDS = {
    "/api/v1/namespaces": [{"metadata": {"name": "seed"}}, {"metadata": {"name": "seed-ends"}}],
    "/api/v1/namespaces/seed/configmaps": [{"metadata": {"name": "seed"}, "data": {"key": "value"}}],
    "/api/v1/namespaces/seed/secrets": [{"metadata": {"name": "seed"}, "stringData": {"key": "value"}}],
    "/api/v1/namespaces/seed/events": [
        {
            "metadata": {"name": "seed"},
            "involvedObject": {"kind": "Instance", "name": "seed", "namespace": "seed"},
            "reason": "Seeded",
            "message": "for generated requests",
            "type": "Normal",
        }
    ],
    "/apis/events.k8s.io/v1/namespaces/seed/events": [
        {
            "metadata": {"name": "seed-new"},
            "eventTime": "2026-01-01T00:00:00.000001Z",
            "regarding": {"kind": "Instance", "name": "seed", "namespace": "seed"},
            "reportingController": "example.com/seeds",
            "reportingInstance": "seeds-0",
            "action": "Seed",
            "reason": "Seeded",
            "note": "for generated requests",
            "type": "Normal",
        }
    ],
    "/apis/portreeve.dev/v1/accesstokens": [{"metadata": {"name": "seed"}, "spec": {"role": "viewer"}}],
    "/apis/portreeve.dev/v1/dockerhosts": [
        {"metadata": {"name": name}, "spec": {"endpoint": "unix:///nonexistent/docker.sock", "unschedulable": True}}
        for name in ("seed", "seed-ends")
    ],
    "/apis/portreeve.dev/v1/namespaces/seed/instances": [
        {
            "metadata": {"name": "seed", "labels": {"made": "again"}},
            "spec": {"image": "seed:1", "ports": [{"name": "http", "containerPort": 8080}]},
        }
    ],
}
# A container on a host that nobody reaches: there is a Pod, as long as nobody writes another status.
BOUND = {"status": {"phase": "Lost", "node": "seed", "containerID": "5eed" * 16}}
INSTANCE = "/apis/portreeve.dev/v1/namespaces/seed/instances/seed"
MERGE = {"Content-Type": "application/merge-patch+json"}
PATIENCE = 20


class Seeds:
    """The API for our own requests, which are counted nowhere."""

    def __init__(self):
        self.url = os.environ["PORTREEVE_URL"]
        self.session = requests.Session()
        # Certificates and proxies of the environment are for the way out.
        self.session.trust_env = False
        self.session.verify = os.environ["PORTREEVE_CA"]
        with open(os.environ["PORTREEVE_TOKEN_FILE"], encoding="ascii") as file:
            self.session.headers["Authorization"] = "Bearer " + file.read().strip()
        self.complete = False

    def ask(self, method, path, **more):
        return self.session.request(method, self.url + path, timeout=30, **more)

    def ensure(self):
        """Makes what is missing, and waits for the end of what has the name and is still going."""
        if self.complete:
            return
        for path, objects in SEEDS.items():
            for seed in objects:
                self.make(path, seed)
        self.ask("PATCH", INSTANCE + "/status", json=BOUND, headers=MERGE)
        self.complete = True

    def make(self, path, seed):
        deadline = time.monotonic() + PATIENCE
        place = f"{path}/{seed['metadata']['name']}"
        while True:
            made = self.ask("POST", path, json=seed)
            if made.status_code == 201:
                return
            there = self.ask("GET", place)
            if there.status_code == 200:
                if "deletionTimestamp" not in there.json()["metadata"]:
                    return
                # Its host is never reached, so nobody else can say that its container is gone.
                self.ask("PATCH", place, json={"metadata": {"finalizers": None}}, headers=MERGE)
            if time.monotonic() > deadline:
                raise RuntimeError(f"{place} is not made: {made.status_code} {made.text}; {there.text}")
            time.sleep(0.02)
