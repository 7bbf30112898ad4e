//! What becomes of the processes: memory, file handles, logs.

use std::fmt::Write as _;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::world::{Kind, Node, World};

/// Memory that a process may have more of at the end, in per cent and in bytes: caches that fill, and what the allocator
/// holds.
const MORE_PER_CENT: u64 = 15;
const MORE_BYTES: u64 = 24 << 20;
/// File handles that a process may have more of at the end.
const MORE_HANDLES: usize = 12;

/// What a process has at a time.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    age: Duration,
    bytes: u64,
    handles: usize,
    /// Nothing was going on.
    quiet: bool,
}

/// A process from a start to an end.
pub struct Life {
    began: Instant,
    samples: Vec<Sample>,
}

impl Life {
    pub fn new() -> Self {
        Self { began: Instant::now(), samples: Vec::new() }
    }

    /// The first and the last sample of those that can be compared: nothing was going on, and it was warm.
    fn ends(&self, warm: Duration) -> Option<(Sample, Sample)> {
        let mut quiet = self.samples.iter().filter(|sample| sample.quiet && sample.age >= warm);
        let first = quiet.next()?;
        Some((*first, *quiet.next_back()?))
    }

    /// MiB an hour, as a straight line through what was seen under load once it was warm.
    fn slope(&self, warm: Duration) -> Option<f64> {
        let points: Vec<(f64, f64)> = self
            .samples
            .iter()
            .filter(|sample| !sample.quiet && sample.age >= warm)
            .map(|sample| (sample.age.as_secs_f64() / 3600.0, sample.bytes as f64 / f64::from(1 << 20)))
            .collect();
        // What is seen of a few minutes says nothing of an hour.
        if points.len() < 60 {
            return None;
        }
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
        let (x, y) = (mean(|p| p.0), mean(|p| p.1));
        let over: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
        Some(over / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>())
    }
}

/// When a process counts as warm.
fn warm(world: &World) -> Duration {
    (world.length / 30).min(Duration::from_secs(120))
}

/// Looks at the processes again and again, and says each minute how it goes.
pub async fn watch(world: Rc<World>) {
    let mut tick = tokio::time::interval(Duration::from_secs(10));
    let mut told = Instant::now();
    loop {
        tick.tick().await;
        sample(&world, false);
        for node in &world.nodes {
            // Who makes a fault looks after the process itself.
            let Ok(_one) = node.fault.try_lock() else { continue };
            if let Some(status) = node.ended() {
                world.violation(Kind::Stuck, &format!("{} ended by itself: {status}", node.name));
                if let Err(why) = node.start(&world.http).await {
                    world.violation(Kind::Stuck, &why);
                }
            }
        }
        if told.elapsed() >= Duration::from_secs(60) {
            told = Instant::now();
            let count = |name| world.counts.get(name);
            let lives: Vec<String> = world.nodes.iter().map(now).collect();
            eprintln!(
                "{:6} s: {} events, {} writes, {} answers complete of {}, {} searches, {} violations; {}",
                world.age_s(),
                count("events sent"),
                count("writes by HTTP"),
                count("complete"),
                count("asked"),
                count("searches"),
                count("violations"),
                lives.join("; ")
            );
        }
    }
}

fn now(node: &Node) -> String {
    let lives = node.lives.borrow();
    let last = lives.last().and_then(|life| life.samples.last());
    let (bytes, handles) = last.map_or((0, 0), |sample| (sample.bytes, sample.handles));
    format!("{} {} MiB, {handles} handles", node.name, bytes >> 20)
}

/// Looks at every process once.
pub fn sample(world: &World, quiet: bool) {
    for node in &world.nodes {
        let Some((bytes, handles)) = node.pid().and_then(held) else { continue };
        if let Some(life) = node.lives.borrow_mut().last_mut() {
            life.samples.push(Sample { age: life.began.elapsed(), bytes, handles, quiet });
        }
    }
}

/// Memory in RAM and open file handles of a process.
fn held(pid: u32) -> Option<(u64, usize)> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some((pages * 4096, std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count()))
}

/// Says what grew, and what stands in the logs.
pub fn judge(world: &World) {
    for node in &world.nodes {
        let lives = node.lives.borrow();
        if let Some((first, last)) = lives.last().and_then(|life| life.ends(warm(world))) {
            if last.bytes > first.bytes + first.bytes * MORE_PER_CENT / 100 + MORE_BYTES {
                let (from, to) = (first.bytes >> 20, last.bytes >> 20);
                world.violation(Kind::Grown, &format!("the memory of {}: from {from} to {to} MiB", node.name));
            }
            if last.handles > first.handles + MORE_HANDLES {
                let (from, to) = (first.handles, last.handles);
                world.violation(Kind::Grown, &format!("the file handles of {}: from {from} to {to}", node.name));
            }
        }
        world.counts.add("panics met", injected(&node.log) as u64);
        read_log(world, node);
    }
}

/// The processes, as a table.
pub fn table(world: &World) -> String {
    let mut table = "| process | starts | last one lived | memory, warm and at the end | file handles | under load, MiB an hour |\n\
                     | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for (node, what) in world.nodes.iter().zip(["replica", "replica", "embedded"]) {
        let lives = node.lives.borrow();
        let Some(last) = lives.last() else { continue };
        let (memory, handles) = match last.ends(warm(world)) {
            Some((first, last)) => (
                format!("{} and {} MiB", first.bytes >> 20, last.bytes >> 20),
                format!("{} and {}", first.handles, last.handles),
            ),
            None => ("too young".to_owned(), "too young".to_owned()),
        };
        let slope = last.slope(warm(world)).map_or_else(|| "too young".to_owned(), |slope| format!("{slope:+.0}"));
        let _ = writeln!(
            table,
            "| {} ({what}) | {} | {} s | {memory} | {handles} | {slope} |",
            node.name,
            lives.len(),
            last.began.elapsed().as_secs()
        );
    }
    table
}

/// Panics in a log that were injected.
pub fn injected(log: &Path) -> usize {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    panics(&text).iter().filter(|said| said.contains("injected")).count()
}

/// What each panic in a log said, with where it was.
fn panics(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let at =
        lines.iter().enumerate().filter(|(_, line)| line.contains("' panicked at ") || line.contains(") panicked at "));
    at.map(|(n, line)| format!("{line} {}", lines.get(n + 1).copied().unwrap_or_default())).collect()
}

/// Whether a fault brings about what a line says.
fn is_explained(log: &str, line: &str) -> bool {
    let has = |text: &str| line.contains(text);
    has("injected")
        // The connection is given up, and another one made.
        || has("max reconnection attempts reached")
        || has("the engine's thread died") && log.contains("its thread panicked: injected")
        || has("a usage record cannot be written; it is tried until it can") && has("No space left")
        || has("cannot record a failed document, trying again") && has("the Postgres ")
}

fn read_log(world: &World, node: &Node) {
    let text = std::fs::read_to_string(&node.log).unwrap_or_default();
    for said in panics(&text).into_iter().filter(|said| !said.contains("injected")) {
        world.violation(Kind::Logged, &format!("{} panicked: {said}", node.name));
    }
    for line in text.lines().filter(|line| line.contains(" ERROR ") && !is_explained(&text, line)) {
        world.violation(Kind::Logged, &format!("{}: {line}", node.name));
    }
}
