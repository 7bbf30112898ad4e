//! HTTP to others: how a client of ours is made, with TLS.

use std::path::Path;

use reqwest::{Certificate, Client, ClientBuilder};

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
    // A machine without any can still speak HTTP, and TLS with an authority of its own.
    let system = rustls_native_certs::load_native_certs().certs;
    let mut trusted: Vec<Certificate> = system.iter().filter_map(|der| Certificate::from_der(der).ok()).collect();
    if let Some(path) = ca_file {
        let read = |error: &dyn std::fmt::Display| format!("cannot read certificates from {}: {error}", path.display());
        let pem = std::fs::read(path).map_err(|error| read(&error))?;
        let own = Certificate::from_pem_bundle(&pem).map_err(|error| read(&error))?;
        if own.is_empty() {
            return Err(read(&"there are none"));
        }
        trusted.extend(own);
    }
    Ok(Client::builder().tls_certs_only(trusted))
}

/// The certificate authorities of the system and, where one is given, those in the file `ca_file` (PEM).
///
/// # Errors
/// In words for the operator: a file that cannot be read, or holds no certificate.
pub fn root_certificates(ca_file: Option<&Path>) -> Result<rustls::RootCertStore, String> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let read = |error: &dyn std::fmt::Display| format!("cannot read certificates from {}: {error}", path.display());
        let own = CertificateDer::pem_file_iter(path).map_err(|error| read(&error))?;
        let own: Vec<_> = own.collect::<Result<_, _>>().map_err(|error| read(&error))?;
        if own.is_empty() {
            return Err(read(&"there are none"));
        }
        roots.add_parsable_certificates(own);
    }
    Ok(roots)
}

/// A client with nothing but the defaults.
///
/// # Errors
/// In words for the operator, where TLS cannot be set up.
pub fn client() -> Result<Client, String> {
    client_builder(None)?.build().map_err(|error| format!("cannot make an HTTP client: {error}"))
}
