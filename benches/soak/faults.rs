//! The faults: a schedule from a seed, what each does, and what it excuses.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::health;
use crate::world::{A, B, C, DISK, Dice, Kind, Node, PATIENCE, World, mount};

/// What is felt of a fault after it has ended: connections are made again, what was left alone is tried again.
const AFTER: Duration = Duration::from_secs(20);
/// Where an actor of a replica, and of the embedded one, can be made to panic.
const POINTS: [&str; 8] =
    ["ingestor", "document", "source", "cache", "retriever", "embedder", "model_pool", "model_worker"];
const OWN_POINTS: [&str; 12] = [
    "ingestor",
    "document",
    "source",
    "cache",
    "retriever",
    "embedder",
    "model_pool",
    "model_worker",
    "engine::step",
    "indexer",
    "maintainer",
    "folder",
];

/// The problems of those who ask for more than can be done now: no mistake, as long as it is done in the end.
pub const BUSY: [&str; 3] = ["overloaded", "too-late", "not-yet-visible"];

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9`, and a start.
    Killed(usize),
    /// SIGTERM, and a start.
    Stopped(usize),
    /// SIGSTOP, and SIGCONT some seconds later.
    Frozen(usize),
    /// An actor panics.
    Panic(usize, &'static str),
    /// nats-server is killed, and started with what it had stored.
    Nats,
    /// redis-server is killed, and started empty.
    Redis,
    /// Postgres ends without a shutdown, and recovers.
    Postgres,
    /// The embedded one's disk takes nothing for a while.
    DiskFull,
}

impl Fault {
    fn name(self) -> String {
        let node = |n: usize| ["a", "b", "c"][n];
        match self {
            Self::Killed(n) => format!("kill -9 of {}", node(n)),
            Self::Stopped(n) => format!("SIGTERM of {}", node(n)),
            Self::Frozen(n) => format!("SIGSTOP of {}", node(n)),
            Self::Panic(n, point) => format!("panic at {point} of {}", node(n)),
            Self::Nats => "kill -9 of nats-server".to_owned(),
            Self::Redis => "kill -9 of redis-server, emptied".to_owned(),
            Self::Postgres => "immediate restart of Postgres".to_owned(),
            Self::DiskFull => "full disk of c".to_owned(),
        }
    }

    /// Whether trouble of this kind with any of these answerd can come of it: `connection`, or the kind of a problem.
    fn explains(self, nodes: &[usize], trouble: &str) -> bool {
        let at = |n: usize| nodes.contains(&n);
        let replicas = at(A) || at(B);
        match self {
            Self::Frozen(n) if at(n) && trouble == "frozen" => true,
            Self::Killed(n) | Self::Stopped(n) | Self::Frozen(n) if at(n) => {
                // An answer that was interrupted is an `internal` one, and one that ended with its process is not found.
                ["connection", "unavailable", "internal", "not-found", "not-yet-visible", "cancelled"]
                    .contains(&trouble)
            }
            // Who dies or freezes may hold what its twin waits for.
            Self::Killed(n) | Self::Frozen(n) if n != C && replicas => trouble == "unavailable",
            Self::Panic(n, _) if at(n) => ["internal", "unavailable", "degraded"].contains(&trouble),
            // Nobody needs it but those who come again to another one.
            Self::Redis => replicas && ["not-found", "cancelled", "internal"].contains(&trouble),
            Self::Postgres => replicas && trouble == "unavailable",
            Self::DiskFull => at(C) && ["storage-full", "unavailable"].contains(&trouble),
            _ => false,
        }
    }
}

/// A fault from its beginning to its end.
struct Spell {
    fault: Fault,
    to: Option<Instant>,
}

/// The faults so far.
#[derive(Default)]
pub struct Spells(RefCell<Vec<Spell>>);

impl Spells {
    fn begin(&self, fault: Fault) -> usize {
        let mut all = self.0.borrow_mut();
        all.push(Spell { fault, to: None });
        all.len() - 1
    }

    fn end(&self, spell: usize) {
        self.0.borrow_mut()[spell].to = Some(Instant::now());
    }

    /// Whether a fault explains trouble that somebody had since then.
    pub fn excuses(&self, nodes: &[usize], trouble: &str, since: Instant) -> bool {
        let felt = |spell: &Spell| spell.to.is_none_or(|to| to + AFTER > since);
        self.0.borrow().iter().rev().any(|spell| felt(spell) && spell.fault.explains(nodes, trouble))
    }

    /// How often there was which.
    pub fn summary(&self) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for spell in self.0.borrow().iter() {
            *counts.entry(spell.fault.name()).or_default() += 1;
        }
        let counted: Vec<String> = counts.into_iter().map(|(name, count)| format!("{count} × {name}")).collect();
        if counted.is_empty() { "no faults".to_owned() } else { counted.join(", ") }
    }
}

/// Makes faults until the end: all kinds in turn, in an order and at times that follow from the seed.
pub async fn run(world: Rc<World>) {
    let dice = Dice::new(world.seed);
    let (mut deck, mut points, mut own) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let every = world.every.as_millis() as usize;
        tokio::time::sleep(dice.millis(every / 4, every * 7 / 4)).await;
        // Not while all rests: faults would gather, and strike at once.
        drop(world.gate.read().await);
        if world.calm.get() {
            return;
        }
        if deck.is_empty() {
            deck = (0..16).collect();
            dice.shuffle(&mut deck);
        }
        let mut point = |n: usize| {
            let (points, all) = if n == C { (&mut own, &OWN_POINTS[..]) } else { (&mut points, &POINTS[..]) };
            if points.is_empty() {
                points.extend_from_slice(all);
                dice.shuffle(points);
            }
            Fault::Panic(n, points.pop().expect("some are left"))
        };
        let fault = match deck.pop().expect("some are left") {
            n @ 0..3 => Fault::Killed(n),
            n @ 3..6 => Fault::Stopped(n - 3),
            n @ 6..8 => Fault::Frozen(n - 6),
            8 => Fault::Nats,
            9 => Fault::Redis,
            10 => Fault::Postgres,
            11 => Fault::DiskFull,
            12 => point(A),
            13 => point(B),
            _ => point(C),
        };
        // The others live on in the last third, so that it can be seen what becomes of their memory.
        let late = world.last_third.get();
        let fault = match fault {
            Fault::Killed(n) if late && n != A => Fault::Killed(A),
            Fault::Stopped(n) if late && n != A => Fault::Stopped(A),
            fault => fault,
        };
        // Those of different processes run into each other, as they do in life.
        let lasts = dice.millis(500, 14_000);
        actix::spawn(strike(Rc::clone(&world), fault, lasts));
    }
}

async fn strike(world: Rc<World>, fault: Fault, lasts: Duration) {
    let _at_work = world.gate.read().await;
    // A process is down for some seconds, and whatever is slow for longer.
    let down = lasts / 4;
    match fault {
        Fault::Killed(n) | Fault::Stopped(n) | Fault::Frozen(n) => {
            let node = &world.nodes[n];
            let _one = node.fault.lock().await;
            let spell = begin(&world, fault);
            if matches!(fault, Fault::Frozen(_)) {
                node.signal(libc::SIGSTOP);
                tokio::time::sleep(lasts).await;
                node.signal(libc::SIGCONT);
            } else {
                if matches!(fault, Fault::Killed(_)) {
                    node.kill();
                } else if let Err(why) = node.stop().await {
                    world.violation(Kind::Stuck, &why);
                }
                tokio::time::sleep(down).await;
                if let Err(why) = node.start(&world.http).await {
                    world.violation(Kind::Stuck, &why);
                }
            }
            ended(&world, spell, fault);
        }
        Fault::Panic(n, point) => {
            let node = &world.nodes[n];
            let _one = node.fault.lock().await;
            let spell = begin(&world, fault);
            panic_once(&world, node, point).await;
            ended(&world, spell, fault);
        }
        Fault::Nats => {
            let mut nats = world.nats.lock().await;
            let spell = begin(&world, fault);
            nats.kill();
            tokio::time::sleep(down).await;
            nats.run().await;
            ended(&world, spell, fault);
        }
        Fault::Redis => {
            let mut redis = world.redis.lock().await;
            let spell = begin(&world, fault);
            redis.kill();
            tokio::time::sleep(down).await;
            redis.run().await;
            ended(&world, spell, fault);
        }
        Fault::Postgres => {
            let mut postgres = world.postgres.lock().await;
            let spell = begin(&world, fault);
            postgres.crash();
            tokio::time::sleep(down).await;
            postgres.spawn();
            while !postgres.is_ready() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            ended(&world, spell, fault);
        }
        Fault::DiskFull => {
            let _one = world.nodes[C].fault.lock().await;
            let spell = begin(&world, fault);
            let resize = |size: &str| mount(&["-o", &format!("remount,{size}")], &world.disk);
            // Where something is written in between, the size is less than what is there, and refused.
            let fill = |_| resize(&format!("size={}k", used_kib(&world)?)).ok();
            if (0..10).find_map(fill).is_none() {
                world.violation(Kind::Stuck, "the disk cannot be made full");
            }
            tokio::time::sleep(lasts).await;
            resize(DISK).expect("room again");
            ended(&world, spell, fault);
        }
    }
}

fn begin(world: &World, fault: Fault) -> usize {
    world.note(&format!("FAULT {}", fault.name()));
    eprintln!("{:6} s: {}", world.age_s(), fault.name());
    world.spells.begin(fault)
}

fn ended(world: &World, spell: usize, fault: Fault) {
    world.spells.end(spell);
    world.note(&format!("over: {}", fault.name()));
}

/// Has a named point panic the next time it is passed, if that is within some seconds.
async fn panic_once(world: &World, node: &Node, point: &str) {
    let met = || health::injected(&node.log);
    let before = met();
    world.counts.add("panics injected", 1);
    std::fs::write(&node.failpoints, format!("{point}=1*panic(injected)")).expect("its failpoints");
    let began = Instant::now();
    while met() == before && began.elapsed() < PATIENCE / 6 {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    std::fs::write(&node.failpoints, format!("{point}=off")).expect("its failpoints");
    // It may be passed before it hears of that.
    tokio::time::sleep(Duration::from_millis(500)).await;
    if met() == before {
        world.note(&format!("nothing passed {point} of {}", node.name));
    }
}

/// What the embedded one's file system holds.
fn used_kib(world: &World) -> Option<u64> {
    let said = Command::new("df").args(["-k", "--output=used"]).arg(&world.disk).output().ok()?;
    String::from_utf8_lossy(&said.stdout).split_whitespace().nth(1)?.parse().ok()
}
