//! Certificates of an authority of our own.

use std::path::Path;

/// Writes `<name>.pem` and `<name>.key` for 127.0.0.1, signed by `authority`; without one, it is an authority itself.
pub fn certificate<'a>(
    folder: &Path,
    name: &str,
    authority: Option<&rcgen::Issuer<'a, rcgen::KeyPair>>,
) -> rcgen::Issuer<'static, rcgen::KeyPair> {
    let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let key = rcgen::KeyPair::generate().expect("a key");
    let made = match authority {
        Some(authority) => params.signed_by(&key, authority),
        None => {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.self_signed(&key)
        }
    };
    std::fs::write(folder.join(format!("{name}.pem")), made.expect("a certificate").pem()).expect("its file");
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).expect("its key's file");
    rcgen::Issuer::new(params, key)
}
