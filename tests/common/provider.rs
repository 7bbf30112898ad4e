//! An identity provider: it publishes the public keys of its tokens, as OpenID Connect has it, and signs what it is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::{App, HttpResponse, HttpServer, web};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use parking_lot::Mutex;
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};

/// A key of the provider's: ECDSA on P-256.
pub struct Signer {
    pub name: String,
    key: KeyPair,
}

impl Signer {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), key: KeyPair::generate().expect("a key") }
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.name.clone()), ..Header::new(Algorithm::ES256) };
        encode(&header, claims, &EncodingKey::from_ec_der(self.key.serialized_der())).expect("a token")
    }

    /// What it publishes of the key.
    pub fn public(&self) -> Value {
        let point = self.key.der_bytes();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.name,
            "x": part(&point[1..33]), "y": part(&point[33..65]),
        })
    }
}

/// A running provider. Its thread ends with the test's process.
pub struct Provider {
    pub address: SocketAddr,
    keys: Arc<Mutex<Option<Value>>>,
    read: Arc<AtomicUsize>,
}

impl Provider {
    pub fn start() -> Self {
        let keys: Arc<Mutex<Option<Value>>> = Arc::default();
        let read: Arc<AtomicUsize> = Arc::default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let (published, count) = (Arc::clone(&keys), Arc::clone(&read));
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    let (published, count) = (Arc::clone(&published), Arc::clone(&count));
                    App::new()
                        .route(
                            "/.well-known/openid-configuration",
                            web::get().to(move || async move {
                                HttpResponse::Ok().json(json!({ "jwks_uri": format!("http://{address}/keys") }))
                            }),
                        )
                        .route(
                            "/keys",
                            web::get().to(move || {
                                count.fetch_add(1, Ordering::SeqCst);
                                let keys = published.lock().clone();
                                async move {
                                    keys.map_or_else(
                                        || HttpResponse::ServiceUnavailable().finish(),
                                        |keys| HttpResponse::Ok().json(json!({ "keys": keys })),
                                    )
                                }
                            }),
                        )
                });
                server.workers(1).listen(listener).expect("listening").run().await
            })
        });
        Self { address, keys, read }
    }

    pub fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Publishes these keys, and something that is none; or, with nothing, does not answer any more.
    pub fn publish(&self, signers: Option<&[&Signer]>) {
        *self.keys.lock() = signers.map(|signers| {
            signers.iter().map(|signer| signer.public()).chain([json!({ "kty": "of another world" })]).collect()
        });
    }

    /// How often its keys were read.
    pub fn reads(&self) -> usize {
        self.read.load(Ordering::SeqCst)
    }
}
