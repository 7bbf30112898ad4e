//! How much callers may ask for: requests and tokens in a minute, tokens in a day, answers at the same time; for each caller,
//! and for all of a group together.
//!
//! Before a model is asked, the most that it may take is reserved, and what it did not take is given back at the end; an
//! answer that was kept or that another one's generation gave takes none. [`rules`] has the arithmetic. With a Redis all
//! replicas count together (`shared`), open answers by leases that end with the replica (`leases`); without one, and while
//! it is away, each counts by itself.

mod leases;
pub mod rules;
mod shared;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use self::leases::{Lease, Leases};
use self::rules::{Limited, Limits, Standing, Used};
use self::shared::Shared;
use crate::actors::stats::now_ms;
use crate::answer::log::AnswerLog;
use crate::config::{BudgetConfig, BudgetsConfig};
use crate::error::ServiceError;
use crate::identity::Caller;
use crate::retrieval::sight::Sight;
use crate::stores::redis::Redis;

/// Budgets that are counted in this process before those that are full again are forgotten.
const SWEEP_AT: usize = 1024;

/// Who has a budget, and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Budget {
    /// `key:…`, `user:…`, `ip:…` or `group:…`.
    who: Arc<str>,
    limits: Limits,
}

/// See the module.
pub struct Budgets {
    rules: ArcSwap<Rules>,
    used: Mutex<Counted>,
    /// Answers that are open in this process: counted whether or not Redis counts them as well, which may go away.
    streams: Arc<Mutex<HashMap<Arc<str>, u64>>>,
    shared: Option<(Shared, Handle)>,
    leases: Option<Arc<Leases>>,
}

/// Who has which.
#[derive(Debug)]
struct Rules {
    each: Limits,
    more: HashMap<String, Limits>,
}

impl Rules {
    fn new(config: &BudgetsConfig) -> Self {
        let BudgetsConfig { requests_per_minute, tokens_per_minute, tokens_per_day, streams, more } = config;
        let of = |entry: &BudgetConfig| Limits {
            requests: entry.requests_per_minute,
            minute: entry.tokens_per_minute,
            day: entry.tokens_per_day,
            streams: entry.streams,
        };
        Self {
            each: Limits {
                requests: *requests_per_minute,
                minute: *tokens_per_minute,
                day: *tokens_per_day,
                streams: *streams,
            },
            more: more.iter().map(|entry| (entry.who.clone(), of(entry))).collect(),
        }
    }
}

/// What was used of budgets, as this process counts.
#[derive(Default)]
struct Counted {
    used: HashMap<Arc<str>, (Limits, Used)>,
    /// How many there were after those that are full again were forgotten.
    swept: usize,
}

impl Counted {
    fn of(&self, who: &Arc<str>) -> Used {
        self.used.get(who).map(|(_, used)| *used).unwrap_or_default()
    }
}

/// Where and when something was taken.
#[derive(Debug, Clone, Copy)]
struct Taken {
    at_ms: u64,
    /// In Redis; in this process otherwise.
    shared: bool,
}

/// Why something was refused: whose budget, and how it stands.
struct Refused {
    who: Arc<str>,
    standing: Standing,
}

impl Budgets {
    /// Budgets as configured; with a Redis, those of all replicas. To be called on a runtime that lives as long as they do.
    pub fn new(config: &BudgetsConfig, redis: Option<Arc<Redis>>) -> Arc<Self> {
        Arc::new(Self {
            rules: ArcSwap::from_pointee(Rules::new(config)),
            used: Mutex::default(),
            streams: Arc::default(),
            leases: redis.clone().map(|redis| Leases::start(redis, Handle::current())),
            shared: redis.map(|redis| (Shared::new(redis), Handle::current())),
        })
    }

    /// Has other budgets count from now on. What was used of the old ones counts for the new ones, too.
    pub fn set(&self, config: &BudgetsConfig) {
        self.rules.store(Arc::new(Rules::new(config)));
    }

