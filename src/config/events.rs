//! The settings of `[nats]` and `[fetch]`: where document events and their contents come from.

use std::path::PathBuf;

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::settings::MIB;

/// `[nats]`: document events from NATS JetStream.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct NatsConfig {
    /// Addresses of the servers, with commas between them, such as `nats://nats:4222` or `tls://...`; empty: no events
    /// by NATS.
    #[garde(length(max = 4096))]
    pub servers: String,
    /// The stream that holds the events.
    #[garde(custom(nats_name))]
    pub stream: String,
    /// The subjects it takes.
    #[garde(custom(nats_subject))]
    pub subject: String,
    /// The durable consumer. It belongs to one data folder.
    #[garde(custom(nats_name))]
    pub consumer: String,
    /// The stream of the events that were given up; they come on `answerd.dlq.<collection>`.
    #[garde(custom(nats_name))]
    pub dead_letters: String,
    /// Make the streams and the consumer where they are missing; otherwise they must be there.
    #[garde(skip)]
    pub create: bool,
    /// Events worked on at once.
    #[garde(range(min = 1, max = 10_000))]
    pub max_in_flight: usize,
    /// Bytes of the events worked on at once; no more are pulled from there on.
    #[garde(range(min = MIB, max = 65_536 * MIB))]
    pub max_in_flight_bytes: usize,
    /// An event that was not acknowledged for so long, in seconds, is delivered again; work on one is announced three
    /// times as often.
    #[garde(range(min = 2, max = 3600))]
    pub ack_wait_s: u64,
    /// User, with `password`.
    #[garde(skip)]
    pub user: String,
    /// Password of the user; better given by the environment.
    #[garde(skip)]
    pub password: String,
    /// Token, instead of a user; better given by the environment.
    #[garde(skip)]
    pub token: String,
    /// File with an nkey seed.
    #[garde(skip)]
    pub nkey_file: PathBuf,
    /// File with credentials (JWT and seed, `.creds`).
    #[garde(skip)]
    pub credentials_file: PathBuf,
    /// File with the certificate of the authority that signed the servers' (PEM); without it, those of the system count.
    #[garde(skip)]
    pub tls_ca_file: PathBuf,
    /// File with this client's certificate (PEM), where the servers ask for one.
    #[garde(skip)]
    pub tls_certificate_file: PathBuf,
    /// File with its key (PEM).
    #[garde(skip)]
    pub tls_key_file: PathBuf,
    /// Refuse servers without TLS.
    #[garde(skip)]
    pub tls_required: bool,
}

impl std::fmt::Debug for NatsConfig {
    /// Without its secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsConfig")
            .field("servers", &self.servers)
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            servers: String::new(),
            stream: "DOCUMENTS".into(),
            subject: "documents.>".into(),
            consumer: "answerd".into(),
            dead_letters: "ANSWERD_DLQ".into(),
            create: true,
            max_in_flight: 64,
            max_in_flight_bytes: 64 * MIB,
            ack_wait_s: 30,
            user: String::new(),
            password: String::new(),
            token: String::new(),
            nkey_file: PathBuf::new(),
            credentials_file: PathBuf::new(),
            tls_ca_file: PathBuf::new(),
            tls_certificate_file: PathBuf::new(),
            tls_key_file: PathBuf::new(),
            tls_required: false,
        }
    }
}

/// The bucket that `answerd publish` puts documents into that are larger than a message may be.
pub const DOCUMENTS_BUCKET: &str = "answerd-documents";

/// `[fetch]`: the content of documents that is not in their events, but at an HTTP(S) address of the service that owns
/// them (`dataref`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct FetchConfig {
    /// Hosts that may be called, with commas between them, such as `wiki.example.com, *.files.example.com, box:8443`;
    /// an entry without a port means 80 for http and 443 for https. None: no address is followed.
    #[garde(length(max = 16_384), custom(host_list))]
    pub hosts: String,
    /// Call these hosts also where they stand for addresses of this machine or of a private network.
    #[garde(skip)]
    pub allow_private: bool,
    /// Buckets of the NATS object store that documents may be in, with commas between them.
    #[garde(length(max = 16_384))]
    pub buckets: String,
    /// Time for one document, in seconds; then it is tried again.
    #[garde(range(min = 1, max = 3600))]
    pub timeout_s: u64,
    /// Documents fetched from one host at once.
    #[garde(range(min = 1, max = 10_000))]
    pub concurrency: usize,
    /// File with certificates of authorities to trust beside those of the system (PEM).
    #[garde(skip)]
    pub tls_ca_file: PathBuf,
}

impl FetchConfig {
    /// The entries of `hosts`.
    pub fn hosts(&self) -> Vec<String> {
        self.hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).map(str::to_owned).collect()
    }

    /// Whether documents may be in this bucket.
    pub fn allows_bucket(&self, bucket: &str) -> bool {
        self.buckets.split(',').any(|known| known.trim() == bucket)
    }
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            hosts: String::new(),
            allow_private: false,
            buckets: DOCUMENTS_BUCKET.to_owned(),
            timeout_s: 30,
            concurrency: 8,
            tls_ca_file: PathBuf::new(),
        }
    }
}

fn host_list(hosts: &str, _: &()) -> garde::Result {
    let wrong = |host: &&str| {
        host.contains('/') || host.contains(char::is_whitespace) || host.trim_start_matches("*.").contains('*')
    };
    match hosts.split(',').map(str::trim).find(wrong) {
        Some(host) => Err(garde::Error::new(format!(
            "{host:?} is no host: it must be like wiki.example.com, *.example.com or wiki.example.com:8443"
        ))),
        None => Ok(()),
    }
}

fn nats_name(name: &str, _: &()) -> garde::Result {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
        return Err(garde::Error::new("must have 1 to 64 of the characters A-Z a-z 0-9 _ -"));
    }
    Ok(())
}

fn nats_subject(subject: &str, _: &()) -> garde::Result {
    if subject.is_empty() || subject.split('.').any(str::is_empty) || subject.contains(char::is_whitespace) {
        return Err(garde::Error::new("must be words with dots between them, such as documents.>"));
    }
    Ok(())
}
