//! The part of kubectl's JSONPath templates that people use: text, `{.a.b[0].c}`, `{.items[*].metadata.name}`,
//! `{['a.b']}`, `{.a\.b}`, `{"\n"}`, `{range .items[*]}…{end}`. Filters, slices, unions and `..` are refused by name.

use std::str::FromStr;

use serde_json::Value;

/// A parsed template.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Node>);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Node>),
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// Counted from the end when negative.
    Index(i64),
    All,
}

/// Why a template is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("jsonpath {template:?}: {why}")]
pub struct BadPath {
    template: String,
    why: String,
}

impl FromStr for JsonPath {
    type Err = BadPath;

    /// A template without braces is one path: `.status.phase`.
    fn from_str(text: &str) -> Result<JsonPath, BadPath> {
        let bad = |why: String| BadPath { template: text.to_owned(), why };
        if text.is_empty() {
            return Err(bad("it is empty".into()));
        }
        if !text.contains('{') {
            return Ok(JsonPath(vec![Node::Path(steps(text).map_err(bad)?)]));
        }
        parse(text).map(JsonPath).map_err(bad)
    }
}

fn parse(mut rest: &str) -> Result<Vec<Node>, String> {
    // the bottom is the template; each open range puts one on top
    let mut open: Vec<(Vec<Step>, Vec<Node>)> = vec![(vec![], vec![])];
    while !rest.is_empty() {
        let (text, tail) = rest.split_once('{').unwrap_or((rest, ""));
        let nodes = &mut open.last_mut().expect("the bottom stays").1;
        if !text.is_empty() {
            nodes.push(Node::Text(text.to_owned()));
        }
        if text.len() == rest.len() {
            break;
        }
        let end = closing(tail).ok_or("a { is not closed")?;
        let expression = tail[..end].trim();
        rest = &tail[end + 1..];
        if expression == "end" {
            let (path, body) = open.pop().expect("the bottom stays");
            let around = open.last_mut().ok_or("{end} without {range}")?;
            around.1.push(Node::Range(path, body));
        } else if let Some(path) = expression.strip_prefix("range ") {
            open.push((steps(path.trim())?, vec![]));
        } else if expression.starts_with(['"', '\'']) {
            nodes.push(Node::Text(literal(expression)?));
        } else {
            nodes.push(Node::Path(steps(expression)?));
        }
    }
    let (_, nodes) = open.pop().expect("the bottom stays");
    if open.is_empty() { Ok(nodes) } else { Err("a {range} has no {end}".into()) }
}

/// Where the brace closes that was opened before `text`: not inside quotes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(q), c) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '}') => return Some(i),
            (None, _) => {}
        }
    }
    None
}

fn literal(text: &str) -> Result<String, String> {
    let quote = text.chars().next().unwrap_or_default();
    let inner = text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote)).filter(|_| text.len() >= 2);
    let inner = inner.ok_or_else(|| format!("{text} is not closed"))?;
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some(other) => out.push(other),
                None => return Err(format!("{text} ends in a backslash")),
            },
            c => out.push(c),
        }
    }
    Ok(out)
}

fn steps(text: &str) -> Result<Vec<Step>, String> {
    let mut rest = text.strip_prefix(['$', '@']).unwrap_or(text);
    if rest.contains("..") {
        return Err("recursive descent (..) is not supported".into());
    }
    let mut steps = vec![];
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let end = after.find(']').ok_or("a [ is not closed")?;
            steps.push(subscript(after[..end].trim())?);
            rest = &after[end + 1..];
            continue;
        }
        let after = rest.strip_prefix('.').ok_or_else(|| format!("expected . or [ at {rest:?}"))?;
        let (name, length) = field(after);
        match name.as_str() {
            "" if after.starts_with('[') || (after.is_empty() && steps.is_empty()) => {}
            "" => return Err("a field has no name".into()),
            "*" => steps.push(Step::All),
            _ => steps.push(Step::Field(name)),
        }
        rest = &after[length..];
    }
    Ok(steps)
}

/// A field's name, up to the next `.` or `[` that no backslash precedes, and how many bytes it took.
fn field(text: &str) -> (String, usize) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '.' | '[' => return (name, i),
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            c => name.push(c),
        }
    }
    (name, text.len())
}

