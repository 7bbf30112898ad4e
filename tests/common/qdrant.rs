//! The Qdrant that `ANSWERD_TEST_QDRANT_URL` names, with collections of one's own: no package registry has the server.

use std::sync::atomic::{AtomicU64, Ordering};

use qdrant_client::Qdrant as Client;

pub struct Qdrant {
    pub url: String,
    pub collection: String,
}

impl Drop for Qdrant {
    fn drop(&mut self) {
        let (client, prefix) = (client(&self.url), format!("{}-", self.collection));
        // A test may be in the middle of its own runtime.
        let cleared = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let all = client.list_collections().await.map(|found| found.collections).unwrap_or_default();
                for collection in all.iter().filter(|collection| collection.name.starts_with(&prefix)) {
                    let _ = client.delete_collection(collection.name.as_str()).await;
                }
            });
        });
        let _ = cleared.join();
    }
}

fn client(url: &str) -> Client {
    Client::from_url(url).timeout(super::PATIENCE).skip_compatibility_check().build().expect("a client")
}

impl Qdrant {
    /// Collections that nobody else has.
    pub fn start() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let url = std::env::var("ANSWERD_TEST_QDRANT_URL").expect("ANSWERD_TEST_QDRANT_URL names a Qdrant");
        let collection = format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { url, collection }
    }

    /// The same, reached by another address.
    pub fn by(&self, url: &str) -> String {
        format!("store.engine = qdrant\nqdrant.url = {url}\nqdrant.collection = {}\n", self.collection)
    }

    /// The settings of an answerd that keeps its documents here.
    pub fn settings(&self) -> String {
        self.by(&self.url)
    }

    pub fn client(&self) -> Client {
        client(&self.url)
    }

    pub fn collection(&self, name: &str) -> String {
        format!("{}-{name}", self.collection)
    }
}
