//! The collections, made where they are missing and checked where they are there.

use qdrant_client::qdrant::vectors_config::Config as Vectors;
use qdrant_client::qdrant::{
    CreateCollectionBuilder, CreateFieldIndexCollectionBuilder, Distance, FieldType, HnswConfigDiffBuilder, Modifier,
    SparseVectorParamsBuilder, SparseVectorsConfigBuilder, VectorParamsBuilder, VectorsConfigBuilder,
};
use qdrant_client::{Payload, QdrantError};
use tonic::Code;

use super::filter::MARKS;
use super::server::{Collection, Server, id, plain, text};
use crate::stores::StoreError;

/// Version of the collections and of what is in them.
const SCHEMA_VERSION: &str = "1";

/// The vectors of a chunk.
pub(super) const DENSE: &str = "embedding";
pub(super) const SPARSE: &str = "words";

/// What the collections must be like.
pub(super) struct Shape<'s> {
    pub embedding: &'s str,
    pub dimensions: usize,
    pub m: usize,
    pub ef_construction: usize,
}

/// Payload fields that are looked for.
const INDEXED: [(Collection, &str, FieldType); 15] = [
    (Collection::Documents, "seqs", FieldType::Integer),
    (Collection::Documents, "first", FieldType::Integer),
    (Collection::Documents, "last", FieldType::Integer),
    (Collection::Documents, "waiting", FieldType::Integer),
    (Collection::Documents, "untidy", FieldType::Bool),
    (Collection::Documents, "served", FieldType::Integer),
    (Collection::Documents, "failed", FieldType::Bool),
    (Collection::Documents, "listed", FieldType::Bool),
    (Collection::Documents, "swapping", FieldType::Bool),
    (Collection::Documents, "owner", FieldType::Keyword),
    (Collection::Documents, "collection", FieldType::Keyword),
    (Collection::Documents, "folders", FieldType::Keyword),
    (Collection::Chunks, "document", FieldType::Keyword),
    (Collection::Chunks, "attempt", FieldType::Keyword),
    (Collection::Chunks, MARKS, FieldType::Keyword),
];

/// Makes what is missing, and checks what is there. Several may do so at once.
///
/// # Errors
/// In words for the operator. Gives the id of the store.
pub(super) async fn prepare(server: &Server, shape: &Shape<'_>) -> Result<String, StoreError> {
    const DOING: &str = "open the store";
    for which in Collection::ALL {
        make_collection(server, DOING, which, Some(shape)).await?;
    }
    check_vectors(server, shape).await?;
    for (which, field, kind) in INDEXED {
        let index = CreateFieldIndexCollectionBuilder::new(server.collection(which), field, kind).wait(true);
        server.run(DOING, server.client.create_field_index(index)).await?;
    }
    let point = id(&["settings"]);
    let mut first = Payload::new();
    first.insert("id", uuid::Uuid::now_v7().to_string());
    first.insert("schema", SCHEMA_VERSION);
    first.insert("embedding", shape.embedding);
    first.insert("dimensions", shape.dimensions as i64);
    server.add(DOING, Collection::State, vec![plain(point.clone(), first)]).await?;
    let found = server.get(DOING, Collection::State, vec![point], None).await?;
    let setting = |name: &str| found.first().map(|point| text(point, name)).unwrap_or_default();
    let unfit =
        |reason: String| Err(StoreError::Failed(format!("the Qdrant {} cannot be used: {reason}", server.address)));
    let version = setting("schema");
    if version != SCHEMA_VERSION {
        return unfit(format!(
            "its collections have version {version:?}, this answerd knows {SCHEMA_VERSION}. Run the answerd that made them, or name another [qdrant] collection."
        ));
    }
    let embedding = setting("embedding");
    if embedding != shape.embedding {
        return unfit(format!(
            "its vectors were made with the embedding model {embedding}, the configuration says {}. They cannot be compared: set [embedding] model back, or name another [qdrant] collection and ingest again.",
            shape.embedding
        ));
    }
    Ok(setting("id"))
}

/// Makes a collection where it is missing. Only that of the chunks needs to know what it must be like.
pub(super) async fn make_collection(
    server: &Server,
    doing: &str,
    which: Collection,
    shape: Option<&Shape<'_>>,
) -> Result<(), StoreError> {
    if server.run(doing, server.client.collection_exists(server.collection(which))).await? {
        return Ok(());
    }
    match server.client.create_collection(collection(server, which, shape)).await {
        // Another process was quicker.
        Err(QdrantError::ResponseError { status })
            if status.code() == Code::AlreadyExists || status.message().contains("already exists") =>
        {
            Ok(())
        }
        result => server.run(doing, std::future::ready(result)).await.map(drop),
    }
}

fn collection(server: &Server, which: Collection, shape: Option<&Shape<'_>>) -> CreateCollectionBuilder {
    let builder = CreateCollectionBuilder::new(server.collection(which));
    let Some(shape) = shape.filter(|_| which == Collection::Chunks) else { return builder };
    let graph = HnswConfigDiffBuilder::default().m(shape.m as u64).ef_construct(shape.ef_construction as u64);
    let mut vectors = VectorsConfigBuilder::default();
    // The vectors have length 1: their inner product is the cosine, and they come back as they were given.
    let dense = VectorParamsBuilder::new(shape.dimensions as u64, Distance::Dot).hnsw_config(graph);
    vectors.add_named_vector_params(DENSE, dense);
    let mut sparse = SparseVectorsConfigBuilder::default();
    sparse.add_named_vector_params(SPARSE, SparseVectorParamsBuilder::default().modifier(Modifier::Idf));
    builder.vectors_config(vectors).sparse_vectors_config(sparse)
}

/// The vectors that a collection has may be another program's, or of another model.
async fn check_vectors(server: &Server, shape: &Shape<'_>) -> Result<(), StoreError> {
    let name = server.collection(Collection::Chunks);
    let info = server.run("open the store", server.client.collection_info(&name)).await?;
    let parameters = info.result.and_then(|info| info.config).and_then(|config| config.params);
    let dense = parameters.as_ref().and_then(|p| p.vectors_config.as_ref()).and_then(|vectors| match &vectors.config {
        Some(Vectors::ParamsMap(map)) => map.map.get(DENSE),
        _ => None,
    });
    let replicas = parameters.as_ref().and_then(|parameters| parameters.replication_factor);
    let unfit = |reason: String| {
        Err(StoreError::Failed(format!(
            "the collection {name} of the Qdrant {} cannot be used: {reason}. Name another [qdrant] collection.",
            server.address
        )))
    };
    if replicas == Some(2) {
        return unfit(
            "it has two replicas, of which none is the majority while one is written: it takes one, or three".into(),
        );
    }
    let Some(dense) = dense else {
        return unfit(format!("it has no vector {DENSE:?}: something else has made it"));
    };
    if dense.size != shape.dimensions as u64 {
        return unfit(format!(
            "its vectors have {} dimensions, those of the embedding model {} have {}",
            dense.size, shape.embedding, shape.dimensions
        ));
    }
    if dense.distance() != Distance::Dot {
        return unfit(format!("it compares by {:?}, not by the inner product", dense.distance()));
    }
    let sparse = parameters.as_ref().and_then(|p| p.sparse_vectors_config.as_ref()).and_then(|s| s.map.get(SPARSE));
    if sparse.is_none_or(|sparse| sparse.modifier() != Modifier::Idf) {
        return unfit(format!("it has no sparse vector {SPARSE:?} with the modifier IDF: something else has made it"));
    }
    Ok(())
}
