"""The official Python client, as its users write it: typed core kinds, custom objects, watches, errors, dynamic client."""

import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from prometheus_client.openmetrics.parser import text_string_to_metric_families

OURS = ("portreeve.dev", "v1")
NAMESPACE = "python"


def instance(name, **spec):
    return {
        "apiVersion": "portreeve.dev/v1",
        "kind": "Instance",
        "metadata": {"name": name, "labels": {"by": "python"}},
        # Stopped: there is no host to run on.
        "spec": {"image": "app:1", "power": "Stopped", "ports": [{"name": "http", "containerPort": 80}], **spec},
    }


def refused(status, reason, call):
    try:
        call()
    except ApiException as error:
        assert error.status == status and f'"reason":"{reason}"' in error.body.replace(" ", ""), error
        return
    raise AssertionError(f"not refused with {status} {reason}")


def core_kinds(core):
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    names = [n.metadata.name for n in core.list_namespace().items]
    assert NAMESPACE in names and "default" in names, names
    made = core.create_namespaced_config_map(
        NAMESPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="settings"), data={"a": "1"})
    )
    assert made.metadata.uid and made.metadata.resource_version
    patched = core.patch_namespaced_config_map("settings", NAMESPACE, {"data": {"b": "2"}})
    assert patched.data == {"a": "1", "b": "2"}
    core.create_namespaced_secret(
        NAMESPACE, client.V1Secret(metadata=client.V1ObjectMeta(name="login"), string_data={"word": "open"})
    )
    assert core.read_namespaced_secret("login", NAMESPACE).data == {"word": "b3Blbg=="}
    refused(404, "NotFound", lambda: core.read_namespaced_secret("none", NAMESPACE))
    refused(
        409,
        "AlreadyExists",
        lambda: core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE))),
    )


def own_kinds(custom):
    seen, ready = [], threading.Event()

    def follow():
        stream = watch.Watch().stream(
            custom.list_namespaced_custom_object, *OURS, NAMESPACE, "instances", timeout_seconds=60
        )
        for event in stream:
            seen.append((event["type"], event["object"]["metadata"]["name"]))
            ready.set()
            if event["type"] == "DELETED":
                return

    custom.create_namespaced_custom_object(*OURS, NAMESPACE, "instances", instance("alice"))
    follower = threading.Thread(target=follow)
    follower.start()
    assert ready.wait(20), "the watch begins with what is there"
    got = custom.get_namespaced_custom_object(*OURS, NAMESPACE, "instances", "alice")
    stale = dict(got, metadata=dict(got["metadata"], resourceVersion="1"))
    refused(
        409,
        "Conflict",
        lambda: custom.replace_namespaced_custom_object(*OURS, NAMESPACE, "instances", "alice", stale),
    )
    custom.patch_namespaced_custom_object(*OURS, NAMESPACE, "instances", "alice", {"spec": {"image": "app:2"}})
    scale = custom.get_namespaced_custom_object_scale(*OURS, NAMESPACE, "instances", "alice")
    assert scale["spec"]["replicas"] == 0, scale
    listed = custom.list_namespaced_custom_object(*OURS, NAMESPACE, "instances", label_selector="by=python")
    assert [i["spec"]["image"] for i in listed["items"]] == ["app:2"], listed
    refused(
        422,
        "Invalid",
        lambda: custom.create_namespaced_custom_object(
            *OURS, NAMESPACE, "instances", instance("bob", ports=[{"name": "http", "containerPort": 0}])
        ),
    )
    custom.delete_namespaced_custom_object(*OURS, NAMESPACE, "instances", "alice")
    follower.join(60)
    assert not follower.is_alive(), f"the watch did not see the end: {seen}"
    assert seen[0] == ("ADDED", "alice") and seen[-1] == ("DELETED", "alice"), seen


def by_discovery(api):
    kinds = dynamic.DynamicClient(api)
    instances = kinds.resources.get(api_version="portreeve.dev/v1", kind="Instance")
    applied = instances.server_side_apply(
        namespace=NAMESPACE, name="carol", body=instance("carol"), field_manager="python"
    )
    assert any(entry.manager == "python" for entry in applied.metadata.managedFields)
    assert [i.metadata.name for i in instances.get(namespace=NAMESPACE).items] == ["carol"]
    instances.delete(namespace=NAMESPACE, name="carol")


def metrics(api):
    headers = {}
    api.update_params_for_auth(headers, [], ["BearerToken"], "/metrics", "GET", None)
    answer = api.rest_client.pool_manager.request("GET", api.configuration.host + "/metrics", headers=headers)
    assert answer.status == 200 and answer.headers["content-type"].startswith("application/openmetrics-text"), answer
    # The strict parser of those who made the format.
    families = {family.name: family for family in text_string_to_metric_families(answer.data.decode())}
    phases = {sample.labels["phase"] for sample in families["portreeve_instances"].samples}
    assert {"Pending", "Running", "Asleep"} <= phases, phases
    posts = [s.value for s in families["portreeve_api_responses"].samples if s.labels["method"] == "POST"]
    assert sum(posts) > 0 and families["portreeve_proxy_hold_seconds"].type == "histogram"


def main():
    config.load_kube_config()
    api = client.ApiClient()
    core_kinds(client.CoreV1Api(api))
    own_kinds(client.CustomObjectsApi(api))
    by_discovery(api)
    metrics(api)
    print("the Python client is at home")


if __name__ == "__main__":
    main()
