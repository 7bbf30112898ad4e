//! The line before a model: who goes next.
//!
//! Interactive requests go before batch ones. Among those of one priority the caller goes next that was served least,
//! counted in tokens (virtual token counter; Sheng et al. 2024, Fairness in Serving Large Language Models): a caller
//! who asks a thousand questions at once delays another one by no more than what runs. Within a caller, first come,
//! first served.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a generated token costs, in tokens of a prompt: these are computed together, and those one by one.
const OUTPUT_COST: u64 = 2;
/// Callers remembered beyond those that wait.
const REMEMBERED: usize = 4096;

/// How urgent a request is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Somebody waits for the answer.
    #[default]
    Interactive,
    /// Whenever nobody waits.
    Batch,
}

/// Those of one caller, in order, each with its cost.
type Requests<T> = VecDeque<(u64, T)>;

/// Those who wait; see the module.
#[derive(Debug, Clone)]
pub struct Line<T> {
    waiting: BTreeMap<Priority, BTreeMap<Arc<str>, Requests<T>>>,
    /// What each caller was served, in tokens.
    served: HashMap<Arc<str>, u64>,
    /// What the caller had been served whose turn was last.
    last: u64,
    length: usize,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), served: HashMap::new(), last: 0, length: 0 }
    }
}

impl<T> Line<T> {
    /// Puts a request of `caller` at the end of the caller's own; it is charged `cost` tokens when its turn comes.
    pub fn push(&mut self, caller: Arc<str>, priority: Priority, cost: u64, item: T) {
        if !self.waits(&caller) {
            if self.served.len() >= REMEMBERED {
                let waiting: Vec<_> = self.waiting.values().flat_map(BTreeMap::keys).cloned().collect();
                self.served.retain(|caller, _| waiting.contains(caller));
            }
            let begins_with = self.begins_with(&caller);
            self.served.insert(Arc::clone(&caller), begins_with);
        }
        self.waiting.entry(priority).or_default().entry(caller).or_default().push_back((cost, item));
        self.length += 1;
    }

    /// Takes the next one.
    pub fn pop(&mut self) -> Option<T> {
        let (priority, callers) = self.waiting.iter_mut().next()?;
        let caller = callers.keys().min_by_key(|caller| self.served.get(*caller).copied().unwrap_or(0))?.clone();
        let requests = callers.get_mut(&caller)?;
        let (cost, item) = requests.pop_front()?;
        let (priority, caller_done) = (*priority, requests.is_empty());
        if caller_done {
            callers.remove(&caller);
            if callers.is_empty() {
                self.waiting.remove(&priority);
            }
        }
        self.length -= 1;
        let served = self.served.entry(caller).or_default();
        *served += cost;
        self.last = *served;
        Some(item)
    }

    /// How many of those that wait would go before a request that came now.
    pub fn ahead(&self, caller: &str, priority: Priority) -> usize {
        let base = if self.waits(caller) { self.served_to(caller) } else { self.begins_with(caller) };
        let mut served: HashMap<&str, u64> = self.served.iter().map(|(name, served)| (&**name, *served)).collect();
        served.insert(caller, base);
        let mut ahead = 0;
        // What `pop` would do.
        for (level, callers) in self.waiting.range(..=priority) {
            let mut lines: BTreeMap<&str, _> =
                callers.iter().map(|(name, requests)| (&**name, requests.iter())).collect();
            if *level == priority {
                lines.entry(caller).or_default();
            }
            while let Some(name) = lines.keys().copied().min_by_key(|name| served.get(name).copied().unwrap_or(0)) {
                match lines.get_mut(name).and_then(Iterator::next) {
                    Some((cost, _)) => {
                        *served.entry(name).or_default() += cost;
                        ahead += 1;
                    }
                    None if *level == priority && name == caller => break,
                    None => drop(lines.remove(name)),
                }
            }
        }
        ahead
    }

    fn served_to(&self, caller: &str) -> u64 {
        self.served.get(caller).copied().unwrap_or(0)
    }

    /// What a caller that has nothing in line counts as having been served: who was away comes back without a credit.
    fn begins_with(&self, caller: &str) -> u64 {
        let least = self.waiting.values().flat_map(BTreeMap::keys).filter_map(|key| self.served.get(key)).min();
        self.served_to(caller).max(least.copied().unwrap_or(self.last))
    }

    /// Charges a caller for what was generated for it.
    pub fn charge(&mut self, caller: &Arc<str>, output_tokens: u64) {
        *self.served.entry(Arc::clone(caller)).or_default() += OUTPUT_COST * output_tokens;
    }

    /// Takes those out that meet a condition.
    pub fn extract(&mut self, condition: impl Fn(&T) -> bool) -> Vec<T> {
        let mut out = Vec::new();
        for callers in self.waiting.values_mut() {
            for requests in callers.values_mut() {
                if requests.iter().any(|(_, item)| condition(item)) {
                    let (gone, kept): (Vec<_>, Vec<_>) = requests.drain(..).partition(|(_, item)| condition(item));
                    *requests = kept.into();
                    out.extend(gone.into_iter().map(|(_, item)| item));
                }
            }
            callers.retain(|_, requests| !requests.is_empty());
        }
        self.waiting.retain(|_, callers| !callers.is_empty());
        self.length -= out.len();
        out
    }

