//! The content of an event that is not in the event (the CloudEvents extension `dataref`): an object of the NATS object
//! store, or an HTTP(S) address of the service that owns the document.
//!
//! Whoever may publish an event must not thereby make answerd call whatever can be reached from here (server-side
//! request forgery): addresses are followed only to hosts that the configuration allows, also by redirects, and to no
//! private network unless that is allowed too. What a name stands for is checked where the connection is made, so a name
//! that changes between a check and its use gains nothing.

mod rules;

use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dashmap::DashMap;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use tokio::io::AsyncReadExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use self::rules::{Forbidden, Rules, shown};
use super::nats::Bus;
use crate::config::{Config, FetchConfig};
use crate::documents::event::{MAX_MEDIA_TYPE_BYTES, Operation};
use crate::documents::excerpt;
use crate::http::client_builder;

/// An address in the object store: `nats-object://<bucket>/<name>`.
pub const OBJECT_SCHEME: &str = "nats-object://";
/// Redirects followed for one document.
const MAX_REDIRECTS: usize = 5;
/// Time for a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Memory is counted in pieces of so many bytes.
const PIECE: usize = 1024;

/// Why content was not fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatarefError {
    /// It must not or cannot be had, however often it is tried: for the publisher.
    #[error("{0}")]
    Refused(String),
    /// It could not be had now.
    #[error("{0}")]
    Unavailable(String),
}

impl DatarefError {
    fn refused<T>(reason: impl Into<String>) -> Result<T, Self> {
        Err(Self::Refused(reason.into()))
    }
}

/// What was fetched.
struct Content {
    bytes: Vec<u8>,
    /// What the owning service says it is.
    media_type: Option<String>,
    room: Room,
}

/// A place in memory, given back when it is dropped.
pub type Room = OwnedSemaphorePermit;

/// Fetches content; see the module.
pub struct Datarefs {
    config: Arc<Config>,
    rules: Rules,
    http: OnceLock<Result<Client, String>>,
    room: Arc<Semaphore>,
    /// Requests that each host may still get at once.
    hosts: DashMap<String, Arc<Semaphore>>,
}

impl Datarefs {
    /// A fetcher under the limits of `config`. Connects to nothing.
    pub fn new(config: Arc<Config>) -> Self {
        let pieces = (config.nats.max_in_flight_bytes / PIECE).min(Semaphore::MAX_PERMITS);
        Self {
            rules: Rules::of(&config.fetch),
            config,
            http: OnceLock::new(),
            room: Arc::new(Semaphore::new(pieces)),
            hosts: DashMap::new(),
        }
    }

    /// Fetches what `dataref` points to into the content of `operation`, with the media type that is stated there if the
    /// event states none. Waits until there is room for it: all content fetched at once stays within
    /// `[nats] max_in_flight_bytes`, but for a single document that is larger. The room is the caller's to hold until it
    /// has passed the content on.
    ///
    /// # Errors
    /// [`DatarefError`]
    pub async fn complete(
        &self,
        operation: &mut Operation,
        dataref: &str,
        bus: Option<&Bus>,
    ) -> Result<Option<Room>, DatarefError> {
        let Operation::Upsert(upsert) = operation else { return Ok(None) };
        let content = match dataref.strip_prefix(OBJECT_SCHEME) {
            Some(object) => self.object(object, bus).await?,
            None if dataref.starts_with("http://") || dataref.starts_with("https://") => self.http(dataref).await?,
            None => {
                return DatarefError::refused(format!(
                    "its `dataref` begins with {:?}: it must begin with https://, http:// or {OBJECT_SCHEME}",
                    excerpt(shown(dataref).split("://").next().unwrap_or_default())
                ));
            }
        };
        if content.bytes.is_empty() {
            return DatarefError::refused(format!("there is nothing at its `dataref` {}", shown(dataref)));
        }
        upsert.content = content.bytes;
        upsert.media_type = upsert.media_type.take().or(content.media_type);
        Ok(Some(content.room))
    }

    async fn object(&self, object: &str, bus: Option<&Bus>) -> Result<Content, DatarefError> {
        let Some((bucket, name)) =
            object.split_once('/').filter(|(bucket, name)| !bucket.is_empty() && !name.is_empty())
        else {
            return DatarefError::refused(format!(
                "its `dataref` is \"{OBJECT_SCHEME}{}\", it must be {OBJECT_SCHEME}<bucket>/<name>",
                excerpt(object)
            ));
        };
        let Some(bus) = bus else {
            let reason = format!("there is no connection to NATS to read {OBJECT_SCHEME}{object} from");
            return Err(match self.config.nats.servers.is_empty() {
                true => DatarefError::Refused(format!("{reason} ([nats] servers is empty)")),
                false => DatarefError::Unavailable(reason),
            });
        };
        // It is read with the service's own rights, which may go further than those of who publishes.
        let within = |bucket: &str| match self.config.fetch.allows_bucket(bucket) {
            true => Ok(()),
            false => DatarefError::refused(format!("the bucket {bucket} is not among [fetch] buckets")),
        };
        within(bucket)?;
        let object = bus.object(bucket, name).await?;
        // A link may lead into another one.
        within(&object.info().bucket)?;
        let size = object.info().size;
        self.within_limit(size)?;
        let room = self.make_room(size).await;
        let mut bytes = Vec::with_capacity(size);
        object.take(size as u64).read_to_end(&mut bytes).await.map_err(|error| {
            DatarefError::Unavailable(format!("the object {bucket}/{name} could not be read: {error}"))
        })?;
        Ok(Content { bytes, media_type: None, room })
    }

