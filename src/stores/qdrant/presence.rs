//! Which processes are at work: each counts up a point of its own, and who does not for a while is taken for dead. Every
//! process measures that by its own clock, so that clocks need not agree.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use qdrant_client::Payload;
use qdrant_client::qdrant::{Condition, Filter};

use super::server::{Collection, Server, id, integer, is, plain, text};
use crate::stores::StoreError;

/// How long a process is believed to be at work after it was last seen to count.
const ALIVE: Duration = Duration::from_secs(10);
/// After how long the point of a dead one is deleted.
const BURIED: Duration = Duration::from_secs(600);

/// See the module.
pub(super) struct Presence {
    /// This process.
    pub process: String,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    beat: i64,
    /// By process: its count, and since when it is that.
    others: HashMap<String, (i64, Instant)>,
}

impl Seen {
    /// Takes in what the points say; gives those at work, and those to bury.
    fn look(&mut self, counts: Vec<(String, i64)>, now: Instant) -> (Vec<String>, Vec<String>) {
        let before = std::mem::take(&mut self.others);
        for (process, count) in counts {
            let since = before.get(&process).filter(|(known, _)| *known == count).map_or(now, |(_, since)| *since);
            self.others.insert(process, (count, since));
        }
        let older = |than: Duration, older: bool| {
            let those = self.others.iter().filter(|(_, (_, since))| (now.duration_since(*since) > than) == older);
            those.map(|(process, _)| process.clone()).collect()
        };
        (older(ALIVE, false), older(BURIED, true))
    }
}

impl Presence {
    pub fn new(process: String) -> Self {
        Self { process, seen: Mutex::default() }
    }

    /// Says that this process is at work. Gives all that are, itself among them.
    pub async fn beat(&self, server: &Server) -> Result<Vec<String>, StoreError> {
        const DOING: &str = "say that this process is at work";
        let beat = {
            let mut seen = self.seen.lock();
            seen.beat += 1;
            seen.beat
        };
        let mut payload = Payload::new();
        payload.insert("process", self.process.as_str());
        payload.insert("beat", beat);
        server.put(DOING, Collection::State, vec![plain(id(&["process", &self.process]), payload)]).await?;
        let processes = Filter::must_not([Condition::is_empty("process")]);
        let points = server.all(DOING, Collection::State, processes, None, None).await?;
        let counts = points.iter().map(|p| (text(p, "process"), integer(p, "beat").unwrap_or(0))).collect();
        let (alive, dead) = self.seen.lock().look(counts, Instant::now());
        for process in dead {
            server.delete(DOING, Collection::State, Filter::must([is("process", &process)])).await?;
        }
        Ok(alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_count_for_a_while_is_dead_until_it_does() {
        let (mut seen, began) = (Seen::default(), Instant::now());
        let mut look = |counts: &[(&str, i64)], seconds: u64| {
            let counts = counts.iter().map(|(process, count)| ((*process).to_owned(), *count)).collect();
            let (mut alive, dead) = seen.look(counts, began + Duration::from_secs(seconds));
            alive.sort();
            (alive.join(" "), dead.join(" "))
        };
        let said = |alive: &str, dead: &str| (alive.to_owned(), dead.to_owned());
        assert_eq!(look(&[("a", 1), ("b", 7)], 0), said("a b", ""));
        assert_eq!(look(&[("a", 2), ("b", 7)], 9), said("a b", ""));
        assert_eq!(look(&[("a", 3), ("b", 7)], 11), said("a", ""));
        // One that was frozen, whatever it counts.
        assert_eq!(look(&[("a", 4), ("b", 3)], 20), said("a b", ""));
        assert_eq!(look(&[("a", 5), ("b", 3)], 621), said("a", "b"));
        assert_eq!(look(&[("a", 6)], 624), said("a", ""));
    }
}
