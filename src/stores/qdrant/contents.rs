//! Contents and source texts: kept in pieces, as a point has to fit into a message.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use qdrant_client::Payload;
use qdrant_client::qdrant::{Filter, PointStruct};
use uuid::Uuid;

use super::entry::Blob;
use super::server::{Collection, Server, id, integer, plain, text};
use crate::stores::StoreError;

/// Bytes in a piece.
const PIECE: usize = 1 << 20;
/// Pieces sent, and read, at once.
const AT_ONCE: usize = 8;

fn piece(key: &Uuid, n: u64) -> qdrant_client::qdrant::PointId {
    id(&["content", &key.to_string(), &n.to_string()])
}

/// Keeps bytes under a key of their own.
pub(super) async fn put(server: &Server, doing: &str, bytes: &[u8]) -> Result<Blob, StoreError> {
    let key = Uuid::now_v7();
    let pieces: Vec<&[u8]> = bytes.chunks(PIECE).collect();
    for (batch, some) in pieces.chunks(AT_ONCE).enumerate() {
        let points: Vec<PointStruct> = some
            .iter()
            .enumerate()
            .map(|(n, bytes)| {
                let n = (batch * AT_ONCE + n) as u64;
                let mut payload = Payload::new();
                payload.insert("key", key.to_string());
                payload.insert("n", n as i64);
                payload.insert("bytes", BASE64_STANDARD.encode(bytes));
                plain(piece(&key, n), payload)
            })
            .collect();
        server.put(doing, Collection::Contents, points).await?;
    }
    Ok(Blob { key, pieces: pieces.len() as u64 })
}

/// The bytes. None where they are not there any more.
pub(super) async fn get(server: &Server, doing: &str, blob: &Blob) -> Result<Option<Vec<u8>>, StoreError> {
    let mut bytes = Vec::new();
    let numbers: Vec<u64> = (0..blob.pieces).collect();
    for some in numbers.chunks(AT_ONCE) {
        let ids = some.iter().map(|n| piece(&blob.key, *n)).collect();
        let mut found = server.get(doing, Collection::Contents, ids, None).await?;
        found.sort_unstable_by_key(|point| integer(point, "n"));
        if found.len() < some.len() {
            return Ok(None);
        }
        for point in found {
            let decoded = BASE64_STANDARD.decode(text(&point, "bytes"));
            bytes.extend(decoded.map_err(|_| {
                StoreError::Damaged(format!(
                    "a piece of a document's content in the Qdrant {} cannot be read: something else has written there",
                    server.address
                ))
            })?);
        }
    }
    Ok(Some(bytes))
}

/// Deletes what nobody needs any more.
pub(super) async fn delete(server: &Server, doing: &str, blobs: &[Blob]) -> Result<(), StoreError> {
    let ids: Vec<_> = blobs.iter().flat_map(|blob| (0..blob.pieces).map(|n| piece(&blob.key, n))).collect();
    match ids.is_empty() {
        true => Ok(()),
        false => {
            let fits = Filter::must([qdrant_client::qdrant::Condition::has_id(ids)]);
            server.delete(doing, Collection::Contents, fits).await
        }
    }
}
