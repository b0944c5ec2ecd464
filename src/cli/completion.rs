//! `portreeve completion`: scripts made from the same definitions that parse the command line.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::{Shell, generate};

use super::args::Cli;
use super::error::{Exit, Result};
use super::output::print_bytes;

/// Print a shell's completion script.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  # bash, for this session
  source <(portreeve completion bash)

  # zsh and fish, for every session
  portreeve completion zsh > \"${fpath[1]}/_portreeve\"
  portreeve completion fish > ~/.config/fish/completions/portreeve.fish")]
pub struct CompletionArgs {
    pub shell: ShellName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ShellName {
    Bash,
    Zsh,
    Fish,
}

pub fn run(args: &CompletionArgs) -> Result<Exit> {
    let shell = match args.shell {
        ShellName::Bash => Shell::Bash,
        ShellName::Zsh => Shell::Zsh,
        ShellName::Fish => Shell::Fish,
    };
    let mut script = vec![];
    generate(shell, &mut Cli::command(), "portreeve", &mut script);
    print_bytes(&script)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
