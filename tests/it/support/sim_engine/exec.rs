//! Commands inside containers of the simulated daemon, and how its containers end when they are asked to.

use std::time::Duration;

use portreeve::docker::engine::{ContainerSpec, EngineErrorKind, ExecOptions, RunState};
use portreeve::docker::reference;

use super::image::SimCommand;
use super::world::{Done, SimExec, World, refuse};

impl World {
    /// Makes ready to run a command; the id to run it by.
    pub fn exec(&mut self, container: &str, options: ExecOptions) -> Done<String> {
        let c = self.find_mut(container)?;
        if c.state == RunState::Paused {
            let message = format!("Container {container} is paused, unpause the container before exec");
            return refuse(EngineErrorKind::Conflict, message);
        }
        if c.state != RunState::Running {
            let message = format!("Container {} is not running", c.id);
            return refuse(EngineErrorKind::Conflict, message);
        }
        let (container, exec_id) = (c.id.clone(), self.rng.id());
        self.execs.insert(exec_id.clone(), SimExec { container, options, exit_code: None });
        Ok(exec_id)
    }

    /// What the command does, the container that it does it in, and whether it has a terminal.
    pub fn run_exec(&self, exec_id: &str) -> Done<(SimCommand, ContainerSpec, bool)> {
        let exec = self.execs.get(exec_id);
        let Some((exec, c)) = exec.and_then(|exec| Some((exec, self.containers.get(&exec.container)?))) else {
            return refuse(EngineErrorKind::NotFound, format!("No such exec instance: {exec_id}"));
        };
        let options = &exec.options;
        let image = self.images.get(&reference::image(&c.spec.image));
        let command = image.and_then(|i| i.commands.get(&options.command)).cloned();
        let command = command.unwrap_or_else(|| SimCommand::Says {
            stdout: format!(
                "OCI runtime exec failed: exec failed: unable to start container process: exec: {:?}: executable file not found in $PATH: unknown\r\n",
                options.command.first().map_or("", String::as_str)
            ),
            code: 126,
        });
        Ok((command, c.spec.clone(), options.tty))
    }

    pub fn exec_ended(&mut self, exec_id: &str, code: i64) {
        if let Some(exec) = self.execs.get_mut(exec_id) {
            exec.exit_code = Some(code);
        }
    }

    /// How long a container takes to end when asked to, and its exit code then.
    pub fn ending(&self, container: &str, grace: Duration) -> (Duration, i64) {
        let found = self.find(container).filter(|c| c.alive());
        let image = found.and_then(|c| self.images.get(&reference::image(&c.spec.image)));
        match image.map(|image| image.ends_within) {
            Some(Some(takes)) if takes <= grace => (takes, 0),
            Some(_) => (grace, 137),
            None => (Duration::from_millis(1), 0),
        }
    }
}
