//! What is promised about the configuration when it is read again: what says that it can be reloaded takes effect at once,
//! what cannot is named, and with a mistake nothing changes.

use crate::common;

use std::io::{Read, Write};
use std::time::Duration;

use common::provider::{Provider, Signer};
use common::upstream::{Script, Upstream, chat_on, said};
use common::{Home, Server, Setup, make_key, one, outcome, problem, read_events, text_of, texts};
use reqwest::StatusCode;
use serde_json::{Value, json};

/// Lays settings over those of the test's file. What the environment says cannot be changed: a test gives by it only what
/// is to stay.
fn rewrite(home: &Home, setup: &Setup, more: &str) {
    fn lay(over: &mut toml::Table, more: toml::Table) {
        for (key, value) in more {
            match (over.get_mut(&key), value) {
                (Some(toml::Value::Table(over)), toml::Value::Table(more)) => lay(over, more),
                (_, value) => drop(over.insert(key, value)),
            }
        }
    }
    let path = home.configure(setup);
    let mut text: toml::Table = std::fs::read_to_string(&path).expect("the file").parse().expect("TOML");
    lay(&mut text, more.parse().expect("TOML"));
    std::fs::write(&path, text.to_string()).expect("the file");
}

/// Has it read again what the file says now; gives what changed and what needs a restart.
async fn reload(server: &Server) -> (Vec<String>, Vec<String>) {
    let (status, body) = server.post("/admin/reload", json!({})).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let list = |name: &str| serde_json::from_value(body[name].clone()).expect("a list");
    (list("changed"), list("needs_restart"))
}

fn paths(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}

