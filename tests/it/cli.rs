//! The command line, as a black box: the real binary, against no server and against the real API.

mod acme;
mod adopt;
mod attach;
mod cp;
mod front;
mod hosts;
mod interop;
mod logs;
mod objects;
mod power;
mod serve;
mod server_side;
mod survival;
mod token;
mod top;

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use tokio::process::Command;

/// Every verb, as `portreeve --help` lists them.
const VERBS: [&str; 32] = [
    "serve",
    "apply",
    "diff",
    "get",
    "describe",
    "why",
    "delete",
    "label",
    "wait",
    "top",
    "logs",
    "exec",
    "attach",
    "cp",
    "port-forward",
    "start",
    "stop",
    "restart",
    "wake",
    "sleep",
    "upgrade",
    "cordon",
    "uncordon",
    "drain",
    "host",
    "adopt",
    "explain",
    "schema",
    "token",
    "kubeconfig",
    "completion",
    "version",
];

/// The binary with an environment in which it finds nothing of this machine's.
fn portreeve(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve"));
    command.args(args).env_clear().env("HOME", home).env("PORTREEVE_DATA_DIR", home.join("data")).kill_on_drop(true);
    command
}

async fn run(home: &Path, args: &[&str]) -> Output {
    finish(&mut portreeve(home, args)).await
}

async fn finish(command: &mut Command) -> Output {
    tokio::time::timeout(Duration::from_secs(60), command.output())
        .await
        .expect("the command ends within a minute")
        .expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("stdout is UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("stderr is UTF-8")
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A kubeconfig for a server at this address, with a certificate authority of its own.
fn kubeconfig(address: &str) -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec![]).expect("parameters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).expect("a certificate");
    let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, authority.pem());
    format!(
        "current-context: x\nclusters:\n- name: x\n  cluster: {{server: \"https://{address}\", certificate-authority-data: {data}}}\n\
         users:\n- name: x\n  user: {{token: abc}}\ncontexts:\n- name: x\n  context: {{cluster: x, user: x}}\n"
    )
}

/// An address of this machine on which nothing listens.
fn closed_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").to_string()
}

#[tokio::test]
async fn every_verb_explains_itself_with_examples() {
    let home = home();
    let help = stdout(&run(home.path(), &["--help"]).await);
    for verb in VERBS {
        assert!(help.contains(&format!("\n  {verb} ")), "{verb} is not listed:\n{help}");
        let output = run(home.path(), &[verb, "--help"]).await;
        assert_eq!(output.status.code(), Some(0), "{verb}");
        let text = stdout(&output);
        assert!(
            text.contains("Examples:") && text.contains(&format!("  portreeve {verb}")) || verb == "completion",
            "{verb}:\n{text}"
        );
    }
    let lines = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    // a long description goes on in lines that are further in
    let listed = lines.filter(|l| !l.starts_with("   ")).count();
    assert_eq!(listed, VERBS.len(), "a verb is not tested here:\n{help}");
}

#[tokio::test]
async fn usage_errors_exit_with_2_and_change_nothing() {
    let home = home();
    std::fs::write(home.path().join("config"), kubeconfig(&closed_port())).expect("written");
    for args in [
        &["frobnicate"][..],
        &[],
        &["apply"],
        &["get", "inst", "-o", "xml"],
        &["get", "inst", "-o", "jsonpath={..a}"],
        &["exec", "alice"],
        &["wait", "inst/a", "--for", "happiness"],
        &["serve", "--docker", "tcp://1.2.3.4:2376"],
        &["serve", "--port-range", "9-1"],
        &["completion", "tcsh"],
        &["token", "create", "ci"],
        &["token", "create", "ci", "--role", "root"],
        &["token", "create", "ci", "--role", "viewer", "-o", "table"],
        &["--kubeconfig", "config", "token", "create", "ci", "--role", "admin", "-n", "a"],
        &["--kubeconfig", "config", "token", "create", "ci", "--role", "viewer", "-n", "a", "--namespaces", "b"],
        &["token", "revoke"],
        &["top"],
        &["top", "hosts", "-o", "name"],
        &["top", "instances", "--sort-by", "name"],
        &["--kubeconfig", "config", "top", "instances", "alice", "-A"],
        &["--kubeconfig", "config", "top", "hosts", "a", "-l", "b=c"],
        &["--kubeconfig", "config", "top", "instances", ".."],
        &["--kubeconfig", "config", "get", "inst,dh", "alice"],
        &["--kubeconfig", "config", "get", "inst/a", "b"],
        &["--kubeconfig", "config", "-n", "Not_A_Name", "get"],
        &["--kubeconfig", "config", "label", "inst", "alice", "tier"],
    ] {
        let mut command = portreeve(home.path(), args);
        let output = finish(command.current_dir(home.path())).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stdout(&output).is_empty(), "{args:?}");
    }
    assert!(!home.path().join("data").exists());
}