    async fn http(&self, dataref: &str) -> Result<Content, DatarefError> {
        let url = Url::parse(dataref).map_err(|error| {
            // As it cannot be read, nobody knows what of it is secret.
            DatarefError::Refused(format!("its `dataref` is no address: {error}"))
        })?;
        let shown = shown(dataref);
        self.rules.check(&url).map_err(|error| DatarefError::Refused(error.0))?;
        let client = self.http.get_or_init(|| make_client(&self.config.fetch, self.rules.clone()));
        let client = client.as_ref().map_err(|reason| DatarefError::Unavailable(reason.clone()))?;
        let _turn = self.turn(&url).await?;
        let failed = |error: reqwest::Error| why(&url, &error);
        let mut response = client.get(url.clone()).send().await.map_err(failed)?;
        let status = response.status();
        if !status.is_success() {
            let reason = format!("{shown} answers with {status}");
            let later = status.is_server_error()
                || matches!(
                    status,
                    StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
                );
            return Err(if later { DatarefError::Unavailable(reason) } else { DatarefError::Refused(reason) });
        }
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        if let Some(encoding) = header(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            return DatarefError::refused(format!(
                "{shown} sends its content encoded as {encoding}, and was not asked to"
            ));
        }
        // What servers say where they know nothing.
        let unknown = ["application/octet-stream", "binary/octet-stream"];
        let fits = |given: &&str| !unknown.contains(given) && given.len() <= MAX_MEDIA_TYPE_BYTES;
        let media_type = header(CONTENT_TYPE).filter(fits).map(str::to_owned);
        let expected = response.content_length().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if let Some(bytes) = expected {
            self.within_limit(bytes)?;
        }
        let room = self.make_room(expected.unwrap_or(self.config.ingest.max_document_bytes)).await;
        let mut bytes = Vec::with_capacity(expected.unwrap_or_default());
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&chunk);
            self.within_limit(bytes.len())?;
        }
        Ok(Content { bytes, media_type, room })
    }

    /// Waits for a turn at a host, so that one that hangs does not take more and more connections.
    ///
    /// # Errors
    /// [`DatarefError::Unavailable`]
    async fn turn(&self, url: &Url) -> Result<OwnedSemaphorePermit, DatarefError> {
        let FetchConfig { concurrency, timeout_s, .. } = self.config.fetch;
        let host = url.host_str().unwrap_or_default().to_owned();
        let turns = self.hosts.entry(host).or_insert_with(|| Arc::new(Semaphore::new(concurrency))).clone();
        match tokio::time::timeout(Duration::from_secs(timeout_s), turns.acquire_owned()).await {
            Ok(turn) => Ok(turn.unwrap_or_else(|error| unreachable!("{error}"))),
            Err(_) => Err(DatarefError::Unavailable(format!(
                "{} waited {timeout_s} s for its turn: {concurrency} others are fetched from there ([fetch] concurrency)",
                shown(url.as_str())
            ))),
        }
    }

    /// Refuses what is larger than a document may be.
    ///
    /// # Errors
    /// [`DatarefError::Refused`]
    fn within_limit(&self, bytes: usize) -> Result<(), DatarefError> {
        let limit = self.config.ingest.max_document_bytes;
        if bytes <= limit {
            return Ok(());
        }
        DatarefError::refused(format!(
            "what its `dataref` points to has more than {limit} bytes ([ingest] max_document_bytes)"
        ))
    }

    async fn make_room(&self, bytes: usize) -> Room {
        let all = self.config.nats.max_in_flight_bytes / PIECE;
        let pieces = bytes.div_ceil(PIECE).min(all).min(u32::MAX as usize) as u32;
        let room = Arc::clone(&self.room).acquire_many_owned(pieces).await;
        // It is closed by nobody.
        room.unwrap_or_else(|error| unreachable!("{error}"))
    }
}

/// Gives the addresses of a name, if all of them may be called.
struct GuardedResolver(Rules);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            for address in &found {
                rules.check_address(&host, address.ip())?;
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn make_client(config: &FetchConfig, rules: Rules) -> Result<Client, String> {
    let redirects = {
        let rules = rules.clone();
        Policy::custom(move |attempt| {
            let from = attempt.previous().last();
            if attempt.previous().len() > MAX_REDIRECTS {
                return attempt.error(Forbidden(format!("more than {MAX_REDIRECTS} redirects")));
            }
            if from.is_some_and(|from| from.scheme() == "https") && attempt.url().scheme() != "https" {
                return attempt.error(Forbidden("it redirects from https to http".to_owned()));
            }
            match rules.check(attempt.url()) {
                Ok(()) => attempt.follow(),
                Err(error) => attempt.error(Forbidden(format!("it redirects, and {error}"))),
            }
        })
    };
    let ca_file = Some(config.tls_ca_file.as_path()).filter(|path| !path.as_os_str().is_empty());
    client_builder(ca_file)?
        .user_agent(concat!("answerd/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(Duration::from_secs(config.timeout_s))
        // A proxy would look names up itself, out of the guard's sight.
        .no_proxy()
        .dns_resolver(GuardedResolver(rules))
        .redirect(redirects)
        .build()
        .map_err(|error| format!("cannot make an HTTP client: {error}"))
}

/// The reason at the bottom of a failed request.
fn why(url: &Url, error: &reqwest::Error) -> DatarefError {
    let url = shown(url.as_str());
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut deepest = String::new();
    while let Some(this) = cause {
        if let Some(forbidden) = this.downcast_ref::<Forbidden>() {
            return DatarefError::Refused(format!("{url} is not fetched: {forbidden}"));
        }
        deepest = this.to_string();
        cause = this.source();
    }
    let what = if error.is_timeout() { "did not answer in time" } else { "cannot be fetched" };
    DatarefError::Unavailable(format!("{url} {what}: {deepest}"))
}
