//! Which addresses may be called: those of hosts that the configuration allows, and of no network that it does not. Pure;
//! [`super`] asks here for each address, each redirect, and each address that a name stands for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use crate::config::FetchConfig;

/// An address for people to read: without its query, which may be what gives permission to read it.
pub fn shown(address: &str) -> &str {
    address.split(['?', '#']).next().unwrap_or_default()
}

/// What must not be called, with the reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Forbidden(pub String);

/// Whom the configuration allows to be called.
#[derive(Clone)]
pub struct Rules {
    /// Hosts as [`Url`] writes them, or `*.` and a domain; and their ports where not the scheme's own.
    hosts: Vec<(String, Option<u16>)>,
    allow_private: bool,
}

impl Rules {
    /// The rules of `[fetch]`.
    pub fn of(config: &FetchConfig) -> Self {
        let hosts = config.hosts();
        let hosts = hosts.iter().map(|entry| {
            let (host, port) = split_port(entry);
            let written = Host::parse(host).map_or_else(|_| host.to_ascii_lowercase(), |host| host.to_string());
            (written, port)
        });
        Self { hosts: hosts.collect(), allow_private: config.allow_private }
    }

    /// Checks all of an address but what its name stands for.
    ///
    /// # Errors
    /// [`Forbidden`]
    pub fn check(&self, url: &Url) -> Result<(), Forbidden> {
        let forbidden = |reason: String| Err(Forbidden(reason));
        if !matches!(url.scheme(), "http" | "https") {
            return forbidden(format!("{} is neither https:// nor http://", shown(url.as_str())));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return forbidden("its `dataref` holds a user or a password: an event is no place for them".to_owned());
        }
        let Some(host) = url.host() else { return forbidden(format!("{} names no host", shown(url.as_str()))) };
        let name = host.to_string();
        let name = name.trim_end_matches('.');
        let allowed = self.hosts.iter().any(|(entry, port)| {
            let port_fits = port.map_or(url.port().is_none(), |port| url.port_or_known_default() == Some(port));
            let host_fits = match entry.strip_prefix("*.") {
                Some(domain) => name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
                None => name == entry,
            };
            port_fits && host_fits
        });
        if !allowed {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            return forbidden(format!("the host {name}{port} is not among [fetch] hosts"));
        }
        match host {
            Host::Domain(_) => Ok(()),
            Host::Ipv4(address) => self.check_address(name, address.into()),
            Host::Ipv6(address) => self.check_address(name, address.into()),
        }
    }

    /// Checks what a name stands for.
    ///
    /// # Errors
    /// [`Forbidden`]
    pub fn check_address(&self, host: &str, address: IpAddr) -> Result<(), Forbidden> {
        match reach(address) {
            Reach::Public => Ok(()),
            Reach::Private if self.allow_private => Ok(()),
            Reach::Private => Err(Forbidden(format!(
                "{host} is {address}, an address of a private network ([fetch] allow_private is false)"
            ))),
            Reach::Never => Err(Forbidden(format!("{host} is {address}, an address at which no document can be"))),
        }
    }
}

/// An entry of `[fetch] hosts` in its host and its port.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    }
}

/// Who is behind an address.
#[derive(Debug, PartialEq, Eq)]
enum Reach {
    /// The internet.
    Public,
    /// This machine, or a network of the organisation.
    Private,
    /// Nobody who could own a document; among them 169.254.169.254, where clouds hand out the machine's credentials.
    Never,
}

/// After the IANA special-purpose address registries (RFC 6890 and its updates).
fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (10 | 127, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) => Reach::Private,
        (0 | 224..=255, ..) | (169, 254, _) | (192, 0, 0 | 2) | (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => {
            Reach::Never
        }
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    let embedded = |high: u16, low: u16| reach_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Private,
        // IPv4 in IPv6: mapped, translated (RFC 6052), 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            embedded(high, low)
        }
        [0xfc00..=0xfdff, ..] => Reach::Private,
        [0x2001, 0xdb8, ..] => Reach::Never,
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Never,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(hosts: &str, allow_private: bool, url: &str) -> Result<(), String> {
        let config = FetchConfig { hosts: hosts.to_owned(), allow_private, ..FetchConfig::default() };
        Rules::of(&config).check(&Url::parse(url).unwrap()).map_err(|error| error.0)
    }

    #[test]
    fn only_hosts_that_are_named_are_called() {
        let hosts = "wiki.example.com, *.files.example.com , 8.8.8.8, box:8443, [2606:4700::1]:81";
        for good in [
            "https://wiki.example.com/a?b=c",
            "http://WIKI.example.com./a",
            "https://wiki.example.com:443/",
            "https://a.b.files.example.com/",
            "http://8.8.8.8/",
            "https://box:8443/x",
            "http://[2606:4700::1]:81/",
        ] {
            assert_eq!(check(hosts, false, good), Ok(()), "{good}");
        }
        for bad in [
            "https://example.com/",
            "https://evilwiki.example.com/",
            "https://wiki.example.com.evil.org/",
            "https://wiki.example.com:8443/",
            "https://files.example.com/",
            "https://evilfiles.example.com/",
            "http://134744072.example/",
            "https://box/x",
            "http://[2606:4700::1]/",
        ] {
            assert!(check(hosts, true, bad).unwrap_err().contains("[fetch] hosts"), "{bad}");
        }
        assert!(check("", true, "https://wiki.example.com/").is_err());
        assert!(check("h", true, "https://user:secret@h/").unwrap_err().contains("password"));
        assert!(check("h", true, "ftp://h/").unwrap_err().contains("https"));
    }

    #[test]
    fn addresses_in_whatever_spelling_are_told_apart() {
        let private = ["127.0.0.1", "0x7f.1", "2130706433", "10.1.2.3", "172.31.0.1", "192.168.1.1", "100.64.0.1"];
        let private_v6 = ["[::1]", "[::ffff:10.0.0.1]", "[fd00::1]", "[64:ff9b::7f00:1]", "[2002:c0a8:1::]"];
        for host in private.into_iter().chain(private_v6) {
            let url = Url::parse(&format!("http://{host}/")).unwrap();
            let named = url.host_str().unwrap().to_owned();
            assert!(check(&named, false, url.as_str()).unwrap_err().contains("private network"), "{host}");
            assert_eq!(check(&named, true, url.as_str()), Ok(()), "{host}");
        }
        for host in ["169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255", "[fe80::1]", "[::]", "[ff02::1]"] {
            let url = Url::parse(&format!("http://{host}/")).unwrap();
            let named = url.host_str().unwrap().to_owned();
            assert!(check(&named, true, url.as_str()).is_err(), "{host}");
        }
    }

    proptest! {
        #[test]
        fn an_ipv4_address_within_ipv6_reaches_as_far_as_by_itself(bits: u32) {
            let address = Ipv4Addr::from(bits);
            prop_assert_eq!(reach(address.into()), reach(address.to_ipv6_mapped().into()));
            // The standard library knows some of the ranges.
            if address.is_private() || address.is_loopback() {
                prop_assert_eq!(reach(address.into()), Reach::Private);
            }
            if address.is_link_local() || address.is_multicast() || address.is_broadcast() || address.is_documentation() {
                prop_assert_eq!(reach(address.into()), Reach::Never);
            }
        }
    }
}
