//! Parsing in a process of its own: large parsers meet documents that make them hang, take all memory or crash, and
//! that must cost one document and not the service. The process is this program started as `answerd parse-worker`,
//! with limits on processor time and memory, nothing of the environment, and a lower priority than the service.
//!
//! It reads the job as one line of JSON and then the document's bytes, and writes the outcome as JSON.

use std::io::{BufRead, Read};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, nice, set_parent_process_death_signal, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::document::ProcessError;
use crate::documents::ParsedDocument;
use crate::documents::parse::{ParseInput, ParseLimits, parse as parse_here};

/// A process that waits instead of working is ended after so many times its processor time. It gets little of that on a
/// busy machine, being the last in the queue.
const PATIENCE: u32 = 20;

/// Signals that end a process for what it did itself, and not for what others did to it.
const CRASHES: [i32; 6] = [libc::SIGILL, libc::SIGTRAP, libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV];

/// What to parse, and what that may cost.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// Document id or file name.
    pub name: String,
    /// Declared media type.
    pub media_type: Option<String>,
    /// Limits of the document.
    pub limits: ParseLimits,
    /// Processor time of the process, in seconds.
    pub cpu_seconds: u64,
    /// Address space of the process, in bytes.
    pub memory_bytes: u64,
}

/// Parses a document in a process of its own.
///
/// # Errors
/// [`ProcessError::Unfit`] where the document cannot be read, or breaks its parser or the limits;
/// [`ProcessError::Unavailable`] where no process could be had.
pub async fn parse(job: &Job, bytes: &[u8]) -> Result<ParsedDocument, ProcessError> {
    let unavailable = |doing: &str, error: &dyn std::fmt::Display| {
        ProcessError::Unavailable(format!("cannot {doing} a process that parses documents: {error}"))
    };
    let mut input = serde_json::to_vec(job).map_err(|error| unavailable("instruct", &error))?;
    input.push(b'\n');
    // This very program, also after its file was replaced by a newer one.
    let mut child = Command::new("/proc/self/exe")
        .arg("parse-worker")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| unavailable("start", &error))?;
    let stdin = child.stdin.take();
    let write = async move {
        // One that ends early does not read all; its outcome says why.
        if let Some(mut stdin) = stdin {
            let _ = stdin.write_all(&input).await;
            let _ = stdin.write_all(bytes).await;
        }
    };
    let patience = Duration::from_secs(job.cpu_seconds.max(1)) * PATIENCE;
    let run = async { tokio::join!(write, child.wait_with_output()).1 };
    let Ok(ended) = tokio::time::timeout(patience, run).await else {
        return Err(ProcessError::Unfit(format!(
            "the document's parser did not end within {} s and was stopped",
            patience.as_secs()
        )));
    };
    let output = ended.map_err(|error| unavailable("hear of", &error))?;
    if output.status.success() {
        let outcome: Result<ParsedDocument, String> =
            serde_json::from_slice(&output.stdout).map_err(|error| unavailable("understand", &error))?;
        // Some parsers are told that there is no more memory, others end with it.
        let memory = |said: &String| said.contains("out of memory");
        return outcome.map_err(|said| if memory(&said) { out_of_memory(job) } else { ProcessError::Unfit(said) });
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().chars().take(300).collect();
    use std::os::unix::process::ExitStatusExt;
    Err(match output.status.signal() {
        Some(libc::SIGXCPU) => ProcessError::Unfit(format!(
            "the document took more than {} s of processor time to parse ([ingest] parse_cpu_s)",
            job.cpu_seconds
        )),
        Some(libc::SIGABRT) if said.contains("memory allocation") => out_of_memory(job),
        Some(signal) if CRASHES.contains(&signal) => {
            ProcessError::Unfit(format!("the document crashed its parser (signal {signal}): {said}"))
        }
        // Killed from outside, as by an operator or for want of memory on the machine: not the document's fault.
        _ => unavailable("finish", &format_args!("{}: {said}", output.status)),
    })
}

fn out_of_memory(job: &Job) -> ProcessError {
    let bytes = job.memory_bytes;
    ProcessError::Unfit(format!(
        "the document needs more than {bytes} bytes of memory to parse ([ingest] parse_memory_bytes)"
    ))
}

/// The work of the process: limits itself, reads the job and the document, writes the outcome.
///
/// # Errors
/// Where it cannot be limited, instructed or heard; nothing was parsed then.
pub fn work() -> std::io::Result<()> {
    // The service's end is also the end of this.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let _ = nice(19);
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    input.read_line(&mut line)?;
    let job: Job = serde_json::from_str(&line)?;
    let limit = |resource, soft, hard| setrlimit(resource, Rlimit { current: Some(soft), maximum: Some(hard) });
    limit(Resource::Core, 0, 0)?;
    limit(Resource::As, job.memory_bytes, job.memory_bytes)?;
    limit(Resource::Cpu, job.cpu_seconds, job.cpu_seconds + 1)?;
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes)?;
    let parsed = std::panic::catch_unwind(|| {
        let input = ParseInput { name: &job.name, media_type: job.media_type.as_deref(), bytes: &bytes };
        parse_here(&input, &job.limits).map_err(|error| error.to_string())
    });
    let outcome = parsed.unwrap_or_else(|_| Err("the document crashed its parser".to_owned()));
    serde_json::to_writer(std::io::stdout().lock(), &outcome)?;
    Ok(())
}
