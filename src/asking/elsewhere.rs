//! Answers that other replicas can read: each is mirrored in Redis as it grows, so that a client may come again to any of
//! them, and cancel there. The replica where it began goes on at the pace of the readers elsewhere, too.
//!
//! In Redis an answer is a list: a head that says whose it is and how it is bounded, then its events by position. What a
//! reader elsewhere wants is under a key of its own, which it keeps alive. A list lives a little longer than the replica
//! that writes it: readers elsewhere are told that the answer was interrupted, or that a document it rests on was deleted.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::shelf::{self, Shelf};
use crate::answer::evidence::{Level, RestsOn};
use crate::answer::log::{AnswerLog, Bounds, Event, Reader, Stopped, Writer};
use crate::config::Live;
use crate::deletion::{Deletions, shared};
use crate::error::ServiceError;
use crate::models::Demand;
use crate::stores::redis::{Redis, RedisTrouble};

/// How often answers are mirrored, and read elsewhere.
const TICK: Duration = Duration::from_millis(200);
/// How long the list of an answer that grows outlives its replica.
const ALIVE: Duration = Duration::from_secs(10);
/// How long what a reader elsewhere wants counts.
const WANTED: Duration = Duration::from_secs(3);
/// How long a replica that stops tries to send the ends of its answers.
const LAST: Duration = Duration::from_secs(2);
/// The longest pause after an answer could not be sent, in ticks: its list is still alive when it is tried again.
const PAUSE_TICKS: u32 = 16;
/// Events that are sent at once.
const BATCH: usize = 512;

/// See the module.
pub struct Elsewhere {
    redis: Arc<Redis>,
    shelf: Arc<Shelf>,
    deletions: Arc<Deletions>,
    settings: Arc<Live>,
    mirrored: Mutex<Vec<Mirrored>>,
    /// Held by who sends: another one waits for it, and finds what it left.
    sending: tokio::sync::Mutex<()>,
}

/// The first entry of an answer's list.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    caller: String,
    /// The id of the store that its documents are in.
    #[serde(default)]
    store: String,
    bounds: Bounds,
}

/// What a reader elsewhere wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Want {
    /// Somebody reads, and has come to this position.
    Read(usize),
    /// It is to end.
    Cancel,
}

/// An answer of this replica that is being mirrored.
struct Mirrored {
    log: Arc<AnswerLog>,
    caller: Arc<str>,
    /// Entries of the list that are sent, the head among them.
    sent: usize,
    /// Stands for those who read elsewhere.
    reader: Option<Reader>,
    /// Its end is sent, or given up.
    ended: bool,
    /// After it could not be sent: how long that waits now, and until when.
    paused: Option<(u32, Instant)>,
}

