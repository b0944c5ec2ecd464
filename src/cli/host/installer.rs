//! What a worker runs once so that its daemon can be called: one shell script with everything in it, to be piped over
//! ssh. Pure.

use std::net::IpAddr;

use super::firewall::Firewall;
use super::keeping::Minted;

const SCRIPT: &str = include_str!("installer.sh");

/// The script. `address`: where the daemon shall listen. Without a firewall the worker's rules stay as they are.
pub fn installer(name: &str, address: IpAddr, port: u16, minted: &Minted, firewall: Option<&Firewall>) -> String {
    let [rules, unit, arguments] = match firewall {
        Some(firewall) => [Firewall::script().to_owned(), firewall.unit(), firewall.arguments()],
        None => Default::default(),
    };
    SCRIPT
        .replace("@RULES@", rules.trim_end())
        .replace("@RULES_UNIT@", unit.trim_end())
        .replace("@RULES_ARGUMENTS@", &arguments)
        .replace("@NAME@", name)
        .replace("@ADDRESS@", &address.to_string())
        .replace("@PORT@", &port.to_string())
        .replace("@SOCKET@", &std::net::SocketAddr::new(address, port).to_string())
        .replace("@CA@", minted.ca.trim_end())
        .replace("@KEY@", minted.server.key.trim_end())
        .replace("@CERT@", minted.server.certificate.trim_end())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::{Command, Output};

    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::super::keeping::Keeping;
    use super::*;

    fn script(address: &str) -> String {
        let root = tempfile::tempdir().expect("a directory");
        let now = Timestamp::from_second(1_767_225_600).expect("a time");
        let minted = Keeping::new(root.path()).mint("w1", &[address.to_owned()], false, now).expect("minted");
        let firewall = Firewall { pool: Firewall::DEFAULT_POOL, denied: vec![] };
        installer("w1", address.parse().expect("an address"), 2376, &minted, Some(&firewall))
    }

    #[test]
    fn rules_come_with_the_script_and_without_a_firewall_those_that_are_there_stay() {
        let root = tempfile::tempdir().expect("a directory");
        let at = |path: &str| root.path().join(path);
        let whole = script("10.0.0.3");
        let out = run(&whole, root.path());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let rules = at("usr/local/sbin/portreeve-firewall.sh");
        assert_eq!(fs::read_to_string(&rules).expect("there"), Firewall::script());
        let mode = |path: &Path| {
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).expect("there").permissions()) & 0o777
        };
        assert_eq!(mode(&rules), 0o755);
        // Where they were missing; only the keys' directory is closed.
        for directory in ["usr", "usr/local", "usr/local/sbin", "etc", "etc/systemd", "etc/systemd/system"] {
            assert_eq!(mode(&at(directory)), 0o755, "{directory}");
        }
        assert_eq!(mode(&at("etc/docker/portreeve")), 0o700);
        let unit = at("etc/systemd/system/portreeve-firewall.service");
        let text = fs::read_to_string(&unit).expect("there");
        assert!(text.contains("apply 10.213.0.0/16 169.254.0.0/16\n"), "{text}");

        let keys = tempfile::tempdir().expect("a directory");
        let now = Timestamp::from_second(1_767_225_600).expect("a time");
        let minted = Keeping::new(keys.path()).mint("w1", &["10.0.0.3".to_owned()], false, now).expect("minted");
        let bare = installer("w1", "10.0.0.3".parse().expect("an address"), 2376, &minted, None);
        fs::write(&unit, "the operator's own").expect("written");
        let out = run(&bare, root.path());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(fs::read_to_string(&unit).expect("there"), "the operator's own");
    }

    /// Below a directory: nothing of the machine is touched.
    fn run(script: &str, root: &Path) -> Output {
        let file = root.join("install.sh");
        fs::write(&file, script).expect("written");
        Command::new("sh").arg(file).env("DESTDIR", root).output().expect("there is a shell")
    }

    fn config(root: &Path) -> Value {
        serde_json::from_slice(&fs::read(root.join("etc/docker/daemon.json")).expect("there")).expect("JSON")
    }

    #[test]
    fn the_script_writes_what_the_daemon_and_its_unit_need_and_may_run_again() {
        let root = tempfile::tempdir().expect("a directory");
        for _ in 0..2 {
            let out = run(&script("10.0.0.3"), root.path());
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            let config = config(root.path());
            assert_eq!(config["hosts"], json!(["fd://", "tcp://10.0.0.3:2376"]));
            assert_eq!((&config["tlsverify"], &config["live-restore"]), (&json!(true), &json!(true)));
            for (field, begins) in [("tlscacert", "CERTIFICATE"), ("tlscert", "CERTIFICATE"), ("tlskey", "PRIVATE KEY")]
            {
                let path = config[field].as_str().expect("a path").trim_start_matches('/');
                let text = fs::read_to_string(root.path().join(path)).expect(path);
                assert!(text.starts_with(&format!("-----BEGIN {begins}-----")), "{path}: {text}");
            }
            let unit = root.path().join("etc/systemd/system/docker.service.d/portreeve.conf");
            assert_eq!(
                fs::read_to_string(unit).expect("there"),
                "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd\n"
            );
            assert!(!root.path().join("etc/docker/portreeve/before").exists());
        }
    }

    #[test]
    fn what_the_operator_has_configured_stays() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("etc/docker")).expect("made");
        fs::write(root.path().join("etc/docker/daemon.json"), r#"{"log-driver": "local", "hosts": ["fd://"]}"#)
            .expect("written");
        let out = run(&script("fd00::3"), root.path());
        let said = String::from_utf8_lossy(&out.stderr);
        if ["python3", "jq"].iter().any(|tool| Command::new(tool).arg("--version").output().is_ok()) {
            assert!(out.status.success(), "{said}");
            let config = config(root.path());
            assert_eq!((&config["log-driver"], &config["hosts"][1]), (&json!("local"), &json!("tcp://[fd00::3]:2376")));
        } else {
            assert!(!out.status.success() && said.contains("add this by hand"), "{said}");
        }
    }

    /// What cannot be added to is left as it is, and so is everything else.
    #[test]
    fn a_configuration_that_is_not_understood_is_not_touched() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("etc/docker")).expect("made");
        for broken in ["\n", "{\"log-driver\": ", "[1]"] {
            fs::write(root.path().join("etc/docker/daemon.json"), broken).expect("written");
            let out = run(&script("10.0.0.3"), root.path());
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(!out.status.success() && said.contains("add this by hand"), "{broken:?}: {said}");
            assert_eq!(fs::read_to_string(root.path().join("etc/docker/daemon.json")).expect("there"), broken);
            assert!(!root.path().join("etc/docker/portreeve/server-key.pem").exists());
        }
    }

    /// As after a reboot in the middle of it.
    #[test]
    fn what_an_interrupted_run_has_kept_is_what_a_failing_one_puts_back() {
        let root = tempfile::tempdir().expect("a directory");
        let at = |name: &str| root.path().join("etc/docker").join(name);
        fs::create_dir_all(at("portreeve/before")).expect("made");
        fs::write(at("portreeve/before/daemon.json"), r#"{"debug": true}"#).expect("written");
        fs::write(at("daemon.json"), r#"{"hosts": ["half"]}"#).expect("written");
        let out = run(&script("10.0.0.3"), root.path());
        if ["python3", "jq"].iter().any(|tool| Command::new(tool).arg("--version").output().is_ok()) {
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            assert_eq!(config(root.path())["debug"], json!(true));
        } else {
            assert_eq!(fs::read_to_string(at("daemon.json")).expect("there"), r#"{"debug": true}"#);
        }
    }
}
