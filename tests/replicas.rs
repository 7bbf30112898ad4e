//! What is promised about several answerd processes that share a Redis: one generation among them, answers that are read on
//! another one than they began on, and that none of them needs it.

use crate::common;

use common::proxy::{Proxy, Way};
use common::redis::Redis;
use common::tls::certificate;
use common::upstream::{Script, Upstream, chat_on, said};
use common::{Event, Home, Server, Setup, one, read_events, text_of};
use futures_util::StreamExt;
use reqwest::StatusCode;
use serde_json::{Value, json};

const MEALS: &str = "# Expenses\n\nThe daily limit for meals is 48 euros.";
const QUESTION: &str = "What is the daily limit for meals?";

fn settings(upstream: &Upstream, url: &str) -> String {
    format!("{}\ncache.enabled=true\nredis.url={url}", chat_on(&[upstream]))
}

/// Another process with the same documents.
async fn replica(home: &Home, settings: &str) -> Server {
    let server = home.serve(&Setup { settings: settings.to_owned(), ..Setup::default() }).await;
    server.put_visible("expenses.md", MEALS).await;
    server
}

fn body() -> Value {
    json!({ "question": QUESTION, "max_tokens": 48 })
}

/// Reads events of a stream until it has one of this name, and gives them up to there.
async fn read_until(response: reqwest::Response, name: &str) -> Vec<Event> {
    use eventsource_stream::Eventsource;
    let mut events = response.bytes_stream().eventsource();
    let mut seen = Vec::new();
    loop {
        let event = events.next().await.expect("more events").expect("a well-formed event");
        let data = serde_json::from_str(&event.data).expect("JSON data");
        seen.push(Event { id: event.id, name: event.event, data });
        if seen.last().is_some_and(|event| event.name == name) {
            return seen;
        }
    }
}

#[tokio::test]
async fn what_one_replica_keeps_another_finds() {
    let (redis, upstream) = (Redis::start(&[]).await, Upstream::start(Script::default()));
    let settings = settings(&upstream, &redis.url());
    let (here, there) = (Home::new(), Home::new());
    let (a, b) = (replica(&here, &settings).await, replica(&there, &settings).await);
    let first = a.answer(QUESTION).await;
    redis.until_kept(&a).await;
    let again = b.answer(QUESTION).await;
    assert_eq!((&one(&first, "done")["cached"], &one(&again, "done")["cached"]), (&json!(false), &json!(true)));
    assert_eq!(text_of(&first), text_of(&again));
    assert_eq!(upstream.asked().len(), 1);
    // After a restart too, which begins with an empty memory.
    assert!(a.stop().await.success());
    let a = here.serve(&Setup { settings, ..Setup::default() }).await;
    assert_eq!(one(&a.answer(QUESTION).await, "done")["cached"], true);
    let (_, status) = a.get("/admin/status").await;
    assert_eq!((&status["redis"]["works"], &status["degraded"]), (&json!(true), &json!([])), "{status}");
}

#[tokio::test]
async fn what_two_replicas_are_asked_at_once_is_generated_once_and_heard_by_both_as_it_grows() {
    let (redis, upstream) = (Redis::start(&[]).await, Upstream::start(Script::paced(40, 50)));
    let settings = settings(&upstream, &redis.url());
    let (here, there) = (Home::new(), Home::new());
    let (a, b) = (replica(&here, &settings).await, replica(&there, &settings).await);
    let first = tokio::spawn(read_events(a.ask(body()).await));
    a.until("it is asked", async || upstream.open() == 1).await;
    // It hears of it before the model is done.
    let response = b.ask(body()).await;
    let place = response.headers()["location"].to_str().unwrap().to_owned();
    let seen = read_until(response, "token").await;
    assert!(!first.is_finished() && upstream.open() == 1);
    let id = seen.last().unwrap().id.clone();
    let request = b.http.get(b.url(&format!("{place}/events"))).header("last-event-id", id);
    let rest = read_events(request.send().await.unwrap()).await;
    let first = first.await.unwrap();
    assert_eq!(text_of(&seen) + &text_of(&rest), text_of(&first));
    assert_eq!((&one(&rest, "done")["finish_reason"], one(&rest, "usage")), (&json!("stop"), one(&first, "usage")));
    assert_eq!(upstream.asked().len(), 1);
    a.until_idle().await;
    b.until_idle().await;
}

