//! NATS JetStream: the stream of document events, its durable consumer, and the stream of dead letters.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::header::{HeaderMap, HeaderName, HeaderValue, NATS_MESSAGE_ID};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::object_store::{self, GetErrorKind, Object};
use async_nats::jetstream::stream::{self, DiscardPolicy, Stream};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions};
use bytes::Bytes;
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;

use super::dataref::{DatarefError, OBJECT_SCHEME};
use crate::config::{DOCUMENTS_BUCKET, NatsConfig, without_credentials};

/// Subjects of dead letters begin so; the collection follows.
pub const DEAD_LETTER_PREFIX: &str = "answerd.dlq";
/// Header of a dead letter: why the event was given up.
pub const REASON: &str = "Answerd-Reason";
/// Header of a dead letter: how often the event had been delivered.
pub const ATTEMPTS: &str = "Answerd-Attempts";
/// Header of a dead letter: the subject that the event came on.
pub const SUBJECT: &str = "Answerd-Subject";
/// Header of an event that is published again by hand: it is taken although it was given up before.
pub const RETRY: &str = "Answerd-Retry";

/// Tries to make a lost connection again with the same credentials; they take some 4 s.
const RECONNECTS: usize = 12;
/// Events whose content is being fetched that do not count among `[nats] max_in_flight`.
pub const FETCHING: usize = 1000;
/// In a consumer's metadata: the catalog that it fills.
const CATALOG: &str = "answerd-catalog";

/// What is put before the name of a header of a dead letter that would tell a server something; the others of answerd's own
/// begin with it too.
const ASIDE: &str = "Answerd-";
/// The header of a dead letter that is without its content or some of its headers, with how many bytes those had.
const LEFT_OUT: &str = "Answerd-Content-Bytes";
/// Bytes that the protocol and headers not known yet may add to a message.
const MESSAGE_MARGIN: usize = 4096;
/// Most bytes of the reason that is with a dead letter: it may quote an event that is as large as a message can be.
const MAX_REASON_BYTES: usize = 4096;
/// Most bytes of headers that a stream keeps are 64 KiB; some are the protocol's, and the key's with which it is stored once.
const MAX_HEADERS_BYTES: usize = 64 * 1024 - 1024;

/// A connection to JetStream; see the module. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    client: Client,
    jetstream: Context,
    config: NatsConfig,
    life: Arc<Life>,
}

/// What the client says of its connection.
#[derive(Default)]
struct Life {
    /// It has given up: a new connection is needed.
    ended: AtomicBool,
    /// Its last complaint since it was connected.
    complaint: Mutex<Option<String>>,
}

impl Life {
    fn hear(&self, event: &async_nats::Event) {
        use async_nats::Event::{ClientError, Closed, Connected, ServerError};
        match event {
            Connected => *self.complaint.lock() = None,
            Closed | ClientError(async_nats::ClientError::MaxReconnects) => self.ended.store(true, Ordering::Relaxed),
            ServerError(_) | ClientError(_) => {
                tracing::warn!(%event, "the connection to NATS");
                *self.complaint.lock() = Some(event.to_string());
            }
            _ => tracing::debug!(%event, "the connection to NATS"),
        }
    }
}

/// A dead letter as it is kept.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Its number in the stream of dead letters.
    pub sequence: u64,
    /// Its headers: those of the event, and why it is here.
    pub headers: HeaderMap,
    /// The event's payload.
    pub payload: Bytes,
    /// When it was given up.
    pub time: String,
    /// The same, in milliseconds since the Unix epoch.
    pub time_ms: i64,
}

impl DeadLetter {
    /// A header's value, empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.as_str())
    }
}

/// Whether a header tells a server something, such as how long to keep a message.
fn is_servers(name: &str) -> bool {
    name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("Nats-"))
}

/// Whether a header is one that answerd gives to dead letters.
fn is_answerds(name: &str) -> bool {
    name.get(..ASIDE.len()).is_some_and(|start| start.eq_ignore_ascii_case(ASIDE))
}

/// Bytes of a header as it is sent, and as it is kept with a dead letter.
fn header_bytes(name: &HeaderName, values: &[HeaderValue]) -> usize {
    let name: &str = name.as_ref();
    values.iter().map(|value| ASIDE.len() + name.len() + value.as_str().len() + ": \r\n".len()).sum()
}

