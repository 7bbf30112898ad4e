//! What Redis has that rests on documents: an index of it by document, kept beside whatever is put there, and notices of
//! deletions from one replica to all others.
//!
//! - the index of a document is a sorted set: members name a key and the revision it rests on, scores are when the key
//!   expires. It is written before what it names, so that nothing is there without it. It has no time of its own: a Redis
//!   that makes room among what expires must not take the index before what it names;
//! - the documents that have an index are a sorted set, too, of when all that it names has expired: then it goes
//!   ([`sweep`]);
//! - notices are a stream that each replica reads on by itself; who has done what one says adds so to a hash beside it;
//! - the replicas that are there are a sorted set of when they last looked. Where nobody has looked for a while, Redis was
//!   away: then they have as much time again to come back.
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

/// A replica that has not looked for so long is not waited for.
const HERE_MS: u64 = 5_000;
/// One that has not looked for so long is gone. Longer than the longest pause for which Redis is left alone.
const GONE_MS: u64 = 60_000;
/// How long a Redis that is away knows who was there.
const KNOWN: Duration = Duration::from_secs(24 * 3600);
/// How much later than what it names an index goes, at least.
const LATER_MS: u64 = 60_000;
/// Indexes looked at in one sweep.
const SWEPT: usize = 1_000;
/// Notices that are kept for those who were away.
const NOTICES: usize = 10_000;
/// Notices read at once.
const READ: usize = 256;
/// How long it can be asked who has done what a notice says.
const ANSWERED: Duration = Duration::from_secs(600);
/// How long it is known of an answer that it was withdrawn.
const WITHDRAWN: Duration = Duration::from_secs(60);
/// Commands under way at once.
const AT_ONCE: usize = 16;
/// How members of an index say what a key is of.
const LEVELS: [(&str, Level); 3] = [("e", Level::Evidence), ("a", Level::Answer), ("s", Level::Stream)];
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

/// The clock that all share, in milliseconds.
const NOW: &str = "local t = redis.call('TIME')
     local now = t[1] * 1000 + math.floor(t[2] / 1000) ";

/// Says that a replica (`ARGV[1]`) is there. Where nobody has looked for `ARGV[2]` milliseconds, those who were there before
/// are as if they had looked just before that; one that has not looked for `ARGV[3]` is gone. All are known for `ARGV[4]`.
const THERE: &str = "local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
     if last and now - tonumber(last) > tonumber(ARGV[2]) then
       for _, replica in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
         redis.call('ZADD', KEYS[2], now - ARGV[2] - 1, replica)
       end
     end
     redis.call('ZADD', KEYS[2], now, ARGV[1])
     redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[3])
     redis.call('PEXPIRE', KEYS[2], ARGV[4]) ";

fn script(parts: &[&str]) -> Script {
    Script::new(&parts.concat())
}

/// Notes that documents (`ARGV[2]` and after) have an index for `ARGV[1]` milliseconds at least.
static ENLIST: LazyLock<Script> = LazyLock::new(|| {
    script(&[
        NOW,
        "local at = now + ARGV[1]
         for n = 2, #ARGV do
           local known = redis.call('ZSCORE', KEYS[1], ARGV[n])
           if not known or tonumber(known) < at then redis.call('ZADD', KEYS[1], at, ARGV[n]) end
         end
         return true",
    ])
});

/// Gives at most `ARGV[1]` documents whose index has come of age.
static DUE: LazyLock<Script> =
    LazyLock::new(|| script(&[NOW, "return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])"]));

/// Forgets what has expired; gives how much is left. An index of nothing is none.
static CLEAN: LazyLock<Script> = LazyLock::new(|| {
    script(&[NOW, "redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now) return redis.call('ZCARD', KEYS[1])"])
});

/// These documents (all of `ARGV`) have no index any more, but for those that were enlisted anew meanwhile.
static DELIST: LazyLock<Script> = LazyLock::new(|| {
    script(&[
        NOW,
        "for n = 1, #ARGV do
           local known = redis.call('ZSCORE', KEYS[1], ARGV[n])
           if known and tonumber(known) <= now then redis.call('ZREM', KEYS[1], ARGV[n]) end
         end
         return true",
    ])
});

/// Notes a key (`ARGV[2]`) for `ARGV[1]` milliseconds, and forgets those that have expired. An older answerd gave an index a
/// time.
static NOTE: LazyLock<Script> = LazyLock::new(|| {
    script(&[
        NOW,
        "redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
         redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[2])
         redis.call('PERSIST', KEYS[1])
         return true",
    ])
});

/// Adds a notice (`ARGV[5]`) to the stream, which is kept for `ARGV[6]` milliseconds and `ARGV[7]` notices; gives its id, the
/// replicas that are there, and those of them that have looked just now.
static TELL: LazyLock<Script> = LazyLock::new(|| {
    script(&[
        NOW,
        THERE,
        "local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[7], '*', 'n', ARGV[5])
         redis.call('PEXPIRE', KEYS[1], ARGV[6])
         local here = redis.call('ZRANGEBYSCORE', KEYS[2], now - ARGV[2], '+inf')
         return {id, redis.call('ZRANGE', KEYS[2], 0, -1), here}",
    ])
});

/// Gives the notices after one (`ARGV[5]`), at most `ARGV[6]`.
static LOOK: LazyLock<Script> =
    LazyLock::new(|| script(&[NOW, THERE, "return redis.call('XRANGE', KEYS[1], ARGV[5], '+', 'COUNT', ARGV[6])"]));

fn index(redis: &Redis, document: u64) -> String {
    index_of(redis, &name(document))
}

fn index_of(redis: &Redis, name: &str) -> String {
    redis.key("rests", name)
}