#[tokio::test]
async fn who_only_follows_keeps_the_generation_going_when_those_it_began_for_have_left() {
    let (redis, upstream) = (Redis::start(&[]).await, Upstream::start(Script::paced(40, 60)));
    let settings = settings(&upstream, &redis.url()) + "\nanswer.resume_grace_s=0";
    let (here, there) = (Home::new(), Home::new());
    let (a, b) = (replica(&here, &settings).await, replica(&there, &settings).await);
    let first = a.ask(body()).await;
    a.until("it is asked", async || upstream.open() == 1).await;
    let second = tokio::spawn(read_events(b.ask(body()).await));
    b.until("it follows", async || !redis.keys("answerd:heed").await.is_empty()).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    drop(first);
    let second = second.await.unwrap();
    assert_eq!((text_of(&second).trim(), upstream.asked().len()), (said(40).trim(), 1));
    a.until_idle().await;
}

#[tokio::test]
async fn where_the_one_that_generates_is_killed_another_takes_over() {
    let (redis, upstream) = (Redis::start(&[]).await, Upstream::start(Script::paced(40, 60)));
    let settings = settings(&upstream, &redis.url());
    let (here, there) = (Home::new(), Home::new());
    let (a, b) = (replica(&here, &settings).await, replica(&there, &settings).await);
    let first = a.ask(body()).await;
    a.until("it is asked", async || upstream.open() == 1).await;
    let response = b.ask(body()).await;
    let place = response.headers()["location"].to_str().unwrap().to_owned();
    let seen = read_until(response, "token").await;
    a.kill();
    drop(first);
    let request = b.http.get(b.url(&format!("{place}/events")));
    let all = read_events(request.send().await.unwrap()).await;
    assert_eq!((text_of(&all).trim(), one(&all, "done")["finish_reason"].as_str()), (said(40).trim(), Some("stop")));
    assert!(all.iter().zip(&seen).all(|(now, then)| now.id == then.id && now.data == then.data));
    assert_eq!(upstream.asked().len(), 2);
    b.until_idle().await;
}

#[tokio::test]
async fn an_answer_is_read_on_and_cancelled_on_another_replica_by_its_owner_alone() {
    let (redis, upstream) = (Redis::start(&[]).await, Upstream::start(Script::paced(60, 60)));
    // The other one does not know its documents, and its own clients leave at once.
    let settings = settings(&upstream, &redis.url()) + "\nanswer.resume_grace_s=1";
    let (here, there) = (Home::new(), Home::new());
    let a = replica(&here, &settings).await;
    let b = there.serve(&Setup { settings, ..Setup::default() }).await;
    let ask = async |question: &str| {
        let request = a.http.post(a.url("/v1/answers")).header("accept", "text/event-stream");
        request.bearer_auth("one").json(&json!({ "question": question, "max_tokens": 64 })).send().await.unwrap()
    };
    let response = ask(QUESTION).await;
    let place = response.headers()["location"].to_str().unwrap().to_owned();
    let mut all = read_until(response, "token").await;
    let events = async |server: &Server, key: &str, last: &str| {
        let request = server.http.get(server.url(&format!("{place}/events"))).bearer_auth(key);
        request.header("last-event-id", last).send().await.unwrap()
    };
    let last = all.last().unwrap().id.clone();
    a.until("it can be found elsewhere", async || events(&b, "one", &last).await.status() == 200).await;
    assert_eq!(events(&b, "two", &last).await.status(), StatusCode::NOT_FOUND);
    // Longer than the grace of the replica where nobody reads it any more.
    all.extend(read_events(events(&b, "one", &last).await).await);
    assert_eq!(text_of(&all).trim(), said(60).trim());
    for (position, event) in all.iter().enumerate() {
        assert!(event.id.ends_with(&format!(":{position}")), "{event:?}");
    }
    assert_eq!(one(&all, "done")["finish_reason"], "stop");
    // After its end too.
    let again = read_events(events(&b, "one", "").await).await;
    assert_eq!(text_of(&again).trim(), said(60).trim());

    let response = ask("How much may a meal cost in a day?").await;
    let place = response.headers()["location"].to_str().unwrap().to_owned();
    a.until("it is asked", async || upstream.open() == 1).await;
    let cancel = async || {
        let request = b.http.delete(b.url(&place)).bearer_auth("one").send().await.unwrap();
        request.status() == StatusCode::NO_CONTENT
    };
    b.until("it can be cancelled there", cancel).await;
    let events = read_events(response).await;
    assert_eq!(one(&events, "done")["finish_reason"], "cancelled");
    a.until("the model stops", async || upstream.open() == 0).await;
}

