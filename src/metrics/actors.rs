//! What the doors of the actors count, as metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::actors::stats::{ActorStatus, Cause, State};

/// An actor, by its place in the tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Actor {
    actor: String,
}

/// Why an actor was built again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Restart {
    actor: String,
    cause: &'static str,
}

type Seconds = AtomicU64;

/// The metrics of all actors; see the module.
pub(super) struct Actors {
    working: Family<Actor, Gauge>,
    depth: Family<Actor, Gauge>,
    capacity: Family<Actor, Gauge>,
    oldest: Family<Actor, Gauge<f64, Seconds>>,
    handled: Family<Actor, Counter>,
    failed: Family<Actor, Counter>,
    refused: Family<Actor, Counter>,
    panics: Family<Actor, Counter>,
    restarts: Family<Restart, Counter>,
    busy: Family<Actor, Counter<f64, Seconds>>,
}

impl Actors {
    /// Registers them.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let all = Self {
            working: Family::default(),
            depth: Family::default(),
            capacity: Family::default(),
            oldest: Family::default(),
            handled: Family::default(),
            failed: Family::default(),
            refused: Family::default(),
            panics: Family::default(),
            restarts: Family::default(),
            busy: Family::default(),
        };
        registry.register("answerd_actor_working", "1 where it takes messages", all.working.clone());
        registry.register("answerd_actor_depth", "Messages inside: waiting or at work", all.depth.clone());
        registry.register("answerd_actor_capacity", "Messages it admits at once", all.capacity.clone());
        let help = "Age of the message that waits longest";
        registry.register_with_unit("answerd_actor_oldest_waiting", help, Unit::Seconds, all.oldest.clone());
        registry.register("answerd_actor_handled", "Messages answered", all.handled.clone());
        registry.register("answerd_actor_failed", "Messages answered with an error", all.failed.clone());
        registry.register("answerd_actor_refused", "Messages turned away because it was full", all.refused.clone());
        registry.register("answerd_actor_panics", "Panics", all.panics.clone());
        registry.register("answerd_actor_restarts", "Times it was built again", all.restarts.clone());
        let help = "Time at work, summed over messages that are at work at once";
        registry.register_with_unit("answerd_actor_busy", help, Unit::Seconds, all.busy.clone());
        all
    }

    /// Takes over what the doors have counted.
    pub(super) fn set(&self, statuses: &[ActorStatus]) {
        for status in statuses {
            let actor = Actor { actor: status.name.clone() };
            self.working.get_or_create(&actor).set((status.state == State::Running).into());
            self.depth.get_or_create(&actor).set(status.depth as i64);
            self.capacity.get_or_create(&actor).set(status.capacity as i64);
            let oldest = status.oldest_waiting_ms.unwrap_or(0) as f64 / 1e3;
            self.oldest.get_or_create(&actor).set(oldest);
            set(&self.handled.get_or_create(&actor), status.handled);
            set(&self.failed.get_or_create(&actor), status.failed);
            set(&self.refused.get_or_create(&actor), status.refused);
            set(&self.panics.get_or_create(&actor), status.panics);
            self.busy.get_or_create(&actor).inner().store(status.busy_s.to_bits(), Ordering::Relaxed);
            // Those that did not happen yet as well: what appears only with its first count has no growth to alert on.
            for cause in Cause::ALL {
                let restart = Restart { actor: status.name.clone(), cause: cause.name() };
                set(&self.restarts.get_or_create(&restart), status.restarts.get(&cause).copied().unwrap_or(0));
            }
        }
    }
}

/// Sets a counter to what was counted elsewhere.
pub(super) fn set(counter: &Counter, count: u64) {
    counter.inner().store(count, Ordering::Relaxed);
}
