//! What Redis has that rests on documents: an index of it by document, kept beside whatever is put there, and notices of
//! deletions from one replica to all others.
//!
//! - the index of a document is a sorted set: members name a key and the revision it rests on, scores are when the key
//!   expires. It is written before what it names, so that nothing is there without it;
//! - notices are a stream that each replica reads on by itself; who has done what one says adds so to a hash beside it;
//! - the replicas that are there are a sorted set of when they last looked.
//!
//! A notice names no document ([`RestsOn`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use redis::Script;
use serde::{Deserialize, Serialize};

use crate::answer::evidence::{Level, RestsOn};
use crate::stores::redis::{Redis, RedisTrouble};

/// A replica that has not looked for so long is gone.
const GONE_MS: u64 = 5_000;
/// Notices that are kept for those who were away.
const NOTICES: usize = 10_000;
/// Notices read at once.
const READ: usize = 256;
/// How long it can be asked who has done what a notice says.
const ANSWERED: Duration = Duration::from_secs(600);
/// Commands under way at once.
const AT_ONCE: usize = 16;
/// What the keys of notices share, to be on one node.
const TAG: &str = "deletions";

/// How much there was that rests on a document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Entries of the cache: what questions find.
    pub evidence: u64,
    /// The same: what the model said.
    pub answers: u64,
    /// Answers that could be read.
    pub streams: u64,
}

impl Counts {
    /// One more.
    pub fn add(&mut self, level: Level) {
        match level {
            Level::Evidence => self.evidence += 1,
            Level::Answer => self.answers += 1,
            Level::Stream => self.streams += 1,
        }
    }

    /// All of it.
    pub fn sum(self) -> u64 {
        self.evidence + self.answers + self.streams
    }
}

/// How much there was, by document.
pub type ByDocument = HashMap<u64, Counts>;

/// What one replica tells the others.
#[derive(Debug, Serialize, Deserialize)]
pub struct Notice {
    /// Who tells it.
    pub from: String,
    /// What is deleted.
    pub deleted: Vec<RestsOn>,
}

/// Notes a key (`ARGV[2]`) for `ARGV[1]` milliseconds, and forgets those that have expired.
static NOTE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local t = redis.call('TIME')
         local now = t[1] * 1000 + math.floor(t[2] / 1000)
         redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
         redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[2])
         if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
         return true",
    )
});

/// Adds a notice (`ARGV[1]`) to the stream, which is kept for `ARGV[2]` milliseconds and `ARGV[3]` notices; gives its id and the
/// replicas that are there.
static TELL: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local t = redis.call('TIME')
         local now = t[1] * 1000 + math.floor(t[2] / 1000)
         local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'n', ARGV[1])
         redis.call('PEXPIRE', KEYS[1], ARGV[2])
         redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[4])
         return {id, redis.call('ZRANGE', KEYS[2], 0, -1)}",
    )
});

/// Says that a replica (`ARGV[1]`) is there, and gives the notices after one (`ARGV[2]`).
static LOOK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local t = redis.call('TIME')
         redis.call('ZADD', KEYS[2], t[1] * 1000 + math.floor(t[2] / 1000), ARGV[1])
         redis.call('PEXPIRE', KEYS[2], ARGV[4])
         return redis.call('XRANGE', KEYS[1], ARGV[2], '+', 'COUNT', ARGV[3])",
    )
});

fn index(redis: &Redis, document: u64) -> String {
    redis.key("rests", &format!("{document:016x}"))
}

fn notices(redis: &Redis) -> String {
    redis.key("notices", TAG)
}

fn replicas(redis: &Redis) -> String {
    redis.key("replicas", TAG)
}