impl Elsewhere {
    /// Begins to mirror; it ends with the last reference to it.
    pub fn start(redis: Arc<Redis>, deletions: Arc<Deletions>, settings: Arc<Live>) -> Arc<Self> {
        let shelf = Arc::clone(&deletions.shelf);
        let (mirrored, sending) = (Mutex::default(), Default::default());
        let elsewhere = Arc::new(Self { redis, shelf, deletions, settings, mirrored, sending });
        let watched = Arc::downgrade(&elsewhere);
        actix_rt::spawn(async move {
            let mut tick = actix_rt::time::interval(TICK);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let Some(elsewhere) = Weak::upgrade(&watched) else { return };
                elsewhere.mirror_all().await;
            }
        });
        elsewhere
    }

    /// Mirrors an answer of this replica from now on.
    pub fn mirror(&self, log: &Arc<AnswerLog>, caller: &Arc<str>) {
        let (log, caller) = (Arc::clone(log), Arc::clone(caller));
        let mirrored = Mirrored { log, caller, sent: 0, reader: None, ended: false, paused: None };
        self.mirrored.lock().push(mirrored);
    }

    /// Sends what is new of all answers: those that go on elsewhere miss nothing that was said here.
    pub async fn mirror_all(&self) {
        let _sending = self.sending.lock().await;
        let now = std::mem::take(&mut *self.mirrored.lock());
        let all = join_all(now.into_iter().map(|mirrored| self.mirror_one(mirrored))).await;
        let mut mirrored = self.mirrored.lock();
        // Those that came meanwhile stay behind them.
        let new = std::mem::take(&mut *mirrored);
        mirrored.extend(all.into_iter().filter(|mirrored| !mirrored.ended));
        mirrored.extend(new);
    }

    /// Sends what is left of the answers that have ended, for the last time: a round that Redis did not answer in time, or
    /// did without its answer being heard, is made good by another one. What still grows is sent as far as it is.
    pub async fn mirror_last(&self) {
        let began = Instant::now();
        loop {
            self.mirrored.lock().iter_mut().for_each(|mirrored| mirrored.paused = None);
            self.mirror_all().await;
            let left = self.mirrored.lock().iter().any(|mirrored| mirrored.log.closed().is_some());
            if !left || began.elapsed() > LAST {
                return;
            }
            actix_rt::time::sleep(TICK / 10).await;
        }
    }

    /// How long an answer can be read after its end.
    fn keep(&self) -> Duration {
        Duration::from_secs(self.settings.now().answer.keep_s)
    }

    /// Sends what is new of an answer, and does what is wanted elsewhere.
    async fn mirror_one(&self, mut mirrored: Mirrored) -> Mirrored {
        if mirrored.paused.is_some_and(|(_, until)| until > Instant::now()) {
            return mirrored;
        }
        let Mirrored { log, caller, sent, .. } = &mirrored;
        let closed = log.closed().is_some();
        let (list, want) = (self.list(log.id()), self.want(log.id()));
        let mut entries = Vec::new();
        if *sent == 0 {
            let store = self.deletions.store().to_owned();
            entries.push(to_json(&Head { caller: caller.as_ref().to_owned(), store, bounds: log.bounds() }));
        }
        let events = log.events(sent.saturating_sub(1), BATCH);
        entries.extend(events.iter().map(|event| to_json(&**event)));
        let all = closed && sent.saturating_sub(1) + events.len() >= log.length();
        let alive = if all { self.keep() } else { ALIVE };
        if self.note(&list, &events, &log.bounds()).await.is_err() {
            self.not_sent(&mut mirrored);
            return mirrored;
        }
        match self.redis.extend((&list, &want), *sent, &entries, alive).await {
            Ok((Some(length), want)) => {
                mirrored.sent = length;
                mirrored.paused = None;
                // What had arrived before is not all there is.
                mirrored.ended = all && length > mirrored.log.length();
                mirrored.obey(want.and_then(|want| serde_json::from_str(&want).ok()));
            }
            // Redis was emptied, or the list came of age: what is left of the answer is read here.
            Ok((None, _)) => mirrored.ended = true,
            Err(_) => self.not_sent(&mut mirrored),
        }
        // After it is there: what is deleted from here on finds it.
        if mirrored.log.is_withdrawn() {
            let _ = shared::withdraw(&self.redis, &list).await;
            mirrored.ended = true;
        }
        mirrored
    }

    /// Has an answer wait that could not be sent. What has ended is not worth waiting for a Redis that is away; and not for
    /// one that takes nothing, such as a full one, beyond the time in which it can be read here.
    fn not_sent(&self, mirrored: &mut Mirrored) {
        mirrored.obey(None);
        let now = Instant::now();
        let is_over = |closed: Instant| self.redis.trouble().is_some() || now.duration_since(closed) >= self.keep();
        mirrored.ended = mirrored.log.closed().is_some_and(is_over);
        let ticks = mirrored.paused.map_or(1, |(ticks, _)| (2 * ticks).min(PAUSE_TICKS));
        mirrored.paused = Some((ticks, now + TICK * ticks));
    }

    /// Notes what an answer rests on, before it is sent.
    async fn note(&self, list: &str, events: &[Arc<Event>], bounds: &Bounds) -> Result<(), RedisTrouble> {
        for event in events {
            if let Event::Sources { sources, .. } = &**event {
                let store = self.deletions.store();
                let documents: Vec<RestsOn> = sources.iter().map(|source| RestsOn::source(store, source)).collect();
                shared::note(&self.redis, Level::Stream, list, &documents, bounds.time + self.keep() + ALIVE).await?;
            }
        }
        Ok(())
    }

    /// Withdraws an answer that rests on what is deleted. Whether it is.
    fn withdraw(&self, log: &AnswerLog, store: &str) -> bool {
        shelf::withdraw(log, store, &|one| self.deletions.deleted.has(one)).is_some() || log.is_withdrawn()
    }

    /// An answer that another replica has, for those who may have it; read here as if it were this one's.
    pub async fn find(self: &Arc<Self>, id: &str, caller: &str) -> Option<Arc<AnswerLog>> {
        let entries = self.entries(id, 0).await.ok()?;
        let Some(first) = entries.first() else { return self.find_withdrawn(id, caller).await };
        let head: Head = serde_json::from_str(first).ok()?;
        if !super::shelf::may_have(&head.caller, caller) {
            return None;
        }
        let (mut writer, log) = AnswerLog::copy(id.to_owned(), head.bounds);
        let ended = write(&mut writer, &entries[1..])?;
        let store: Arc<str> = head.store.into();
        // Others may have looked for it too.
        if let Some(known) = self.shelf.put_new(&log, &head.caller.into(), &store) {
            return Some(known);
        }
        // After it can be found: what is deleted from here on finds it.
        if !self.withdraw(&log, &store) && !ended {
            actix_rt::spawn(Arc::clone(self).follow(Arc::clone(&log), writer, entries.len(), store));
        }
        Some(log)
    }

    /// What is left of an answer that was withdrawn a short while ago: that it was.
    async fn find_withdrawn(&self, id: &str, caller: &str) -> Option<Arc<AnswerLog>> {
        let owner = shared::withdrawn_from(&self.redis, &self.list(id)).await.ok()??;
        if !super::shelf::may_have(&owner, caller) {
            return None;
        }
        let (_writer, log) = AnswerLog::copy(id.to_owned(), Bounds::default());
        log.withdraw(super::problem(ServiceError::DocumentDeleted));
        Some(log)
    }

    /// Reads on what another replica writes, as long as somebody here wants it.
    async fn follow(self: Arc<Self>, log: Arc<AnswerLog>, mut writer: Writer, mut seen: usize, store: Arc<str>) {
        let want_key = self.want(log.id());
        let mut told = false;
        loop {
            if self.withdraw(&log, &store) {
                return;
            }
            let cancelled = matches!(log.stopped(), Some(Stopped::Cancelled));
            // Who has left may come again, to any replica; only then is it off the shelf here.
            if !cancelled && log.demand() == Demand::Stop {
                // It goes on where it is written.
                if let Some(Stopped::Service { elsewhere }) = log.stopped() {
                    writer.append(super::problem(ServiceError::Stopping { elsewhere }));
                }
                self.shelf.remove(log.id());
                return;
            }
            let want = if cancelled { Want::Cancel } else { Want::Read(log.furthest()) };
            if cancelled != told || (!cancelled && log.is_read()) {
                told = cancelled;
                let _ = self.redis.put(&want_key, to_json(&want).as_bytes(), WANTED).await;
            }
            match self.entries(log.id(), seen).await {
                Ok(entries) if entries.is_empty() => {
                    let list = self.list(log.id());
                    let there: Result<bool, _> = self.redis.run(redis::cmd("EXISTS").arg(&list)).await;
                    if matches!(there, Ok(false)) {
                        match shared::withdrawn_from(&self.redis, &list).await {
                            Ok(Some(_)) => return log.withdraw(super::problem(ServiceError::DocumentDeleted)),
                            // Its replica has died: the writer tells the readers.
                            Ok(None) => return,
                            Err(_) => {}
                        }
                    }
                }
                Ok(entries) => {
                    seen += entries.len();
                    match write(&mut writer, &entries) {
                        Some(false) => {}
                        Some(true) | None => return,
                    }
                }
                Err(_) => {}
            }
            actix_rt::time::sleep(TICK / 2).await;
        }
    }

    async fn entries(&self, id: &str, from: usize) -> Result<Vec<String>, RedisTrouble> {
        self.redis.run(redis::cmd("LRANGE").arg(self.list(id)).arg(from).arg(-1)).await
    }

    fn list(&self, id: &str) -> String {
        self.redis.key("answer", id)
    }

    fn want(&self, id: &str) -> String {
        self.redis.key("want", id)
    }
}

impl Mirrored {
    /// Does what is wanted elsewhere.
    fn obey(&mut self, want: Option<Want>) {
        match want {
            None => self.reader = None,
            Some(Want::Cancel) => self.log.cancel(),
            Some(Want::Read(position)) => {
                let reader = self.reader.get_or_insert_with(|| self.log.reader(0));
                while reader.position() < position && reader.next().now_or_never().flatten().is_some() {}
            }
        }
    }
}

/// Writes entries into a log. Whether its last one was among them; none where one cannot be read.
fn write(writer: &mut Writer, entries: &[String]) -> Option<bool> {
    let mut ended = false;
    for entry in entries {
        let event: Event = serde_json::from_str(entry).ok()?;
        ended = event.is_last();
        writer.append(event);
    }
    Some(ended)
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
