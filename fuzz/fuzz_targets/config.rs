//! Settings: a file, and variables of the environment.
//!
//! Input: variables, `ANSWERD__SECTION__KEY=value` a line; from the first line that is none on the file.
#![no_main]

use answerd_fuzz::config::{Config, VARIABLE_PREFIX};
use answerd_fuzz::harness::{first_line, with_file};
use libfuzzer_sys::fuzz_target;
use url::Url;

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let mut variables = Vec::new();
    while rest.starts_with(VARIABLE_PREFIX.as_bytes()) {
        let (line, after) = first_line(rest);
        let line = String::from_utf8_lossy(line);
        let (name, value) = line.split_once('=').unwrap_or((&line, ""));
        variables.push((name.to_owned(), value.to_owned()));
        rest = after;
    }
    match with_file(rest, |path| Config::load_with(Some(&path), variables)) {
        Ok(config) => {
            let written = toml::to_string(&config).expect("settings are TOML");
            let again = with_file(written.as_bytes(), |path| Config::load_with(Some(&path), []));
            assert_eq!(again.as_ref(), Ok(&config), "read again from {written}");
            check_secrets(config);
        }
        Err(errors) => {
            assert!(!errors.0.is_empty());
            assert!(!errors.to_string().contains("panicked"));
            assert!(errors.0.iter().all(|error| !error.message.is_empty()), "{errors}");
        }
    }
});

/// Settings are shown as they would be with other secrets.
fn check_secrets(config: Config) {
    let shown = config.shown();
    let mut other = config;
    for secret in [&mut other.nats.password, &mut other.nats.token] {
        if !secret.is_empty() {
            *secret = "another".to_owned();
        }
    }
    for address in [&mut other.postgres.url, &mut other.redis.url, &mut other.qdrant.url] {
        if let Ok(mut url) = Url::parse(address)
            && url.password().is_some()
            && url.as_str() == address
        {
            let _ = url.set_password(Some("another"));
            *address = url.into();
        }
    }
    assert_eq!(other.shown(), shown);
}