fn done(redis: &Redis, notice: &str) -> String {
    redis.key(&format!("done:{notice}"), TAG)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Notes that what is put under a key for so long rests on documents. To be called before it is put.
///
/// # Errors
/// [`RedisTrouble`]; then it must not be put.
pub async fn note(redis: &Redis, level: Level, key: &str, of: &[RestsOn], time: Duration) -> Result<(), RedisTrouble> {
    let letter = match level {
        Level::Evidence => 'e',
        Level::Answer => 'a',
        Level::Stream => 's',
    };
    let noted = of.iter().map(async |RestsOn { document, revision }| {
        let mut call = NOTE.key(index(redis, *document));
        call.arg(millis(time)).arg(format!("{revision}:{letter}:{key}"));
        redis.invoke::<bool>(&call).await.map(drop)
    });
    futures_util::future::try_join_all(noted).await.map(drop)
}

/// Removes what rests on deleted documents. The index stays, for those who are about to put what it names already.
///
/// # Errors
/// [`RedisTrouble`]; then it is to be done again.
pub async fn purge(redis: &Redis, deleted: &[RestsOn]) -> Result<ByDocument, RedisTrouble> {
    let mut removed = ByDocument::new();
    let mut work = stream::iter(deleted).map(async |one| Ok((one.document, purge_one(redis, one).await?)));
    let mut work = std::pin::pin!((&mut work).buffer_unordered(AT_ONCE));
    while let Some(done) = work.next().await {
        let (document, counts) = done?;
        removed.insert(document, counts);
    }
    Ok(removed)
}

async fn purge_one(redis: &Redis, deleted: &RestsOn) -> Result<Counts, RedisTrouble> {
    let mut counts = Counts::default();
    let members: Vec<String> =
        redis.run(redis::cmd("ZRANGE").arg(index(redis, deleted.document)).arg(0).arg(-1)).await?;
    for member in members {
        let mut parts = member.splitn(3, ':');
        let (revision, level, key) = (parts.next(), parts.next(), parts.next());
        let level = match level {
            Some("e") => Level::Evidence,
            Some("a") => Level::Answer,
            _ => Level::Stream,
        };
        let (Some(Ok(revision)), Some(key)) = (revision.map(str::parse::<u64>), key) else { continue };
        if revision <= deleted.revision && redis.run::<u64>(redis::cmd("DEL").arg(key)).await? > 0 {
            counts.add(level);
        }
    }
    Ok(counts)
}

/// Tells all replicas; gives the notice's id, and who is there.
///
/// # Errors
/// [`RedisTrouble`]; then it is to be told again.
pub async fn tell(redis: &Redis, notice: &Notice, keep: Duration) -> Result<(String, Vec<String>), RedisTrouble> {
    let mut call = TELL.key(notices(redis));
    call.key(replicas(redis)).arg(to_json(notice)).arg(millis(keep)).arg(NOTICES).arg(GONE_MS);
    redis.invoke(&call).await
}

/// Says that a replica is there, and gives the notices after one, oldest first, with their ids.
///
/// # Errors
/// [`RedisTrouble`]
pub async fn look(redis: &Redis, replica: &str, after: &str) -> Result<Vec<(String, Option<Notice>)>, RedisTrouble> {
    let mut call = LOOK.key(notices(redis));
    call.key(replicas(redis)).arg(replica).arg(format!("({after}")).arg(READ).arg(GONE_MS);
    let found: Vec<(String, Vec<String>)> = redis.invoke(&call).await?;
    let read = |(id, fields): (String, Vec<String>)| {
        let notice = fields.get(1).and_then(|text| serde_json::from_str(text).ok());
        (id, notice)
    };
    Ok(found.into_iter().map(read).collect())
}

/// Says that a replica has done what a notice says, and how much there was.
///
/// # Errors
/// [`RedisTrouble`]
pub async fn answer(redis: &Redis, notice: &str, replica: &str, counts: &ByDocument) -> Result<(), RedisTrouble> {
    let key = done(redis, notice);
    redis.run::<i64>(redis::cmd("HSET").arg(&key).arg(replica).arg(to_json(counts))).await?;
    redis.run::<i64>(redis::cmd("PEXPIRE").arg(&key).arg(millis(ANSWERED))).await.map(drop)
}

/// Who has done what a notice says.
///
/// # Errors
/// [`RedisTrouble`]
pub async fn answers(redis: &Redis, notice: &str) -> Result<BTreeMap<String, ByDocument>, RedisTrouble> {
    let found: HashMap<String, String> = redis.run(redis::cmd("HGETALL").arg(done(redis, notice))).await?;
    Ok(found.into_iter().filter_map(|(who, counts)| Some((who, serde_json::from_str(&counts).ok()?))).collect())
}

/// A replica leaves.
pub async fn leave(redis: &Redis, replica: &str) {
    // Where it cannot say so, the others see that it looks no more.
    let _ = redis.run::<i64>(redis::cmd("ZREM").arg(replicas(redis)).arg(replica)).await;
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
