//! Which addresses an event may make the service call.
//!
//! Input: `[fetch] hosts` on the first line, with a `!` before it private networks are allowed; then the address.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use answerd_fuzz::config::FetchConfig;
use answerd_fuzz::harness::first_line;
use answerd_fuzz::stores::dataref::rules::{Rules, shown};
use libfuzzer_sys::{Corpus, fuzz_target};
use url::{Host, Url};

fuzz_target!(|input: &[u8]| -> Corpus {
    let (hosts, address) = first_line(input);
    let (hosts, address) = (String::from_utf8_lossy(hosts), String::from_utf8_lossy(address));
    let (hosts, allow_private) = hosts.strip_prefix('!').map_or((&*hosts, false), |hosts| (hosts, true));
    let Ok(url) = Url::parse(&address) else { return Corpus::Reject };
    let config = FetchConfig { hosts: hosts.to_owned(), allow_private, ..FetchConfig::default() };
    assert!(!shown(url.as_str()).contains(['?', '#']));
    if let Err(error) = Rules::of(&config).check(&url) {
        let mut other = url.clone();
        // Without one, spaces at the end of the path would go as well.
        if url.query().is_some() {
            other.set_query(Some("another"));
        }
        let said = Rules::of(&config).check(&other).map_err(|error| error.to_string());
        assert_eq!(said, Err(error.to_string()), "the query of {url} is in the error");
        return Corpus::Keep;
    }
    assert!(["http", "https"].contains(&url.scheme()), "{url}");
    assert!(url.username().is_empty() && url.password().is_none(), "{url}");
    let host = url.host().expect("a host");
    assert!(config.hosts().iter().any(|entry| names(entry, &url, &host)), "{url} with {hosts:?}");
    let address = match host {
        Host::Domain(_) => return Corpus::Keep,
        Host::Ipv4(address) => address,
        Host::Ipv6(address) => match address.to_ipv4_mapped() {
            Some(address) => address,
            None => {
                let private = address.is_loopback() || address.is_unique_local();
                let never = address.is_unspecified() || address.is_multicast() || address.is_unicast_link_local();
                assert!(!never && (allow_private || !private), "{url}");
                return Corpus::Keep;
            }
        },
    };
    assert!(is_allowed(address, allow_private), "{}", IpAddr::from(address));
    Corpus::Keep
});

/// Whether an entry of the hosts names this one, by way of an address with the entry as its host.
fn names(entry: &str, url: &Url, host: &Host<&str>) -> bool {
    let called = host.to_string();
    let called = called.trim_end_matches('.');
    let (wildcard, place) = entry.strip_prefix("*.").map_or((false, entry), |domain| (true, domain));
    let place = match Url::parse(&format!("{}://{place}/", url.scheme())) {
        Ok(place) => place,
        // Written as no address could be: it can name only what is the same to the letter.
        Err(_) => return called.eq_ignore_ascii_case(place) || (wildcard && called.ends_with(&format!(".{place}"))),
    };
    let named = place.host_str().unwrap_or_default().trim_end_matches('.');
    let same_host = if wildcard { called.ends_with(&format!(".{named}")) } else { called == named };
    same_host && place.port_or_known_default() == url.port_or_known_default()
}

fn is_allowed(address: Ipv4Addr, allow_private: bool) -> bool {
    let private = address.is_private() || address.is_loopback();
    let never = address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || address.octets()[0] == 0;
    !never && (allow_private || !private)
}
