//! The whole table, cell by cell: every verb on every resource in every scope, for every kind of user.

use super::*;

fn user(groups: &[&str]) -> User {
    User::new("u", groups.iter().map(|g| (*g).to_owned()))
}

const USERS: [(&str, &[&str]); 9] = [
    ("admin", &["portreeve:admin"]),
    ("master", &["system:masters"]),
    ("editor", &["portreeve:editor"]),
    ("viewer", &["portreeve:viewer"]),
    ("edit a", &["portreeve:editor:a"]),
    ("view a", &["portreeve:viewer:a"]),
    ("a and b", &["portreeve:viewer:a", "portreeve:editor:b"]),
    ("edit sys", &["portreeve:editor:portreeve-system"]),
    ("nobody", &["portreeve:admin:a", "portreeve:editor:", "portreeve:root", "portreeve:", "editor"]),
];

/// Each verb by one letter, in the order of the cells.
const VERBS: [(&str, char); 9] = [
    ("get", 'g'),
    ("list", 'l'),
    ("watch", 'w'),
    ("create", 'c'),
    ("update", 'u'),
    ("patch", 'p'),
    ("delete", 'd'),
    ("deletecollection", 'D'),
    ("*", '*'),
];

/// group, resource, namespace, name
const ROWS: [(&str, &str, &str, &str); 48] = [
    (GROUP, "instances", "", ""),
    (GROUP, "instances", "a", "x"),
    (GROUP, "instances", "b", "x"),
    (GROUP, "instances/scale", "a", "x"),
    (GROUP, "instances/status", "a", "x"),
    ("", "events", "", ""),
    ("", "events", "a", "x"),
    ("", "pods", "", ""),
    ("", "pods", "a", "x"),
    ("", "pods/log", "a", "x"),
    ("", "pods/log", "b", "x"),
    ("", "pods/exec", "a", "x"),
    ("", "pods/exec", "b", "x"),
    ("", "pods/attach", "a", "x"),
    ("", "pods/portforward", "a", "x"),
    ("", "pods/eviction", "a", "x"),
    ("", "secrets", "", ""),
    ("", "secrets", "a", "x"),
    ("", "secrets", "b", "x"),
    ("", "secrets/status", "a", "x"),
    ("", "secrets", "portreeve-system", "x"),
    (GROUP, "instances", "portreeve-system", "x"),
    ("", "pods/log", "portreeve-system", "x"),
    ("", "pods/exec", "portreeve-system", "x"),
    ("", "namespaces", "", ""),
    ("", "namespaces", "a", "a"),
    ("", "namespaces", "b", "b"),
    ("", "namespaces", "a", "b"),
    ("", "namespaces/status", "a", "a"),
    (GROUP, "dockerhosts", "", ""),
    (GROUP, "dockerhosts", "", "x"),
    (GROUP, "dockerhosts", "a", "x"),
    (GROUP, "dockerhosts/status", "", "x"),
    (GROUP, "instances/why", "a", "x"),
    (GROUP, "dockerhosts/containers", "", "x"),
    (GROUP, "accesstokens", "", ""),
    (GROUP, "accesstokens", "a", "a"),
    (GROUP, "accesstokens/status", "", "x"),
    ("metrics.k8s.io", "pods", "", ""),
    ("metrics.k8s.io", "pods", "a", "x"),
    ("metrics.k8s.io", "nodes", "", "x"),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "", ""),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "", ""),
    ("authentication.k8s.io", "selfsubjectreviews", "", ""),
    ("", "nothings", "a", "x"),
    ("", "instances", "a", "x"),
    ("*", "*", "a", ""),
    ("", "", "", ""),
];

/// Users by columns, letters of [`VERBS`] in the cells.
const TABLE: &str = include_str!("table.txt");

fn table() -> String {
    let mut text = String::new();
    let mut line = |cells: Vec<String>| {
        let padded: String = cells.iter().map(|c| format!("{c:<11}")).collect();
        text.push_str(padded.trim_end());
        text.push('\n');
    };
    line(std::iter::once(format!("{:<40}", "")).chain(USERS.iter().map(|(n, _)| (*n).to_owned())).collect());
    for (group, resource, namespace, name) in ROWS {
        let cell = |groups: &[&str]| -> String {
            let may = |verb| decide(&user(groups), &Attributes { verb, group, resource, namespace, name }).allowed;
            let letters: String = VERBS.iter().filter(|(verb, _)| may(verb)).map(|(_, letter)| letter).collect();
            if letters.is_empty() { "-".into() } else { letters }
        };
        let row = format!("{:<40}", format!("{resource} {namespace:?} {name:?}"));
        line(std::iter::once(row).chain(USERS.iter().map(|(_, groups)| cell(groups))).collect());
    }
    text
}

