//! The schemas of the views: what a Pod, a Node and a Lease have of the fields that Kubernetes knows. A test holds them to
//! what the views fill: nothing is described that is never there, and nothing is there that is not described.

use serde_json::{Value, json};

use super::words::{choice, flag, integer, keyed, list, object, quantity, text, texts, time};
use crate::model::{Kind, schema};

/// A field of a stored kind, as its Rust type has it.
fn of_kind(kind: Kind, pointer: &str) -> Value {
    schema::schema(kind).pointer(pointer).cloned().expect("a field of the model")
}

pub fn pod() -> Value {
    object(
        "The container of the Instance of the same name; a view, which is there as long as the container is. Write the \
         Instance; delete a Pod to have its container made anew.",
        [("spec", pod_spec()), ("status", pod_status())],
    )
}

fn pod_spec() -> Value {
    let port = object(
        "One port.",
        [
            ("name", text("Name of the port, as the Instance has it.")),
            ("containerPort", integer("Port inside the container.")),
            ("hostPort", integer("Port on the host, once the Instance is bound to one.")),
            ("protocol", choice(&["TCP"], "TCP")),
        ],
    );
    let amounts = |description: &str| {
        object(description, [("cpu", quantity("Cores.")), ("memory", quantity("Bytes of memory."))])
    };
    let resources = object(
        "What it may use, and what is reserved for it.",
        [
            ("limits", amounts("What it may use at most.")),
            ("requests", amounts("What is reserved of the host; nothing while the instance is asleep or stopped.")),
        ],
    );
    let mount = object(
        "Where a volume is.",
        [
            ("name", text("Name of the volume.")),
            ("mountPath", text("Path inside the container.")),
            ("readOnly", flag("Whether it is only read.")),
        ],
    );
    let of_instance = |field: &str| of_kind(Kind::Instance, &format!("/properties/spec/properties/{field}"));
    let container = object(
        "The container.",
        [
            ("name", choice(&["main"], "main")),
            ("image", text("The image, as the Instance names it.")),
            ("imagePullPolicy", choice(&["Always", "IfNotPresent", "Never"], "When the image is pulled.")),
            ("command", of_instance("command")),
            ("args", of_instance("args")),
            ("workingDir", of_instance("workingDir")),
            ("env", of_instance("env")),
            ("envFrom", of_instance("envFrom")),
            ("volumeMounts", keyed("mountPath", "The volumes that it has.", mount)),
            ("startupProbe", probe("What tells that the app has started.")),
            ("readinessProbe", probe("What tells whether the app can serve.")),
            ("livenessProbe", probe("What tells whether the app lives.")),
            ("ports", keyed("containerPort", "The ports that the app listens on.", port)),
            ("resources", resources),
        ],
    );
    object(
        "What the container is made of.",
        [
            ("containers", keyed("name", "The containers: one.", container)),
            ("nodeName", text("The DockerHost that it runs on.")),
            ("nodeSelector", of_kind(Kind::Instance, "/properties/spec/properties/placement/properties/nodeSelector")),
            ("volumes", keyed("name", "What is mounted.", volume())),
            ("restartPolicy", choice(&["Always"], "Always: the controller starts it again.")),
            ("tolerations", of_kind(Kind::Instance, "/properties/spec/properties/placement/properties/tolerations")),
        ],
    )
}

fn volume() -> Value {
    let claim = object("A Docker volume.", [("claimName", text("Its name in Docker."))]);
    let path = object("A directory of the host.", [("path", text("Its path."))]);
    object(
        "One volume: one of the two.",
        [("name", text("Name of the volume.")), ("persistentVolumeClaim", claim), ("hostPath", path)],
    )
}

fn probe(what: &str) -> Value {
    let http = object(
        "A request that has to succeed.",
        [("path", text("Its path.")), ("port", text("The name of the port.")), ("scheme", choice(&["HTTP"], "HTTP"))],
    );
    let tcp = object("A connection that has to come about.", [("port", text("The name of the port."))]);
    let exec = object("A command that has to end with 0.", [("command", texts("The program and its arguments."))]);
    object(
        &format!("{what} One of httpGet, tcpSocket and exec; of several checks the first."),
        [
            ("httpGet", http),
            ("tcpSocket", tcp),
            ("exec", exec),
            ("periodSeconds", integer("Between two attempts, rounded up.")),
            ("timeoutSeconds", integer("How long one attempt may take, rounded up.")),
            ("successThreshold", integer("How many in a row must pass.")),
            (
                "failureThreshold",
                integer("How many in a row must fail; of a startup probe, its time in all by its period."),
            ),
        ],
    )
}

