//! `answerd keys`: API keys are made, listed and revoked where they are kept, whether a service runs or not.

use std::sync::Arc;
use std::time::Duration;

use crate::actors::stats::now_ms;
use crate::config::Config;
use crate::identity::Scope;
use crate::identity::key::{KeyRecord, NewKey};
use crate::identity::keyring::Keyring;
use crate::stores::records;

/// What to do with API keys.
#[derive(clap::Subcommand)]
pub enum Keys {
    /// Make a key and print it. It is shown this once: only a hash of it is kept.
    Create {
        /// For whom or what it is.
        name: String,
        /// What its holder may do.
        #[arg(long, value_delimiter = ',', default_value = "ask")]
        scopes: Vec<Scope>,
        /// The groups of its holder: it sees the documents that are for one of them.
        #[arg(long, value_delimiter = ',')]
        groups: Vec<String>,
        /// Its holder sees every document.
        #[arg(long)]
        sees_all: bool,
        /// It is in force for so many days; without it, until it is revoked.
        #[arg(long)]
        days: Option<u32>,
    },
    /// List them, the oldest first: id, scopes, groups, state, name.
    List,
    /// Take a key out of force, within a few seconds in every replica.
    Revoke {
        /// Its id, as `list` shows it.
        id: String,
    },
}

/// Runs one of them.
pub async fn run(config: Config, what: Keys) -> Result<(), String> {
    let keyring = Keyring::new(records::open(&Arc::new(config))?);
    match what {
        Keys::Create { name, scopes, groups, sees_all, days } => {
            let day = Duration::from_secs(24 * 3600).as_millis() as u64;
            let new = NewKey {
                name,
                scopes: scopes.into_iter().collect(),
                groups: groups.into_iter().collect(),
                sees_all,
                expires_ms: days.map(|days| now_ms() + u64::from(days) * day),
            };
            let (record, key) = keyring.create(new, "command line").await.map_err(|error| error.to_string())?;
            eprintln!("made the key {} for {}; it is shown this once:", record.key.id, record.key.name);
            println!("{key}");
        }
        Keys::List => {
            let keys = keyring.list().await.map_err(|error| error.to_string())?;
            if keys.is_empty() {
                println!("no API keys");
            }
            for record in keys {
                let key = &record.key;
                let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.name()).collect();
                let groups = match (key.sees_all, key.groups.is_empty()) {
                    (true, _) => "sees everything".to_owned(),
                    (false, true) => "no groups".to_owned(),
                    (false, false) => key.groups.iter().cloned().collect::<Vec<_>>().join(","),
                };
                let state =
                    record.out_of_force(now_ms()).map_or("in force", |why| why.trim_start_matches("the API key "));
                println!("{}  {}  {groups}  {state}  {}", key.id, scopes.join(","), key.name);
            }
        }
        Keys::Revoke { id } => match keyring.revoke(&id, "command line").await.map_err(|error| error.to_string())? {
            Some(KeyRecord { key, .. }) => println!("the key {} of {} is revoked", key.id, key.name),
            None => return Err(format!("there is no API key {id}; `answerd keys list` shows them")),
        },
    }
    Ok(())
}
