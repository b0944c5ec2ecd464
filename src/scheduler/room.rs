//! Room for one that is to run where it is bound already: its ports and its data are there, so another host is no help.
//!
//! ```text
//! what it needs beyond what is free ──▶ [`Room::Enough`]
//!                                   ──▶ [`Room::Make`]: these fall asleep first: the frozen, then those idle for longest
//!                                   ──▶ [`Room::Full`]: not even all that may fall asleep would do; none of them does
//! ```

use std::cmp::Reverse;
use std::time::Duration;

use crate::model::{AllocatedResources, DockerHost, Key};

use super::Load;

/// Memory and CPU, in bytes and thousandths of a core. What is lacking is negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    pub memory: i128,
    pub cpu_milli: i128,
}

impl Amount {
    pub fn of(resources: &AllocatedResources) -> Amount {
        Amount { memory: resources.memory.value().into(), cpu_milli: resources.cpu.milli().into() }
    }

    pub fn plus(self, other: Amount) -> Amount {
        Amount { memory: self.memory + other.memory, cpu_milli: self.cpu_milli + other.cpu_milli }
    }

    pub fn minus(self, other: Amount) -> Amount {
        Amount { memory: self.memory - other.memory, cpu_milli: self.cpu_milli - other.cpu_milli }
    }

    /// What of this, where it asks for any, is more than there is: to be given less is possible on the fullest host.
    pub fn beyond(self, free: Amount) -> Amount {
        let more = |asked: i128, free: i128| if asked > 0 { asked - free } else { 0 };
        Amount { memory: more(self.memory, free.memory), cpu_milli: more(self.cpu_milli, free.cpu_milli) }
    }

    /// Whether nothing is lacking.
    pub fn is_met(self) -> bool {
        self.memory <= 0 && self.cpu_milli <= 0
    }

    /// Whether so much of what is `needed` would be of use.
    fn helps(self, needed: Amount) -> bool {
        (needed.memory > 0 && self.memory > 0) || (needed.cpu_milli > 0 && self.cpu_milli > 0)
    }
}

/// What of a host nobody holds: without end of what it is not known to have.
pub fn free(host: &DockerHost, load: &Load) -> Amount {
    let left = |limit: Option<i128>, held: i128| limit.map_or(i64::MAX.into(), |limit| limit - held);
    Amount { memory: left(host.memory_limit(), load.memory), cpu_milli: left(host.cpu_limit(), load.cpu_milli) }
}

/// One that may be put to sleep.
#[derive(Clone, Debug)]
pub struct Idler {
    pub key: Key,
    pub holds: Amount,
    /// Whether it is frozen: nobody misses what it does by itself, so it goes first.
    pub frozen: bool,
    /// Since it was last used.
    pub idle: Duration,
}

impl Idler {
    /// Who comes first falls asleep first.
    fn order(&self) -> (Reverse<bool>, Reverse<Duration>, &Key) {
        (Reverse(self.frozen), Reverse(self.idle), &self.key)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    Enough,
    Make(Vec<Key>),
    Full,
}

/// `needed`: beyond what is free. The frozen go first, then those idle for longest; ties go to the first by key.
pub fn room(mut needed: Amount, mut idlers: Vec<Idler>) -> Room {
    if needed.is_met() {
        return Room::Enough;
    }
    idlers.sort_by(|a, b| a.order().cmp(&b.order()));
    let mut asked = Vec::new();
    for idler in idlers {
        if needed.is_met() {
            break;
        }
        if idler.holds.helps(needed) {
            needed = needed.minus(idler.holds);
            asked.push(idler.key);
        }
    }
    if needed.is_met() { Room::Make(asked) } else { Room::Full }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amount(memory: i128, cpu_milli: i128) -> Amount {
        Amount { memory, cpu_milli }
    }

    fn idler(name: &str, memory: i128, cpu_milli: i128, idle: u64) -> Idler {
        let (key, idle) = (Key::instance("default", name), Duration::from_secs(idle));
        Idler { key, holds: amount(memory, cpu_milli), frozen: false, idle }
    }

    fn asked(room: Room) -> Vec<String> {
        match room {
            Room::Make(keys) => keys.into_iter().map(|key| key.name).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_one_idle_for_longest_falls_asleep_first_and_no_more_than_are_needed() {
        let idlers = || vec![idler("a", 100, 500, 60), idler("b", 100, 500, 900), idler("c", 100, 500, 300)];
        assert_eq!(room(amount(0, -1), idlers()), Room::Enough);
        assert_eq!(asked(room(amount(1, -10_000), idlers())), ["b"]);
        assert_eq!(asked(room(amount(101, -10_000), idlers())), ["b", "c"]);
        assert_eq!(asked(room(amount(-1, 1500), idlers())), ["b", "c", "a"]);
        assert_eq!(room(amount(301, 0), idlers()), Room::Full, "nobody is put to sleep in vain");
        assert_eq!(room(amount(1, 0), vec![]), Room::Full);
    }

    #[test]
    fn the_frozen_fall_asleep_before_those_that_are_awake_for_longer_without_use() {
        let frozen = |name: &str, idle| Idler { frozen: true, ..idler(name, 100, 500, idle) };
        let idlers = vec![idler("a", 100, 500, 900), frozen("b", 60), frozen("c", 300), idler("d", 100, 500, 120)];
        assert_eq!(asked(room(amount(350, 0), idlers)), ["c", "b", "a", "d"]);
    }

    #[test]
    fn who_holds_nothing_of_what_is_lacking_sleeps_for_nobody() {
        let idlers = vec![idler("cores", 0, 4000, 900), idler("memory", 512, 100, 60)];
        assert_eq!(asked(room(amount(256, -1), idlers.clone())), ["memory"]);
        assert_eq!(asked(room(amount(-1, 1), idlers)), ["cores"]);
    }

    proptest! {
        #[test]
        fn what_is_made_suffices_without_the_last_it_would_not_and_the_order_is_kept(
            holds in proptest::collection::vec((0i128..500, 0i128..2000, any::<bool>(), 0u64..1000), 0..12),
            needed in (-500i128..2000, -500i128..8000),
        ) {
            let needed = amount(needed.0, needed.1);
            let idlers: Vec<Idler> = holds
                .iter()
                .enumerate()
                .map(|(n, (memory, cpu, frozen, idle))| Idler { frozen: *frozen, ..idler(&format!("i{n}"), *memory, *cpu, *idle) })
                .collect();
            let all = idlers.iter().fold(Amount::default(), |sum, idler| sum.plus(idler.holds));
            match room(needed, idlers.clone()) {
                Room::Enough => prop_assert!(needed.is_met()),
                Room::Full => prop_assert!(!needed.minus(all).is_met()),
                Room::Make(keys) => {
                    let given = |idlers: &[&Idler]| idlers.iter().fold(needed, |left, i| left.minus(i.holds));
                    let asked: Vec<&Idler> = keys.iter().map(|k| idlers.iter().find(|i| i.key == *k).unwrap()).collect();
                    prop_assert!(given(&asked).is_met());
                    prop_assert!(!given(&asked[..asked.len() - 1]).is_met(), "the last one was not needed");
                    prop_assert!(asked.windows(2).all(|w| (w[0].frozen, w[0].idle) >= (w[1].frozen, w[1].idle)));
                }
            }
        }
    }
}
