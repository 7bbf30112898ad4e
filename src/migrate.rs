//! Moves the documents of one store into another: `answerd migrate`.
//!
//! Everything that is known of a document moves: what is served, with its chunks and vectors, and its last operation with
//! revision and `seq`; with it the events that were taken, so that none is taken again, and the store's id, so that the
//! consumer of events goes on where it was. A document that is there already, and the same, is not moved again: what was
//! interrupted is gone on with by the same command. At the end all of it is compared by hash.

use std::time::{Duration, Instant};

use crate::stores::archive::Archive;

/// Documents read at once.
const PAGE: usize = 50;
/// Events moved at once.
const EVENTS: usize = 10_000;
/// How often something is said.
const SAY: Duration = Duration::from_secs(2);

/// What was moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Documents, deleted ones whose revision is remembered included.
    pub documents: u64,
    /// Those that were there already.
    pub already: u64,
    /// Chunks of what is served.
    pub chunks: u64,
    /// Events.
    pub events: u64,
}

/// Moves everything, and compares it; `say` is told how far it is.
///
/// # Errors
/// In words: operations that wait, documents in `to` that `from` does not know, what a store says, a difference.
pub async fn migrate(from: &dyn Archive, to: &dyn Archive, mut say: impl FnMut(String)) -> Result<Moved, String> {
    let failed = |error: crate::stores::StoreError| error.to_string();
    let waiting = from.sizes().await.map_err(failed)?.pending;
    if waiting > 0 {
        return Err(format!(
            "{waiting} operations wait to be carried out: start answerd on it, let it become ready, and stop it first"
        ));
    }
    let (documents, events) = from.extent().await.map_err(failed)?;
    let mut moved = Moved::default();
    let mut said = Instant::now();
    let mut after = String::new();
    loop {
        let page = from.export(&after, PAGE).await.map_err(failed)?;
        let Some(last) = page.last() else { break };
        after.clone_from(&last.id);
        for document in page {
            if document.waits() {
                return Err(format!("{:?} is being changed: stop the answerd that works on it", document.id));
            }
            let there = to.export_one(&document.id).await.map_err(failed)?;
            moved.documents += 1;
            moved.chunks += document.served.as_ref().map_or(0, |version| version.chunks.len() as u64);
            match there.is_some_and(|there| there.digest() == document.digest()) {
                true => moved.already += 1,
                false => to.import(document).await.map_err(failed)?,
            }
            if said.elapsed() >= SAY {
                say(format!("{} of {documents} documents", moved.documents));
                said = Instant::now();
            }
        }
    }
    let mut after = Vec::new();
    loop {
        let some = from.events(&after, EVENTS).await.map_err(failed)?;
        let Some((last, _)) = some.last() else { break };
        after.clone_from(last);
        moved.events += some.len() as u64;
        to.import_events(some).await.map_err(failed)?;
        if said.elapsed() >= SAY {
            say(format!("{} of {events} events", moved.events));
            said = Instant::now();
        }
    }
    verify(from, to, documents, &mut say).await?;
    to.adopt(&from.id()).await.map_err(failed)?;
    Ok(moved)
}

/// A document that is in `to` and not in `from`.
async fn surplus(from: &dyn Archive, to: &dyn Archive) -> Result<Option<String>, crate::stores::StoreError> {
    let mut after = String::new();
    loop {
        let page = to.export(&after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(None) };
        after.clone_from(&last.id);
        for there in page {
            if from.export_one(&there.id).await?.is_none() {
                return Ok(Some(there.id));
            }
        }
    }
}

/// Compares all documents by hash, and the counts.
async fn verify(
    from: &dyn Archive,
    to: &dyn Archive,
    documents: u64,
    say: &mut impl FnMut(String),
) -> Result<(), String> {
    let failed = |error: crate::stores::StoreError| error.to_string();
    let (mut said, mut compared) = (Instant::now(), 0);
    let mut after = String::new();
    loop {
        let page = from.export(&after, PAGE).await.map_err(failed)?;
        let Some(last) = page.last() else { break };
        after.clone_from(&last.id);
        for here in page {
            let there = to.export_one(&here.id).await.map_err(failed)?;
            if there.is_none_or(|there| there.digest() != here.digest()) {
                return Err(format!("{:?} is not the same in both stores: run the same command again", here.id));
            }
            compared += 1;
        }
        if said.elapsed() >= SAY {
            say(format!("{compared} of {documents} documents compared"));
            said = Instant::now();
        }
    }
    let (ours, theirs) = (from.extent().await.map_err(failed)?, to.extent().await.map_err(failed)?);
    if ours == theirs {
        return Ok(());
    }
    if theirs.0 > ours.0
        && let Some(surplus) = surplus(from, to).await.map_err(failed)?
    {
        return Err(format!("there is a document {surplus:?} that was not moved: move into an empty store"));
    }
    Err(format!(
        "{} documents and {} events here, {} and {} there: stop the answerd that works on one of them, and run the same command again",
        ours.0, ours.1, theirs.0, theirs.1
    ))
}