#[tokio::test]
async fn completions_know_the_verbs_of_every_shell() {
    let home = home();
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&run(home.path(), &["completion", shell]).await);
        for verb in VERBS {
            assert!(script.contains(verb), "{shell} does not complete {verb}");
        }
    }
}

#[tokio::test]
async fn without_a_server_the_error_says_what_to_do() {
    let home = home();
    let address = closed_port();
    let nothing = run(home.path(), &["get", "inst"]).await;
    assert_eq!(nothing.status.code(), Some(1));
    let said = stderr(&nothing);
    assert!(said.starts_with("error: no kubeconfig: ") && said.contains("data/admin.kubeconfig"), "{said}");

    std::fs::create_dir(home.path().join("data")).expect("a directory");
    std::fs::write(home.path().join("data/admin.kubeconfig"), kubeconfig(&address)).expect("written");
    let refused = run(home.path(), &["get", "inst"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(
        stderr(&refused),
        format!("error: cannot reach https://{address}: connection refused; is `portreeve serve` running?\n")
    );
}

#[tokio::test]
async fn the_kubeconfig_comes_from_the_flag_then_the_environment_then_the_data_directory() {
    let home = home();
    let at = |name: &str| home.path().join(name).display().to_string();
    std::fs::create_dir_all(home.path().join("data")).expect("a directory");
    std::fs::create_dir_all(home.path().join(".kube")).expect("a directory");
    for name in ["flag", "own", "env", "data/admin.kubeconfig", ".kube/config"] {
        std::fs::write(home.path().join(name), kubeconfig("127.0.0.1:1")).expect("written");
    }
    let used = async |args: &[&str], env: &[(&str, String)]| {
        let mut command = portreeve(home.path(), args);
        command.envs(env.iter().map(|(k, v)| (k, v)));
        stdout(&finish(&mut command).await).trim().to_owned()
    };
    let own = ("PORTREEVE_KUBECONFIG", at("own"));
    let env = ("KUBECONFIG", at("env"));
    assert_eq!(used(&["kubeconfig", "--kubeconfig", &at("flag")], &[own.clone(), env.clone()]).await, at("flag"));
    assert_eq!(used(&["kubeconfig"], &[own, env.clone()]).await, at("own"));
    assert_eq!(used(&["kubeconfig"], &[env]).await, at("env"));
    assert_eq!(used(&["kubeconfig"], &[]).await, at("data/admin.kubeconfig"));
    std::fs::remove_file(home.path().join("data/admin.kubeconfig")).expect("removed");
    assert_eq!(used(&["kubeconfig"], &[]).await, at(".kube/config"));
}

#[tokio::test]
async fn a_mistake_in_any_manifest_is_told_before_the_server_is_asked() {
    let home = home();
    std::fs::write(home.path().join("config"), kubeconfig(&closed_port())).expect("written");
    std::fs::create_dir(home.path().join("m")).expect("a directory");
    let good = "apiVersion: portreeve.dev/v1\nkind: Instance\nmetadata: {name: a}\nspec: {image: app:1}\n";
    std::fs::write(home.path().join("m/a.yaml"), good).expect("written");
    std::fs::write(home.path().join("m/b.yaml"), format!("{good}---\nkind: Instance\n")).expect("written");
    let mut command = portreeve(home.path(), &["--kubeconfig", "config", "apply", "-f", "m"]);
    let output = finish(command.current_dir(home.path())).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "error: m/b.yaml (document 2): apiVersion is not set\n");
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let home = home();
    let mut command = portreeve(home.path(), &["completion", "zsh"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    command.stdout(writer).stderr(std::process::Stdio::piped());
    let child = command.spawn().expect("the binary runs");
    let output = child.wait_with_output().await.expect("it ends");
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}
