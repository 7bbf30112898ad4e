//! What is kept for a while in this process, bounded by bytes.
//!
//! What is to go where it is full is found by CLOCK (Corbató 1968): in the order in which it came, save that whatever was
//! asked for since it was last looked at gets another round. A burst of what nobody asks for again displaces none of what
//! is asked for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Place;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::answer::evidence::{Basis, Key, Level, RestsOn};

/// What an entry takes beside its value, in bytes, about.
const AROUND: usize = 256;

/// See the module.
pub struct MemoryCache {
    entries: DashMap<Key, Entry>,
    /// The entries in the order of the clock, by key and number. One whose number is another was replaced by removal.
    clock: Mutex<VecDeque<(Key, u64)>>,
    bytes: AtomicUsize,
    limit: usize,
    next: AtomicU64,
    evicted: AtomicU64,
}

struct Entry {
    value: Bytes,
    basis: Basis,
    expires: Instant,
    number: u64,
    used: AtomicBool,
}

impl Entry {
    fn bytes(&self) -> usize {
        bytes(&self.value, &self.basis)
    }
}

fn bytes(value: &Bytes, basis: &Basis) -> usize {
    value.len() + size_of_val(basis.documents.as_slice()) + AROUND
}

impl MemoryCache {
    /// An empty one, of at most so many bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            entries: DashMap::new(),
            clock: Mutex::default(),
            bytes: AtomicUsize::new(0),
            limit,
            next: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        }
    }

    /// What is kept under a key, and has not expired.
    pub fn get(&self, key: &Key) -> Option<Bytes> {
        let entry = self.entries.get(key)?;
        if entry.expires > Instant::now() {
            entry.used.store(true, Ordering::Relaxed);
            return Some(entry.value.clone());
        }
        let number = entry.number;
        drop(entry);
        self.take_out(key, number);
        None
    }

    /// Keeps a value for so long, if there is room for it then. What is larger than an eighth of all is not kept.
    pub fn put(&self, key: Key, value: Bytes, basis: Basis, time: Duration) {
        let expires = Instant::now() + time;
        let added = bytes(&value, &basis);
        if added > self.limit / 8 {
            return self.remove(&key);
        }
        let mut clock = self.clock.lock();
        match self.entries.entry(key) {
            Place::Occupied(mut place) => {
                let entry = place.get_mut();
                let before = entry.bytes();
                (entry.value, entry.basis, entry.expires) = (value, basis, expires);
                self.bytes.fetch_add(added, Ordering::Relaxed);
                self.bytes.fetch_sub(before, Ordering::Relaxed);
            }
            Place::Vacant(place) => {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(added, Ordering::Relaxed);
                place.insert(Entry { value, basis, expires, number, used: AtomicBool::new(false) });
                clock.push_back((key, number));
            }
        }
        self.shrink(&mut clock);
    }

    /// Forgets what is kept under a key.
    pub fn remove(&self, key: &Key) {
        if let Some((_, entry)) = self.entries.remove(key) {
            self.bytes.fetch_sub(entry.bytes(), Ordering::Relaxed);
        }
    }

    /// Forgets all that rests on what is deleted: what it was, with the document of it that is. Looks at every entry.
    pub fn purge(&self, is_deleted: &impl Fn(&RestsOn) -> bool) -> Vec<(u64, Level)> {
        let mut purged = Vec::new();
        self.entries.retain(|_, entry| {
            let Some(deleted) = entry.basis.documents.iter().find(|one| is_deleted(one)) else { return true };
            purged.push((deleted.document, entry.basis.level));
            self.bytes.fetch_sub(entry.bytes(), Ordering::Relaxed);
            false
        });
        purged
    }

    fn take_out(&self, key: &Key, number: u64) -> bool {
        let removed = self.entries.remove_if(key, |_, entry| entry.number == number);
        if let Some((_, entry)) = &removed {
            self.bytes.fetch_sub(entry.bytes(), Ordering::Relaxed);
        }
        removed.is_some()
    }

    fn shrink(&self, clock: &mut VecDeque<(Key, u64)>) {
        // Those that were taken out leave their place in the clock behind.
        if clock.len() > 2 * self.entries.len() + 1024 {
            clock.retain(|(key, number)| self.entries.get(key).is_some_and(|entry| entry.number == *number));
        }
        while self.bytes.load(Ordering::Relaxed) > self.limit {
            let Some((key, number)) = clock.pop_front() else { return };
            let again = self.entries.get(&key).is_some_and(|entry| {
                entry.number == number && entry.used.swap(false, Ordering::Relaxed) && entry.expires > Instant::now()
            });
            if again {
                clock.push_back((key, number));
            } else if self.take_out(&key, number) {
                self.evicted.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// For the admin page.
    pub fn describe(&self) -> Value {
        json!({
            "entries": self.entries.len(),
            "bytes": self.bytes.load(Ordering::Relaxed),
            "limit_bytes": self.limit,
            "evicted": self.evicted.load(Ordering::Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    fn key(n: u64) -> Key {
        Key::of("test", &n)
    }

    fn value(n: usize) -> Bytes {
        Bytes::from(vec![7; n])
    }

    fn of(documents: impl IntoIterator<Item = u64>) -> Basis {
        let documents = documents.into_iter().map(|document| RestsOn { document, revision: 1 }).collect();
        Basis { level: Level::Answer, documents }
    }

    #[test]
    fn what_is_asked_for_outlives_a_burst_of_what_is_not() {
        let cache = MemoryCache::new(64 << 10);
        (0..10).for_each(|n| cache.put(key(n), value(1024), of([]), LONG));
        for n in 100..1000 {
            cache.put(key(n), value(1024), of([]), LONG);
            (0..10).for_each(|n| assert!(cache.get(&key(n)).is_some(), "{n}"));
        }
        assert!(cache.get(&key(100)).is_none());
        assert!(cache.get(&key(999)).is_some());
    }

    #[test]
    fn what_has_expired_is_not_there() {
        let cache = MemoryCache::new(64 << 10);
        cache.put(key(1), value(10), of([]), Duration::from_millis(20));
        assert!(cache.get(&key(1)).is_some());
        std::thread::sleep(Duration::from_millis(30));
        assert!(cache.get(&key(1)).is_none());
        assert_eq!(cache.describe()["bytes"], 0);
    }

    #[test]
    fn the_clock_does_not_grow_with_what_comes_and_goes() {
        let cache = MemoryCache::new(64 << 10);
        for _ in 0..20_000 {
            cache.put(key(1), value(10), of([]), LONG);
            cache.remove(&key(1));
        }
        assert!(cache.clock.lock().len() < 2048);
    }

    #[test]
    fn what_rests_on_a_deleted_document_is_forgotten_and_nothing_else() {
        let cache = MemoryCache::new(64 << 10);
        for n in 0..20 {
            cache.put(key(n), value(100), of([n % 4, 7]), LONG);
        }
        let purged = cache.purge(&|one| one.document == 3 && one.revision <= 1);
        assert_eq!(purged, vec![(3, Level::Answer); 5]);
        for n in 0..20 {
            assert_eq!(cache.get(&key(n)).is_some(), n % 4 != 3, "{n}");
        }
        assert_eq!(cache.purge(&|one| one.document == 7).len(), 15);
        assert_eq!((&cache.describe()["bytes"], &cache.describe()["entries"]), (&json!(0), &json!(0)));
        assert!(cache.purge(&|one| one.revision == 2).is_empty());
    }

    /// How long a deletion looks at a full cache of the default size; printed with `--nocapture`.
    #[test]
    fn a_full_cache_is_looked_through() {
        let cache = MemoryCache::new(64 << 20);
        for n in 0..40_000 {
            cache.put(key(n), value(1500), of([n % 1000, 1000, 1001, 1002]), LONG);
        }
        let entries = cache.describe()["entries"].clone();
        let began = Instant::now();
        let purged = cache.purge(&|one| one.document == 500);
        println!("{entries} entries of 64 MiB looked through in {:?}, {} purged", began.elapsed(), purged.len());
        assert!(!purged.is_empty());
    }

    proptest! {
        #[test]
        fn it_holds_nothing_but_what_was_put_last_and_never_more_than_it_may(
            steps in proptest::collection::vec((0u64..40, 0usize..3000, 0usize..3), 1..300)
        ) {
            let limit = 16 << 10;
            let cache = MemoryCache::new(limit);
            let mut last: HashMap<u64, Bytes> = HashMap::new();
            for (n, size, what) in steps {
                match what {
                    0 => {
                        let bytes = value(size);
                        cache.put(key(n), bytes.clone(), of([n]), LONG);
                        last.insert(n, bytes);
                    }
                    1 => {
                        cache.remove(&key(n));
                        last.remove(&n);
                    }
                    _ => if let Some(found) = cache.get(&key(n)) {
                        prop_assert_eq!(Some(&found), last.get(&n));
                    }
                }
                let held: usize = cache.entries.iter().map(|entry| entry.bytes()).sum();
                prop_assert_eq!(held, cache.bytes.load(Ordering::Relaxed));
                prop_assert!(held <= limit);
            }
        }
    }
}
