//! The terminal in raw mode, for `exec -t`: keys go to the command unseen by the local terminal driver.

use std::os::fd::AsFd;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::error::{Error, Result};

/// Raw mode while this lives; dropping it, also in a panic, puts the terminal back as it was.
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Makes standard input's terminal raw.
    pub fn enter() -> Result<RawTerminal> {
        let stdin = std::io::stdin();
        let cannot = |e| Error::failed(format!("cannot make the terminal raw: {e}"));
        let before = tcgetattr(stdin.as_fd()).map_err(cannot)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Flush, &raw).map_err(cannot)?;
        Ok(RawTerminal { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Drain, &self.before);
    }
}

/// Columns and rows of the terminal, if there is one that tells.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout().as_fd()).or_else(|_| tcgetwinsize(std::io::stdin().as_fd())).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}
