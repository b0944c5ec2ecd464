//! Counting tests from what the test programs print.

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
}

impl Totals {
    pub fn add(&mut self, other: &Totals) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// Adds one line of output if it is a test program's sum:
    /// `test result: ok. 15 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s`.
    pub fn read(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        let Some((_, counts)) = rest.split_once(". ") else { return };
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_of_all_programs_are_summed() {
        let mut totals = Totals::default();
        for line in "\
running 3 tests
test a ... ok
test result: ok. 15 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.02s
test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s
a test printed: test result: ok. 100 passed; 0 failed
test result: nonsense"
            .lines()
        {
            totals.read(line);
        }
        assert_eq!(totals, Totals { passed: 17, failed: 3, ignored: 1 });
    }
}
