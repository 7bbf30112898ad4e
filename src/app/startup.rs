//! How far the start is: what `/startupz` says until it is over, and then never again.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::App;
use crate::stores::StoreError;

/// How long it is waited at once for what was found at the start.
const AT_ONCE: Duration = Duration::from_secs(5);

/// What is being done before the service has all it needs.
pub struct Startup(Mutex<Option<&'static str>>);

impl Default for Startup {
    fn default() -> Self {
        Self(Mutex::new(Some("the service is being set up")))
    }
}

impl Startup {
    /// It comes to something else.
    pub(super) fn comes_to(&self, what: &'static str) {
        *self.0.lock() = Some(what);
    }

    fn over(&self) {
        *self.0.lock() = None;
    }

    /// What is being done; none once the start is over.
    pub fn now(&self) -> Option<&'static str> {
        *self.0.lock()
    }
}

impl App {
    /// Waits for the end of the start: the models work, every folder was looked at, and what had been accepted by then can be
    /// found. What comes later is not waited for: others may write all the time.
    pub(super) fn watch_the_start(self: &Arc<Self>) {
        let app = Arc::clone(self);
        self.startup.comes_to("models are being loaded");
        actix_rt::spawn(async move {
            // One that failed is tried again; it is said meanwhile.
            while app.until_models_work().await.is_err() {
                actix_rt::time::sleep(Duration::from_secs(1)).await;
            }
            app.startup.comes_to("folders are looked at for the first time");
            app.until_folders_are_seen().await;
            app.startup.comes_to("what was accepted is being made visible");
            let accepted = app.until_answered(async || Ok(app.library.store.counts().await?.seq)).await;
            while !app.until_answered(async || app.library.store.reach(accepted, AT_ONCE).await).await {}
            app.startup.over();
        });
    }

    /// What the store says, once it says something.
    async fn until_answered<T>(&self, ask: impl AsyncFn() -> Result<T, StoreError>) -> T {
        loop {
            match ask().await {
                Ok(said) => return said,
                Err(error) => tracing::debug!(%error, "the store does not say how far it is"),
            }
            actix_rt::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// What is left of the start; empty once it is over.
    pub fn startup_troubles(&self) -> Vec<String> {
        let Some(doing) = self.startup.now() else { return Vec::new() };
        let pools = self.pools().filter(|pool| !pool.state.works()).flat_map(|pool| pool.state.troubles());
        std::iter::once(doing.to_owned()).chain(pools).collect()
    }
}
