//! The connection to a real nats-server: absent, killed, hanging, secured in every way, with credentials that are
//! revoked; and whose a consumer is.

use crate::common;

use async_nats::ConnectOptions;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use common::nats::{Nats, all_taken, publish, stream_is_there};
use common::tls::certificate;
use common::{Home, Server, Setup};
use nkeys::KeyPair;
use reqwest::StatusCode;
use serde_json::{Value, json};

fn setup(nats: &Nats, more: &str) -> Setup {
    Setup { settings: format!("{}\n{more}", nats.settings()), ..Setup::default() }
}

/// Starts answerd with `more` settings and sees an event through that is published with `options`.
async fn takes_events(nats: &Nats, home: &Home, more: &str, options: ConnectOptions) -> Server {
    let server = home.serve(&setup(nats, more)).await;
    let bus = nats.jetstream_as(options).await;
    stream_is_there(&server, &bus).await;
    publish(&bus, "secured", "upserted", "1", &[], "arrived").await;
    server.until("the document", async || server.found("arrived", "lexical").await == ["secured"]).await;
    assert_eq!(server.degraded().await, "[]");
    server
}

/// Starts answerd with `more` settings and waits until it says that it gets no events because of `reason`.
async fn is_told(nats: &Nats, home: &Home, more: &str, reason: &str) {
    let server = home.serve(&setup(nats, more)).await;
    server.until(reason, async || server.degraded().await.to_lowercase().contains(reason)).await;
}

#[tokio::test]
async fn without_nats_it_serves_what_it_has_and_catches_up_by_itself() {
    let mut nats = Nats::absent(&[]);
    let home = Home::new();
    let server = home.serve(&setup(&nats, "")).await;
    server.put_visible("here", "already here").await;
    server
        .until("it says that NATS is absent", async || {
            let (status, body) = server.get("/readyz").await;
            status == StatusCode::OK && body["degraded"].to_string().contains("NATS")
        })
        .await;
    nats.run().await;
    let bus = nats.jetstream().await;
    stream_is_there(&server, &bus).await;
    publish(&bus, "one", "upserted", "1", &[], "first").await;
    all_taken(&server, &bus).await;
    nats.kill();
    server.until("it says that NATS is lost", async || server.degraded().await.contains("NATS")).await;
    assert_eq!(server.found("already", "lexical").await, ["here"]);
    nats.run().await;
    let bus = nats.jetstream().await;
    publish(&bus, "two", "upserted", "2", &[], "second").await;
    server.until("the second", async || server.text("two").await.is_some()).await;
    server.until("all is well", async || server.degraded().await == "[]").await;
}

#[tokio::test]
async fn a_hanging_nats_is_told_and_waited_for() {
    let nats = Nats::start().await;
    let home = Home::new();
    let server = home.serve(&setup(&nats, "")).await;
    let bus = nats.jetstream().await;
    stream_is_there(&server, &bus).await;
    server.put_visible("here", "already here").await;
    nats.signal(libc::SIGSTOP);
    server.until("it says so", async || server.degraded().await.contains("NATS")).await;
    assert_eq!(server.found("already", "lexical").await, ["here"]);
    assert_eq!(server.get("/readyz").await.0, StatusCode::OK);
    nats.signal(libc::SIGCONT);
    publish(&bus, "late", "upserted", "1", &[], "late").await;
    server.until("the document", async || server.text("late").await.is_some()).await;
    server.until("all is well", async || server.degraded().await == "[]").await;
}

#[tokio::test]
async fn user_and_token_open_the_connection_and_wrong_ones_are_told_without_the_secret() {
    let home = Home::new();
    let mut nats = Nats::absent(&["--user", "answerd", "--pass", "secret"]);
    nats.run().await;
    let named = |nats: &Nats, who: &str| format!("nats.servers={}", nats.url().replace("://", &format!("://{who}@")));
    for wrong in ["nats.user=answerd\nnats.password=guessed".to_owned(), named(&nats, "answerd:guessed")] {
        let server = home.serve(&setup(&nats, &wrong)).await;
        server.until("it says so", async || server.degraded().await.to_lowercase().contains("authorization")).await;
        assert!(!server.degraded().await.contains("guessed") && !server.log_text().contains("guessed"));
        server.kill();
    }
    let options = ConnectOptions::with_user_and_password("answerd".into(), "secret".into());
    takes_events(&nats, &home, "nats.user=answerd\nnats.password=secret", options.clone()).await.kill();
    let mut nats = Nats::absent(&["--user", "answerd", "--pass", "secret"]);
    nats.run().await;
    takes_events(&nats, &Home::new(), &named(&nats, "answerd:secret"), options).await.kill();

    let mut nats = Nats::absent(&["--auth", "s3cr3t"]);
    nats.run().await;
    takes_events(&nats, &Home::new(), "nats.token=s3cr3t", ConnectOptions::with_token("s3cr3t".into())).await;
}

fn nkey_configuration(user: &KeyPair) -> String {
    format!("authorization {{ users = [ {{ nkey: {} }} ] }}", user.public_key())
}

fn nkey_options(user: &KeyPair) -> ConnectOptions {
    ConnectOptions::with_nkey(user.seed().expect("a seed"))
}