/// A document among those that have an index.
fn name(document: u64) -> String {
    format!("{document:016x}")
}

fn indexes(redis: &Redis) -> String {
    redis.key("indexes", TAG)
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
    if of.is_empty() {
        return Ok(());
    }
    let letter = LEVELS.iter().find(|(_, of)| *of == level).map_or("", |(letter, _)| letter);
    // First: an index that is not among them would stay for good.
    let mut enlist = ENLIST.key(indexes(redis));
    enlist.arg(millis(time).saturating_add(LATER_MS));
    for one in of {
        enlist.arg(name(one.document));
    }
    redis.invoke::<bool>(&enlist).await?;
    let noted = of.iter().map(async |RestsOn { document, revision }| {
        let mut call = NOTE.key(index(redis, *document));
        call.arg(millis(time)).arg(format!("{revision}:{letter}:{key}"));
        redis.invoke::<bool>(&call).await.map(drop)
    });
    futures_util::future::try_join_all(noted).await.map(drop)
}

/// Removes indexes that have come of age, as many as are looked at once. Whether there may be more.
///
/// # Errors
/// [`RedisTrouble`]; the next one goes on.
pub async fn sweep(redis: &Redis) -> Result<bool, RedisTrouble> {
    let mut due = DUE.key(indexes(redis));
    due.arg(SWEPT);
    let due: Vec<String> = redis.invoke(&due).await?;
    let (mut delist, mut gone) = (DELIST.key(indexes(redis)), 0);
    for document in &due {
        if redis.invoke::<u64>(&CLEAN.key(index_of(redis, document))).await? == 0 {
            delist.arg(document);
            gone += 1;
        }
    }
    if gone > 0 {
        redis.invoke::<bool>(&delist).await?;
    }
    Ok(gone == SWEPT)
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
        let (revision, letter, key) = (parts.next(), parts.next(), parts.next());
        let (Some(Ok(revision)), Some(key)) = (revision.map(str::parse::<u64>), key) else { continue };
        if revision > deleted.revision {
            continue;
        }
        // One of another version of answerd is removed as well.
        let level = LEVELS.iter().find(|(of, _)| Some(*of) == letter).map_or(Level::Stream, |(_, level)| *level);
        let was_there = match level {
            Level::Stream => withdraw(redis, key).await?,
            Level::Evidence | Level::Answer => redis.run(redis::cmd("DEL").arg(key)).await?,
        };
        if was_there {
            counts.add(level);
        }
    }
    Ok(counts)
}

/// Removes the list of an answer that rests on what is deleted, and says whose it was: who looks for it on another replica,
/// where the notice has not come yet or which never had it, finds out why it is gone. Whether it was there.
///
/// # Errors
/// [`RedisTrouble`]; then it is to be done again.
pub async fn withdraw(redis: &Redis, list: &str) -> Result<bool, RedisTrouble> {
    // Its first entry names the one who asked. A Redis that is full takes things away, and no word of it.
    static SCRIPT: LazyLock<Script> = LazyLock::new(|| {
        Script::new(
            "local first = redis.pcall('LINDEX', KEYS[1], 0) \
             local removed = redis.call('DEL', KEYS[1]) \
             if removed == 1 then \
               local read, head = pcall(cjson.decode, first) \
               local caller = read and type(head) == 'table' and head.caller \
               redis.pcall('SET', KEYS[2], type(caller) == 'string' and caller or '', 'PX', ARGV[1]) \
             end \
             return removed",
        )
    });
    let mut call = SCRIPT.key(list);
    call.key(word_of(list)).arg(millis(WITHDRAWN));
    redis.invoke(&call).await
}

/// Whose answer it was, where its list was withdrawn a short while ago.
///
/// # Errors
/// [`RedisTrouble`]
pub async fn withdrawn_from(redis: &Redis, list: &str) -> Result<Option<String>, RedisTrouble> {
    redis.run(redis::cmd("GET").arg(word_of(list))).await
}

/// The key that is there where a list was withdrawn: on the same node of a cluster.
fn word_of(list: &str) -> String {
    format!("{list}:withdrawn")
}

/// Who was told.
pub struct Told {
    /// The notice's id.
    pub notice: String,
    /// The replicas that are there, or were a while ago; this one among them.
    pub replicas: Vec<String>,
    /// Those of them that look for notices now.
    pub here: Vec<String>,
}

/// Tells all replicas.
///
/// # Errors
/// [`RedisTrouble`]; then it is to be told again.
pub async fn tell(redis: &Redis, notice: &Notice, keep: Duration) -> Result<Told, RedisTrouble> {
    let mut call = TELL.key(notices(redis));
    call.key(replicas(redis)).arg(&notice.from).arg(HERE_MS).arg(GONE_MS).arg(millis(KNOWN));
    call.arg(to_json(notice)).arg(millis(keep)).arg(NOTICES);
    let (notice, replicas, here): (String, Vec<String>, Vec<String>) = redis.invoke(&call).await?;
    Ok(Told { notice, replicas, here })
}

/// Says that a replica is there, and gives the notices after one, oldest first, with their ids.
///
/// # Errors
/// [`RedisTrouble`]
pub async fn look(redis: &Redis, replica: &str, after: &str) -> Result<Vec<(String, Option<Notice>)>, RedisTrouble> {
    fail::fail_point!("deletion::look", |_| Err(RedisTrouble("refused by a failpoint".to_owned())));
    let mut call = LOOK.key(notices(redis));
    call.key(replicas(redis)).arg(replica).arg(HERE_MS).arg(GONE_MS).arg(millis(KNOWN));
    call.arg(format!("({after}")).arg(READ);
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
