//! Documents of as many chunks as are wanted, made from the collection that the `quality` benchmark has ingested: each real
//! chunk several times, its words partly exchanged with those of another one, its vector moved by as much noise.

use std::path::Path;

use answerd::app::App;
use answerd::documents::event::{DocumentId, Metadata, Operation, Upsert};
use answerd::documents::{Format, ParsedDocument};
use answerd::models::Embedder;
use answerd::models::minilm::MiniLm;
use answerd::stores::catalog::Catalog;
use answerd::stores::document_store::{NewChunk, Progress};
use futures_util::StreamExt;

/// Chunks of a made document.
const DOCUMENT: usize = 10;
/// Documents on their way to the store at once, as many as the document workers have.
const AT_ONCE: usize = 32;

/// A document to store.
#[derive(Clone)]
pub struct Made {
    pub id: String,
    pub text: String,
    pub chunks: Vec<NewChunk>,
}

/// Stores documents, and waits until they can be found.
pub async fn ingest(app: &App, made: &[Made]) {
    futures_util::stream::iter(made).for_each_concurrent(AT_ONCE, |document| take(app, document.clone())).await;
    app.until_caught_up().await;
}

/// Takes a document as the actors do that have parsed and embedded it.
async fn take(app: &App, made: Made) {
    let Made { id, text, chunks } = made;
    let upsert = Upsert {
        id: DocumentId::parse(&id).expect("an id"),
        revision: None,
        media_type: None,
        title: Some(format!("Made document {id}")),
        url: None,
        collection: "made".to_owned(),
        metadata: Metadata::new(),
        content: id.into_bytes(),
    };
    let store = &app.library.store;
    let receipt = store.receive(Operation::Upsert(upsert), None, 0).await.expect("received");
    let parsed = ParsedDocument::new(Format::Text, None, text);
    store.store_version(receipt.seq, parsed, chunks, Progress::default(), 0).await.expect("stored");
}

/// Makes chunks of the real ones.
pub fn make(chunks: usize, real: &Path, model: &MiniLm) -> Vec<Made> {
    let real = Catalog::open(real, model.name(), model.dimensions())
        .expect("run the `quality` benchmark first: its chunks are the material");
    let (_, versions) = real.live_versions().expect("the documents");
    let mut material: Vec<(String, Vec<f32>)> = Vec::new();
    for version in versions {
        let texts = real.chunk_texts(version.chunks.clone()).expect("texts");
        let vectors = real.vectors(version.chunks).expect("vectors");
        material.extend(texts.into_iter().map(|t| t.text).zip(vectors.into_iter().map(|(_, v)| v)));
    }
    assert!(!material.is_empty(), "there is nothing to make chunks of: run `make bench BENCH=quality` first");
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let document = |n: usize| {
        let (mut text, mut made) = (String::new(), Vec::new());
        for _ in 0..DOCUMENT {
            let (base, other) = (next() as usize % material.len(), next() as usize % material.len());
            let words = material[base].0.split_whitespace();
            let mut others = material[other].0.split_whitespace();
            let start = text.len();
            for word in words {
                let word = if next() % 8 == 0 { others.next().unwrap_or(word) } else { word };
                text.push_str(word);
                text.push(' ');
            }
            let mut vector: Vec<f32> =
                material[base].1.iter().map(|v| v + ((next() % 2001) as f32 / 1000.0 - 1.0) * 0.02).collect();
            let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
            vector.iter_mut().for_each(|v| *v /= norm);
            made.push(NewChunk {
                section: Vec::new(),
                span: start..text.len() - 1,
                page: None,
                tokens: 0,
                hash: [0; 32],
                vector,
            });
            text.push('\n');
        }
        Made { id: format!("made/{n}"), text, chunks: made }
    };
    (0..chunks / DOCUMENT).map(document).collect()
}