#[tokio::test]
async fn a_revoked_nkey_is_told_and_the_next_one_in_its_file_is_taken_up() {
    let (old, new) = (KeyPair::new_user(), KeyPair::new_user());
    let mut nats = Nats::configured(&nkey_configuration(&old));
    nats.run().await;
    let (home, file) = (Home::new(), nats.folder().join("seed"));
    std::fs::write(&file, format!("{}\n", old.seed().expect("a seed"))).expect("the seed's file");
    let server = takes_events(&nats, &home, &format!("nats.nkey_file={}", file.display()), nkey_options(&old)).await;

    nats.reconfigure(&nkey_configuration(&new));
    server.until("it says so", async || server.degraded().await.to_lowercase().contains("authorization")).await;
    assert_eq!(server.get("/readyz").await.0, StatusCode::OK);
    assert_eq!(server.found("arrived", "lexical").await, ["secured"]);
    let bus = nats.jetstream_as(nkey_options(&new)).await;
    publish(&bus, "later", "upserted", "2", &[], "later").await;

    std::fs::write(&file, new.seed().expect("a seed")).expect("the seed's file");
    server.until("the document", async || server.text("later").await.is_some()).await;
    server.until("all is well", async || server.degraded().await == "[]").await;
}

/// A JSON Web Token as NATS uses it, signed by `issuer`.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: Value) -> String {
    let encode = |json: Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let head = encode(json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let claims = json!({
        "jti": "test", "iat": 1_700_000_000, "iss": issuer.public_key(), "name": "test", "sub": subject.public_key(), "nats": nats,
    });
    let signed = format!("{head}.{}", encode(claims));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).expect("signed"));
    format!("{signed}.{signature}")
}

#[tokio::test]
async fn a_credentials_file_opens_the_connection_of_an_account() {
    let (operator, account, system, user) =
        (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account(), KeyPair::new_user());
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let account_claims = json!({ "limits": limits, "type": "account", "version": 2 });
    let system_claims = json!({ "limits": { "subs": -1, "conn": -1, "leaf": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true }, "type": "account", "version": 2 });
    let operator_claims = json!({ "system_account": system.public_key(), "type": "operator", "version": 2 });
    let user_claims =
        json!({ "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2 });
    let mut nats = Nats::configured(&format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}\n {}: {} }}\n",
        jwt(&operator, &operator, operator_claims),
        system.public_key(),
        account.public_key(),
        jwt(&operator, &account, account_claims),
        system.public_key(),
        jwt(&operator, &system, system_claims),
    ));
    nats.run().await;
    let credentials = format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        jwt(&account, &user, user_claims),
        user.seed().expect("a seed"),
    );
    let file = nats.folder().join("answerd.creds");
    std::fs::write(&file, &credentials).expect("the credentials");
    let options = ConnectOptions::with_credentials(&credentials).expect("credentials");
    takes_events(&nats, &Home::new(), &format!("nats.credentials_file={}", file.display()), options).await;
}

#[tokio::test]
async fn tls_is_checked_on_both_sides() {
    let mut nats = Nats::configured(
        "tls { cert_file: \"{folder}/server.pem\", key_file: \"{folder}/server.key\", ca_file: \"{folder}/ca.pem\", verify: true }",
    );
    let folder = nats.folder().to_owned();
    let authority = certificate(&folder, "ca", None);
    certificate(&folder, "server", Some(&authority));
    certificate(&folder, "client", Some(&authority));
    nats.run().await;
    let file = |name: &str| folder.join(name);
    let home = Home::new();
    is_told(&nats, &home, "", "certificate").await;
    let known = format!("nats.tls_ca_file={}", file("ca.pem").display());
    is_told(&nats, &home, &known, "certificate").await;
    let options = ConnectOptions::new()
        .add_root_certificates(file("ca.pem"))
        .add_client_certificate(file("client.pem"), file("client.key"));
    let both = format!(
        "{known}\nnats.tls_certificate_file={}\nnats.tls_key_file={}\nnats.tls_required=true",
        file("client.pem").display(),
        file("client.key").display()
    );
    takes_events(&nats, &home, &both, options).await;
    is_told(&Nats::start().await, &home, "nats.tls_required=true", "tls").await;
}

#[tokio::test]
async fn a_consumer_belongs_to_one_data_folder() {
    let nats = Nats::start().await;
    let (one, other) = (Home::new(), Home::new());
    let first = one.serve(&setup(&nats, "")).await;
    let bus = nats.jetstream().await;
    stream_is_there(&first, &bus).await;
    for n in 0..20 {
        publish(&bus, &format!("d{n}"), "upserted", &n.to_string(), &[], &format!("number{n}")).await;
    }
    all_taken(&first, &bus).await;
    // It would never see what the first one has acknowledged.
    let second = other.serve(&setup(&nats, "")).await;
    second.until("it says so", async || second.degraded().await.contains("belongs to another data folder")).await;
    second.kill();
    // With a consumer of its own it gets everything, while the first goes on.
    let second = other.serve(&setup(&nats, "nats.consumer=second")).await;
    publish(&bus, "d20", "upserted", "20", &[], "number20").await;
    for server in [&first, &second] {
        server
            .until("everything is there", async || {
                server.get("/admin/status").await.1["catalog"]["documents"] == 21 && server.text("d20").await.is_some()
            })
            .await;
    }
    // The same data folder finds its place again.
    first.kill();
    let first = one.serve(&setup(&nats, "")).await;
    publish(&bus, "d21", "upserted", "21", &[], "number21").await;
    first.until("it goes on", async || first.text("d21").await.is_some()).await;
}
