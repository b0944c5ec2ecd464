//! What an image of the simulated daemon does when it runs.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use portreeve::docker::engine::ContainerSpec;

/// An image, local or to be had by a pull.
#[derive(Clone, Debug, Default)]
pub struct SimImage {
    /// `sha256:…`, set when it is added.
    pub id: String,
    /// In the daemon's store already.
    pub local: bool,
    /// The registry has it.
    pub pullable: bool,
    pub pull: Duration,
    /// Its pull says something new each second.
    pub talks: bool,
    /// What the registry wants to be shown for it.
    pub password: Option<String>,
    /// From the start until the app answers.
    pub boot: Duration,
    /// How long it takes to end when asked to; `None`: it does not listen, and is killed after the grace.
    pub ends_within: Option<Duration>,
    pub exits: Option<Exit>,
    /// Container ports at which it hangs from every start on.
    pub hangs_at: Vec<u16>,
    /// Written to standard output at every start.
    pub log_lines: Vec<Bytes>,
    /// By entrypoint and arguments; anything else, as a container's own process, serves.
    pub commands: BTreeMap<Vec<String>, SimCommand>,
}

/// An exit of its own accord, at every start.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    pub after: Duration,
    pub code: i64,
    pub oom: bool,
}

/// What a command does that is run inside a container.
#[derive(Clone, Debug)]
pub enum SimCommand {
    Says {
        stdout: String,
        code: i64,
    },
    /// Its environment, one variable a line.
    ShowsEnvironment,
    /// Gives its input back until that ends.
    Echoes,
    /// Ends with 0 after so long.
    Sleeps(Duration),
}

impl SimCommand {
    /// Standard output and exit code of a command that needs no input.
    pub fn outcome(&self, spec: &ContainerSpec) -> (Bytes, i64) {
        match self {
            SimCommand::Says { stdout, code } => (Bytes::from(stdout.clone()), *code),
            SimCommand::Echoes | SimCommand::Sleeps(_) => (Bytes::new(), 0),
            SimCommand::ShowsEnvironment => {
                let mut lines: Vec<_> = spec.environment().iter().map(|e| format!("{e}\n")).collect();
                lines.push(format!("HOSTNAME={}\n", spec.hostname));
                lines.sort();
                (Bytes::from(lines.concat()), 0)
            }
        }
    }
}

impl SimImage {
    /// A local image of a server that boots in 200 ms and stops in 50.
    pub fn server() -> SimImage {
        SimImage {
            local: true,
            pullable: true,
            pull: Duration::from_secs(3),
            boot: Duration::from_millis(200),
            ends_within: Some(Duration::from_millis(50)),
            ..SimImage::default()
        }
    }

    /// Only in the registry: a pull takes this long.
    pub fn remote(self, pull: Duration) -> SimImage {
        SimImage { local: false, pullable: true, pull, ..self }
    }

    pub fn talks(self) -> SimImage {
        SimImage { talks: true, ..self }
    }

    /// Not for everybody.
    pub fn private(self, password: &str) -> SimImage {
        SimImage { password: Some(password.to_owned()), ..self }
    }

    /// Neither here nor in the registry any more.
    pub fn unpullable(self) -> SimImage {
        SimImage { pullable: false, ..self }
    }

    pub fn boots_in(self, boot: Duration) -> SimImage {
        SimImage { boot, ..self }
    }

    /// Ends by itself this long after every start.
    pub fn exits(self, after: Duration, code: i64) -> SimImage {
        SimImage { exits: Some(Exit { after, code, oom: false }), ..self }
    }

    /// Listens at one of its ports, and never answers there.
    pub fn hangs_at(self, container_port: u16) -> SimImage {
        SimImage { hangs_at: vec![container_port], ..self }
    }

    /// The kernel kills it this long after every start.
    pub fn runs_out_of_memory(self, after: Duration) -> SimImage {
        SimImage { exits: Some(Exit { after, code: 137, oom: true }), ..self }
    }

    pub fn ignores_stop(self) -> SimImage {
        SimImage { ends_within: None, ..self }
    }

    pub fn logs(mut self, line: &str) -> SimImage {
        self.log_lines.push(Bytes::from(format!("{line}\n")));
        self
    }

    pub fn runs(mut self, command: &[&str], does: SimCommand) -> SimImage {
        self.commands.insert(command.iter().map(|w| (*w).to_owned()).collect(), does);
        self
    }
}