/// Whether all that matches `subject` matches `pattern` too.
fn covers(pattern: &str, subject: &str) -> bool {
    let mut subject = subject.split('.');
    for part in pattern.split('.') {
        match (part, subject.next()) {
            (">", Some(_)) => return true,
            ("*", Some(given)) if given != ">" => {}
            (part, Some(given)) if part == given => {}
            _ => return false,
        }
    }
    subject.next().is_none()
}

/// In words for the operator.
fn failed(doing: &str, error: impl std::fmt::Display) -> String {
    format!("cannot {doing}: {error}")
}

impl Bus {
    /// Connects. A connection that is lost is made again with the same credentials, a few times; then it has
    /// [`Bus::ended`], and a new one is to be made, which reads the credentials anew.
    ///
    /// # Errors
    /// In words for the operator: an address, a file or credentials that do not work.
    pub async fn connect(config: &NatsConfig) -> Result<Self, String> {
        let servers: Vec<async_nats::ServerAddr> = config
            .servers
            .split(',')
            .map(str::trim)
            .map(|server| {
                let no_address =
                    |error| format!("[nats] servers: {:?} is no address: {error}", without_credentials(server));
                server.parse().map_err(no_address)
            })
            .collect::<Result<_, _>>()?;
        let life = Arc::new(Life::default());
        let listener = Arc::clone(&life);
        let mut options = ConnectOptions::new()
            .name("answerd")
            .max_reconnects(RECONNECTS)
            .event_callback(move |event| {
                listener.hear(&event);
                std::future::ready(())
            })
            .connection_timeout(Duration::from_secs(5))
            .request_timeout(Some(Duration::from_secs(10)))
            .require_tls(config.tls_required);
        // The library takes none from an address, where they are written as often.
        let mut named = servers.iter().filter_map(|server| Some((server.username()?, server.password())));
        if !config.user.is_empty() {
            options = options.user_and_password(config.user.clone(), config.password.clone());
        } else if let Some((user, password)) = named.next() {
            let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            options = match password {
                Some(password) => options.user_and_password(plain(user), plain(password)),
                None => options.token(plain(user)),
            };
        }
        if !config.token.is_empty() {
            options = options.token(config.token.clone());
        }
        let given = |path: &std::path::Path| !path.as_os_str().is_empty();
        if given(&config.nkey_file) {
            let seed = std::fs::read_to_string(&config.nkey_file)
                .map_err(|error| failed(&format!("read the nkey {}", config.nkey_file.display()), error))?;
            options = options.nkey(seed.trim().to_owned());
        }
        if given(&config.credentials_file) {
            options = options.credentials_file(&config.credentials_file).await.map_err(|error| {
                failed(&format!("use the credentials {}", config.credentials_file.display()), error)
            })?;
        }
        if given(&config.tls_ca_file) {
            options = options.add_root_certificates(config.tls_ca_file.clone());
        }
        if given(&config.tls_certificate_file) {
            options = options.add_client_certificate(config.tls_certificate_file.clone(), config.tls_key_file.clone());
        }
        let client = options.connect(servers).await.map_err(|error| {
            let hint =
                if config.tls_required { " ([nats] tls_required is true: do the servers speak TLS?)" } else { "" };
            failed(&format!("connect to NATS at {}", without_credentials(&config.servers)), format!("{error}{hint}"))
        })?;
        Ok(Self { jetstream: jetstream::new(client.clone()), client, config: config.clone(), life })
    }

    /// Whether the connection stands now.
    pub fn connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Whether the connection is lost and will not be made again.
    pub fn ended(&self) -> bool {
        self.life.ended.load(Ordering::Relaxed)
    }

    /// Why the connection does not stand, if it does not; for the operator.
    pub fn trouble(&self) -> Option<String> {
        if self.connected() {
            return None;
        }
        let complaint = self.life.complaint.lock().clone();
        Some(match complaint {
            Some(complaint) => format!("the connection to NATS is lost ({complaint})"),
            None => "the connection to NATS is lost".to_owned(),
        })
    }

