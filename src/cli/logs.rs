//! `portreeve logs`: what the containers of instances wrote, wherever they run: of one as it comes, of several one
//! after the other, or, followed, all at once in whole lines.
//!
//! ```text
//! alice ──▶ lines ─┐
//! bob ────▶ lines ─┴▶ queue ──▶ stdout
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use clap::Args;
use serde_json::Value;
use tokio::sync::mpsc;

use super::client::{JSON, Stream};
use super::error::{Error, Exit, Result};
use super::output::print_bytes;
use super::session::Session;
use super::url::{self, encode, with_query};
use crate::model::{Span, Time};

/// How many last lines of each are shown of those that a selector finds, unless --tail says otherwise: as kubectl.
const TAIL_OF_SELECTED: i64 = 10;
/// A line that is longer is cut, so that no container can fill our memory.
const MAX_LINE: usize = 1 << 20;
/// Lines that wait to be printed.
const QUEUE: usize = 64;

/// Print the logs of instances.
///
/// A container that is put to sleep and woken, or started again after a crash, keeps its log.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve logs alice
  portreeve logs -f --tail 20 alice
  portreeve logs --previous alice
  portreeve logs --since 10m --timestamps alice
  portreeve logs -f -l tier=free --prefix --max-log-requests 20")]
pub struct LogsArgs {
    /// The instances
    #[arg(required_unless_present = "selector", conflicts_with = "selector", value_name = "NAME")]
    pub names: Vec<String>,
    /// All instances of the namespace whose labels match; the last 10 lines of each, unless --tail says otherwise
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// Go on with what is written from now on
    #[arg(short, long)]
    pub follow: bool,
    /// What the container wrote in its run before the present one: why it was started again
    #[arg(short, long)]
    pub previous: bool,
    /// Only the last lines; -1: all
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub tail: Option<i64>,
    /// Only what is younger than this
    #[arg(long, value_name = "DURATION")]
    pub since: Option<Span>,
    /// Only what was written since: 2026-01-31T10:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "since", value_parser = rfc3339)]
    pub since_time: Option<Time>,
    /// Each line with its time
    #[arg(long)]
    pub timestamps: bool,
    /// At most so many bytes of each instance
    #[arg(long, value_name = "BYTES")]
    pub limit_bytes: Option<u64>,
    /// Each line with whose it is: [pod/alice/main]
    #[arg(long)]
    pub prefix: bool,
    /// How many instances may be followed at a time
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_log_requests: u32,
    /// Exit with 0 although some could not be read
    #[arg(long)]
    pub ignore_errors: bool,
    /// The container; an instance has one, `main`
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
}

fn rfc3339(text: &str) -> std::result::Result<Time, String> {
    text.parse::<jiff::Timestamp>().map(Time::from).map_err(|_| "expected a time such as 2026-01-31T10:00:00Z".into())
}

pub async fn run(args: &LogsArgs, session: &Session) -> Result<Exit> {
    let names = match &args.selector {
        None => args.names.clone(),
        Some(selector) => selected(selector, session).await?,
    };
    if names.is_empty() {
        eprintln!("No resources found in {} namespace.", session.namespace);
    }
    if let ([name], false) = (names.as_slice(), args.prefix) {
        let mut stream = open(args, name, session).await?;
        while let Some(chunk) = stream.chunk().await? {
            print_bytes(&chunk)?;
        }
        return Ok(Exit::Done);
    }
    if args.follow {
        let most = usize::try_from(args.max_log_requests).unwrap_or(usize::MAX);
        if names.len() > most {
            return Err(Error::failed(format!(
                "you are attempting to follow {} log streams, but maximum allowed concurrency is {most}, use \
                 --max-log-requests to increase the limit",
                names.len()
            )));
        }
        return follow(args, &names, session).await;
    }
    let mut exit = Exit::Done;
    for name in &names {
        match one_of_many(args, name, session, print_now).await {
            Err(e @ Error::Output(_)) => return Err(e),
            Err(e) => exit = excused(args, name, &e),
            Ok(()) => {}
        }
    }
    Ok(exit)
}