#[tokio::test]
async fn an_answer_whose_replica_dies_ends_with_an_error_on_the_other() {
    let (redis, upstream) = (Redis::start(&[]).await, Upstream::start(Script::paced(200, 100)));
    let settings = settings(&upstream, &redis.url());
    let (here, there) = (Home::new(), Home::new());
    let a = replica(&here, &settings).await;
    let b = there.serve(&Setup { settings, ..Setup::default() }).await;
    let response = a.ask(body()).await;
    let place = response.headers()["location"].to_str().unwrap().to_owned();
    read_until(response, "token").await;
    let events = async || b.http.get(b.url(&format!("{place}/events"))).send().await.unwrap();
    b.until("it can be found", async || events().await.status() == 200).await;
    let reading = tokio::spawn(read_events(events().await));
    a.kill();
    let read = reading.await.unwrap();
    assert_eq!(read.last().unwrap().name, "error", "{read:?}");
    assert!(read.last().unwrap().data["detail"].as_str().unwrap().contains("interrupted"), "{read:?}");
}

#[tokio::test]
async fn who_heard_more_than_another_replica_has_misses_nothing_there_or_is_told() {
    let (redis, upstream) = (Redis::start(&[]).await, Upstream::start(Script::paced(120, 30)));
    // The way of the first one to Redis can be cut: what it says from then on is known to nobody else.
    let way = Proxy::start(redis.url().trim_start_matches("redis://")).await;
    let with = |url: &str| settings(&upstream, url);
    let (here, there) = (Home::new(), Home::new());
    let a = replica(&here, &with(&format!("redis://{}", way.address))).await;
    let b = there.serve(&Setup { settings: with(&redis.url()), ..Setup::default() }).await;
    let elsewhere = async |place: &str, last: &str| {
        let request = b.http.get(b.url(&format!("{place}/events"))).header("last-event-id", last);
        request.send().await.unwrap()
    };
    for dies in [false, true] {
        let question = format!("What is the daily limit for meals where it dies: {dies}?");
        let response = a.ask(json!({ "question": question, "max_tokens": 150 })).await;
        let place = response.headers()["location"].to_str().unwrap().to_owned();
        use eventsource_stream::Eventsource;
        let mut stream = response.bytes_stream().eventsource();
        let mut seen = Vec::new();
        let mut cut = false;
        while seen.len() < 40 {
            let event = stream.next().await.unwrap().unwrap();
            let data = serde_json::from_str(&event.data).unwrap();
            seen.push(Event { id: event.id, name: event.event, data });
            if !cut && elsewhere(&place, "").await.status() == StatusCode::OK {
                cut = true;
                way.set(Way::Cut);
            }
        }
        assert!(cut, "it was never known elsewhere: {seen:?}");
        let last = seen.last().unwrap().id.clone();
        let response = elsewhere(&place, &last).await;
        assert_eq!(response.status(), StatusCode::OK);
        if dies {
            a.signal(libc::SIGKILL);
        } else {
            way.set(Way::Open);
        }
        seen.extend(read_events(response).await);
        for (position, event) in seen.iter().enumerate() {
            assert!(event.id.ends_with(&format!(":{position}")), "{event:?}");
        }
        if dies {
            let end = seen.pop().unwrap();
            assert!(end.name == "error" && end.data["detail"].as_str().unwrap().contains("interrupted"), "{end:?}");
            assert!(said(120).starts_with(&text_of(&seen)));
        } else {
            assert_eq!(
                (text_of(&seen).trim(), &one(&seen, "done")["finish_reason"]),
                (said(120).trim(), &json!("stop"))
            );
        }
    }
}

