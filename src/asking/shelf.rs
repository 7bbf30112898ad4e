//! The answers that can be read: those under way, and those that ended a while ago.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::answer::log::AnswerLog;
use crate::identity::BY_ADDRESS;

/// Whether a caller may have the answer that `owner` asked for. Who was known only by an address has no other claim than
/// the answer's id.
pub(super) fn may_have(owner: &str, caller: &str) -> bool {
    owner.starts_with(BY_ADDRESS) || owner == caller
}

/// See the module.
#[derive(Default)]
pub struct Shelf {
    /// Each with who asked.
    answers: DashMap<String, (Arc<AnswerLog>, Arc<str>)>,
}

impl Shelf {
    /// Puts an answer on it, that `caller` asked for.
    pub fn put(&self, log: &Arc<AnswerLog>, caller: &Arc<str>) {
        self.answers.insert(log.id().to_owned(), (Arc::clone(log), Arc::clone(caller)));
    }

    /// The answer of this id, for those who may have it: one that was asked for with a key or a token is its holder's alone.
    /// Without one its id, which cannot be guessed, is enough: an address changes with the network.
    pub fn get(&self, id: &str, caller: &str) -> Option<Arc<AnswerLog>> {
        let answer = self.answers.get(id)?;
        let (log, owner) = &*answer;
        may_have(owner, caller).then(|| Arc::clone(log))
    }

    /// Puts an answer on it, unless one of its id is there: then gives that one.
    pub fn put_new(&self, log: &Arc<AnswerLog>, caller: &Arc<str>) -> Option<Arc<AnswerLog>> {
        match self.answers.entry(log.id().to_owned()) {
            Entry::Occupied(place) => Some(Arc::clone(&place.get().0)),
            Entry::Vacant(place) => {
                place.insert((Arc::clone(log), Arc::clone(caller)));
                None
            }
        }
    }

    /// Takes an answer off.
    pub fn remove(&self, id: &str) {
        self.answers.remove(id);
    }

    /// Answers on it.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// How many of them have not ended.
    pub fn open(&self) -> usize {
        self.answers.iter().filter(|answer| answer.0.closed().is_none()).count()
    }

    /// Ends those that have not ended, because the service stops; `elsewhere` is whether another replica has what was said.
    pub fn interrupt(&self, elsewhere: bool) {
        self.answers.iter().for_each(|answer| answer.0.interrupt(elsewhere));
    }

    /// Takes off what ended longer ago than this, and the oldest of what is more than so many.
    pub fn sweep(&self, keep: Duration, most: usize) {
        let mut ended: Vec<_> =
            self.answers.iter().filter_map(|answer| Some((answer.0.closed()?, answer.0.id().to_owned()))).collect();
        ended.sort_unstable_by(|a, b| b.cmp(a));
        let gone = ended.iter().enumerate().filter(|(n, (closed, _))| *n >= most || closed.elapsed() >= keep);
        for (_, (_, id)) in gone {
            self.answers.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::log::{Bounds, Writer};

    fn answer(shelf: &Shelf, id: &str) -> Writer {
        let (writer, log) = AnswerLog::new(id.into(), Bounds::default());
        shelf.put(&log, &"ip:127.0.0.1".into());
        writer
    }

    #[test]
    fn what_has_ended_goes_after_a_while_and_the_oldest_first_where_it_is_too_much() {
        let shelf = Shelf::default();
        let running = answer(&shelf, "running");
        for id in ["one", "two", "three"] {
            drop(answer(&shelf, id));
            std::thread::sleep(Duration::from_millis(2));
        }
        shelf.sweep(Duration::from_millis(50), 2);
        assert!(
            shelf.get("one", "ip:127.0.0.2").is_none()
                && shelf.get("two", "ip:127.0.0.2").is_some()
                && shelf.get("three", "ip:127.0.0.2").is_some()
        );
        std::thread::sleep(Duration::from_millis(60));
        shelf.sweep(Duration::from_millis(50), 2);
        assert_eq!(shelf.len(), 1);
        drop(running);
    }

    #[test]
    fn what_was_asked_for_with_a_key_is_its_holders_alone() {
        let shelf = Shelf::default();
        let (_writer, log) = AnswerLog::new("a".into(), Bounds::default());
        shelf.put(&log, &"key:one".into());
        assert!(shelf.get("a", "key:one").is_some());
        assert!(shelf.get("a", "key:two").is_none() && shelf.get("a", "ip:127.0.0.1").is_none());
    }
}