#[tokio::test]
async fn what_can_be_reloaded_takes_effect_at_once() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::default()));
    let setup = Setup { settings: format!("{}\ncache.enabled=true", chat_on(&[&upstream])), ..Setup::default() };
    let server = home.serve(&setup).await;
    for n in 0..4 {
        server.put_visible(&format!("d{n}.md"), &format!("# Leave {n}\n\nThere are {n} days of annual leave.")).await;
    }
    let hits = async |body: Value| server.post("/v1/search", body).await;
    let found = hits(json!({ "query": "annual leave" })).await.1;
    assert_eq!(texts(&found["results"], "document_id").len(), 4, "{found}");

    // [search]
    rewrite(&home, &setup, "[search]\nlimit_default = 2\nlimit_max = 3\nlexical_weight = 0.0\nvector_weight = 3.0");
    let (changed, restart) = reload(&server).await;
    assert_eq!((changed.len(), restart), (4, vec![]), "{changed:?}");
    let (_, found) = hits(json!({ "query": "annual leave" })).await;
    assert_eq!(texts(&found["results"], "document_id").len(), 2, "{found}");
    // The fused score is 3 / (10 + rank), of the one stage that counts.
    let score = found["results"][0]["scores"]["fused"].as_f64().expect("a score");
    assert!((score - 3.0 / 11.0).abs() < 1e-6, "{found}");
    problem(&hits(json!({ "query": "x", "limit": 4 })).await, 422, "invalid-request");

    // [answer]
    let models = async || texts(&server.get("/v1/models").await.1["data"], "id");
    assert!(models().await.contains(&"answerd".to_owned()));
    rewrite(&home, &setup, "[answer]\nmodel_name = 'handbook'\nmax_output_tokens = 5\nmax_question_tokens = 8");
    let (changed, _) = reload(&server).await;
    // What the file says no more is the default again.
    assert_eq!(changed.len(), 3 + 4, "{changed:?}");
    assert_eq!(models().await[0], "handbook");
    let long = json!({ "question": "word ".repeat(50) });
    problem(&server.post("/v1/answers", long).await, 422, "question-too-long");
    let ask = json!({ "question": "annual leave days?" });
    let answer = server.post("/v1/answers", ask.clone()).await.1;
    assert_eq!((&answer["usage"]["completion_tokens"], &answer["cached"]), (&json!(5), &json!(false)), "{answer}");

    // What is kept was made with these settings, and does for no others.
    // An answer is kept a moment after its end.
    let is_kept = async || server.post("/v1/answers", ask.clone()).await.1["cached"] == true;
    server.until("the answer is kept", is_kept).await;
    rewrite(&home, &setup, "[answer]\nmax_passages = 1");
    reload(&server).await;
    let answer = server.post("/v1/answers", ask.clone()).await.1;
    assert_eq!((&answer["cached"], texts(&answer["sources"], "title").len()), (&json!(false), 1), "{answer}");

    // [cache]
    server.until("the answer is kept", is_kept).await;
    rewrite(&home, &setup, "[answer]\nmax_passages = 1\n[cache]\nttl_s = 1");
    assert_eq!(reload(&server).await.0, ["cache.ttl_s"]);
    let other = json!({ "question": "leave, annual: days?" });
    server.post("/v1/answers", other.clone()).await;
    server
        .until("what is kept for a second is gone", async || {
            tokio::time::sleep(Duration::from_millis(1100)).await;
            server.post("/v1/answers", other.clone()).await.1["cached"] == false
        })
        .await;
    assert!(is_kept().await, "what was kept for longer is kept");

    // [budgets]: the caller's own, and one of many.
    let limit = async |who: &str| {
        let request = server.http.post(server.url("/v1/search")).bearer_auth(who).json(&json!({ "query": "x" }));
        let response = request.send().await.expect("a response");
        let header = response.headers().get("ratelimit-limit");
        header.map(|limit| limit.to_str().expect("a number").to_owned())
    };
    assert_eq!(limit("ann").await, None);
    let ann = server.http.get(server.url("/v1/me")).bearer_auth("ann").send().await.expect("a response");
    let ann = outcome(ann).await.1["name"].as_str().expect("a name").to_owned();
    let budgets =
        format!("[budgets]\nrequests_per_minute = 50\nmore = [{{ who = '{ann}', requests_per_minute = 20 }}]");
    rewrite(&home, &setup, &budgets);
    reload(&server).await;
    assert_eq!((limit("ann").await.as_deref(), limit("bob").await.as_deref()), (Some("20"), Some("50")));
    rewrite(&home, &setup, "");
    reload(&server).await;
    assert_eq!(limit("ann").await, None);

    // [ingest]
    rewrite(&home, &setup, "[ingest]\nmax_text_bytes = 100");
    assert_eq!(reload(&server).await.0, ["ingest.max_text_bytes"]);
    let (_, put) = server.put("/v1/documents/long.md?wait=true", "text/markdown", "long text ".repeat(100)).await;
    assert_eq!(put["status"], "failed", "{put}");

    // [server]
    rewrite(&home, &setup, "[server]\nbody_timeout_s = 1");
    assert!(reload(&server).await.0.contains(&"server.body_timeout_s".to_owned()));
    let host = server.base.trim_start_matches("http://").to_owned();
    let mut stream = std::net::TcpStream::connect(&host).expect("a connection");
    let head = format!(
        "POST /v1/search HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    stream.set_read_timeout(Some(common::PATIENCE)).expect("a time limit");
    let mut response = [0; 1024];
    let length = stream.read(&mut response).expect("a response");
    let response = String::from_utf8_lossy(&response[..length]).into_owned();
    assert!(response.starts_with("HTTP/1.1 408"), "{response}");
}

#[tokio::test]
async fn the_level_of_the_log_changes_with_a_reload() {
    let home = Home::new();
    let setup = Setup::default();
    let mut command = home.command(&setup);
    command.env_remove("RUST_LOG");
    let server = home.spawn_by(command, false).await;
    server.until_ready().await;
    let debugs = || server.log_text().matches("DEBUG").count();
    server.put_visible("a.md", "# A\n\nSomething.").await;
    assert_eq!(debugs(), 0);
    rewrite(&home, &setup, "[log]\nlevel = 'warn,answerd=debug'");
    assert_eq!(reload(&server).await.0, ["log.level"]);
    server
        .until("it says more", async || {
            server.put_visible("a.md", "# A\n\nSomething else.").await;
            server.post("/v1/answers", json!({ "question": "Something?", "max_tokens": 1 })).await;
            debugs() > 0
        })
        .await;
    rewrite(&home, &setup, "[log]\nlevel = 'error'");
    reload(&server).await;
    let (before, _) = (server.log_text().len(), reload(&server).await);
    assert_eq!(server.log_text().len(), before, "it says nothing of a reload any more");
}