    /// The durable consumer of the events. Streams and consumer are made where they are missing, if the configuration
    /// says so. It belongs to the catalog `catalog_id`: what it has acknowledged is there and nowhere else.
    ///
    /// # Errors
    /// What is missing or cannot be made, in words for the operator; also where the consumer belongs to another catalog.
    pub async fn consumer(&self, catalog_id: &str) -> Result<Consumer<pull::Config>, String> {
        self.dead_letters().await?;
        let config = &self.config;
        let stream = self.stream(&config.stream, &config.subject).await?;
        let wanted = pull::Config {
            durable_name: Some(config.consumer.clone()),
            filter_subject: config.subject.clone(),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_secs(config.ack_wait_s),
            // Never given up by the server: what cannot be taken goes to the dead letters, with its reason.
            max_deliver: -1,
            max_ack_pending: (config.max_in_flight + FETCHING) as i64,
            metadata: HashMap::from([(CATALOG.to_owned(), catalog_id.to_owned())]),
            ..pull::Config::default()
        };
        let name = &config.consumer;
        let owner = match stream.consumer_info(name).await {
            Ok(mut known) => known.config.metadata.remove(CATALOG),
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => None,
            // Whose it is must be known before it is taken.
            Err(error) => return Err(failed(&format!("look at the consumer {name}"), error)),
        };
        if owner.is_some_and(|owner| owner != catalog_id) {
            return Err(format!(
                "the consumer {name} of the stream {} belongs to another data folder: the events it has acknowledged would \
                 be missing in this one. Give this one a consumer of its own in [nats] consumer, which begins with the \
                 first event; or, if that folder is gone for good, remove the consumer.",
                config.stream
            ));
        }
        let consumer: Consumer<pull::Config> = if config.create {
            // Settings that were changed are carried over; where it stands stays.
            let made = stream.create_consumer(wanted).await;
            made.map_err(|error| failed(&format!("make the consumer {name} of the stream {}", config.stream), error))?
        } else {
            let found = stream.get_consumer(name).await;
            found
                .map_err(|error| failed(&format!("find the consumer {name} of the stream {}", config.stream), error))?
        };
        let kept = &consumer.cached_info().config;
        if kept.ack_policy != AckPolicy::Explicit {
            return Err(format!(
                "the consumer {name} does not ask for explicit acknowledgement: documents would be lost"
            ));
        }
        if !kept.filter_subject.is_empty() && kept.filter_subject != config.subject {
            return Err(format!(
                "the consumer {name} takes {}, and [nats] subject is {}: set its filter_subject to the same",
                kept.filter_subject, config.subject
            ));
        }
        if kept.ack_wait < Duration::from_secs(config.ack_wait_s) {
            return Err(format!(
                "the consumer {name} waits {} s for an acknowledgement, and [nats] ack_wait_s is {}: every event that takes \
                 longer would be delivered again and again. Set both to the same.",
                kept.ack_wait.as_secs(),
                config.ack_wait_s
            ));
        }
        if kept.max_deliver > 0 {
            return Err(format!(
                "the consumer {name} gives an event up after {} deliveries: documents could be lost. Set its max_deliver to -1.",
                kept.max_deliver
            ));
        }
        Ok(consumer)
    }

    async fn stream(&self, name: &str, subject: &str) -> Result<Stream, String> {
        if let Ok(stream) = self.jetstream.get_stream(name).await {
            let subjects = &stream.cached_info().config.subjects;
            if !subjects.iter().any(|pattern| covers(pattern, subject)) {
                return Err(format!("the stream {name} takes {}, and not {subject}: add it", subjects.join(", ")));
            }
            return Ok(stream);
        }
        if !self.config.create {
            return Err(format!("there is no stream {name}, and [nats] create = false says not to make one"));
        }
        self.jetstream
            .get_or_create_stream(stream::Config {
                name: name.to_owned(),
                subjects: vec![subject.to_owned()],
                discard: DiscardPolicy::New,
                ..stream::Config::default()
            })
            .await
            .map_err(|error| failed(&format!("make the stream {name}"), error))
    }

    async fn dead_letters(&self) -> Result<Stream, String> {
        self.stream(&self.config.dead_letters, &format!("{DEAD_LETTER_PREFIX}.>")).await
    }

    /// Publishes a message and waits until a stream has stored it. Messages with the same `key` within the stream's
    /// duplicate window are stored once; says whether this one was.
    ///
    /// # Errors
    /// In words for the operator.
    pub async fn publish(
        &self,
        subject: &str,
        mut headers: HeaderMap,
        payload: Bytes,
        key: &str,
    ) -> Result<bool, String> {
        headers.insert(NATS_MESSAGE_ID, key);
        let stored = self.jetstream.publish_with_headers(subject.to_owned(), headers, payload).await;
        let stored = stored.map_err(|error| failed(&format!("publish on {subject}"), error))?;
        stored.await.map_err(|error| failed(&format!("publish on {subject}"), error)).map(|stored| !stored.duplicate)
    }

