//! Where a command does its work: on a running answerd by HTTP, or in this process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use eventsource_stream::Eventsource;
use futures_util::{Stream, StreamExt};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde_json::{Value, json};

use super::ServerChoice;

use crate::actors::door::DoorError;
use crate::actors::ingestor::{IngestError, Receive};
use crate::actors::retriever::{Mode, Search};
use crate::app::{App, Parts};
use crate::asking::Question;
use crate::config::Config;
use crate::documents::event::{DocumentId, Metadata, Operation, Upsert};
use crate::error::ServiceError;
use crate::http::client_builder;
use crate::identity::Caller;
use crate::retrieval::sight::{Sight, groups_of, with_groups};
use crate::stores::document_store::OperationState;

/// The events of an answer: name and data.
pub type Events = Pin<Box<dyn Stream<Item = Result<(String, Value), String>>>>;

/// What must be encoded in a path segment.
const SEGMENT: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?').add(b'`');

/// What is said of documents beside their content.
pub struct Description {
    /// The collection they go into.
    pub collection: String,
    /// The groups that may see them, with commas between.
    pub visible_to: Option<String>,
}

/// Where the work is done.
pub enum Target {
    /// A running answerd.
    Server {
        /// Its address.
        base: String,
        /// The connections to it.
        http: reqwest::Client,
    },
    /// This process.
    Here(Arc<App>),
}

impl Target {
    /// The server that was named; else the configured one, if it answers; else this process.
    pub async fn choose(config: Config, choice: ServerChoice, chat: bool) -> Result<Self, String> {
        let ServerChoice { server, key } = choice;
        let (base, http) = reach(&config, server.as_deref(), key)?;
        let answer = http.get(format!("{base}/healthz")).timeout(Duration::from_secs(5)).send().await;
        match (answer, server) {
            (Ok(response), _) if response.status().is_success() => Ok(Self::Server { base, http }),
            (Ok(response), Some(_)) => Err(format!("{base} answers with {}: it is no answerd", response.status())),
            (Err(error), Some(_)) => Err(format!("no answerd at {base}: {error}")),
            _ => App::start(config, Parts { folders: false, chat }).await.map(Self::Here),
        }
    }

    /// Ends what was started here.
    pub async fn close(self) {
        if let Self::Here(app) = self {
            app.stop().await;
        }
    }

    /// Asks a question.
    pub async fn ask(&self, question: &str) -> Result<Events, String> {
        match self {
            Self::Server { base, http } => {
                let response = http
                    .post(format!("{base}/v1/answers"))
                    .header("accept", "text/event-stream")
                    .json(&json!({ "question": question }))
                    .send()
                    .await;
                let events = checked(response).await?.bytes_stream().eventsource().map(|event| {
                    let event = event.map_err(|error| format!("the stream broke: {error}"))?;
                    Ok((event.event, serde_json::from_str(&event.data).unwrap_or_default()))
                });
                Ok(Box::pin(events))
            }
            Self::Here(app) => {
                let question = Question { question: question.to_owned(), ..Question::default() };
                let wishes = question.wishes();
                app.until_models_work().await?;
                let asker = app.asker().map_err(|error| error.to_string())?;
                let caller = Caller::unrestricted("command line");
                let log = asker.ask(question, wishes, &caller).await.map_err(|error| error.to_string())?;
                Ok(Box::pin(log.reader(0).map(|(_, event)| Ok((event.name().to_owned(), event.data())))))
            }
        }
    }

    /// Searches; the response as `/v1/search` gives it.
    pub async fn search(&self, query: &str, mode: Mode, limit: usize) -> Result<Value, String> {
        match self {
            Self::Server { base, http } => {
                let body = json!({ "query": query, "mode": mode, "limit": limit });
                let response = http.post(format!("{base}/v1/search")).json(&body).send().await;
                checked(response).await?.json().await.map_err(|error| error.to_string())
            }
            Self::Here(app) => {
                let search = Search {
                    query: query.to_owned(),
                    mode,
                    filter: None,
                    sight: Sight::All.into(),
                    limit,
                    vector: None,
                    settings: app.config().search.clone(),
                };
                let found = app.retriever.ask(search).await.map_err(|error| error.to_string())?;
                Ok(json!({ "results": found.passages, "degraded": found.degraded }))
            }
        }
    }

    /// Puts a document.
    pub async fn put(&self, id: &str, description: &Description, content: Vec<u8>) -> Result<(), String> {
        let Description { collection, visible_to } = description;
        match self {
            Self::Server { base, http } => {
                // A collection's name needs no encoding.
                let mut address = format!("{}?collection={collection}", document_address(base, id));
                if let Some(groups) = visible_to {
                    address.extend(["&visible_to=", &utf8_percent_encode(groups, NON_ALPHANUMERIC).to_string()]);
                }
                loop {
                    let request = http.put(&address).body(content.clone());
                    match request.send().await {
                        // It has much to do: wait as it says.
                        Ok(response) if response.status() == 429 => {
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                        response => return checked(response).await.map(drop),
                    }
                }
            }
            Self::Here(app) => {
                let upsert = Upsert {
                    id: DocumentId::parse(id).map_err(|error| error.to_string())?,
                    revision: None,
                    media_type: None,
                    title: None,
                    url: None,
                    collection: collection.clone(),
                    metadata: with_groups(Metadata::new(), groups_of(visible_to.as_deref()))?,
                    content,
                };
                loop {
                    match app
                        .ingestor
                        .ask_patiently(Receive::new(Operation::Upsert(upsert.clone()), "the command line"))
                        .await
                    {
                        // It has much to do.
                        Err(DoorError::Failed(IngestError::Backlog { .. })) => {
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                        receipt => return receipt.map(drop).map_err(|error| ServiceError::from(error).to_string()),
                    }
                }
            }
        }
    }

    /// Waits until a document is searchable, or has failed.
    pub async fn settled(&self, id: &str) -> Result<(), String> {
        loop {
            let failure = match self {
                Self::Server { base, http } => {
                    let response = http.get(document_address(base, id)).send().await;
                    let document: Value = checked(response).await?.json().await.map_err(|error| error.to_string())?;
                    match document["status"].as_str() {
                        Some("visible") => return Ok(()),
                        Some("failed") => Some(document["reason"].as_str().unwrap_or_default().to_owned()),
                        _ => None,
                    }
                }
                Self::Here(app) => {
                    let record = app.library.store.document(id).await.map_err(|error| error.to_string())?;
                    let Some(record) = record else { return Err("it is gone".to_owned()) };
                    match record.last.state {
                        OperationState::Failed => Some(record.last.reason.unwrap_or_default()),
                        OperationState::Stored if record.last.settled => return Ok(()),
                        _ => None,
                    }
                }
            };
            if let Some(reason) = failure {
                return Err(reason);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The address of the answerd that is named, else of the configured one, and connections to it, with a key where it asks for
/// one.
pub(super) fn reach(
    config: &Config,
    server: Option<&str>,
    key: Option<String>,
) -> Result<(String, reqwest::Client), String> {
    let mut http = client_builder(None)?.connect_timeout(Duration::from_secs(2));
    let base = match server {
        Some(server) => server.trim_end_matches('/').to_owned(),
        None => {
            // It is next door: whatever proxy the environment names is for others.
            http = http.no_proxy();
            format!("http://{}", reachable(config.server.bind))
        }
    };
    if let Some(key) = key {
        let value = HeaderValue::try_from(format!("Bearer {key}"));
        let mut value = value.map_err(|_| "the API key has characters that no key has")?;
        value.set_sensitive(true);
        http = http.default_headers([(AUTHORIZATION, value)].into_iter().collect());
    }
    Ok((base, http.build().map_err(|error| error.to_string())?))
}

/// Where a service that listens everywhere is found from here.
fn reachable(bind: SocketAddr) -> SocketAddr {
    let ip = match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bind.port())
}

fn document_address(base: &str, id: &str) -> String {
    format!("{base}/v1/documents/{}", utf8_percent_encode(id, SEGMENT))
}

/// The response, or what its problem document says.
async fn checked(response: reqwest::Result<reqwest::Response>) -> Result<reqwest::Response, String> {
    let response = response.map_err(|error| error.to_string())?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let problem: Value = response.json().await.unwrap_or_default();
    Err(problem["detail"].as_str().map_or_else(|| format!("the server answered {status}"), str::to_owned))
}
