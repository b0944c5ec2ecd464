//! Tables for people: the server's Table answers, and rows of our own. Left aligned, three spaces apart, as kubectl's.

use serde_json::Value;

/// Columns whose widths only grow, so that rows printed later (of a watch) stay in line where they can.
#[derive(Debug, Default)]
pub struct Layout {
    widths: Vec<usize>,
}

impl Layout {
    /// The rows as lines. Control characters are shown escaped: cells hold what users wrote.
    pub fn lines(&mut self, rows: &[Vec<String>]) -> String {
        let rows: Vec<Vec<String>> = rows.iter().map(|r| r.iter().map(|c| printable(c)).collect()).collect();
        for row in &rows {
            for (i, cell) in row.iter().enumerate() {
                let width = cell.chars().count();
                match self.widths.get_mut(i) {
                    Some(w) => *w = width.max(*w),
                    None => self.widths.push(width),
                }
            }
        }
        let mut out = String::new();
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&self.widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width + 3 - cell.chars().count()));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Replaces control characters, which could move a terminal's cursor or rename its window.
pub fn printable(text: &str) -> String {
    if text.chars().any(char::is_control) {
        text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
    } else {
        text.to_owned()
    }
}

/// How to show the server's Tables.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// Also the columns of lower priority.
    pub wide: bool,
    /// A NAMESPACE column in front.
    pub namespaces: bool,
    /// A LABELS column at the end.
    pub labels: bool,
}

/// The columns of a server's Table, kept over the Tables of one watch: only the first has them.
#[derive(Debug, Default)]
pub struct Columns {
    shown: Vec<(usize, String)>,
}

impl Columns {
    /// Takes the columns of a Table; one without columns keeps those of the one before. Returns whether it had any.
    pub fn learn(&mut self, table: &Value, shape: Shape) -> bool {
        let Some(columns) = table["columnDefinitions"].as_array().filter(|c| !c.is_empty()) else { return false };
        self.shown = columns
            .iter()
            .enumerate()
            .filter(|(_, c)| shape.wide || c["priority"].as_i64().unwrap_or(0) == 0)
            .map(|(i, c)| (i, c["name"].as_str().unwrap_or_default().to_uppercase()))
            .collect();
        true
    }

    pub fn header(&self, shape: Shape) -> Vec<String> {
        let names = self.shown.iter().map(|(_, name)| name.clone());
        let namespace = shape.namespaces.then(|| "NAMESPACE".to_owned());
        let labels = shape.labels.then(|| "LABELS".to_owned());
        namespace.into_iter().chain(names).chain(labels).collect()
    }

    /// A Table's rows. `prefix` goes before the name, as in `instance.portreeve.dev/alice`.
    pub fn rows(&self, table: &Value, shape: Shape, prefix: Option<&str>) -> Vec<Vec<String>> {
        let rows = table["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
        rows.iter()
            .map(|row| {
                let meta = &row["object"]["metadata"];
                let namespace = shape.namespaces.then(|| cell(&meta["namespace"]));
                let cells = self.shown.iter().map(|(i, name)| match prefix {
                    Some(prefix) if name == "NAME" => format!("{prefix}/{}", cell(&row["cells"][*i])),
                    _ => cell(&row["cells"][*i]),
                });
                let labels = shape.labels.then(|| labels(&meta["labels"]));
                namespace.into_iter().chain(cells).chain(labels).collect()
            })
            .collect()
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `a=b,c=d`, or `<none>`.
pub fn labels(value: &Value) -> String {
    let pairs: Vec<_> = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer() -> Value {
        json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Last Active", "priority": 0}, {"name": "Ports", "priority": 1}],
            "rows": [
                {"cells": ["alice", null, 2], "object": {"metadata": {"namespace": "team", "labels": {"tier": "free"}}}},
                {"cells": ["bo", "5m", 0], "object": {"metadata": {"namespace": "default"}}},
            ],
        })
    }

    fn shown(shape: Shape, prefix: Option<&str>) -> String {
        let mut columns = Columns::default();
        assert!(columns.learn(&answer(), shape));
        let mut rows = vec![columns.header(shape)];
        rows.extend(columns.rows(&answer(), shape, prefix));
        Layout::default().lines(&rows)
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        assert_eq!(shown(Shape::default(), None), "NAME    LAST ACTIVE\nalice   <none>\nbo      5m\n");
    }

    #[test]
    fn wide_namespaces_labels_and_prefix_add_what_they_say() {
        let shape = Shape { wide: true, namespaces: true, labels: true };
        assert_eq!(
            shown(shape, Some("inst")),
            "NAMESPACE   NAME         LAST ACTIVE   PORTS   LABELS\n\
             team        inst/alice   <none>        2       tier=free\n\
             default     inst/bo      5m            0       <none>\n"
        );
    }

    #[test]
    fn a_later_table_of_a_watch_keeps_the_columns() {
        let mut columns = Columns::default();
        columns.learn(&answer(), Shape::default());
        let later = json!({"columnDefinitions": null, "rows": [{"cells": ["bo", "6m", 0]}]});
        assert!(!columns.learn(&later, Shape::default()));
        assert_eq!(columns.rows(&later, Shape::default(), None), [["bo", "6m"]]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(Layout::default().lines(&[vec!["a\x1b[2Jb\nc".into()]]), "a\\u{1b}[2Jb\\nc\n");
    }
}