#[tokio::test]
async fn who_may_what_changes_with_a_reload() {
    let (home, provider, signer) = (Home::new(), Provider::start(), Signer::new("one"));
    provider.publish(Some(&[&signer]));
    let settings = format!("identity.enabled=true\nidentity.jwt.issuer={}", provider.issuer());
    let setup = Setup { settings, ..Setup::default() };
    let server = home.serve(&setup).await;
    let key = make_key(&home, &setup, &["--scopes", "ask,admin", "root"]);
    let asks = make_key(&home, &setup, &["--scopes", "ask", "reader"]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
    let token = signer.sign(&json!({
        "iss": provider.issuer(), "aud": "answerd", "sub": "ann", "exp": now + 600, "groups": ["ops"], "roles": ["hr"],
    }));
    let send = async |method: reqwest::Method, path: &str, who: &str| {
        let request = server.http.request(method, server.url(path)).bearer_auth(who);
        outcome(request.send().await.expect("a response")).await
    };
    let get = async |path: &str, who: &str| send(reqwest::Method::GET, path, who).await;
    let again = async |who: &str| send(reqwest::Method::POST, "/admin/reload", who).await;

    server.until("the keys are read", async || get("/v1/me", &token).await.0 == StatusCode::OK).await;
    problem(&get("/admin/config", &token).await, 403, "forbidden");
    problem(&again(&asks).await, 403, "forbidden");
    problem(&again(&token).await, 403, "forbidden");
    problem(&again("nobody").await, 401, "unauthorized");

    rewrite(&home, &setup, "[identity.jwt]\nadmin = ['ops']\ngroups_claim = 'groups'");
    assert_eq!(again(&key).await, (StatusCode::OK, json!({ "changed": ["identity.jwt.admin"], "needs_restart": [] })));
    assert_eq!(get("/admin/config", &token).await.0, StatusCode::OK);
    // Who was made an administrator can undo it.
    rewrite(&home, &setup, "[identity.jwt]\ngroups_claim = 'roles'");
    assert_eq!(again(&token).await.0, StatusCode::OK);
    problem(&get("/admin/config", &token).await, 403, "forbidden");
    assert_eq!(get("/v1/me", &token).await.1["groups"], json!(["hr", "user:ann"]));
    rewrite(&home, &setup, "[identity.jwt]\naudience = 'somebody else'");
    assert_eq!(again(&key).await.0, StatusCode::OK);
    problem(&get("/v1/me", &token).await, 401, "unauthorized");

    // It is noted who did it.
    let acts = get("/admin/audit", &key).await.1;
    let by: Vec<(&str, &Value)> = acts["acts"]
        .as_array()
        .expect("acts")
        .iter()
        .filter(|act| act["act"] == "config.reload")
        .map(|act| (act["by"].as_str().unwrap_or_default(), &act["about"]["changed"]))
        .collect();
    assert_eq!(by.len(), 3, "{acts}");
    // The newest first.
    assert!(by[2].0.starts_with("key:") && by[1].0 == "user:ann", "{by:?}");
    assert_eq!(by[2].1, &json!(["identity.jwt.admin"]));
}

#[tokio::test]
async fn a_file_with_mistakes_changes_nothing_and_every_mistake_is_told() {
    let home = Home::new();
    let setup = Setup::default();
    let server = home.serve(&setup).await;
    let before = server.get("/admin/config").await.1;
    assert_eq!(server.get("/admin/status").await.1["reload"], Value::Null);
    let path = home.configure(&setup);
    let text = std::fs::read_to_string(&path).expect("the file");
    std::fs::write(&path, format!("{text}[search]\nlimit_max = 0\nlimit_default = 3\n[answer]\nmax_tokens = 3\n"))
        .unwrap();
    let refused = server.post("/admin/reload", json!({})).await;
    let detail = problem(&refused, 422, "invalid-configuration");
    assert_eq!(texts(&refused.1["errors"], "path"), ["search.limit_max", "answer.max_tokens"], "{}", refused.1);
    assert!(detail.contains("2 mistakes") && refused.1["errors"][0]["message"] == "is 0, it must be at least 1");
    let line = 1 + text.lines().count() + 1;
    let first = &refused.1["errors"][0];
    assert_eq!((&first["place"], &first["line"]), (&json!(path.display().to_string()), &json!(line)));
    assert_eq!(server.get("/admin/config").await.1, before);
    let last = server.get("/admin/status").await.1["reload"].clone();
    assert_eq!((&last["taken"], last["errors"].as_array().map(Vec::len)), (&json!(false), Some(2)), "{last}");

    // Nothing that is no file at all, either; and by a signal as by a request.
    std::fs::write(&path, "[server\n").unwrap();
    server.signal(libc::SIGHUP);
    let last = async || server.get("/admin/status").await.1["reload"].clone();
    server.until("it has read it", async || last().await["by"] == "signal:SIGHUP").await;
    assert_eq!(last().await["taken"], false);
    assert!(server.log_text().contains("this is not TOML"), "{}", server.log_text());
    std::fs::remove_file(&path).unwrap();
    problem(&server.post("/admin/reload", json!({})).await, 422, "invalid-configuration");
    assert_eq!(server.get("/admin/config").await.1, before);

    rewrite(&home, &setup, "[search]\nlimit_max = 77");
    server.signal(libc::SIGHUP);
    server.until("it has taken it", async || last().await["taken"] == true).await;
    assert_eq!(
        (&last().await["by"], &last().await["changed"]),
        (&json!("signal:SIGHUP"), &json!(["search.limit_max"]))
    );
    assert_eq!(server.get("/admin/config").await.1["search"]["limit_max"], 77);
    let acts = server.get("/admin/audit").await.1["acts"].clone();
    assert_eq!((acts.as_array().map(Vec::len), &acts[0]["by"]), (Some(1), &json!("signal:SIGHUP")), "{acts}");
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_stays_as_it_is() {
    let home = Home::new();
    let setup = Setup::default();
    let server = home.serve(&setup).await;
    let more =
        "[server]\nworkers = 3\n[models.chat]\ncontext = 4096\n[answer]\nmax_passages = 2\n[nats]\npassword = 's3cret'";
    rewrite(&home, &setup, more);
    let restart = paths(&["models.chat.context", "nats.password", "server.workers"]);
    assert_eq!(reload(&server).await, (paths(&["answer.max_passages"]), restart.clone()));
    let shown = server.get("/admin/config").await.1;
    assert_eq!(
        (&shown["server"]["workers"], &shown["models"]["chat"]["context"], &shown["answer"]["max_passages"]),
        (&json!(2), &json!(2048), &json!(2))
    );
    assert_eq!(server.get("/admin/status").await.1["reload"]["needs_restart"], json!(restart));
    assert!(server.log_text().contains("models.chat.context") && !server.log_text().contains("s3cret"));
    // The file is right by itself, but not with the context that is in force.
    rewrite(&home, &setup, "[models.chat]\ncontext = 8192\n[answer]\nevidence_tokens = 6000");
    let refused = server.post("/admin/reload", json!({})).await;
    assert!(problem(&refused, 422, "invalid-configuration").contains("the context of 2048 tokens"));
    assert_eq!(texts(&refused.1["errors"], "path"), ["answer.evidence_tokens"]);
    assert_eq!(server.get("/admin/config").await.1, shown);
    // With a restart all of it counts.
    assert!(server.stop().await.success());
    let command = home.command(&setup);
    rewrite(&home, &setup, more);
    let server = home.spawn_by(command, false).await;
    server.until_ready().await;
    assert_eq!(server.get("/admin/config").await.1["models"]["chat"]["context"], 4096);
    assert_eq!(reload(&server).await, (vec![], vec![]));
}

#[tokio::test]
async fn an_answer_under_way_keeps_the_settings_it_began_with() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(40, 30)));
    let setup = Setup { settings: chat_on(&[&upstream]), ..Setup::default() };
    let server = home.serve(&setup).await;
    server.put_visible("a.md", "# Leave\n\nThere are 28 days of annual leave.").await;
    let ask = json!({ "question": "How many days of annual leave are there?" });
    let begun = server.ask(ask.clone()).await;
    server.until("it is being written", async || upstream.open() == 1).await;
    rewrite(&home, &setup, "[answer]\nmax_output_tokens = 5");
    assert_eq!(reload(&server).await.0, ["answer.max_output_tokens"]);
    assert_eq!(upstream.open(), 1, "it is still being written");
    let next = read_events(server.ask(ask).await).await;
    let begun = read_events(begun).await;
    assert_eq!((text_of(&begun), &one(&begun, "done")["finish_reason"]), (said(40), &json!("stop")));
    assert_eq!(one(&next, "done")["finish_reason"], "length", "{next:?}");
}
