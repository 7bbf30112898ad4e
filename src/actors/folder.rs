//! A watched folder: its files are documents, and what happens to them happens to the documents.
//!
//! Driven by level: the watcher only collects paths at which something may have changed; what is true of each is
//! looked up on the disk when its turn comes. A lost or doubled notification therefore does no harm,
//! and an editor's save through a temporary file is one change.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use notify_debouncer_full::notify::{EventKind, RecommendedWatcher, RecursiveMode};
use notify_debouncer_full::{DebounceEventResult, Debouncer, RecommendedCache, new_debouncer};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;

use super::compute::blocking;
use super::door::{Door, DoorError, Factory, Role};
use super::ingestor::{IngestError, Ingestor, Receive};
use crate::config::FolderConfig;
use crate::documents::event::{DocumentId, Metadata, Operation, Upsert};
use crate::documents::parse::supported_extension;
use crate::library::Library;
use crate::retrieval::sight::VISIBLE_TO;
use crate::stores::StoreError;
use crate::stores::document_store::DocumentQuery;

/// The metadata key that says which watched folder a document comes from.
pub const FOLDER_KEY: &str = "folder";

/// Look at what may have changed.
pub struct Sync;

/// What became of a look, for the log.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    /// Files handed to the ingestor.
    pub files: usize,
    /// Documents whose file is gone.
    pub gone: usize,
}

/// A watched folder as an actor; see the module.
pub struct Folder {
    watch: Arc<Watch>,
    // Held for as long as changes are to be noticed.
    _debouncer: Debouncer<RecommendedWatcher, RecommendedCache>,
}

struct Watch {
    root: PathBuf,
    config: FolderConfig,
    library: Arc<Library>,
    ingestor: Door<Ingestor>,
    dirty: Arc<Dirty>,
}

/// Paths at which something may have changed.
#[derive(Default)]
pub struct Dirty {
    paths: Mutex<BTreeSet<PathBuf>>,
    more: Notify,
}

impl Dirty {
    fn add(&self, paths: impl IntoIterator<Item = PathBuf>) {
        self.paths.lock().extend(paths);
        self.more.notify_one();
    }

    /// Waits until there is something.
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping it.
    pub async fn some(&self) {
        while self.paths.lock().is_empty() {
            self.more.notified().await;
        }
    }
}

impl Folder {
    /// The factory of one folder. Each start watches it anew and looks at all of it: what changed while
    /// nobody watched is found as well.
    pub fn factory(
        config: FolderConfig,
        library: Arc<Library>,
        ingestor: Door<Ingestor>,
        dirty: Arc<Dirty>,
    ) -> Factory<Self> {
        Arc::new(move || {
            let (config, library) = (config.clone(), Arc::clone(&library));
            let (ingestor, dirty) = (ingestor.clone(), Arc::clone(&dirty));
            async move { blocking(move || Self::open(config, library, ingestor, dirty)).await }.boxed_local()
        })
    }

    fn open(
        config: FolderConfig,
        library: Arc<Library>,
        ingestor: Door<Ingestor>,
        dirty: Arc<Dirty>,
    ) -> Result<Self, String> {
        let root = config.path.canonicalize().map_err(|error| {
            format!(
                "cannot watch the folder {}: {error}. Make it, or take it out of [[folders]].",
                config.path.display()
            )
        })?;
        let heard = Arc::clone(&dirty);
        let everything = root.clone();
        let hear = move |events: DebounceEventResult| match events {
            // A kind of event that says notifications were lost asks for a look at everything.
            Ok(events) if events.iter().any(|event| event.need_rescan()) => heard.add([everything.clone()]),
            Ok(events) => heard.add(
                events
                    .into_iter()
                    .filter(|event| !matches!(event.kind, EventKind::Access(_)))
                    .flat_map(|event| event.event.paths),
            ),
            Err(errors) => {
                tracing::warn!(?errors, "watching the folder failed, looking at all of it");
                heard.add([everything.clone()]);
            }
        };
        let watching = |error| format!("cannot watch the folder {}: {error}", root.display());
        let mut debouncer = new_debouncer(Duration::from_millis(config.debounce_ms), None, hear).map_err(watching)?;
        debouncer.watch(&root, RecursiveMode::Recursive).map_err(watching)?;
        dirty.add([root.clone()]);
        let watch = Arc::new(Watch { root, config, library, ingestor, dirty });
        Ok(Self { watch, _debouncer: debouncer })
    }
}

impl Role for Folder {
    type Message = Sync;
    type Reply = Seen;
    type Error = StoreError;
    const SERIAL: bool = true;

    fn handle(&mut self, _: Sync) -> LocalBoxFuture<'static, Result<Seen, StoreError>> {
        let watch = Arc::clone(&self.watch);
        async move {
            fail::fail_point!("folder");
            let paths = std::mem::take(&mut *watch.dirty.paths.lock());
            let result = watch.sync(&paths).await;
            if result.is_err() {
                watch.dirty.add(paths);
            }
            result
        }
        .boxed_local()
    }
}

impl Watch {
    async fn sync(self: &Arc<Self>, paths: &BTreeSet<PathBuf>) -> Result<Seen, StoreError> {
        let mut seen = Seen::default();
        for path in paths {
            let (watch, at) = (Arc::clone(self), path.clone());
            for file in blocking(move || watch.files(&at)).await {
                seen.files += usize::from(self.take(&file).await?);
            }
            seen.gone += self.forget(path).await?;
        }
        Ok(seen)
    }

