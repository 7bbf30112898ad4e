//! HTTP to others: how a client of ours is made, with TLS.

use std::path::Path;

use reqwest::{Certificate, Client, ClientBuilder};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Makes ring the cryptography of the process: of the two that dependencies bring, none is the default by itself.
pub fn use_ring() {
    // A second time it is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A client builder that trusts the certificate authorities of the system and, where one is given, those in the file
/// `ca_file` (PEM). Cryptography is ring's, as in the connection to NATS.
///
/// # Errors
/// In words for the operator: a file that cannot be read, or holds no certificate.
pub fn client_builder(ca_file: Option<&Path>) -> Result<ClientBuilder, String> {
    use_ring();
    let trusted = authorities(ca_file)?;
    Ok(Client::builder().tls_certs_only(trusted.iter().filter_map(|der| Certificate::from_der(der).ok())))
}

/// The same authorities, for connections that are not HTTP.
///
/// # Errors
/// In words for the operator: a file that cannot be read, or holds no certificate.
pub fn root_certificates(ca_file: Option<&Path>) -> Result<rustls::RootCertStore, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(authorities(ca_file)?);
    Ok(roots)
}

/// Those of the system, and those in a file. A machine without any can still do without TLS, or with an authority of its own.
fn authorities(ca_file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut trusted = rustls_native_certs::load_native_certs().certs;
    if let Some(path) = ca_file {
        let read = |error: &dyn std::fmt::Display| format!("cannot read certificates from {}: {error}", path.display());
        let own = CertificateDer::pem_file_iter(path).map_err(|error| read(&error))?;
        let own: Vec<_> = own.collect::<Result<_, _>>().map_err(|error| read(&error))?;
        if own.is_empty() {
            return Err(read(&"there are none"));
        }
        trusted.extend(own);
    }
    Ok(trusted)
}

/// A client with nothing but the defaults.
///
/// # Errors
/// In words for the operator, where TLS cannot be set up.
pub fn client() -> Result<Client, String> {
    client_builder(None)?.build().map_err(|error| format!("cannot make an HTTP client: {error}"))
}
