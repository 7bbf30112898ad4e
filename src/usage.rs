//! What each answer used: one JSON object a line in `usage/<day>.jsonl` of the data folder, for whoever bills or
//! plans. A day's file is complete once the next one is there.
//!
//! A line is written when its answer ends, and is on disk within a second. Lines are never changed.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};

use crate::metrics::Metrics;
use crate::models::FinishReason;

/// Records that may wait for the disk.
const WAITING: usize = 16_384;
/// How often what was written is made sure to be on disk.
const SYNC: Duration = Duration::from_secs(1);

/// How a generation ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The model ended.
    Stop,
    /// The output limit was reached.
    Length,
    /// Its readers left, or somebody cancelled it.
    Cancelled,
    /// It failed; what it had used until then counts.
    #[default]
    Error,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [Self::Stop, Self::Length, Self::Cancelled, Self::Error];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Error => "error",
        }
    }
}

impl From<FinishReason> for Outcome {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::Stop => Self::Stop,
            FinishReason::Length => Self::Length,
            FinishReason::Cancelled => Self::Cancelled,
        }
    }
}

/// What a model was asked to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// To generate text.
    #[default]
    Chat,
    /// To embed texts.
    Embeddings,
}

impl Operation {
    /// Its name in the conventions of OpenTelemetry.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Embeddings => "embeddings",
        }
    }
}

/// What an answer came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Served {
    /// A model computed it.
    #[default]
    Model,
    /// It was kept: it took no tokens.
    Cache,
    /// A model computed it for somebody who asked the same at the time: the tokens are in that one's record.
    Shared,
}

/// What one answer used.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct UsageRecord {
    /// When it ended, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The answer.
    pub answer: String,
    /// Who asked: a name for a key or an address, never the key itself.
    pub caller: String,
    /// What was asked.
    pub operation: Operation,
    /// The model.
    pub model: String,
    /// What runs the model: `llama_cpp`, `mistralrs`, `openai` or `minilm`.
    pub provider: String,
    /// Whether it was asked to answer from the documents.
    pub retrieval: bool,
    /// What it came from.
    pub served: Served,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, those that had been computed before.
    pub cached_prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// The counts are estimates: it failed, or the server that has the model did not tell them.
    pub estimated: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// The kind of problem it failed with.
    pub error: Option<String>,
    /// From the request to its first token, in milliseconds.
    pub first_token_ms: Option<u64>,
    /// From the request to its end, in milliseconds.
    pub total_ms: u64,
}

/// Sums since the start, for each model.
#[derive(Debug, Clone, Default, Serialize)]
struct Sums {
    requests: BTreeMap<Outcome, u64>,
    prompt_tokens: u64,
    cached_prompt_tokens: u64,
    completion_tokens: u64,
}

/// Writes usage records; see the module. Dropping it writes what is left.
pub struct Ledger {
    records: Option<mpsc::SyncSender<UsageRecord>>,
    metrics: Arc<Metrics>,
    sums: Mutex<BTreeMap<String, Sums>>,
    lost: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

impl Ledger {
    /// A ledger in the folder `usage` of a data folder.
    ///
    /// # Errors
    /// Where the folder cannot be made.
    pub fn open(data: &Path, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let folder = data.join("usage");
        std::fs::create_dir_all(&folder)?;
        let (records, waiting) = mpsc::sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("usage".to_owned()).spawn(move || write(&folder, &waiting))?;
        Ok(Self {
            records: Some(records),
            metrics,
            sums: Mutex::default(),
            lost: AtomicU64::new(0),
            thread: Some(thread),
        })
    }