fn subscript(text: &str) -> Result<Step, String> {
    match text.chars().next() {
        Some('*') if text.len() == 1 => Ok(Step::All),
        Some('\'' | '"') => literal(text).map(Step::Field),
        Some('?') => Err(format!("filters ([{text}]) are not supported")),
        _ if text.contains(':') => Err(format!("slices ([{text}]) are not supported")),
        _ if text.contains(',') => Err(format!("unions ([{text}]) are not supported")),
        _ => text.parse().map(Step::Index).map_err(|_| format!("[{text}] is no index")),
    }
}

impl JsonPath {
    /// Fills the template. What is not there gives nothing, as with kubectl.
    pub fn render(&self, value: &Value) -> String {
        let mut out = String::new();
        render(&self.0, value, &mut out);
        out
    }
}

fn render(nodes: &[Node], value: &Value, out: &mut String) {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(path) => {
                let found: Vec<_> = select(path, value).into_iter().map(show).collect();
                out.push_str(&found.join(" "));
            }
            Node::Range(path, body) => select(path, value).into_iter().for_each(|v| render(body, v, out)),
        }
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn select<'a>(path: &[Step], value: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![value];
    for step in path {
        found = found
            .into_iter()
            .flat_map(|v| match (step, v) {
                (Step::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
                (Step::Index(i), Value::Array(items)) => {
                    let i = if *i < 0 { items.len() as i64 + i } else { *i };
                    usize::try_from(i).ok().and_then(|i| items.get(i)).into_iter().collect()
                }
                (Step::All, Value::Array(items)) => items.iter().collect(),
                (Step::All, Value::Object(map)) => map.values().collect(),
                _ => vec![],
            })
            .collect();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn filled(template: &str) -> String {
        let list = json!({
            "kind": "List",
            "items": [
                {"metadata": {"name": "a", "annotations": {"portreeve.dev/wake": "now"}}, "spec": {"ports": [{"p": 80}, {"p": 81}]}},
                {"metadata": {"name": "b"}, "spec": {"ports": []}},
            ],
        });
        template.parse::<JsonPath>().unwrap().render(&list)
    }

    #[test]
    fn paths_select_what_they_name() {
        for (template, expected) in [
            ("{.kind}", "List"),
            (".kind", "List"),
            ("{$.kind}", "List"),
            ("{.items[0].metadata.name}", "a"),
            ("{.items[-1].metadata.name}", "b"),
            ("{.items[*].metadata.name}", "a b"),
            ("{.items[0]['metadata'][\"name\"]}", "a"),
            (r"{.items[0].metadata.annotations.portreeve\.dev/wake}", "now"),
            ("{.items[0].spec.ports[*]}", r#"{"p":80} {"p":81}"#),
            ("{.items[0].spec.ports[1].p}", "81"),
            ("{.items[7].metadata.name}", ""),
            ("{.nothing.here}", ""),
            ("kind={.kind}{\"\\n\"}", "kind=List\n"),
            ("{range .items[*]}{.metadata.name}={.spec.ports[*].p};{end}.", "a=80 81;b=;."),
            ("{range .items[*]}{range .spec.ports[*]}{.p},{end}{'}'}{end}", "80,81,}}"),
        ] {
            assert_eq!(filled(template), expected, "{template}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (template, expected) in [
            ("{.items[?(@.a==1)].b}", "filters"),
            ("{..name}", "recursive descent"),
            ("{.items[0:2]}", "slices"),
            ("{.items[0,1]}", "unions"),
            ("{.items", "not closed"),
            ("{.items[0}", "not closed"),
            ("{range .items[*]}x", "no {end}"),
            ("{end}", "without {range}"),
            ("{kind}", "expected ."),
            ("{.a[b]}", "no index"),
            ("", "empty"),
        ] {
            let error = template.parse::<JsonPath>().expect_err(template).to_string();
            assert!(error.contains(expected), "{template}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_template_makes_the_parser_panic(text in r#"[{}\[\].*'"\\ a0é$?:,-]{0,16}|(\{(range )?|\}|end|\[\*\]|\.a){0,8}"#) {
            if let Ok(path) = text.parse::<JsonPath>() {
                path.render(&json!({"a": [{"a": 1}]}));
            }
        }
    }
}