fn pod_status() -> Value {
    let terminated = || {
        object(
            "How a run ended.",
            [
                ("exitCode", integer("The exit code; 0 when it is not known.")),
                (
                    "reason",
                    text("OOMKilled, or why the container does not run; of the run before, Error or Completed."),
                ),
                ("startedAt", time("When the run began.")),
                ("finishedAt", time("When it ended.")),
            ],
        )
    };
    let state = object(
        "What the container does now: one of these.",
        [
            ("running", object("It runs.", [("startedAt", time("Since when."))])),
            ("waiting", object("It does not run yet, or sleeps.", [("reason", text("The phase of the Instance."))])),
            ("terminated", terminated()),
        ],
    );
    let status = object(
        "The container as it is.",
        [
            ("name", choice(&["main"], "main")),
            ("image", text("The image, as the Instance names it.")),
            ("imageID", text("The id of the image that it was made from.")),
            ("containerID", text("docker:// and the id of the container.")),
            ("ready", flag("Whether the app answers.")),
            ("started", flag("Whether it runs.")),
            ("restartCount", integer("How often it was started again after it had ended by itself.")),
            ("state", state),
            ("lastState", object("The run before, when it ended by itself.", [("terminated", terminated())])),
        ],
    );
    let condition = object(
        "One condition.",
        [
            ("type", choice(&["PodScheduled", "ContainersReady", "Ready"], "What of it; the last two are one here.")),
            ("status", choice(&["True", "False", "Unknown"], "Whether it holds.")),
            ("reason", text("Why, for programs.")),
            ("message", text("Why, for people.")),
            ("lastTransitionTime", time("Since when.")),
        ],
    );
    object(
        "What is seen of the container.",
        [
            (
                "phase",
                choice(
                    &["Pending", "Running", "Succeeded", "Failed", "Unknown"],
                    "Running also while the instance sleeps: the next use wakes it. Succeeded: stopped.",
                ),
            ),
            ("message", text("Why the Instance is ready or not.")),
            ("podIP", text("The address that its host ports are published on.")),
            ("podIPs", list("The same.", object("One address.", [("ip", text("The address."))]))),
            ("hostIP", text("The same.")),
            ("hostIPs", list("The same.", object("One address.", [("ip", text("The address."))]))),
            ("qosClass", choice(&["Guaranteed"], "What it may use at most is reserved for it.")),
            ("startTime", time("When the container was started.")),
            ("conditions", keyed("type", "The conditions.", condition)),
            ("containerStatuses", keyed("name", "The containers: one.", status)),
        ],
    )
}

pub fn node() -> Value {
    let spec = object(
        "What can be told a DockerHost as a Node.",
        [
            ("unschedulable", flag("Whether new instances stay away (kubectl cordon).")),
            ("taints", of_kind(Kind::DockerHost, "/properties/spec/properties/taints")),
        ],
    );
    object(
        "The DockerHost of the same name; a view. Its labels, annotations, taints and spec.unschedulable are written through; \
         it is made and deleted as a DockerHost.",
        [("spec", spec), ("status", node_status())],
    )
}

fn node_status() -> Value {
    let amounts = |description: &str| {
        object(
            description,
            [
                ("cpu", quantity("Cores.")),
                ("memory", quantity("Bytes of memory.")),
                ("pods", quantity("Number of instances, awake or not.")),
            ],
        )
    };
    let condition = object(
        "One condition.",
        [
            ("type", text("Ready, or a pressure of the host when one is known.")),
            ("status", choice(&["True", "False", "Unknown"], "Whether it holds.")),
            ("reason", text("Why, for programs.")),
            ("message", text("Why, for people.")),
            ("lastTransitionTime", time("Since when.")),
            ("lastHeartbeatTime", time("When the daemon was last heard of.")),
        ],
    );
    let address = object(
        "One address.",
        [
            ("type", choice(&["InternalIP", "InternalDNS", "Hostname"], "What the address is.")),
            ("address", text("The address that host ports are published on, or the name of the DockerHost.")),
        ],
    );
    let info = object(
        "What the daemon says of its host.",
        [
            ("architecture", text("As Go names it: amd64, arm64.")),
            ("containerRuntimeVersion", text("docker:// and the daemon's version.")),
            ("kernelVersion", text("The kernel.")),
            ("kubeletVersion", text("The version of the control plane.")),
            ("kubeProxyVersion", text("Empty.")),
            ("machineID", text("The daemon's own id.")),
            ("systemUUID", text("Empty.")),
            ("bootID", text("Empty.")),
            ("operatingSystem", choice(&["linux"], "linux")),
            ("osImage", text("The distribution.")),
        ],
    );
    object(
        "What is seen of the host.",
        [
            ("capacity", amounts("What instances may use in all.")),
            ("allocatable", amounts("The same.")),
            ("conditions", keyed("type", "The conditions that are known.", condition)),
            ("addresses", keyed("type", "Where it is reached.", address)),
            ("nodeInfo", info),
        ],
    )
}