    /// Calls `tell` for each with its place, from 1, as it is now: who comes later may go before.
    pub fn places(&mut self, mut tell: impl FnMut(usize, &mut T)) {
        if self.is_empty() {
            return;
        }
        let mut place = 0;
        let mut served = self.served.clone();
        for callers in self.waiting.values_mut() {
            // What `pop` will do, without taking.
            let mut lines: Vec<_> =
                callers.iter_mut().map(|(caller, requests)| (caller, requests.iter_mut().peekable())).collect();
            loop {
                let waiting = lines.iter_mut().filter_map(|(caller, requests)| {
                    requests.peek().is_some().then(|| (served.get(*caller).copied().unwrap_or(0), caller, requests))
                });
                let Some((_, caller, requests)) = waiting.min_by_key(|(served, ..)| *served) else { break };
                let Some((cost, item)) = requests.next() else { break };
                *served.entry(Arc::clone(caller)).or_default() += *cost;
                place += 1;
                tell(place, item);
            }
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn waits(&self, caller: &str) -> bool {
        self.waiting.values().any(|callers| callers.contains_key(caller))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all<T>(line: &mut Line<T>) -> Vec<T> {
        std::iter::from_fn(|| line.pop()).collect()
    }

    #[test]
    fn a_caller_with_many_requests_does_not_hold_up_another() {
        let mut line = Line::default();
        (0..4).for_each(|n| line.push("a".into(), Priority::Interactive, 100, format!("a{n}")));
        assert_eq!(line.pop().as_deref(), Some("a0"));
        line.push("b".into(), Priority::Interactive, 100, "b0".into());
        // Both have been served 100 tokens as far as the line knows: `b` came without a credit.
        assert_eq!(all(&mut line), ["a1", "b0", "a2", "a3"]);
    }

    #[test]
    fn what_was_generated_counts_twice() {
        let mut line = Line::default();
        for caller in ["a", "b"] {
            (0..3).for_each(|n| line.push(caller.into(), Priority::Interactive, 10, format!("{caller}{n}")));
        }
        line.charge(&"a".into(), 10);
        assert_eq!(all(&mut line), ["b0", "b1", "a0", "b2", "a1", "a2"]);
    }

    #[test]
    fn batch_waits_for_all_that_is_interactive() {
        let mut line = Line::default();
        line.push("a".into(), Priority::Batch, 1, 1);
        line.push("a".into(), Priority::Interactive, 1000, 2);
        line.push("b".into(), Priority::Interactive, 1000, 3);
        assert_eq!(all(&mut line), [2, 3, 1]);
    }

    #[test]
    fn who_was_served_much_while_nobody_else_was_there_does_not_wait_for_others_to_catch_up() {
        let mut line = Line::default();
        (0..100).for_each(|n| line.push("a".into(), Priority::Interactive, 1000, n));
        all(&mut line);
        line.push("new".into(), Priority::Interactive, 1000, 1);
        (2..6).for_each(|n| line.push("new".into(), Priority::Interactive, 1000, n));
        line.push("a".into(), Priority::Interactive, 1000, 0);
        assert!(all(&mut line).iter().position(|n| *n == 0) <= Some(1));
    }

    proptest! {
        #[test]
        fn places_are_the_order_in_which_they_go_and_nobody_is_lost(
            requests in proptest::collection::vec((0u8..4, any::<bool>(), 1u64..50), 0..30),
            gone in proptest::collection::vec(0usize..30, 0..5),
        ) {
            let mut line = Line::default();
            for (n, (caller, batch, cost)) in requests.iter().enumerate() {
                let priority = if *batch { Priority::Batch } else { Priority::Interactive };
                line.push(caller.to_string().into(), priority, *cost, n);
            }
            let out = line.extract(|n| gone.contains(n));
            prop_assert_eq!(line.len(), requests.len() - out.len());
            let mut told = Vec::new();
            line.places(|place, n| told.push((place, *n)));
            for caller in 0u8..5 {
                for priority in [Priority::Interactive, Priority::Batch] {
                    let ahead = line.ahead(&caller.to_string(), priority);
                    let mut with_it = line.clone();
                    with_it.push(caller.to_string().into(), priority, 1, 99);
                    prop_assert_eq!(all(&mut with_it).iter().position(|n| *n == 99), Some(ahead));
                }
            }
            let order = all(&mut line);
            prop_assert!(line.is_empty());
            prop_assert_eq!(told, (1..).zip(order.iter().copied()).collect::<Vec<_>>());
            let mut everybody: Vec<usize> = order.into_iter().chain(out).collect();
            everybody.sort_unstable();
            prop_assert_eq!(everybody, (0..requests.len()).collect::<Vec<_>>());
        }

        #[test]
        fn two_callers_who_always_wait_are_served_alike(costs in proptest::collection::vec((1u64..100, 1u64..100), 20..60)) {
            let mut line = Line::default();
            for (a, b) in &costs {
                line.push("a".into(), Priority::Interactive, *a, ("a", *a));
                line.push("b".into(), Priority::Interactive, *b, ("b", *b));
            }
            let (mut a, mut b) = (0i64, 0i64);
            for _ in 0..costs.len() {
                let (caller, cost) = line.pop().unwrap();
                *(if caller == "a" { &mut a } else { &mut b }) += cost as i64;
                prop_assert!((a - b).abs() <= 100, "{a} and {b}");
            }
        }
    }
}
