//! Command-line arguments: words, `--option VALUE`, `--option=VALUE`, `--flag`, and what follows `--`.
//!
//! A verb takes what it knows and then calls [`Args::finish`], which refuses the rest: a mistyped flag never passes.

use anyhow::{Result, bail};

pub struct Args {
    left: Vec<String>,
    /// What follows `--`.
    rest: Vec<String>,
}

impl Args {
    pub fn from_env() -> Args {
        Args::new(std::env::args().skip(1).collect())
    }

    pub fn new(mut words: Vec<String>) -> Args {
        let rest = match words.iter().position(|w| w == "--") {
            Some(at) => words.split_off(at).split_off(1),
            None => Vec::new(),
        };
        Args { left: words, rest }
    }

    /// The next word. Options must have been taken before if they may stand in front of it.
    pub fn word(&mut self) -> Option<String> {
        let at = self.left.iter().position(|w| !w.starts_with('-'))?;
        Some(self.left.remove(at))
    }

    pub fn needed(&mut self, what: &str) -> Result<String> {
        match self.word() {
            Some(word) => Ok(word),
            None => bail!("{what} is missing"),
        }
    }

    pub fn flag(&mut self, name: &str) -> bool {
        let before = self.left.len();
        self.left.retain(|w| w != name);
        self.left.len() < before
    }

    /// The option's value. Given twice: the last, as elsewhere.
    pub fn option(&mut self, name: &str) -> Result<Option<String>> {
        Ok(self.options(name)?.pop())
    }

    pub fn options(&mut self, name: &str) -> Result<Vec<String>> {
        let mut values = Vec::new();
        while let Some(at) = self.left.iter().position(|w| w.split('=').next() == Some(name)) {
            let word = self.left.remove(at);
            match word.split_once('=') {
                Some((_, value)) => values.push(value.to_owned()),
                None if at < self.left.len() => values.push(self.left.remove(at)),
                None => bail!("{name} needs a value"),
            }
        }
        Ok(values)
    }

    pub fn rest(&mut self) -> Vec<String> {
        std::mem::take(&mut self.rest)
    }

    pub fn finish(self) -> Result<()> {
        match self.left.iter().chain(&self.rest).next() {
            Some(word) => bail!("unexpected argument: {word}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Args {
        Args::new(text.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn options_flags_words_and_the_rest_are_told_apart() {
        let mut a = args("up --disk 1G 3 --disk=h2=2G --bare -- ps -a");
        assert_eq!(a.word().as_deref(), Some("up"));
        assert_eq!(a.options("--disk").unwrap(), ["1G", "h2=2G"]);
        assert!(a.flag("--bare") && !a.flag("--bare"));
        assert_eq!(a.word().as_deref(), Some("3"));
        assert_eq!(a.rest(), ["ps", "-a"]);
        a.finish().unwrap();
    }

    #[test]
    fn what_nobody_took_is_refused() {
        assert!(args("--oops").finish().unwrap_err().to_string().contains("--oops"));
        assert!(args("-- x").finish().is_err());
        assert!(args("--name").option("--name").is_err());
    }
}
