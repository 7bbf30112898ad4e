//! What happened to the actors lately: for the time line of the admin page, and for who asks what was wrong an hour ago.

use std::collections::VecDeque;

use parking_lot::Mutex;
use serde::Serialize;
use utoipa::ToSchema;

use super::stats::{Cause, now_ms};

/// So many are remembered.
const REMEMBERED: usize = 200;

/// What happened to an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = IncidentKind)]
pub enum What {
    /// It takes messages for the first time.
    Started,
    /// A message made it panic; it is built again.
    Panicked,
    /// Something it owns died; it is built again.
    Died,
    /// Its mailbox closed without a word; it is built again.
    Lost,
    /// It could not be built; it is tried again.
    Failed,
    /// It takes messages again.
    Recovered,
    /// The process is shutting down.
    Stopped,
}

impl From<Cause> for What {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Panic => Self::Panicked,
            Cause::Died => Self::Died,
            Cause::Lost => Self::Lost,
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Incident {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// To which actor.
    pub actor: String,
    /// What.
    pub what: What,
    /// Why, in the words of the error.
    pub message: Option<String>,
}

/// The latest of them.
#[derive(Debug, Default)]
pub struct Incidents(Mutex<VecDeque<Incident>>);

impl Incidents {
    /// Remembers one.
    pub(super) fn add(&self, actor: &str, what: What, message: Option<String>) {
        let mut all = self.0.lock();
        if all.len() >= REMEMBERED {
            all.pop_front();
        }
        all.push_back(Incident { at_ms: now_ms(), actor: actor.to_owned(), what, message });
    }

    /// All that are remembered, the oldest first.
    pub fn all(&self) -> Vec<Incident> {
        self.0.lock().iter().cloned().collect()
    }
}
