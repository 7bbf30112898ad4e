//! `answerd publish`: documents as CloudEvents, for scripts and for trying it out.

use std::io::Read;
use std::path::PathBuf;

use async_nats::header::HeaderMap;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::client::reach;
use super::documents_in;
use crate::config::Config;
use crate::documents::event::{COLLECTION_DEFAULT, DocumentId, validate_collection};
use crate::stores::nats::Bus;

/// What the CloudEvents bindings percent-encode in a header: everything that is not printable ASCII, and `"` and `%`.
const HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// What to publish.
#[derive(clap::Args)]
pub struct Publish {
    /// A file, a folder, or `-` for standard input. Ids are paths relative to it.
    #[arg(required_unless_present = "delete")]
    path: Option<PathBuf>,
    /// The collection.
    #[arg(long, default_value = COLLECTION_DEFAULT)]
    collection: String,
    /// The document's id; needed for standard input.
    #[arg(long)]
    id: Option<String>,
    /// The documents' revision, a number that rises with each version.
    #[arg(long)]
    revision: Option<u64>,
    /// The media type; without it, the content and the name tell.
    #[arg(long)]
    media_type: Option<String>,
    /// The groups that may see it, with commas between them; without it, everybody may.
    #[arg(long)]
    visible_to: Option<String>,
    /// Publish that this document is deleted.
    #[arg(long, conflicts_with_all = ["path", "id"])]
    delete: Option<String>,
    /// Address of a running answerd, for where there is no NATS.
    #[arg(long, env = "ANSWERD_SERVER")]
    server: Option<String>,
    /// The API key for it, where it asks who calls.
    #[arg(long, env = "ANSWERD_KEY", hide_env_values = true)]
    key: Option<String>,
}

/// Where the events go.
enum Way {
    Nats(Box<Bus>),
    Http { url: String, http: reqwest::Client },
}

/// Publishes; returns once every event is stored on the other side. On NATS, a document that is larger than a message may
/// be goes into the object store, and its event says where.
pub async fn run(config: Config, what: Publish) -> Result<(), String> {
    validate_collection(&what.collection)?;
    let way = match what.server {
        None if !config.nats.servers.is_empty() => Way::Nats(Box::new(Bus::connect(&config.nats).await?)),
        server => {
            let (base, http) = reach(&config, server.as_deref(), what.key)?;
            Way::Http { url: format!("{base}/v1/events"), http }
        }
    };
    let mut events: Vec<(String, Option<PathBuf>)> = Vec::new();
    let action = if what.delete.is_some() { "deleted" } else { "upserted" };
    match (what.delete, what.path) {
        (Some(id), _) => events.push((id, None)),
        (None, Some(path)) if path.as_os_str() == "-" => {
            events.push((what.id.clone().ok_or("give the document a name with --id")?, Some(path)));
        }
        (None, Some(path)) => {
            let found = documents_in(&path)?;
            if let (Some(id), [(_, file)]) = (&what.id, found.as_slice()) {
                events.push((id.clone(), Some(file.clone())));
            } else if what.id.is_some() {
                return Err("--id names one document, and there are several".into());
            } else {
                events.extend(found.into_iter().map(|(id, file)| (id, Some(file))));
            }
        }
        (None, None) => return Err("say what to publish".into()),
    }
    let count = events.len();
    for (id, file) in events {
        let id = DocumentId::parse(&id).map_err(|error| format!("{id}: {error}"))?;
        let content = match file {
            None => Vec::new(),
            Some(file) if file.as_os_str() == "-" => {
                let mut content = Vec::new();
                std::io::stdin().read_to_end(&mut content).map_err(|error| format!("standard input: {error}"))?;
                content
            }
            Some(file) => std::fs::read(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?,
        };
        let event_id = uuid::Uuid::now_v7().to_string();
        let mut headers = vec![
            ("ce-specversion", "1.0".to_owned()),
            ("ce-type", format!("answerd.document.{action}")),
            ("ce-source", "answerd-publish".to_owned()),
            ("ce-id", event_id.clone()),
            ("ce-subject", utf8_percent_encode(id.as_str(), HEADER).to_string()),
            ("ce-collection", what.collection.clone()),
        ];
        headers.extend(
            what.visible_to.clone().map(|groups| ("ce-visibleto", utf8_percent_encode(&groups, HEADER).to_string())),
        );
        // In the trace of whoever runs it (the variable's name is that of OpenTelemetry's tools).
        headers.extend(std::env::var("TRACEPARENT").ok().map(|trace| ("traceparent", trace)));
        headers.extend(what.revision.map(|revision| ("ce-revision", revision.to_string())));
        headers.extend(what.media_type.clone().map(|media_type| ("content-type", media_type)));
        send(&way, &what.collection, &id, action, headers, content, &event_id)
            .await
            .map_err(|error| format!("{id}: {error}"))?;
    }
    println!("{count} events published");
    Ok(())
}

async fn send(
    way: &Way,
    collection: &str,
    id: &DocumentId,
    action: &str,
    headers: Vec<(&'static str, String)>,
    content: Vec<u8>,
    event_id: &str,
) -> Result<(), String> {
    match way {
        Way::Nats(bus) => {
            let mut map = HeaderMap::new();
            let mut content = content;
            if !bus.fits(content.len()) {
                let dataref = bus.put_object(&format!("{collection}/{id}"), &content).await?;
                map.insert("ce-dataref", utf8_percent_encode(&dataref, HEADER).to_string());
                content.clear();
            }
            for (name, value) in headers {
                map.insert(name, value.as_str());
            }
            bus.publish(&format!("documents.{collection}.{action}"), map, content.into(), event_id).await.map(|_| ())
        }
        Way::Http { url, http } => {
            let mut request = http.post(url).body(content);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let response = request.send().await.map_err(|error| format!("no answerd at {url}: {error}"))?;
            let status = response.status();
            if status.is_success() {
                return Ok(());
            }
            Err(format!("refused with {status}: {}", response.text().await.unwrap_or_default()))
        }
    }
}