pub fn lease() -> Value {
    let spec = object(
        "When the host was last heard of.",
        [
            ("holderIdentity", text("The name of the DockerHost.")),
            ("leaseDurationSeconds", integer("After how many seconds without a sign the host counts as lost.")),
            ("renewTime", time("When the daemon was last heard of, to the microsecond.")),
        ],
    );
    object("When a DockerHost was last heard of; a view in the namespace kube-node-lease, only read.", [("spec", spec)])
}

pub fn service() -> Value {
    object("There are none: the list is there for tools that ask for it. Instances have routes.", [])
}

/// What is asked of the API with kinds of their own.
pub fn review(kind: &str) -> Option<Value> {
    Some(match kind {
        "SelfSubjectReview" => {
            let extra = json!({
                "type": "object", "description": "What else an impersonation says of them.",
                "additionalProperties": {"type": "array", "items": {"type": "string"}},
            });
            let uid = text("The uid that an impersonation gives them.");
            let user = object(
                "Who asks.",
                [("username", text("The name.")), ("groups", texts("The groups.")), ("uid", uid), ("extra", extra)],
            );
            let status = object("The answer.", [("userInfo", user)]);
            object("Who am I, to this server?", [("status", status)])
        }
        "SelfSubjectAccessReview" => object("May I?", [("spec", access_spec()), ("status", access_status())]),
        "SelfSubjectRulesReview" => object("What may I?", [("spec", rules_spec()), ("status", rules_status())]),
        _ => return None,
    })
}

fn access_spec() -> Value {
    let resource = object(
        "An action on objects.",
        [
            ("namespace", text("The namespace; empty: all of them, or none for kinds of the whole cluster.")),
            ("verb", text("get, list, watch, create, update, patch, delete, deletecollection, or * for all.")),
            ("group", text("The API group; empty: the core group.")),
            ("version", text("The version; not looked at.")),
            ("resource", text("The plural, such as instances.")),
            ("subresource", text("The subresource, such as log.")),
            ("name", text("The name of one object; empty: all of them.")),
        ],
    );
    let path = object(
        "An action on a path.",
        [("path", text("The path, such as /healthz.")), ("verb", text("The method in lower case, such as get."))],
    );
    let mut spec = object("The question.", [("resourceAttributes", resource), ("nonResourceAttributes", path)]);
    spec["description"] = "The question: one of the two.".into();
    spec
}

fn access_status() -> Value {
    object(
        "The answer.",
        [("allowed", flag("Whether I may.")), ("reason", text("What says so, for people; it may be empty."))],
    )
}

fn rules_spec() -> Value {
    object("The question.", [("namespace", text("The namespace that is asked about."))])
}

fn rules_status() -> Value {
    let resources = object(
        "Verbs on resources.",
        [
            ("verbs", texts("The verbs; * for all.")),
            ("apiGroups", texts("The groups; * for all.")),
            ("resources", texts("The resources, with their subresource after a slash; * for all.")),
            ("resourceNames", texts("The only objects that it is about; none: all.")),
        ],
    );
    let paths = object(
        "Verbs on paths.",
        [("verbs", texts("The verbs; * for all.")), ("nonResourceURLs", texts("The paths; * stands for any end."))],
    );
    object(
        "The answer.",
        [
            ("resourceRules", list("What I may do to objects.", resources)),
            ("nonResourceRules", list("What I may do to paths.", paths)),
            ("incomplete", flag("Whether there is more: never.")),
        ],
    )
}

/// What a session with a container is asked for, as parameters of its path.
pub fn stream_options(kind: &str) -> Option<Value> {
    let container = || ("container", text("The container: main."));
    Some(match kind {
        "PodExecOptions" => object(
            "A command in the container, as parameters of the query.",
            [
                container(),
                ("command", texts("The program and its arguments; not a shell's line.")),
                ("stdin", flag("Whether the command gets an input.")),
                ("stdout", flag("Whether its output is wanted.")),
                ("stderr", flag("Whether its errors are wanted; with a terminal they are output.")),
                ("tty", flag("Whether it gets a terminal.")),
            ],
        ),
        "PodAttachOptions" => object(
            "What the container writes from now on, as parameters of the query.",
            [
                container(),
                ("stdin", flag("Refused: containers have no open input.")),
                ("stdout", flag("Whether its output is wanted.")),
                ("stderr", flag("Whether its errors are wanted.")),
                ("tty", flag("Refused: containers have no terminal.")),
            ],
        ),
        "PodPortForwardOptions" => object(
            "Connections to ports of the container, as parameters of the query.",
            [(
                "ports",
                list(
                    "The ports, at most 16; only for WebSocket without SPDY.",
                    integer("A port that the Instance declares."),
                ),
            )],
        ),
        _ => return None,
    })
}
