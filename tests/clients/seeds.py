"""Objects for generated requests to meet; made again whenever they are gone."""

import sys
import time

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

GROUP = ("portreeve.dev", "v1")


def make(core, custom):
    for create in (
        lambda: core.create_namespace({"metadata": {"name": "seed"}}),
        lambda: core.create_namespaced_config_map(
            "seed", {"metadata": {"name": "seed"}, "data": {"key": "value"}}
        ),
        lambda: core.create_namespaced_secret(
            "seed", {"metadata": {"name": "seed"}, "stringData": {"key": "value"}}
        ),
        lambda: core.create_namespaced_event(
            "seed",
            {
                "metadata": {"name": "seed"},
                "involvedObject": {"kind": "Instance", "name": "seed", "namespace": "seed"},
                "reason": "Seeded",
                "message": "for generated requests",
                "type": "Normal",
            },
        ),
        lambda: custom.create_cluster_custom_object(
            *GROUP,
            "dockerhosts",
            {
                "apiVersion": "portreeve.dev/v1",
                "kind": "DockerHost",
                "metadata": {"name": "seed"},
                "spec": {"endpoint": "unix:///nonexistent/docker.sock", "unschedulable": True},
            },
        ),
        lambda: custom.create_namespaced_custom_object(
            *GROUP,
            "seed",
            "instances",
            {
                "apiVersion": "portreeve.dev/v1",
                "kind": "Instance",
                "metadata": {"name": "seed", "labels": {"made": "again"}},
                "spec": {"image": "seed:1", "ports": [{"name": "http", "containerPort": 8080}]},
            },
        ),
    ):
        try:
            create()
        except ApiException as error:
            if error.status not in (403, 404, 409, 422, 429):
                raise


def main():
    config.load_kube_config()
    core, custom = client.CoreV1Api(), client.CustomObjectsApi()
    make(core, custom)
    while "--forever" in sys.argv:
        time.sleep(0.5)
        make(core, custom)


if __name__ == "__main__":
    main()