/// The names of the instances with these labels, in order.
async fn selected(selector: &str, session: &Session) -> Result<Vec<String>> {
    let pods = format!("/api/v1/namespaces/{}/pods", encode(&session.namespace));
    let list = session.client.get(&with_query(&pods, &[("labelSelector", selector)]), JSON).await?;
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(items.iter().filter_map(|pod: &Value| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

/// Says why one of several could not be read; the others go on.
fn excused(args: &LogsArgs, name: &str, e: &Error) -> Exit {
    eprintln!("{name}: {e}");
    if args.ignore_errors { Exit::Done } else { Exit::Failed }
}

async fn print_now(line: Bytes) -> Result<()> {
    print_bytes(&line)
}

/// Follows all at once until each has ended.
async fn follow(args: &LogsArgs, names: &[String], session: &Session) -> Result<Exit> {
    let (queue, mut lines) = mpsc::channel::<Bytes>(QUEUE);
    let readers = futures::future::join_all(names.iter().map(|name| {
        let queue = queue.clone();
        async move {
            let give = async |line| queue.send(line).await.map_err(|_| Error::failed("nobody prints"));
            let read = one_of_many(args, name, session, give).await;
            read.map_or_else(|e| excused(args, name, &e), |()| Exit::Done)
        }
    }));
    drop(queue);
    let print = async {
        while let Some(line) = lines.recv().await {
            print_bytes(&line)?;
        }
        Ok::<(), Error>(())
    };
    let (exits, ()) = tokio::try_join!(async { Ok(readers.await) }, print)?;
    Ok(exits.into_iter().find(|exit| *exit == Exit::Failed).unwrap_or(Exit::Done))
}

/// Gives the lines of one instance, whole and with their ends.
async fn one_of_many(
    args: &LogsArgs,
    name: &str,
    session: &Session,
    give: impl AsyncFn(Bytes) -> Result<()>,
) -> Result<()> {
    let mut stream = open(args, name, session).await?;
    let mut lines = Lines::new(if args.prefix { format!("[pod/{name}/main] ") } else { String::new() });
    while let Some(chunk) = stream.chunk().await? {
        for line in lines.feed(chunk) {
            give(line).await?;
        }
    }
    match lines.rest() {
        Some(line) => give(line).await,
        None => Ok(()),
    }
}

async fn open(args: &LogsArgs, name: &str, session: &Session) -> Result<Stream> {
    session.client.stream(&path(args, name, &session.namespace), "*/*").await
}

/// Cuts output into lines, each with a prefix and an end.
struct Lines {
    prefix: String,
    held: BytesMut,
}

impl Lines {
    fn new(prefix: String) -> Lines {
        Lines { prefix, held: BytesMut::new() }
    }

    fn feed(&mut self, chunk: Bytes) -> Vec<Bytes> {
        let mut lines = vec![];
        for piece in chunk.split_inclusive(|b| *b == b'\n') {
            let mut left = piece;
            while !left.is_empty() {
                if self.held.is_empty() {
                    self.held.put_slice(self.prefix.as_bytes());
                }
                let room = (self.prefix.len() + MAX_LINE).saturating_sub(self.held.len()).min(left.len());
                let (now, later) = left.split_at(room);
                self.held.put_slice(now);
                left = later;
                if self.held.ends_with(b"\n") {
                    lines.push(self.held.split().freeze());
                } else if self.held.len() >= self.prefix.len() + MAX_LINE {
                    lines.extend(self.rest());
                }
            }
        }
        lines
    }

    /// A last line that has no end of its own.
    fn rest(&mut self) -> Option<Bytes> {
        if self.held.is_empty() {
            return None;
        }
        self.held.put_u8(b'\n');
        Some(self.held.split().freeze())
    }
}

fn path(args: &LogsArgs, name: &str, namespace: &str) -> String {
    let path = format!("{}/log", url::pod(namespace, name));
    let tail = args.tail.or(args.selector.as_ref().map(|_| TAIL_OF_SELECTED)).filter(|n| *n >= 0);
    let number = |n: u64| n.to_string();
    // the server counts in whole seconds: rather too much than a line too few
    let since = args.since.as_ref().map(|s| s.duration().as_millis().div_ceil(1000).max(1).to_string());
    let query: Vec<(&str, String)> = [
        ("container", args.container.clone()),
        ("follow", args.follow.then(|| "true".into())),
        ("previous", args.previous.then(|| "true".into())),
        ("tailLines", tail.map(|n| n.to_string())),
        ("sinceSeconds", since),
        ("sinceTime", args.since_time.map(|t| t.to_string())),
        ("timestamps", args.timestamps.then(|| "true".into())),
        ("limitBytes", args.limit_bytes.map(number)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect();
    let query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
    with_query(&path, &query)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        logs: LogsArgs,
    }

    fn asked(words: &str) -> String {
        let args = Line::try_parse_from(format!("logs {words}").split(' ')).unwrap_or_else(|e| panic!("{e}")).logs;
        path(&args, "a/b", "ns")
    }

    #[test]
    fn flags_become_the_query() {
        assert_eq!(asked("x"), "/api/v1/namespaces/ns/pods/a%2Fb/log");
        for (words, query) in [
            ("x -f --timestamps --tail 5 --since 1500ms", "follow=true&tailLines=5&sinceSeconds=2&timestamps=true"),
            ("-l a=b", "tailLines=10"),
            ("-l a=b --tail=0", "tailLines=0"),
            ("x -p -c main --limit-bytes 9", "container=main&previous=true&limitBytes=9"),
            ("x --since-time 2026-01-01T01:00:00+01:00", "sinceTime=2026-01-01T00%3A00%3A00Z"),
        ] {
            assert_eq!(asked(words), format!("/api/v1/namespaces/ns/pods/a%2Fb/log?{query}"), "{words}");
        }
        assert_eq!(asked("-l a=b --tail=-1"), "/api/v1/namespaces/ns/pods/a%2Fb/log");
        for bad in [
            "",
            "x -l a=b",
            "x --tail -2",
            "x --since-time yesterday",
            "x --since 1s --since-time 2026-01-01T00:00:00Z",
        ] {
            assert!(Line::try_parse_from(format!("logs {bad}").split_whitespace()).is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_stay_whole_and_get_their_prefix_and_end() {
        let text = b"one\n\ntwo\nthree";
        for size in 1..=text.len() {
            let mut lines = Lines::new("> ".into());
            let mut seen: Vec<Bytes> = text.chunks(size).flat_map(|c| lines.feed(Bytes::copy_from_slice(c))).collect();
            seen.extend(lines.rest());
            assert_eq!(seen, ["> one\n", "> \n", "> two\n", "> three\n"], "in pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut lines = Lines::new("> ".into());
        let piece = Bytes::from(vec![b'x'; 300_000]);
        let seen: Vec<Bytes> = (0..8).flat_map(|_| lines.feed(piece.clone())).collect();
        assert_eq!(seen.iter().map(Bytes::len).collect::<Vec<_>>(), [MAX_LINE + 3, MAX_LINE + 3]);
        assert_eq!(lines.rest().map(|l| l.len()), Some(2_400_000 - 2 * MAX_LINE + 3));
    }
}
