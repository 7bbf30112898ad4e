//! The answers that can be read: those under way, and those that ended a while ago.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::answer::evidence::RestsOn;
use crate::answer::log::AnswerLog;
use crate::error::ServiceError;
use crate::identity::BY_ADDRESS;

/// Whether a caller may have the answer that `owner` asked for. Who was known only by an address has no other claim than
/// the answer's id.
pub(super) fn may_have(owner: &str, caller: &str) -> bool {
    owner.starts_with(BY_ADDRESS) || owner == caller
}

/// See the module.
#[derive(Default)]
pub struct Shelf {
    answers: DashMap<String, Shelved>,
}

struct Shelved {
    log: Arc<AnswerLog>,
    /// Who asked.
    owner: Arc<str>,
    /// The id of the store that its documents are in.
    store: Arc<str>,
}

impl Shelved {
    fn new(log: &Arc<AnswerLog>, owner: &Arc<str>, store: &Arc<str>) -> Self {
        Self { log: Arc::clone(log), owner: Arc::clone(owner), store: Arc::clone(store) }
    }
}

/// Withdraws an answer that rests on a deleted document of the store with this id; gives that.
pub(super) fn withdraw(log: &AnswerLog, store: &str, is_deleted: &impl Fn(&RestsOn) -> bool) -> Option<u64> {
    let deleted = log.find_source(|source| {
        let one = RestsOn::source(store, source);
        is_deleted(&one).then_some(one.document)
    })?;
    log.withdraw(super::problem(ServiceError::DocumentDeleted));
    Some(deleted)
}

impl Shelf {
    /// Puts an answer on it, that `caller` asked for, with the id of the store that its documents are in.
    pub fn put(&self, log: &Arc<AnswerLog>, caller: &Arc<str>, store: &Arc<str>) {
        self.answers.insert(log.id().to_owned(), Shelved::new(log, caller, store));
    }

    /// Withdraws the answers that rest on what is deleted: for each the document of it that is.
    pub fn withdraw(&self, is_deleted: &impl Fn(&RestsOn) -> bool) -> Vec<u64> {
        self.answers.iter().filter_map(|answer| withdraw(&answer.log, &answer.store, is_deleted)).collect()
    }

    /// The answer of this id, for those who may have it: one that was asked for with a key or a token is its holder's alone.
    /// Without one its id, which cannot be guessed, is enough: an address changes with the network.
    pub fn get(&self, id: &str, caller: &str) -> Option<Arc<AnswerLog>> {
        let answer = self.answers.get(id)?;
        may_have(&answer.owner, caller).then(|| Arc::clone(&answer.log))
    }

    /// Puts an answer on it, unless one of its id is there: then gives that one.
    pub fn put_new(&self, log: &Arc<AnswerLog>, caller: &Arc<str>, store: &Arc<str>) -> Option<Arc<AnswerLog>> {
        match self.answers.entry(log.id().to_owned()) {
            Entry::Occupied(place) => Some(Arc::clone(&place.get().log)),
            Entry::Vacant(place) => {
                place.insert(Shelved::new(log, caller, store));
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
        self.answers.iter().filter(|answer| answer.log.closed().is_none()).count()
    }

    /// Ends those that have not ended, because the service stops; `elsewhere` is whether another replica has what was said.
    pub fn interrupt(&self, elsewhere: bool) {
        self.answers.iter().for_each(|answer| answer.log.interrupt(elsewhere));
    }

    /// Takes off what ended longer ago than this, and the oldest of what is more than so many.
    pub fn sweep(&self, keep: Duration, most: usize) {
        let mut ended: Vec<_> =
            self.answers.iter().filter_map(|answer| Some((answer.log.closed()?, answer.log.id().to_owned()))).collect();
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
        shelf.put(&log, &"ip:127.0.0.1".into(), &"store".into());
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
        shelf.put(&log, &"key:one".into(), &"store".into());
        assert!(shelf.get("a", "key:one").is_some());
        assert!(shelf.get("a", "key:two").is_none() && shelf.get("a", "ip:127.0.0.1").is_none());
    }
}
