//! The settings in effect, as they may be shown: without secrets.

use serde_json::Value;

use super::Config;

/// The names of settings that are secrets.
const SECRET: [&str; 3] = ["password", "token", "api_key"];
/// The names of settings that are addresses, with or without a scheme.
const ADDRESSES: [&str; 2] = ["url", "servers"];
/// What stands for one.
const HIDDEN: &str = "***";

impl Config {
    /// All settings, secrets hidden.
    pub fn shown(&self) -> Value {
        let mut shown = serde_json::to_value(self).unwrap_or_default();
        hide(&mut shown);
        shown
    }
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(members) => members.iter_mut().for_each(|(name, value)| match value {
            Value::String(text) if is_secret(name) && !text.is_empty() => *text = HIDDEN.to_owned(),
            Value::String(text) if ADDRESSES.contains(&name.as_str()) => *text = without_credentials(text),
            value => hide(value),
        }),
        Value::Array(values) => values.iter_mut().for_each(hide),
        Value::String(text) if text.contains("://") => *text = without_credentials(text),
        _ => {}
    }
}

/// Whether a setting of this name is a secret.
pub(super) fn is_secret(name: &str) -> bool {
    SECRET.contains(&name)
}

/// Addresses, of which several may stand with commas between, without user names, passwords and queries: all of them can
/// be a secret. Of what is no address nothing is shown.
pub fn without_credentials(addresses: &str) -> String {
    if !addresses.contains("://") {
        return if addresses.contains(['@', '=']) { HIDDEN.to_owned() } else { addresses.to_owned() };
    }
    let mut pieces = addresses.split("://");
    let scheme = pieces.next().unwrap_or_default().to_owned();
    let shown = pieces.map(|piece| {
        // A password may have a comma.
        let piece = piece.rsplit_once('@').map_or(piece.to_owned(), |(_, place)| format!("{HIDDEN}@{place}"));
        piece.split_once('?').map_or(piece.clone(), |(place, _)| format!("{place}?{HIDDEN}"))
    });
    std::iter::once(scheme).chain(shown).collect::<Vec<_>>().join("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let mut config = Config::default();
        config.nats.password = "s3cret".into();
        config.nats.servers = "nats://ann:s3cret@one:4222,two:4222".into();
        config.postgres.url = "postgres://ann:s3cret@db:5432/answerd?password=s3cret".into();
        config.redis.url = "redis://:s3cret@cache:6379/0".into();
        config.qdrant.api_key = "s3cret".into();
        let shown = config.shown();
        assert!(!shown.to_string().contains("s3cret"), "{shown}");
        assert_eq!(shown["nats"]["servers"], "nats://***@one:4222,two:4222");
        assert_eq!(shown["postgres"]["url"], "postgres://***@db:5432/answerd?***");
        for (address, wanted) in [
            ("host=db user=ann password=s3cret", "***"),
            ("postgres://ann:s3,cret@db/x", "postgres://***@db/x"),
            ("ann:s3cret@host:4222", "***"),
            ("nats://a:s3cret@one,nats://b:s3cret@two", "nats://***@one,nats://***@two"),
            ("one:4222,two:4222", "one:4222,two:4222"),
        ] {
            assert_eq!(without_credentials(address), wanted);
        }
        assert_eq!((&shown["nats"]["password"], &shown["nats"]["token"]), (&HIDDEN.into(), &"".into()));
    }
}
