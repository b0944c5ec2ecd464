//! `portreeve completion`: scripts made from the same definitions that parse the command line.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::args::{Cli, CompletionArgs, ShellName};

/// The completion script of a shell.
pub fn script(args: &CompletionArgs) -> Vec<u8> {
    let shell = match args.shell {
        ShellName::Bash => Shell::Bash,
        ShellName::Zsh => Shell::Zsh,
        ShellName::Fish => Shell::Fish,
    };
    let mut script = vec![];
    generate(shell, &mut Cli::command(), "portreeve", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
