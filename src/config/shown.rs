//! The settings in effect, as they may be shown: without secrets.

use serde_json::Value;

use super::Config;

/// The names of settings that are secrets.
const SECRET: [&str; 3] = ["password", "token", "api_key"];
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
            Value::String(text) if SECRET.contains(&name.as_str()) && !text.is_empty() => *text = HIDDEN.to_owned(),
            value => hide(value),
        }),
        Value::Array(values) => values.iter_mut().for_each(hide),
        Value::String(text) if text.contains("://") => *text = without_credentials(text),
        _ => {}
    }
}

/// Addresses, of which several may stand with commas between, without user names, passwords and queries: all of them can
/// be a secret.
fn without_credentials(addresses: &str) -> String {
    let one = |address: &str| {
        let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, place) = rest.split_at(end);
        let host = match authority.rsplit_once('@') {
            Some((_, host)) => format!("{HIDDEN}@{host}"),
            None => authority.to_owned(),
        };
        let place = match place.split_once('?') {
            Some((place, _)) => format!("{place}?{HIDDEN}"),
            None => place.to_owned(),
        };
        if scheme.is_empty() { format!("{host}{place}") } else { format!("{scheme}://{host}{place}") }
    };
    addresses.split(',').map(one).collect::<Vec<_>>().join(",")
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
        assert_eq!((&shown["nats"]["password"], &shown["nats"]["token"]), (&HIDDEN.into(), &"".into()));
    }
}
