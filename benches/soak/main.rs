//! The soak: an hour of mixed load with random faults, and a comparison of all that is served with what is true.
//!
//! Two answerd share a Postgres, a Redis and a NATS consumer, and a scripted model whose words follow from the question; a
//! third one is embedded: SQLite, tantivy, HNSW, the real model, a consumer of its own, a small file system of its own. Writers
//! publish events (twice, late, poison) and put documents, readers search, and ask over every protocol, stall, vanish and come
//! again elsewhere; identity and budgets are on. Meanwhile processes are killed, stopped and frozen, NATS, Redis and Postgres
//! crash, the disk is full, actors panic. Every few minutes all of it pauses, and what each answerd serves is compared with
//! what was acknowledged.
//!
//! - [`world`]: the processes, their keys, and what is written down of a run
//! - [`truth`]: what was acknowledged, and the comparison with what is served
//! - [`writers`], [`readers`]: the load
//! - [`faults`]: the schedule
//! - [`health`]: memory, file handles and logs
//!
//! Environment: `SOAK_MINUTES` (default 60), `SOAK_SEED` (of the schedule; default by the clock, printed), `SOAK_EVERY_S`
//! (a fault each so many seconds, default 25), `SOAK_LOAD` (per cent of the usual load).

#[path = "../../tests/common/mod.rs"]
mod common;
mod faults;
mod health;
mod readers;
#[path = "../support/mod.rs"]
mod support;
mod truth;
mod world;
mod writers;

use std::rc::Rc;
use std::time::Duration;

use world::World;

/// Set in the process that has a mount namespace of its own, for the disk that gets full.
const INSIDE: &str = "SOAK_INSIDE";

fn main() {
    if std::env::var_os(INSIDE).is_none() {
        use std::os::unix::process::CommandExt;
        let own = std::env::current_exe().expect("this program");
        let mut inside = std::process::Command::new("unshare");
        inside.args(["--user", "--map-root-user", "--mount", "--"]).arg(own).args(std::env::args_os().skip(1));
        panic!("unshare (Debian package util-linux): {}", inside.env(INSIDE, "1").exec());
    }
    let failed = support::run(async {
        let world = World::start().await;
        let failed = soak(&world).await;
        world.end().await;
        failed
    });
    std::process::exit(i32::from(failed));
}

async fn soak(world: &Rc<World>) -> bool {
    truth::handbook(world).await;
    truth::checkpoint(world, "before the load").await;
    let mut load = writers::start(world);
    load.extend(readers::start(world));
    load.push(actix::spawn(health::watch(Rc::clone(world))));
    load.push(actix::spawn(faults::run(Rc::clone(world))));
    // So many comparisons that a process which is not killed any more in the last third has some behind it. Their time does
    // not count.
    let periods = (world.length.as_secs() / 60).clamp(3, 15) as u32;
    let length = world.length / periods;
    for period in 1..=periods {
        world.last_third.set(period > periods * 2 / 3);
        if period < periods {
            tokio::time::sleep(length).await;
            truth::checkpoint(world, &format!("after {} s", world.age_s())).await;
        } else {
            // What begins now would not have ended before the last comparison.
            let calm = Duration::from_secs(20).min(length);
            tokio::time::sleep(length - calm).await;
            world.calm.set(true);
            tokio::time::sleep(calm).await;
        }
    }
    world.ending.set(true);
    truth::checkpoint(world, "at the end").await;
    load.into_iter().for_each(|task| task.abort());
    health::judge(world);
    world.report()
}