    /// The files at or below a path that are documents. Links are none, and lead to none: who may write here could have files
    /// shown that are kept elsewhere.
    fn files(&self, path: &Path) -> Vec<PathBuf> {
        if path != self.root && !(self.is_document_path(path) && self.is_without_links(path)) {
            return Vec::new();
        }
        walkdir::WalkDir::new(path)
            .sort_by_file_name()
            .into_iter()
            .filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry.file_name()))
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_file() && supported_extension(entry.path()))
            .map(walkdir::DirEntry::into_path)
            .collect()
    }

    /// Whether a path is inside the folder with no hidden part.
    fn is_document_path(&self, path: &Path) -> bool {
        path.strip_prefix(&self.root).is_ok_and(|inside| !inside.iter().any(is_hidden))
    }

    /// Whether no part of a path inside the folder is a link.
    fn is_without_links(&self, path: &Path) -> bool {
        // The root itself is without any.
        path.canonicalize().is_ok_and(|real| real == path)
    }

    /// The id of the document that a file is: its path in the folder, with `/`.
    fn id(&self, path: &Path) -> Option<String> {
        let inside = path.strip_prefix(&self.root).ok()?;
        let parts: Option<Vec<&str>> = inside.iter().map(OsStr::to_str).collect();
        Some(format!("{}{}", self.config.prefix, parts?.join("/")))
    }

    /// Hands a file to the ingestor; false where it cannot be a document.
    async fn take(&self, path: &Path) -> Result<bool, StoreError> {
        let Some(id) = self.id(path) else {
            tracing::warn!(path = %path.display(), "left out: its name is not UTF-8");
            return Ok(false);
        };
        let id = match DocumentId::parse(&id) {
            Ok(id) => id,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "left out: its name cannot be a document id");
                return Ok(false);
            }
        };
        let limit = self.library.config().ingest.max_document_bytes;
        let read = path.to_owned();
        let content = match blocking(move || read_file(&read, limit)).await {
            Ok(content) => content,
            // Gone again, or not to be read: a later notification tells.
            Err(error) => {
                tracing::warn!(path = %path.display(), error, "left out");
                return Ok(false);
            }
        };
        let mut metadata = Metadata::from([(FOLDER_KEY.to_owned(), self.mark())]);
        if !self.config.visible_to.is_empty() {
            metadata.insert(VISIBLE_TO.to_owned(), self.config.visible_to.clone().into());
        }
        let upsert = Upsert {
            id,
            revision: None,
            media_type: None,
            title: None,
            url: None,
            collection: self.config.collection.clone(),
            metadata,
            content,
        };
        self.submit(Operation::Upsert(upsert)).await?;
        Ok(true)
    }

    /// Deletes the documents at or below a path whose files are gone.
    async fn forget(&self, path: &Path) -> Result<usize, StoreError> {
        let Some(id) = self.id(path) else { return Ok(0) };
        let everything = path == self.root;
        let mut gone = 0;
        let mut after = None;
        loop {
            let query = DocumentQuery {
                after: after.clone(),
                limit: 500,
                collection: Some(self.config.collection.clone()),
                prefix: (!everything).then(|| id.clone()),
            };
            let page = self.library.store.documents(&query).await?;
            for document in &page.documents {
                after = Some(document.id.clone());
                let below = everything || document.id == id || document.id.starts_with(&format!("{id}/"));
                let ours = document.metadata.get(FOLDER_KEY) == Some(&self.mark());
                let inside = document.id.strip_prefix(&self.config.prefix).unwrap_or(&document.id);
                let is_there = self.root.join(inside).symlink_metadata().is_ok_and(|file| file.is_file());
                if below && ours && !is_there {
                    let Ok(id) = DocumentId::parse(&document.id) else { continue };
                    self.submit(Operation::Delete { id, revision: None }).await?;
                    gone += 1;
                }
            }
            if !page.more {
                return Ok(gone);
            }
        }
    }

    /// What marks a document as one of this folder. No two folders have the same prefix.
    fn mark(&self) -> Value {
        Value::from(format!("{}/{}", self.config.collection, self.config.prefix))
    }

    /// Hands an operation to the ingestor; waits while it has too much to do.
    async fn submit(&self, operation: Operation) -> Result<(), StoreError> {
        let by = format!("folder:{}", self.root.display());
        loop {
            match self.ingestor.ask_patiently(Receive::new(operation.clone(), &by)).await {
                Ok(_) => return Ok(()),
                Err(DoorError::Failed(IngestError::Store(error))) => return Err(error),
                Err(DoorError::Down { reason, .. }) => return Err(StoreError::Failed(reason)),
                Err(_) => actix_rt::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
}

fn is_hidden(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b".") || name.ends_with(b"~")
}

fn read_file(path: &Path, limit: usize) -> Result<Vec<u8>, String> {
    let mut options = File::options();
    options.read(true);
    // One that has become a link since it was found is not followed.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW);
    let file = options.open(path).map_err(|error| error.to_string())?;
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    if size > limit as u64 {
        return Err(format!("it has {size} bytes, the limit is {limit} ([ingest] max_document_bytes)"));
    }
    let mut content = Vec::with_capacity(size as usize);
    file.take(limit as u64).read_to_end(&mut content).map_err(|error| error.to_string())?;
    Ok(content)
}