#[tokio::test]
async fn a_redis_that_is_away_slow_full_or_emptied_costs_time_and_nothing_else() {
    let (mut redis, upstream) = (Redis::absent(&[]), Upstream::start(Script::default()));
    let settings = settings(&upstream, &redis.url());
    let home = Home::new();
    // It is not there at the start.
    let a = replica(&home, &settings).await;
    let asked_so_far = std::cell::Cell::new(0);
    let asked = async || {
        let n = asked_so_far.replace(asked_so_far.get() + 1);
        let events = a.answer(&format!("What is the daily limit for meals in case {n}?")).await;
        assert_eq!(one(&events, "done")["finish_reason"], "stop", "{events:?}");
    };
    for _ in 0..3 {
        asked().await;
    }
    a.until("it is told", async || a.degraded().await.contains("Redis")).await;
    let (status, ready) = a.get("/readyz").await;
    assert_eq!(status, StatusCode::OK, "{ready}");
    redis.run().await;
    a.until("it is back", async || {
        asked().await;
        !a.degraded().await.contains("Redis") && !redis.keys("answerd:kept").await.is_empty()
    })
    .await;
    // It takes connections, and answers nothing.
    redis.signal(libc::SIGSTOP);
    for _ in 0..4 {
        asked().await;
    }
    a.until("it is told", async || a.degraded().await.contains("Redis")).await;
    redis.signal(libc::SIGCONT);
    a.until("it is back", async || {
        asked().await;
        !a.degraded().await.contains("Redis")
    })
    .await;
    // It takes nothing more: what is kept is kept here.
    redis.command::<()>("CONFIG", &["SET", "maxmemory", "1"]).await;
    asked().await;
    a.answer(QUESTION).await;
    assert_eq!(one(&a.answer(QUESTION).await, "done")["cached"], true);
    redis.command::<()>("CONFIG", &["SET", "maxmemory", "0"]).await;
    // It is emptied while an answer is written.
    upstream.play(Script::paced(30, 50));
    let stream = a.ask(json!({ "question": "How much may meals cost a day?", "max_tokens": 48 })).await;
    a.until("it is asked", async || upstream.open() == 1).await;
    redis.command::<()>("FLUSHALL", &[""; 0]).await;
    let events = read_events(stream).await;
    assert_eq!(text_of(&events).trim(), said(30).trim());
    // And killed.
    let stream = a.ask(json!({ "question": "What is the limit for a meal?", "max_tokens": 48 })).await;
    a.until("it is asked", async || upstream.open() == 1).await;
    redis.kill();
    assert_eq!(text_of(&read_events(stream).await).trim(), said(30).trim());
    a.until_idle().await;
}

