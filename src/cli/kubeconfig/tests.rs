use super::*;

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";

fn base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// A kubeconfig with one context, whose cluster and user have these lines.
fn file(name: &str, cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {name}\n\
         clusters:\n- name: {name}\n  cluster:\n    server: https://127.0.0.1:7443/\n    {cluster}\n\
         users:\n- name: admin\n  user: {{{user}}}\n\
         contexts:\n- name: {name}\n  context: {{cluster: {name}, user: admin}}\n"
    )
}

fn authority() -> String {
    format!("certificate-authority-data: {}", base64(CERTIFICATE))
}

fn resolved(text: &str) -> std::result::Result<Connection, String> {
    File::parse(text, Path::new("")).and_then(|f| f.resolve(None))
}

#[test]
fn inline_credentials_are_read() {
    let user = format!("client-certificate-data: {}, client-key-data: {}", base64(CERTIFICATE), base64(KEY));
    let connection = resolved(&file("x", &authority(), &user)).unwrap();
    assert_eq!(connection.server, "https://127.0.0.1:7443");
    assert_eq!(connection.namespace, "default");
    assert_eq!(connection.authorities.len(), 1);
    assert!(connection.identity.is_some() && connection.token.is_none());
    let connection = resolved(&file("x", &authority(), "token: abc")).unwrap();
    assert_eq!(connection.token.as_deref(), Some("abc"));
}

#[test]
fn credential_files_are_relative_to_their_kubeconfig() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("ca.pem", CERTIFICATE), ("cert.pem", CERTIFICATE), ("key.pem", KEY), ("token", "abc\n")] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let user = "client-certificate: cert.pem, client-key: key.pem, tokenFile: token";
    let path = dir.path().join("config");
    std::fs::write(&path, file("x", "certificate-authority: ca.pem", user)).unwrap();
    let connection = load(&[path], None).unwrap();
    assert!(connection.identity.is_some());
    assert_eq!(connection.token.as_deref(), Some("abc"), "without its line end");
}

#[test]
fn the_first_of_several_files_has_precedence() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("1"), dir.path().join("2"));
    std::fs::write(&first, file("one", &authority(), "token: first")).unwrap();
    std::fs::write(&second, file("two", &authority(), "token: second")).unwrap();
    let files = [first, second];
    assert_eq!(load(&files, None).unwrap().token.as_deref(), Some("first"));
    let by_name = load(&files, Some("two")).unwrap();
    assert_eq!(by_name.token.as_deref(), Some("first"), "the user of that name comes from the first file");
    let unknown = load(&files, Some("three")).unwrap_err().to_string();
    assert!(unknown.contains("\"three\"; there are: one, two"), "{unknown}");
}

#[test]
fn what_would_be_unsafe_or_is_not_understood_is_refused() {
    for (text, expected) in [
        (file("x", "insecure-skip-tls-verify: true", ""), "insecure-skip-tls-verify is refused"),
        (file("x", "", ""), "no certificate-authority"),
        (file("x", "certificate-authority-data: '%'", ""), "not base64"),
        (file("x", &format!("certificate-authority-data: {}", base64("x")), ""), "no PEM certificate"),
        (file("x", &authority(), "exec: {command: aws}"), "plugins"),
        (file("x", &authority(), &format!("client-key-data: {}", base64(KEY))), "no client-certificate"),
        (file("x", &authority(), "token: \"a b\""), "characters that no token has"),
        (file("x", &authority(), "").replace("https://", "http://"), "must begin with https://"),
        (file("x", &authority(), "").replace("user: admin", "user: other"), "\"other\", which is not there"),
        (file("x", &authority(), "").replace("current-context: x", ""), "no current-context"),
    ] {
        let error = resolved(&text).expect_err(expected);
        assert!(error.contains(expected), "{error}");
    }
}

fn lookup(dir: &Path) -> Lookup {
    Lookup {
        flag: None,
        portreeve_kubeconfig: None,
        kubeconfig: None,
        data_dir: dir.join("data"),
        home: Some(dir.to_owned()),
    }
}

#[test]
fn what_is_named_comes_first_and_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("data")).unwrap();
    std::fs::create_dir_all(at(".kube")).unwrap();
    let mut lookup = lookup(dir.path());
    assert!(lookup.files().unwrap_err().to_string().contains("portreeve serve"));
    for name in [".kube/config", "data/admin.kubeconfig", "env", "own", "flag"] {
        std::fs::write(at(name), "").unwrap();
        match name {
            "env" => lookup.kubeconfig = Some(std::env::join_paths([at("missing"), at("env")]).unwrap()),
            "own" => lookup.portreeve_kubeconfig = Some(at("own").into()),
            "flag" => lookup.flag = Some(at("flag")),
            _ => {}
        }
        assert_eq!(lookup.files().unwrap(), [at(name)]);
    }
    lookup.flag = Some(at("missing"));
    assert!(lookup.files().unwrap_err().to_string().contains("--kubeconfig"));
    lookup.flag = None;
    lookup.portreeve_kubeconfig = Some(at("missing").into());
    assert!(lookup.files().unwrap_err().to_string().contains("$PORTREEVE_KUBECONFIG"));
}
