//! The overseer: knows every door, folds their figures once a second, starts again what was lost, and
//! says whether the service is ready. It reads doors only, never mailboxes.

use std::sync::Arc;

use parking_lot::RwLock;
use serde::Serialize;

use super::door::Watched;
use super::incidents::Incidents;
use super::stats::ActorStatus;

/// One actor with those below it, as `/admin/status` shows the tree.
#[derive(Debug, Serialize)]
pub struct Branch {
    /// The actor itself; none for a mere place in the tree.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub status: Option<ActorStatus>,
    /// Last part of its name.
    pub part: String,
    /// The actors below.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Branch>,
}

/// The doors of all actors, and what happened to them lately. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry {
    doors: Arc<RwLock<Vec<Arc<dyn Watched>>>>,
    /// What happened lately.
    pub incidents: Arc<Incidents>,
}

impl Registry {
    /// Adds an actor; returns its door for use.
    pub fn watch<D: Watched + Clone + 'static>(&self, door: D) -> D {
        self.doors.write().push(Arc::new(door.clone()));
        door
    }

    /// All actors, in the order in which they were started.
    pub fn statuses(&self) -> Vec<ActorStatus> {
        self.doors.read().iter().map(|door| door.status()).collect()
    }

    /// All actors as a tree, by the parts of their names.
    pub fn tree(&self) -> Vec<Branch> {
        let mut roots = Vec::new();
        for status in self.statuses() {
            let parts: Vec<String> = status.name.split('/').map(str::to_owned).collect();
            place(&mut roots, &parts, status);
        }
        roots
    }

    /// Why the service is not ready; empty where it is.
    pub fn troubles(&self) -> Vec<String> {
        self.doors.read().iter().filter_map(|door| door.trouble()).collect()
    }

    /// Admits nothing from now on.
    pub fn close(&self) {
        self.doors.read().iter().for_each(|door| door.close());
    }

    fn tend(&self) {
        // A copy, so that no lock is held while actors are started.
        let doors = self.doors.read().clone();
        doors.iter().for_each(|door| door.tend());
    }
}

fn place(branches: &mut Vec<Branch>, parts: &[String], status: ActorStatus) {
    let Some((first, rest)) = parts.split_first() else { return };
    let at = branches.iter().position(|branch| branch.part == *first).unwrap_or_else(|| {
        branches.push(Branch { status: None, part: first.clone(), children: Vec::new() });
        branches.len() - 1
    });
    if rest.is_empty() {
        branches[at].status = Some(status);
    } else {
        place(&mut branches[at].children, rest, status);
    }
}

/// The overseer as an actor: it only ticks.
pub struct Overseer {
    registry: Registry,
}

impl Overseer {
    /// Starts it on `arbiter`.
    pub fn start(registry: Registry, arbiter: &actix::ArbiterHandle) {
        actix::Supervisor::start_in_arbiter(arbiter, move |_| Self { registry });
    }
}

impl actix::Actor for Overseer {
    type Context = actix::Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        use actix::AsyncContext;
        ctx.run_interval(std::time::Duration::from_secs(1), |overseer, _| {
            // What it calls is ours and small, but nobody restarts the overseer itself.
            let tend = std::panic::AssertUnwindSafe(|| overseer.registry.tend());
            if std::panic::catch_unwind(tend).is_err() {
                tracing::error!("the overseer's round panicked");
            }
        });
    }
}

impl actix::Supervised for Overseer {}