#[test]
fn every_verb_on_every_resource_in_every_role() {
    let table = table();
    assert!(table == TABLE, "the table is now:\n{table}");
}

/// Whatever is added to the table of kinds later.
#[test]
fn no_kind_gives_more_than_its_class() {
    for resource in registry::all().iter().filter(|r| class(r.group, r.plural) != Some(Class::Reviews)) {
        let parts = resource.subresources.iter().map(|s| format!("{}/{}", resource.plural, s.name));
        for path in std::iter::once(resource.plural.to_owned()).chain(parts) {
            for (verb, _) in VERBS {
                let may = |groups: &[&str], namespace| {
                    let wanted = Attributes { verb, group: resource.group, resource: &path, namespace, name: "x" };
                    decide(&user(groups), &wanted).allowed
                };
                let what = format!("{verb} {path}");
                assert!(may(&["portreeve:admin"], ""), "{what}: admin");
                assert!(!may(&[], "a") && !may(&[], ""), "{what}: nobody");
                assert!(!may(&["portreeve:editor:a"], "b"), "{what}: another namespace");
                assert!(!may(&["portreeve:editor:a"], ""), "{what}: all namespaces");
                let reads = ["get", "list", "watch"].contains(&verb);
                assert!(reads || !may(&["portreeve:viewer"], "a"), "{what}: a viewer writes");
                assert!(reads || resource.namespaced || !may(&["portreeve:editor"], ""), "{what}: an editor writes");
                assert!(reads || !path.ends_with("/status") || !may(&["portreeve:editor"], "a"), "{what}: status");
            }
        }
    }
}

#[test]
fn what_a_rules_review_tells_is_what_is_decided() {
    for (who, groups) in USERS {
        let user = user(groups);
        for namespace in ["a", "b", SYSTEM_NAMESPACE] {
            let Some(rights) = rights(&user, namespace) else {
                assert!(is_admin(&user), "{who}");
                continue;
            };
            for resource in registry::all() {
                let parts = resource.subresources.iter().map(|s| format!("{}/{}", resource.plural, s.name));
                for path in std::iter::once(resource.plural.to_owned()).chain(parts) {
                    for (verb, _) in VERBS {
                        let name = if resource.plural == "namespaces" { namespace } else { "x" };
                        let group = resource.group;
                        let wanted = Attributes { verb, group, resource: &path, namespace, name };
                        let told = rights.iter().any(|r| {
                            r.group == group
                                && r.verbs.contains(&verb)
                                && r.resources.contains(&path)
                                && (r.names.is_empty() || r.names.iter().any(|n| n == name))
                        });
                        assert_eq!(told, decide(&user, &wanted).allowed, "{who} {verb} {path} in {namespace}");
                    }
                }
            }
        }
    }
}

#[test]
fn everyone_reads_about_the_api_and_admins_every_path() {
    let (nobody, admin) = (user(&[]), user(&["portreeve:admin"]));
    for (role, may) in [("portreeve:viewer", true), ("portreeve:editor", true), ("portreeve:viewer:default", false)] {
        let reader = user(&[role]);
        assert_eq!(decide_path(&reader, "get", "/metrics").allowed, may, "{role}: they count over all namespaces");
        assert_eq!(paths(&reader).expect("not every path").contains(&"/metrics"), may, "{role}");
    }
    for (verb, path, anyone) in [
        ("get", "/api", true),
        ("get", "/apis/portreeve.dev/v1", true),
        ("get", "/openapi/v3", true),
        ("get", "/apiserver", false),
        ("get", "/metrics", false),
        ("post", "/api", false),
        ("*", "*", false),
    ] {
        assert_eq!(decide_path(&nobody, verb, path).allowed, anyone, "{verb} {path}");
        assert!(decide_path(&admin, verb, path).allowed, "{verb} {path}");
    }
}

#[test]
fn a_refusal_says_who_cannot_do_what_and_where() {
    let wanted = Attributes { verb: "delete", group: GROUP, resource: "instances/scale", namespace: "ns", name: "x" };
    assert_eq!(
        authorize(&user(&[]), &wanted).unwrap_err().to_string(),
        "instances.portreeve.dev \"x\" is forbidden: User \"u\" cannot delete resource \"instances/scale\" \
         in API group \"portreeve.dev\" in the namespace \"ns\""
    );
}