    /// Gives an event to the dead letters; says whether it was not there already.
    ///
    /// # Errors
    /// In words for the operator.
    pub async fn bury(
        &self,
        collection: &str,
        headers: &HeaderMap,
        mut payload: Bytes,
        (subject, reason, attempts): (&str, &str, i64),
        key: &str,
    ) -> Result<bool, String> {
        // A header cannot hold line breaks.
        let mut reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if reason.len() > MAX_REASON_BYTES {
            reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
            reason.push('…');
        }
        let mut kept = HeaderMap::new();
        let attempts = attempts.to_string();
        for (name, value) in [(REASON, reason.as_str()), (ATTEMPTS, &attempts), (SUBJECT, subject)] {
            kept.insert(name, value);
        }
        let mut size: usize = kept.iter().map(|(name, values)| header_bytes(name, values)).sum();
        // The reason is worth more than what there is no room for beside it.
        let mut left_out = 0;
        let mut given: Vec<_> = headers.iter().filter(|(name, _)| !is_answerds(name.as_ref())).collect();
        given.sort_by_key(|(name, values)| header_bytes(name, values));
        for (name, values) in given {
            let bytes = header_bytes(name, values);
            if size + bytes > MAX_HEADERS_BYTES {
                left_out += bytes;
                continue;
            }
            size += bytes;
            // What some of them mean to a server was meant for the first stream.
            let plain: &str = name.as_ref();
            let name = if is_servers(plain) { format!("{ASIDE}{plain}") } else { plain.to_owned() };
            values.iter().for_each(|value| kept.append(name.as_str(), value.clone()));
        }
        if !self.fits(payload.len() + size) {
            left_out += payload.len();
            payload = Bytes::new();
        }
        if left_out > 0 {
            kept.insert(LEFT_OUT, left_out.to_string().as_str());
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let collection = if !collection.is_empty() && collection.chars().all(allowed) { collection } else { "unknown" };
        self.publish(&format!("{DEAD_LETTER_PREFIX}.{collection}"), kept, payload, key).await
    }

    /// The dead letters in order, from a number on, at most so many.
    ///
    /// # Errors
    /// In words for the operator.
    pub async fn buried(&self, from: u64, most: usize) -> Result<Vec<DeadLetter>, String> {
        let mut stream = self.dead_letters().await?;
        let state =
            stream.info().await.map_err(|error| failed("read the stream of dead letters", error))?.state.clone();
        let mut letters = Vec::new();
        for sequence in from.max(state.first_sequence)..=state.last_sequence {
            if letters.len() == most || state.messages == 0 {
                break;
            }
            if let Some(letter) = self.letter(&stream, sequence).await? {
                letters.push(letter);
            }
        }
        Ok(letters)
    }

    /// One dead letter.
    ///
    /// # Errors
    /// In words for the operator; also where there is none of this number.
    pub async fn dead_letter(&self, sequence: u64) -> Result<DeadLetter, String> {
        self.find_dead_letter(sequence).await?.ok_or_else(|| format!("there is no dead letter {sequence}"))
    }

    /// The same; none where there is none of this number.
    ///
    /// # Errors
    /// In words for the operator.
    pub async fn find_dead_letter(&self, sequence: u64) -> Result<Option<DeadLetter>, String> {
        let stream = self.dead_letters().await?;
        self.letter(&stream, sequence).await
    }

    async fn letter(&self, stream: &Stream, sequence: u64) -> Result<Option<DeadLetter>, String> {
        use async_nats::jetstream::stream::RawMessageErrorKind;
        match stream.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(DeadLetter {
                sequence,
                headers: message.headers,
                payload: message.payload,
                time: message.time.to_string(),
                time_ms: (message.time.unix_timestamp_nanos() / 1_000_000) as i64,
            })),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(failed(&format!("read the dead letter {sequence}"), error)),
        }
    }

    /// How many dead letters there are.
    ///
    /// # Errors
    /// In words for the operator.
    pub async fn buried_count(&self) -> Result<u64, String> {
        let mut stream = self.dead_letters().await?;
        let info = stream.info().await.map_err(|error| failed("read the stream of dead letters", error))?;
        Ok(info.state.messages)
    }

    /// Publishes a dead letter once more on the subject it came from, and removes it from the dead letters.
    ///
    /// # Errors
    /// In words for the operator.
    pub async fn retry(&self, letter: DeadLetter) -> Result<(), String> {
        let subject = letter.header(SUBJECT).to_owned();
        if !letter.header(LEFT_OUT).is_empty() {
            return Err(format!(
                "the dead letter {} is without {} bytes of its headers and its content, for which there was no room beside \
                 the reason: publish the document itself again",
                letter.sequence,
                letter.header(LEFT_OUT)
            ));
        }
        let mut headers = HeaderMap::new();
        for (name, values) in letter.headers.iter() {
            let plain: &str = name.as_ref();
            if !is_answerds(plain) && !is_servers(plain) {
                values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
            }
        }
        headers.insert(RETRY, "1");
        let key = format!("retry-{}-{}", letter.sequence, letter.time);
        self.publish(&subject, headers, letter.payload, &key).await?;
        self.discard(letter.sequence).await
    }

    /// Removes a dead letter for good.
    ///
    /// # Errors
    /// In words for the operator.
    pub async fn discard(&self, sequence: u64) -> Result<(), String> {
        let removed = self.dead_letters().await?.delete_message(sequence).await;
        removed.map(drop).map_err(|error| failed(&format!("remove the dead letter {sequence}"), error))
    }

    /// The largest payload that the servers take, in bytes.
    pub fn max_payload(&self) -> usize {
        self.client.server_info().max_payload
    }

    /// Whether content of so many bytes can go into an event, or is too large for the servers.
    pub fn fits(&self, bytes: usize) -> bool {
        bytes + MESSAGE_MARGIN <= self.max_payload()
    }

    /// Puts content into the object store, in the place of what was there under this name, and returns the `dataref` of
    /// it. The bucket is made where it is missing.
    ///
    /// # Errors
    /// In words for the operator.
    pub async fn put_object(&self, name: &str, mut content: &[u8]) -> Result<String, String> {
        let doing = format!("put {name} into the bucket {DOCUMENTS_BUCKET}");
        let store = match self.jetstream.get_object_store(DOCUMENTS_BUCKET).await {
            Ok(store) => store,
            Err(_) => {
                let bucket =
                    object_store::Config { bucket: DOCUMENTS_BUCKET.to_owned(), ..object_store::Config::default() };
                self.jetstream.create_object_store(bucket).await.map_err(|error| failed(&doing, error))?
            }
        };
        store.put(name, &mut content).await.map_err(|error| failed(&doing, error))?;
        Ok(format!("{OBJECT_SCHEME}{DOCUMENTS_BUCKET}/{name}"))
    }

    /// Opens an object of the object store, to be read.
    ///
    /// # Errors
    /// [`DatarefError`]
    pub async fn object(&self, bucket: &str, name: &str) -> Result<Object, DatarefError> {
        let transient =
            |error: String| DatarefError::Unavailable(failed(&format!("read the object {bucket}/{name}"), error));
        let store = match self.jetstream.get_object_store(bucket).await {
            Ok(store) => store,
            // Absent and unreachable look alike here: the connection tells them apart.
            Err(error) if self.connected() && self.jetstream.query_account().await.is_ok() => {
                return Err(DatarefError::Refused(format!("there is no bucket {bucket}: {error}")));
            }
            Err(error) => return Err(transient(error.to_string())),
        };
        store.get(name).await.map_err(|error| match error.kind() {
            GetErrorKind::NotFound => {
                DatarefError::Refused(format!("there is no object {name} in the bucket {bucket}"))
            }
            GetErrorKind::InvalidName | GetErrorKind::BucketLink => {
                DatarefError::Refused(format!("the object {bucket}/{name} cannot be read: {error}"))
            }
            _ => transient(error.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_takes_a_subject_that_one_of_its_patterns_covers() {
        for (pattern, subject, wanted) in [
            ("documents.>", "documents.>", true),
            (">", "documents.>", true),
            ("documents.*.upserted", "documents.wiki.upserted", true),
            ("documents.*", "documents.>", false),
            ("documents.wiki.>", "documents.>", false),
            ("documents", "documents.>", false),
            ("documents.a", "documents.a", true),
            ("documents.a.b", "documents.a", false),
        ] {
            assert_eq!(covers(pattern, subject), wanted, "{pattern} {subject}");
        }
    }
}
