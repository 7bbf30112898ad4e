//! `POST /v1/embeddings`.

use std::sync::Arc;
use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{Error, TAG, body, invalid};
use crate::actors::embedder::Embed;
use crate::app::App;
use crate::error::ServiceError;
use crate::identity::Scope;
use crate::usage::{Operation, Outcome, UsageRecord};
use crate::web::address::{Address, Entry};
use crate::web::auth::caller;
use crate::web::error::{Kind, Problem};

/// Texts of one request for embeddings, as many as OpenAI takes.
const EMBEDDING_TEXTS: usize = 2048;
/// What an embedding model puts around a text, in tokens.
const AROUND_A_TEXT: usize = 2;
/// So many texts or fewer are embedded before documents are.
const FEW_TEXTS: usize = 8;

/// The addresses of this file.
pub(super) fn addresses() -> Vec<Address> {
    let embeddings_of_two = json!({
        "object": "list", "model": "all-MiniLM-L6-v2", "usage": { "prompt_tokens": 9, "total_tokens": 9 },
        "data": [{ "object": "embedding", "index": 0, "embedding": [0.0123, -0.0456] }],
    });
    vec![
        Address::at("/v1/embeddings").post(
            embeddings,
            Entry::new(TAG, "createEmbeddings", "Embed texts")
                .text("Of the model that the documents are embedded with. Tokens instead of texts are not taken.")
                .scope(Scope::Ask)
                .body::<EmbeddingRequest>(
                    "The texts.",
                    json!({ "model": "all-MiniLM-L6-v2", "input": ["annual leave"] }),
                )
                .answers::<Embeddings>(200, "The vectors, in the order of the texts.", embeddings_of_two)
                .refuses(&[Kind::InvalidRequest, Kind::UnknownModel, Kind::Overloaded]),
        ),
    ]
}

/// Texts to be embedded. Members that are not named here are ignored.
#[derive(Debug, Deserialize, ToSchema)]
struct EmbeddingRequest {
    /// The name of the embedding model.
    model: String,
    /// A text, or 1 to 2048 of them; each of as many tokens as the model takes, and none empty.
    #[schema(value_type = TextOrTexts)]
    input: Input,
    /// How the vectors are written; by default as numbers.
    #[schema(inline)]
    encoding_format: Option<Encoding>,
    /// The numbers of a vector, if it is said: those that the model has.
    dimensions: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Input {
    One(String),
    Several(Vec<String>),
    /// Tokens of a model, which may be another one than this.
    Other(serde::de::IgnoredAny),
}

/// A text, or several.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is only described")]
pub enum TextOrTexts {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    /// An array of numbers.
    Float,
    /// The numbers as 32-bit floats, little-endian, in Base64.
    Base64,
}

/// Texts, embedded.
#[derive(Serialize, ToSchema)]
struct Embeddings {
    /// `list`.
    object: &'static str,
    /// A vector for each text.
    data: Vec<Embedding>,
    /// The model's name.
    model: String,
    /// What it took.
    usage: EmbeddingUsage,
}

/// A text, embedded.
#[derive(Serialize, ToSchema)]
struct Embedding {
    /// `embedding`.
    object: &'static str,
    /// Which text it is of, from 0.
    index: usize,
    /// The vector, of length 1.
    embedding: Vector,
}

/// A vector, as `encoding_format` says.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Vector {
    /// Its numbers.
    Float(Vec<f32>),
    /// The same in Base64.
    Base64(String),
}

/// What it took to embed texts, in tokens.
#[derive(Serialize, ToSchema)]
struct EmbeddingUsage {
    /// Tokens of the texts.
    prompt_tokens: usize,
    /// The same.
    total_tokens: usize,
}

pub(super) async fn embeddings(
    request: HttpRequest,
    payload: web::Payload,
    app: web::Data<App>,
) -> Result<HttpResponse, Error> {
    let began = Instant::now();
    let caller = caller(&request, Scope::Ask)?;
    let asked: EmbeddingRequest = body(&request, payload, &app).await?;
    let model = Arc::clone(&app.embedding);
    let settings = app.config();
    let name = &settings.embedding.name;
    if asked.model != *name {
        let error = ServiceError::UnknownModel { name: asked.model, known: name.clone() };
        return Err(Error::about(error, "model"));
    }
    if let Some(dimensions) = asked.dimensions.filter(|dimensions| *dimensions != model.dimensions()) {
        let has = model.dimensions();
        return Err(invalid("dimensions", format!("`dimensions` is {dimensions}, the vectors of {name} have {has}")));
    }
    let texts = match asked.input {
        Input::One(text) => vec![text],
        Input::Several(texts) => texts,
        Input::Other(_) => return Err(invalid("input", "`input` must be a text or a list of texts")),
    };
    if texts.is_empty() || texts.len() > EMBEDDING_TEXTS {
        let found = texts.len();
        return Err(invalid("input", format!("`input` has {found} texts, it must have 1 to {EMBEDDING_TEXTS}")));
    }
    if let Some(n) = texts.iter().position(String::is_empty) {
        return Err(invalid("input", format!("`input[{n}]` is empty")));
    }
    let counting = Arc::clone(&model);
    let (texts, tokens) = crate::actors::compute::blocking(move || {
        let tokens: Vec<usize> = texts.iter().map(|text| counting.count_tokens(text)).collect();
        (texts, tokens)
    })
    .await;
    let limit = model.max_tokens().saturating_sub(AROUND_A_TEXT);
    if let Some((n, tokens)) = tokens.iter().enumerate().find(|(_, tokens)| **tokens > limit) {
        let problem = Problem::new(
            Kind::InvalidRequest,
            format!("`input[{n}]` has {tokens} tokens, the limit of {name} is {limit}"),
        );
        return Err(Error::about(problem.with("tokens", *tokens).with("limit", limit), "input"));
    }
    let total: usize = tokens.iter().sum();
    let urgent = texts.len() <= FEW_TEXTS;
    let mut reserved = app.budgets.reserve(&caller, total).await?;
    let vectors = app.embedder.ask(Embed { texts, urgent }).await.map_err(ServiceError::from)?;
    reserved.used(total);
    let base64 = asked.encoding_format == Some(Encoding::Base64);
    let data = vectors
        .into_iter()
        .enumerate()
        .map(|(index, vector)| {
            let embedding = if base64 {
                let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
                Vector::Base64(base64::engine::general_purpose::STANDARD.encode(bytes))
            } else {
                Vector::Float(vector)
            };
            Embedding { object: "embedding", index, embedding }
        })
        .collect();
    if let Ok(asker) = app.asker() {
        asker.ledger.record(UsageRecord {
            caller: caller.name.as_ref().to_owned(),
            operation: Operation::Embeddings,
            model: name.clone(),
            provider: settings.embedding.engine.name().to_owned(),
            prompt_tokens: total,
            outcome: Outcome::Stop,
            total_ms: began.elapsed().as_millis() as u64,
            ..UsageRecord::default()
        });
    }
    let usage = EmbeddingUsage { prompt_tokens: total, total_tokens: total };
    Ok(HttpResponse::Ok().json(Embeddings { object: "list", data, model: name.clone(), usage }))
}
