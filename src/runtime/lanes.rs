//! Fair shares: keys of one lane (a host, say) may hold only so many of the runner's places, and wait among themselves
//! for the next. A lane that is stuck slows no other.
//!
//! Used by the runner, and for the attempts of probes. Invariants: a lane with parked keys is full; memory is bounded by the number of keys.

use std::collections::{HashMap, VecDeque};

pub struct Lanes<K> {
    /// Most keys of one lane at once.
    share: usize,
    lanes: HashMap<String, Lane<K>>,
}

struct Lane<K> {
    running: usize,
    parked: VecDeque<K>,
}

impl<K> Lanes<K> {
    pub fn new(share: usize) -> Lanes<K> {
        Lanes { share, lanes: HashMap::new() }
    }

    /// Gives the key back if it may run now; else it is parked until [`Lanes::leave`] hands it out.
    pub fn enter(&mut self, lane: &str, key: K) -> Option<K> {
        let found = match self.lanes.get_mut(lane) {
            Some(found) => found,
            None => self.lanes.entry(lane.to_owned()).or_insert(Lane { running: 0, parked: VecDeque::new() }),
        };
        if found.running >= self.share {
            found.parked.push_back(key);
            return None;
        }
        found.running += 1;
        Some(key)
    }

    /// One that ran in the lane has ended; the next of the lane, which runs in its place.
    pub fn leave(&mut self, lane: &str) -> Option<K> {
        let found = self.lanes.get_mut(lane)?;
        if let Some(next) = found.parked.pop_front() {
            return Some(next);
        }
        found.running -= 1;
        if found.running == 0 {
            self.lanes.remove(lane);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_lane_parks_its_keys_in_order_and_leaves_nothing_behind() {
        let mut lanes = Lanes::new(2);
        assert_eq!((1..=4).map(|n| lanes.enter("a", n)).collect::<Vec<_>>(), [Some(1), Some(2), None, None]);
        assert_eq!(lanes.enter("b", 9), Some(9));
        assert_eq!((lanes.leave("a"), lanes.leave("a"), lanes.leave("a")), (Some(3), Some(4), None));
        assert_eq!((lanes.leave("a"), lanes.leave("b")), (None, None));
        assert!(lanes.lanes.is_empty());
    }
}
