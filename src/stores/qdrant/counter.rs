//! Numbers that are given once: the operations' `seq`, and the commits.
//!
//! A counter is a point that is replaced only in the state in which it was read ([`Server::swap`]). Those of a process that
//! want a number at the same time get theirs with one replacement.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use qdrant_client::Payload;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::server::{Collection, Server, id, integer, plain, text};
use crate::stores::StoreError;

/// See the module.
pub(super) struct Counter {
    name: &'static str,
    /// Tickets handed out in this process.
    tickets: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Tickets below this have their number.
    served: u64,
    /// The numbers that were not fetched yet, by ticket.
    numbers: HashMap<u64, u64>,
    /// The counter as this process left it, with its turn.
    last: Option<(u64, String)>,
}

impl Counter {
    pub fn new(name: &'static str) -> Self {
        Self { name, tickets: AtomicU64::new(0), state: Mutex::default() }
    }

    /// The last number that was given.
    pub async fn read(&self, server: &Server) -> Result<u64, StoreError> {
        Ok(self.look(server).await?.map_or(0, |(value, _)| value))
    }

    async fn look(&self, server: &Server) -> Result<Option<(u64, String)>, StoreError> {
        let found = server.get("read a counter", Collection::State, vec![id(&["counter", self.name])], None).await?;
        Ok(found.first().map(|point| (integer(point, "value").unwrap_or(0) as u64, text(point, "turn"))))
    }

    /// Gives the next number.
    pub async fn next(&self, server: &Server) -> Result<u64, StoreError> {
        let ticket = self.tickets.fetch_add(1, Ordering::SeqCst);
        let mut state = self.state.lock().await;
        if ticket >= state.served {
            // Also for all who came meanwhile, and wait.
            let tickets = state.served..self.tickets.load(Ordering::SeqCst);
            let count = tickets.end - tickets.start;
            let first = self.advance(server, &mut state, |value| value + count).await? - count + 1;
            state.served = tickets.end;
            state.numbers.extend(tickets.zip(first..));
        }
        // Who gave up waiting has left a number behind.
        let abandoned = state.served.saturating_sub(4096);
        state.numbers.retain(|ticket, _| *ticket >= abandoned);
        state
            .numbers
            .remove(&ticket)
            .ok_or_else(|| server.unavailable("give a number", "it was asked for too long ago"))
    }

    /// Sees to it that no number up to `value` is given any more.
    pub async fn raise(&self, server: &Server, value: u64) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        self.advance(server, &mut state, |now| now.max(value)).await.map(drop)
    }

    /// Replaces the value; gives the new one. A turn of ours that another process has followed at once is not known as
    /// ours: its numbers are then nobody's.
    async fn advance(&self, server: &Server, state: &mut State, to: impl Fn(u64) -> u64) -> Result<u64, StoreError> {
        let mut known = state.last.take();
        loop {
            let before = match known.take() {
                Some(last) => Some(last),
                None => self.look(server).await?,
            };
            let value = to(before.as_ref().map_or(0, |(value, _)| *value));
            let turn = Uuid::now_v7().to_string();
            let mut payload = Payload::new();
            payload.insert("value", value as i64);
            payload.insert("turn", turn.as_str());
            let point = plain(id(&["counter", self.name]), payload);
            let before = before.as_ref().map(|(_, turn)| turn.as_str());
            if server.swap("advance a counter", Collection::State, point, before, &turn).await? {
                state.last = Some((value, turn));
                return Ok(value);
            }
        }
    }
}