    /// The budgets that what a caller asks for comes out of: its own, and those of its groups.
    fn of(&self, caller: &Caller) -> Vec<Budget> {
        let rules = self.rules.load();
        // Where nobody has one, no request pays for looking.
        if rules.more.is_empty() && rules.each == Limits::default() {
            return Vec::new();
        }
        let own = rules.more.get(&*caller.name).copied().unwrap_or(rules.each);
        let mut budgets = vec![Budget { who: Arc::clone(&caller.name), limits: own }];
        if let Sight::Groups(groups) = &*caller.sight {
            let of_group = |group: &String| {
                let who = format!("group:{group}");
                rules.more.get(&who).map(|limits| Budget { who: who.into(), limits: *limits })
            };
            budgets.extend(groups.iter().filter_map(of_group));
        }
        budgets.retain(|budget| budget.limits != Limits::default());
        budgets
    }

    /// Counts a request.
    ///
    /// # Errors
    /// [`ServiceError::OverBudget`]
    pub async fn request(&self, caller: &Caller) -> Result<(), ServiceError> {
        self.take(&self.of(caller), (1, 0)).await.map(drop).map_err(|refused| over(&refused, 1))
    }

    /// Reserves so many tokens, the most that an answer may take.
    ///
    /// # Cancel safety
    /// What is taken although the future is dropped is given back.
    ///
    /// # Errors
    /// [`ServiceError::OverBudget`]
    pub async fn reserve(self: &Arc<Self>, caller: &Caller, tokens: usize) -> Result<Reservation, ServiceError> {
        let (budgets, of, tokens) = (Arc::clone(self), self.of(caller), tokens as u64);
        let asks_redis = self.shared.as_ref().filter(|_| !of.is_empty());
        let reserving = async move {
            let taken = budgets.take(&of, (0, tokens)).await.map_err(|refused| over(&refused, tokens))?;
            Ok::<_, ServiceError>(Reservation { budgets, of, tokens, used: 0, taken })
        };
        let Some((_, handle)) = asks_redis else { return reserving.await };
        // In a task of its own: who asked may leave while Redis takes it, and the reservation then ends with the task.
        match handle.spawn(reserving).await {
            Ok(reserved) => reserved,
            // It panicked, or the process ends.
            Err(error) => Err(ServiceError::Internal(format!("a budget could not be asked: {error}"))),
        }
    }

    /// Counts an answer that is open.
    ///
    /// # Cancel safety
    /// A dropped future counts nothing.
    ///
    /// # Errors
    /// [`ServiceError::OverBudget`]
    pub async fn open(&self, caller: &Caller) -> Result<Open, ServiceError> {
        let budgets: Vec<Budget> = self.of(caller).into_iter().filter(|budget| budget.limits.streams > 0).collect();
        let refused = |Budget { who, limits }: &Budget| {
            let standing = Standing { limited: Limited::Streams, limit: limits.streams, left: 0, wait_ms: Some(1000) };
            over(&Refused { who: Arc::clone(who), standing }, 1)
        };
        let mut lease = None;
        if let Some(leases) = self.leases.as_ref().filter(|_| !budgets.is_empty()) {
            let taken = lease.insert(leases.lease(&budgets));
            // Where Redis does not answer it is kept all the same: to be known there once it is back.
            if let Some(Err(full)) = leases.take(taken, &budgets).await {
                return Err(refused(&budgets[full]));
            }
        }
        // Also where Redis counts: it may have been emptied.
        let mut streams = self.streams.lock();
        for budget in &budgets {
            if streams.get(&budget.who).copied().unwrap_or(0) >= budget.limits.streams {
                return Err(refused(budget));
            }
        }
        for budget in &budgets {
            *streams.entry(Arc::clone(&budget.who)).or_default() += 1;
        }
        let of = budgets.into_iter().map(|budget| budget.who).collect();
        Ok(Open { streams: Arc::clone(&self.streams), of, _lease: lease })
    }

    /// How the limit stands that is the next one to be reached, for the headers of a response.
    pub async fn tightest(&self, caller: &Caller) -> Option<Standing> {
        let budgets = self.of(caller);
        if budgets.is_empty() {
            return None;
        }
        let used = match &self.shared {
            Some((shared, _)) => shared.used(&budgets).await,
            None => None,
        };
        let now = now_ms();
        let tightest = |(n, budget): (usize, &Budget)| {
            let used = match &used {
                Some(used) => used[n],
                None => self.used.lock().of(&budget.who),
            };
            used.tightest(&budget.limits, now)
        };
        let standings = budgets.iter().enumerate().filter_map(tightest);
        standings.min_by(|a, b| a.share_left().total_cmp(&b.share_left()))
    }

