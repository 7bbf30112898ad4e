//! What the benchmarks share: where things are, and running on the actors' runtime.

#![allow(dead_code)]

use std::path::PathBuf;

/// Words that made documents are made of.
pub const WORDS: [&str; 20] = [
    "invoice",
    "pump",
    "travel",
    "customer",
    "backup",
    "meeting",
    "canteen",
    "password",
    "report",
    "safety",
    "delivery",
    "warehouse",
    "seal",
    "agenda",
    "receipt",
    "order",
    "every",
    "after",
    "before",
    "within",
];

/// The folder of the collections.
pub fn collections() -> PathBuf {
    std::env::var_os("ANSWERD_COLLECTIONS").map_or_else(|| PathBuf::from("../shared/collections"), PathBuf::from)
}

/// A folder for data that is costly to make, kept between runs.
pub fn kept(name: &str) -> PathBuf {
    let cache = std::env::var_os("ANSWERD_CACHE")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/answerd"), PathBuf::from);
    cache.join("bench-data").join(name)
}

/// Where the models are.
pub fn models() -> PathBuf {
    std::env::var_os("ANSWERD_MODELS").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/answerd/models"),
        PathBuf::from,
    )
}

/// The default configuration, with the models where they are and no folders.
pub fn config() -> answerd::config::Config {
    let variables = [
        ("ANSWERD__EMBEDDING__MODEL".to_owned(), models().join("all-MiniLM-L6-v2").display().to_string()),
        (
            "ANSWERD__MODELS__CHAT__PATH".to_owned(),
            models().join("SmolLM2-135M-Instruct.Q4_1.gguf").display().to_string(),
        ),
        ("ANSWERD__FOLDERS".to_owned(), "[]".to_owned()),
    ];
    answerd::config::Config::load_with(None, variables).expect("a valid configuration")
}

/// Runs on the actors' runtime.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    actix::System::new().block_on(work)
}

/// A number from the environment.
pub fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// The middle value.
pub fn median(values: &mut [f64]) -> f64 {
    answerd::eval::percentile(values, 0.5)
}

/// Processor time of another process since its start, in seconds.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its figures");
    // After the name, which may have blanks in it: `utime` and `stime` are the twelfth and thirteenth (proc_pid_stat(5)).
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields[n].parse::<f64>().expect("a number");
    // SAFETY: it asks for a number.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    (ticks(11) + ticks(12)) / per_second
}
