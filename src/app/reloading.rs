//! The configuration is read again while the service runs, on `SIGHUP` or `POST /admin/reload`: what can change changes at
//! once, what cannot is named, and with a mistake nothing changes.

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::App;
use crate::actors::compute::blocking;
use crate::actors::stats::now_ms;
use crate::config::ConfigErrors;
use crate::error::ServiceError;

/// One time that the configuration was read again.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Reload {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Who said so: a caller, or `signal:SIGHUP`.
    pub by: String,
    /// Whether it was taken.
    pub taken: bool,
    /// The paths of the settings that changed.
    pub changed: Vec<String>,
    /// The paths of those that differ, and stay as they are until a restart.
    pub needs_restart: Vec<String>,
    /// Why it was not taken.
    pub errors: Vec<String>,
}

/// Why a configuration was not taken.
#[derive(Debug)]
pub enum Unloaded {
    /// It has mistakes.
    Wrong(ConfigErrors),
    /// It could not be noted who did it.
    NotNoted(ServiceError),
}

/// What is kept of reloads.
#[derive(Default)]
pub(super) struct Reloads {
    /// One at a time: the later one finds what the earlier one left.
    turn: tokio::sync::Mutex<()>,
    last: Mutex<Option<Reload>>,
}

impl App {
    /// Reads the configuration again.
    ///
    /// # Errors
    /// [`Unloaded`]; nothing has changed then.
    pub async fn reload(&self, by: &str) -> Result<Reload, Unloaded> {
        let _turn = self.reloads.turn.lock().await;
        let mut reload = Reload {
            at_ms: now_ms(),
            by: by.to_owned(),
            taken: false,
            changed: Vec::new(),
            needs_restart: Vec::new(),
            errors: Vec::new(),
        };
        let done = self.try_reload(&mut reload).await;
        match &done {
            Ok(()) => {
                let Reload { changed, needs_restart, .. } = &reload;
                tracing::info!(by, ?changed, ?needs_restart, "the configuration was read again");
            }
            Err(why) => {
                reload.errors = match why {
                    Unloaded::Wrong(errors) => errors.0.iter().map(ToString::to_string).collect(),
                    Unloaded::NotNoted(error) => vec![error.to_string()],
                };
                for error in &reload.errors {
                    tracing::error!(by, error, "the configuration was read again and not taken: all stays as it is");
                }
            }
        }
        *self.reloads.last.lock() = Some(reload.clone());
        done.map(|()| reload)
    }

    async fn try_reload(&self, reload: &mut Reload) -> Result<(), Unloaded> {
        let settings = self.settings.clone();
        let change = blocking(move || settings.read_again()).await.map_err(Unloaded::Wrong)?;
        let noted = self.audit.note(&reload.by, "config.reload", json!(change)).await;
        noted.map_err(|error| Unloaded::NotNoted(error.into()))?;
        self.settings.take(&change);
        (reload.taken, reload.changed, reload.needs_restart) = (true, change.changed, change.needs_restart);
        Ok(())
    }

    /// The last time that the configuration was read again, since the start.
    pub fn last_reload(&self) -> Option<Reload> {
        self.reloads.last.lock().clone()
    }
}