    /// Takes from all of these budgets, or from none.
    async fn take(&self, budgets: &[Budget], wanted: (u64, u64)) -> Result<Taken, Refused> {
        if let Some((shared, _)) = self.shared.as_ref().filter(|_| !budgets.is_empty())
            && let Some(taken) = shared.take(budgets, wanted).await
        {
            return taken.map(|at_ms| Taken { at_ms, shared: true });
        }
        let now = now_ms();
        let mut counted = self.used.lock();
        for Budget { who, limits } in budgets {
            let checked = counted.of(who).check(limits, wanted, now);
            checked.map_err(|standing| Refused { who: Arc::clone(who), standing })?;
        }
        for Budget { who, limits } in budgets {
            let mut used = counted.of(who);
            used.take(limits, wanted, now);
            counted.used.insert(Arc::clone(who), (*limits, used));
        }
        if counted.used.len() > SWEEP_AT.max(2 * counted.swept) {
            counted.used.retain(|_, (limits, used)| !used.is_unused(limits, now));
            counted.swept = counted.used.len();
        }
        Ok(Taken { at_ms: now, shared: false })
    }

    /// Gives back where it was taken: what another one counted is not this one's to give.
    fn give_back(self: &Arc<Self>, budgets: Vec<Budget>, tokens: (u64, u64), taken: Taken) {
        if budgets.is_empty() || tokens.0 <= tokens.1 {
            return;
        }
        match &self.shared {
            Some((_, handle)) if taken.shared => {
                let this = Arc::clone(self);
                // Whoever drops a reservation may be no thread of the runtime's.
                handle.spawn(async move {
                    if let Some((shared, _)) = &this.shared {
                        shared.give_back(&budgets, tokens, taken.at_ms).await;
                    }
                });
            }
            _ => {
                let now = now_ms();
                let mut counted = self.used.lock();
                for Budget { who, limits } in &budgets {
                    if let Some((_, used)) = counted.used.get_mut(who) {
                        used.give_back(limits, tokens, taken.at_ms, now);
                    }
                }
            }
        }
    }
}

/// Tokens that are reserved; what was not used of them is given back when it is dropped.
pub struct Reservation {
    budgets: Arc<Budgets>,
    of: Vec<Budget>,
    tokens: u64,
    used: u64,
    taken: Taken,
}

impl Reservation {
    /// So many tokens were used, in all: the rest is given back with it. An answer that took more than was thought possible,
    /// because its server counts otherwise, is charged what was reserved.
    pub fn used(&mut self, tokens: usize) {
        self.used = tokens as u64;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budgets.give_back(std::mem::take(&mut self.of), (self.tokens, self.used), self.taken);
    }
}

/// An answer that is open; dropped when it has ended.
pub struct Open {
    streams: Arc<Mutex<HashMap<Arc<str>, u64>>>,
    of: Vec<Arc<str>>,
    _lease: Option<Lease>,
}

impl Open {
    /// Counts the answer for as long as it is open.
    pub fn until_closed(self, log: &AnswerLog) {
        if !self.of.is_empty() {
            log.keep_until_closed(self);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut streams = self.streams.lock();
        for who in &self.of {
            if let Some(open) = streams.get_mut(who) {
                *open -= 1;
                if *open == 0 {
                    streams.remove(who);
                }
            }
        }
    }
}

/// Says what is used up, how much is left, and when there is more.
fn over(Refused { who, standing }: &Refused, wanted: u64) -> ServiceError {
    let Standing { limited, limit, left, wait_ms } = *standing;
    let reason = match (wait_ms, limited) {
        (None, _) => format!(
            "this takes up to {wanted} of the {} of {who}, and there are {limit} in all: ask for less",
            limited.words()
        ),
        (Some(_), Limited::Streams) => {
            format!("{who} has {limit} answers open, as many as it may: end one, or wait for it")
        }
        (Some(_), _) => {
            format!("{who} may have {limit} {}, of which {left} are left; this takes up to {wanted}", limited.words())
        }
    };
    let retry_after_s = wait_ms.map(|wait| wait.div_ceil(1000).max(1));
    ServiceError::OverBudget { reason, limited, limit, left, retry_after_s }
}