    /// Records a generation that has ended now. Never blocks: where the disk is away for very long, a record is lost,
    /// counted and told.
    pub fn record(&self, mut record: UsageRecord) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        record.time_ms = now.as_millis() as u64;
        self.metrics.ended(record.outcome);
        // The others are no requests to a model.
        if record.served == Served::Model {
            self.metrics.used(&record);
            let mut sums = self.sums.lock();
            let sums = sums.entry(record.model.clone()).or_default();
            *sums.requests.entry(record.outcome).or_default() += 1;
            sums.prompt_tokens += record.prompt_tokens as u64;
            sums.cached_prompt_tokens += record.cached_prompt_tokens as u64;
            sums.completion_tokens += record.completion_tokens as u64;
        }
        if self.records.as_ref().is_none_or(|records| records.try_send(record).is_err()) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            tracing::error!("a usage record is lost: the disk does not keep up");
        }
    }

    /// Sums since the start, by model.
    pub fn describe(&self) -> Value {
        json!({ "models": *self.sums.lock(), "records_lost": self.lost.load(Ordering::Relaxed) })
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        drop(self.records.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The file of a day.
struct Day {
    number: u64,
    file: File,
}

fn write(folder: &Path, records: &mpsc::Receiver<UsageRecord>) {
    let mut day: Option<Day> = None;
    // Since when there is something that may not be on disk.
    let mut unsynced: Option<Instant> = None;
    loop {
        let left = unsynced.map_or(SYNC, |since| SYNC.saturating_sub(since.elapsed()));
        if left.is_zero() {
            unsynced = None;
            if let Some(Err(error)) = day.as_ref().map(|day| day.file.sync_data()) {
                tracing::error!(%error, "usage records may not be on disk");
            }
            continue;
        }
        let record = match records.recv_timeout(left) {
            Ok(record) => record,
            Err(mpsc::RecvTimeoutError::Timeout) => continue,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                if let Some(day) = &day {
                    let _ = day.file.sync_data();
                }
                return;
            }
        };
        let mut line = serde_json::to_vec(&record).unwrap_or_default();
        line.push(b'\n');
        let number = record.time_ms / 86_400_000;
        let mut told = false;
        // As long as it takes: records that come meanwhile wait.
        while let Err(error) = append(folder, &mut day, number, &line) {
            if !std::mem::replace(&mut told, true) {
                tracing::error!(%error, "a usage record cannot be written; it is tried until it can");
            }
            day = None;
            std::thread::sleep(SYNC);
        }
        unsynced.get_or_insert_with(Instant::now);
    }
}

fn append(folder: &Path, day: &mut Option<Day>, number: u64, line: &[u8]) -> std::io::Result<()> {
    if day.as_ref().is_none_or(|day| day.number != number) {
        if let Some(before) = day.take() {
            before.file.sync_data()?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path(folder, number))?;
        // A line that a crash cut short is ended, so that it spoils no other.
        if !ends_with_a_line(&path(folder, number))? {
            file.write_all(b"\n")?;
        }
        *day = Some(Day { number, file });
    }
    match day {
        Some(day) => day.file.write_all(line),
        None => Ok(()),
    }
}

fn ends_with_a_line(path: &Path) -> std::io::Result<bool> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// The file of the day with this number, counted from the Unix epoch.
fn path(folder: &Path, day: u64) -> PathBuf {
    let days = time::Duration::days(i64::try_from(day).unwrap_or(0));
    let date = time::OffsetDateTime::UNIX_EPOCH.checked_add(days).map_or(time::Date::MAX, time::OffsetDateTime::date);
    folder.join(format!("{date}.jsonl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_the_names_of_the_calendar() {
        for (day, date) in [(0, "1970-01-01"), (11_016, "2000-02-29"), (20_781, "2026-11-24"), (47_541, "2100-03-01")] {
            assert_eq!(path(Path::new(""), day), Path::new(&format!("{date}.jsonl")));
        }
    }

    #[test]
    fn every_record_is_a_line_and_one_that_was_cut_short_spoils_no_other() {
        let data = tempfile::tempdir().unwrap();
        let record =
            |n| UsageRecord { answer: format!("a{n}"), model: "m".into(), prompt_tokens: n, ..Default::default() };
        let ledger = Ledger::open(data.path(), Arc::default()).unwrap();
        (0..10).for_each(|n| ledger.record(record(n)));
        assert_eq!(ledger.describe()["models"]["m"]["prompt_tokens"], 45);
        assert_eq!(ledger.describe()["models"]["m"]["requests"], json!({ "error": 10 }));
        drop(ledger);
        let file = std::fs::read_dir(data.path().join("usage")).unwrap().next().unwrap().unwrap().path();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, &text[..text.len() - 5]).unwrap();
        let ledger = Ledger::open(data.path(), Arc::default()).unwrap();
        ledger.record(record(10));
        drop(ledger);
        let text = std::fs::read_to_string(&file).unwrap();
        let whole: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(whole.len(), 10);
        assert_eq!(whole.last().unwrap()["answer"], "a10");
    }
}
