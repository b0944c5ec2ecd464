//! What a person sees, by a real browser: Debian's Chromium, driven by WebDriver (W3C).

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::control_plane::{ControlPlane, PATIENCE, free_port, instance_with, within};
use crate::http;

/// A browser with one window.
struct Browser {
    driver: Child,
    port: u16,
    session: String,
    /// Its profile.
    dir: TempDir,
}

impl Browser {
    /// One for which every host of the tests' domain is this machine. `None` where there is none, having said so.
    fn open() -> Option<Browser> {
        let there = |program: &str| {
            let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            found.is_ok_and(|status| status.success())
        };
        if !there("chromium") || !there("chromedriver") {
            eprintln!("skipped: no chromium or chromedriver on PATH");
            return None;
        }
        let (port, dir) = (free_port(), tempfile::tempdir().expect("a directory"));
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let mut command = Command::new("unshare");
        // All that it starts ends with the first process of the namespace, which ends with its input; and that one has
        // ended only when all the others have. Killed from outside, it would leave them writing for a moment.
        let script = "chromedriver \"--port=$0\" & read -r _";
        command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-c", script, &port.to_string()]).env("HOME", dir.path()).env("TMPDIR", dir.path());
        command.stdin(Stdio::piped()).stdout(log.try_clone().expect("a log")).stderr(log);
        let driver = command.spawn().expect("unshare runs");
        let mut browser = Browser { driver, port, session: String::new(), dir };
        let up = within(PATIENCE, || browser.call("GET", "/status", &Value::Null).map_err(|e| e.to_string()));
        up.unwrap_or_else(|why| panic!("chromedriver: {why}\n{}", browser.log()));
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--no-first-run".to_owned(),
            "--host-resolver-rules=MAP *.test.example 127.0.0.1".to_owned(),
            format!("--user-data-dir={}", browser.dir.path().join("profile").display()),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "pageLoadStrategy": "none",
            "timeouts": {"pageLoad": PATIENCE.as_millis(), "script": PATIENCE.as_millis()},
            "goog:chromeOptions": {"args": arguments},
        }}});
        let made = browser.call("POST", "/session", &wanted).expect("an answer");
        let session = made["sessionId"].as_str().unwrap_or_else(|| panic!("{made:#}\n{}", browser.log()));
        browser.session = format!("/session/{session}");
        Some(browser)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> io::Result<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let host = format!("127.0.0.1:{}", self.port);
        let answer = http::exchange(&mut stream, method, path, &host, true, body.as_bytes())?;
        let mut read: Value = serde_json::from_slice(&answer.body)?;
        Ok(read["value"].take())
    }

    fn tell(&self, method: &str, path: &str, body: &Value) -> Value {
        let told = self.call(method, &format!("{}{path}", self.session), body);
        told.unwrap_or_else(|e| panic!("{method} {path}: {e}\n{}", self.log()))
    }

    fn go(&self, url: &str) {
        let refused = self.tell("POST", "/url", &json!({"url": url}));
        assert!(refused.is_null(), "{url}: {refused:#}");
    }

    /// What is to be read in the window. While it changes from one page to the next, nothing.
    fn text(&self) -> String {
        let script = json!({"script": "return document.body ? document.body.innerText : ''", "args": []});
        self.tell("POST", "/execute/sync", &script).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until this is to be read; tells what was before it, each text once.
    #[track_caller]
    fn until_reads(&self, wanted: &str) -> Vec<String> {
        let mut seen: Vec<String> = vec![];
        let read = within(PATIENCE, || {
            let text = self.text();
            if seen.last() != Some(&text) {
                seen.push(text.clone());
            }
            if text.contains(wanted) { Ok(()) } else { Err(format!("{seen:#?}")) }
        });
        read.unwrap_or_else(|why| panic!("{wanted:?} is not shown: {why}\n{}", self.log()));
        seen
    }

    /// Keeps a picture of the window, for people, where cargo keeps what tests make.
    fn keep_picture(&self, name: &str) {
        let picture = self.tell("GET", "/screenshot", &Value::Null);
        let png = STANDARD.decode(picture.as_str().expect("base64")).expect("base64");
        assert!(png.starts_with(b"\x89PNG"), "no picture");
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png"));
        std::fs::write(&path, png).expect("written");
        eprintln!("a picture: {}", path.display());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.call("DELETE", &self.session, &Value::Null);
        }
        drop(self.driver.stdin.take());
        let _ = self.driver.wait();
        let left = std::fs::remove_dir_all(self.dir.path());
        if !std::thread::panicking() {
            left.expect("nobody writes to the profile");
        }
    }
}

#[test]
fn a_browser_shows_a_page_while_its_app_wakes_and_then_the_app() {
    let Some(browser) = Browser::open() else { return };
    let mut plane = ControlPlane::start(32_140);
    let name = "viewed";
    // Long enough to be seen on the way by a browser on a busy machine.
    let env = json!([{"name": "START_DELAY_MS", "value": "15000"}]);
    plane.apply(&instance_with(name, &json!({"env": env, "idle": {"after": "30m"}})));
    plane.until_serves(name);
    plane.run(&["sleep", name]);

    browser.go(&format!("http://{}:{}/", ControlPlane::host(name), plane.proxy));
    browser.until_reads("This app is starting");
    browser.keep_picture("waiting-page");
    let seen = browser.until_reads("version: 1");
    assert!(seen.iter().any(|text| text.contains("Starting")), "how far it is: {seen:#?}");
    browser.keep_picture("app");
    plane.run(&["delete", "inst", name]);
}