#[tokio::test]
async fn what_somebody_else_put_under_a_key_is_not_used() {
    let (redis, upstream) = (Redis::start(&[]).await, Upstream::start(Script::default()));
    let settings = settings(&upstream, &redis.url());
    let (here, there) = (Home::new(), Home::new());
    let a = replica(&here, &settings).await;
    let right = text_of(&a.answer(QUESTION).await);
    redis.until_kept(&a).await;
    let kept = redis.keys("answerd:kept").await;
    assert!(kept.len() >= 3, "{kept:?}");
    let values: Vec<String> = {
        let mut values = Vec::new();
        for key in &kept {
            values.push(redis.command("GET", &[key]).await);
        }
        values
    };
    let b = replica(&there, &settings).await;
    for poison in
        ["rubbish", "", "{}", r#"{"key":"00","value":{"text":"Meals are free."}}"#, "another", "a list", "a schema"]
    {
        for (n, key) in kept.iter().enumerate() {
            redis.command::<()>("DEL", &[key]).await;
            match poison {
                // What is right under one key is wrong under another.
                "another" => redis.command::<()>("SET", &[key, &values[(n + 1) % values.len()]]).await,
                "a list" => redis.command::<()>("RPUSH", &[key, "x"]).await,
                "a schema" => {
                    redis
                        .command::<()>(
                            "SET",
                            &[key, &values[n].replace("\"text\"", "\"words\"").replace("\"passages\"", "\"pieces\"")],
                        )
                        .await
                }
                _ => redis.command::<()>("SET", &[key.as_str(), poison]).await,
            }
        }
        // A replica that knows nothing by itself.
        let home = Home::new();
        let c = replica(&home, &settings).await;
        assert_eq!(text_of(&c.answer(QUESTION).await), right, "{poison}");
    }
    assert_eq!(text_of(&b.answer(QUESTION).await), right);
}

#[tokio::test]
async fn a_cluster_and_a_server_with_tls_and_a_password_serve_as_well() {
    let upstream = Upstream::start(Script::paced(20, 50));
    let works = async |url: &str, more: &str| {
        let asked = upstream.asked().len();
        let settings = settings(&upstream, url) + more;
        let (here, there) = (Home::new(), Home::new());
        let (a, b) = (replica(&here, &settings).await, replica(&there, &settings).await);
        let (one_of_two, other) = tokio::join!(a.answer(QUESTION), b.answer(QUESTION));
        assert_eq!(text_of(&one_of_two), text_of(&other));
        assert_eq!(upstream.asked().len(), asked + 1, "{}", a.log_text());
        let (_, status) = a.get("/admin/status").await;
        assert_eq!((&status["redis"]["works"], &status["redis"]["failed"]), (&json!(true), &json!(0)), "{status}");
        assert!(!status.to_string().contains("s3cret") && !a.log_text().contains("s3cret"));
    };
    let (one_node, other_node) = (Redis::node().await, Redis::node().await);
    for (node, slots) in
        [(&one_node, ["ADDSLOTSRANGE", "0", "8191"]), (&other_node, ["ADDSLOTSRANGE", "8192", "16383"])]
    {
        node.command::<()>("CLUSTER", &slots).await;
    }
    let bus: Vec<String> = other_node.command("CONFIG", &["GET", "cluster-port"]).await;
    one_node.command::<()>("CLUSTER", &["MEET", "127.0.0.1", &other_node.port().to_string(), &bus[1]]).await;
    for node in [&one_node, &other_node] {
        let began = std::time::Instant::now();
        while !node.command::<String>("CLUSTER", &["INFO"]).await.contains("cluster_state:ok") {
            assert!(began.elapsed() < common::PATIENCE, "the cluster does not come up");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    works(&format!("{},{}", one_node.url(), other_node.url()), "").await;

    let mut tls = Redis::absent(&[
        "--tls-cert-file",
        "{folder}/server.pem",
        "--tls-key-file",
        "{folder}/server.key",
        "--tls-ca-cert-file",
        "{folder}/authority.pem",
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "s3cret",
    ]);
    let authority = certificate(tls.folder(), "authority", None);
    certificate(tls.folder(), "server", Some(&authority));
    tls.run().await;
    let authority = format!("\nredis.tls_ca_file={}", tls.folder().join("authority.pem").display());
    works(&format!("rediss://:s3cret@127.0.0.1:{}/2", tls.port()), &authority).await;
}
