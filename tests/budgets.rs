//! How much callers may ask for: counted exactly, for each and for groups, by one process and by several.

use reqwest::{Response, StatusCode};
use serde_json::json;

use crate::common;
use common::redis::Redis;
use common::upstream::{Script, Upstream, chat_on};
use common::{Home, Server, Setup, outcome, problem};

fn setup(upstream: &Upstream, settings: &str) -> Setup {
    Setup { settings: format!("{}\n{settings}", chat_on(&[upstream])), ..Setup::default() }
}

/// Asks as somebody, without documents: the whole prompt is the question.
async fn ask(server: &Server, who: &str, tokens: usize) -> Response {
    let body =
        json!({ "model": "far", "max_tokens": tokens, "messages": [{ "role": "user", "content": "Say something." }] });
    let request = server.http.post(server.url("/v1/chat/completions")).bearer_auth(who).json(&body);
    request.send().await.expect("a response")
}

fn header(response: &Response, name: &str) -> Option<u64> {
    response.headers().get(name)?.to_str().ok()?.parse().ok()
}

#[tokio::test]
async fn requests_in_a_minute_are_counted_for_each_caller() {
    let home = Home::new();
    let upstream = Upstream::start(Script::default());
    let server = home.serve(&setup(&upstream, "budgets.requests_per_minute=3")).await;
    let search = async |who: &str| {
        let request = server
            .http
            .post(server.url("/v1/search"))
            .bearer_auth(who)
            .json(&json!({ "query": "x", "mode": "lexical" }));
        request.send().await.expect("a response")
    };
    for left in [2, 1, 0] {
        let response = search("ann").await;
        assert_eq!(
            (response.status(), header(&response, "ratelimit-limit"), header(&response, "ratelimit-remaining")),
            (StatusCode::OK, Some(3), Some(left))
        );
        // What is only looked at is free.
        let looked = server.http.get(server.url("/v1/documents")).bearer_auth("ann").send().await.expect("a response");
        assert_eq!(looked.status(), StatusCode::OK);
    }
    // However the path is written.
    let other =
        server.http.post(format!("{}/%761/search", server.base)).bearer_auth("ann").json(&json!({ "query": "x" }));
    assert_eq!(other.send().await.expect("a response").status(), StatusCode::TOO_MANY_REQUESTS);
    let refused = search("ann").await;
    let (wait, reset) = (header(&refused, "retry-after"), header(&refused, "ratelimit-reset"));
    assert!(wait.is_some_and(|wait| (1..=20).contains(&wait)) && reset > Some(0), "{wait:?} {reset:?}");
    let refused = outcome(refused).await;
    problem(&refused, 429, "over-budget");
    assert_eq!(
        (&refused.1["limited"], &refused.1["limit"], &refused.1["left"]),
        (&json!("requests_per_minute"), &json!(3), &json!(0))
    );
    assert_eq!(search("bob").await.status(), StatusCode::OK);
    // In OpenAI's form, where that is spoken.
    let (status, body) = outcome(ask(&server, "ann", 8).await).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("rate_limit_exceeded")),
        "{body}"
    );
}

#[tokio::test]
async fn the_worst_case_is_reserved_and_what_was_not_used_comes_back() {
    reserved_and_given_back("").await;
}

#[tokio::test]
async fn the_worst_case_is_reserved_and_given_back_in_redis_as_well() {
    let redis = Redis::start(&[]).await;
    reserved_and_given_back(&format!("redis.url={}", redis.url())).await;
}

async fn reserved_and_given_back(settings: &str) {
    let home = Home::new();
    let upstream = Upstream::start(Script { tokens: 5, ..Script::default() });
    let server = home.serve(&setup(&upstream, &format!("budgets.tokens_per_day=200\n{settings}"))).await;
    let mut left = 200;
    let mut refused = None;
    for _ in 0..40 {
        let response = ask(&server, "ann", 60).await;
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(outcome(response).await.1);
            break;
        }
        let (status, body) = outcome(response).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        left -= body["usage"]["total_tokens"].as_u64().expect("tokens");
        // Exactly what was used is gone, once the answer is over.
        server
            .until("the rest is given back", async || {
                let request = server
                    .http
                    .post(server.url("/v1/search"))
                    .bearer_auth("ann")
                    .json(&json!({ "query": "x", "mode": "lexical" }));
                header(&request.send().await.expect("a response"), "ratelimit-remaining") == Some(left)
            })
            .await;
    }
    let refused = refused.expect("it is used up at some time");
    assert!(refused["error"]["left"] == json!(left) && left < 200, "{refused}");
    assert!(refused["error"]["message"].as_str().is_some_and(|said| said.contains("200 tokens per day")), "{refused}");
    // What can never be had says so, and gives no time to wait for.
    let response = ask(&server, "bob", 256).await;
    assert_eq!(header(&response, "retry-after"), None);
    let (_, body) = outcome(response).await;
    assert!(body["error"]["message"].as_str().is_some_and(|said| said.contains("ask for less")), "{body}");
}

#[tokio::test]
async fn an_answer_that_was_kept_costs_nothing() {
    let home = Home::new();
    let upstream = Upstream::start(Script { tokens: 5, ..Script::default() });
    let server = home.serve(&setup(&upstream, "budgets.tokens_per_day=100000\ncache.enabled=true")).await;
    server.put_visible("a.md", "# Leave\n\nThere are 28 days of annual leave.").await;
    let question = async || {
        let request = server
            .http
            .post(server.url("/v1/answers"))
            .bearer_auth("ann")
            .json(&json!({ "question": "How many days of annual leave?" }));
        outcome(request.send().await.expect("a response")).await.1
    };
    let remaining = async || {
        let request = server
            .http
            .post(server.url("/v1/search"))
            .bearer_auth("ann")
            .json(&json!({ "query": "x", "mode": "lexical" }));
        header(&request.send().await.expect("a response"), "ratelimit-remaining")
    };
    let first = question().await;
    let used = first["usage"]["total_tokens"].as_u64().expect("tokens");
    server.until("the rest is given back", async || remaining().await == Some(100_000 - used)).await;
    assert_eq!(question().await["cached"], true);
    server.until("nothing was used", async || remaining().await == Some(100_000 - used)).await;
}

#[tokio::test]
async fn so_many_answers_are_open_at_the_same_time_and_an_end_makes_room() {
    let home = Home::new();
    let upstream = Upstream::start(Script::paced(2000, 20));
    let server = home.serve(&setup(&upstream, "budgets.streams=2")).await;
    let open = async |who: &str| open(&server, who).await;
    let (one, two) = (open("ann").await, open("ann").await);
    assert_eq!((one.status(), two.status()), (StatusCode::OK, StatusCode::OK));
    let (status, body) = outcome(open("ann").await).await;
    assert_eq!((status, &body["error"]["limited"]), (StatusCode::TOO_MANY_REQUESTS, &json!("streams")), "{body}");
    assert_eq!(open("bob").await.status(), StatusCode::OK);
    let place = one.headers()["location"].to_str().expect("text").to_owned();
    let cancelled = server.http.delete(server.url(&place)).bearer_auth("ann").send().await.expect("a response");
    assert_eq!(cancelled.status(), StatusCode::NO_CONTENT);
    server.until("there is room", async || open("ann").await.status() == StatusCode::OK).await;
    drop(two);
    server.until_idle().await;
}

#[tokio::test]
async fn a_group_has_its_budget_together_and_some_have_their_own() {
    let home = Home::new();
    let upstream = Upstream::start(Script::default());
    let key = |groups: &str| {
        let setup = setup(&upstream, "");
        let made = home.run(&setup, &["keys", "create", "x", "--groups", groups]);
        String::from_utf8(made.stdout).expect("text").trim().to_owned()
    };
    let (one, two, other) = (key("batch"), key("batch"), key("people"));
    let id = other.split('_').nth(1).expect("an id").to_owned();
    let more = format!(
        "identity.enabled=true\nbudgets.requests_per_minute=100\nbudgets.more=[{{ who = \"group:batch\", requests_per_minute = 4 }}, {{ who = \"key:{id}\", requests_per_minute = 2 }}]"
    );
    let server = home.serve(&setup(&upstream, &more)).await;
    let search = async |key: &str| {
        let request = server
            .http
            .post(server.url("/v1/search"))
            .bearer_auth(key)
            .json(&json!({ "query": "x", "mode": "lexical" }));
        request.send().await.expect("a response").status().as_u16()
    };
    let mut seen = Vec::new();
    for key in [&one, &two, &one, &two, &one, &two] {
        seen.push(search(key).await);
    }
    assert_eq!(seen, [200, 200, 200, 200, 429, 429]);
    assert_eq!([search(&other).await, search(&other).await, search(&other).await], [200, 200, 429]);
}

#[tokio::test]
async fn replicas_count_together_and_each_by_itself_while_redis_is_away() {
    let mut redis = Redis::start(&[]).await;
    let (home, other) = (Home::new(), Home::new());
    let upstream = Upstream::start(Script::default());
    let settings = format!("budgets.requests_per_minute=40\nredis.url={}", redis.url());
    let setup = setup(&upstream, &settings);
    let servers = [home.serve(&setup).await, other.serve(&setup).await];
    // Something that is quickly done, whatever else goes on.
    let begin = async |server: &Server| {
        let request = server.http.delete(server.url("/v1/documents/none")).bearer_auth("ann");
        request.send().await.expect("a response").status()
    };
    let asked = (0..120).map(|n| begin(&servers[n % 2]));
    let taken =
        futures_util::future::join_all(asked).await.iter().filter(|status| **status == StatusCode::NOT_FOUND).count();
    // As many as there are, and what came back while they were asked.
    assert!((40..=60).contains(&taken), "{taken} of 40 a minute");
    redis.kill();
    for server in &servers {
        server.until("it counts by itself", async || begin(server).await == StatusCode::NOT_FOUND).await;
    }
}

/// Begins an answer that takes long, and gives the response.
async fn open(server: &Server, who: &str) -> Response {
    let body = json!({ "model": "far", "stream": true, "messages": [{ "role": "user", "content": "Go on." }] });
    let request = server.http.post(server.url("/v1/chat/completions")).bearer_auth(who).json(&body);
    request.send().await.expect("a response")
}

#[tokio::test]
async fn replicas_count_open_answers_together_and_those_of_one_that_dies_end() {
    let redis = Redis::start(&[]).await;
    let (home, other) = (Home::new(), Home::new());
    let upstream = Upstream::start(Script::paced(2000, 400));
    let setup = setup(&upstream, &format!("budgets.streams=2\nredis.url={}", redis.url()));
    let (a, b) = (home.serve(&setup).await, other.serve(&setup).await);
    let (one, two) = (open(&a, "ann").await, open(&b, "ann").await);
    assert_eq!((one.status(), two.status()), (StatusCode::OK, StatusCode::OK));
    for server in [&a, &b] {
        let refused = open(server, "ann").await;
        assert_eq!(header(&refused, "retry-after"), Some(1));
        let (status, body) = outcome(refused).await;
        assert_eq!(
            (status, &body["error"]["limited"], &body["error"]["left"]),
            (StatusCode::TOO_MANY_REQUESTS, &json!("streams"), &json!(0)),
            "{body}"
        );
        assert_eq!(open(server, "bob").await.status(), StatusCode::OK);
    }
    // An end makes room, on whichever replica.
    let place = one.headers()["location"].to_str().expect("text").to_owned();
    let cancelled = a.http.delete(a.url(&place)).bearer_auth("ann").send().await.expect("a response");
    assert_eq!(cancelled.status(), StatusCode::NO_CONTENT);
    let third = std::cell::RefCell::new(None);
    b.until("there is room", async || {
        let response = open(&b, "ann").await;
        let is_open = response.status() == StatusCode::OK;
        if is_open {
            *third.borrow_mut() = Some(response);
        }
        is_open
    })
    .await;
    assert_eq!(open(&a, "ann").await.status(), StatusCode::TOO_MANY_REQUESTS);
    // Longer than a lease lives by itself: they are renewed.
    tokio::time::sleep(std::time::Duration::from_secs(17)).await;
    assert_eq!(open(&a, "ann").await.status(), StatusCode::TOO_MANY_REQUESTS);
    b.kill();
    a.until("what the dead one had is there again", async || open(&a, "ann").await.status() == StatusCode::OK).await;
}

#[tokio::test]
async fn over_a_restart_of_redis_open_answers_are_neither_stuck_nor_forgotten() {
    let mut redis = Redis::start(&[]).await;
    let (home, other) = (Home::new(), Home::new());
    let upstream = Upstream::start(Script::paced(2000, 400));
    let setup = setup(&upstream, &format!("budgets.streams=2\nredis.url={}", redis.url()));
    let (a, b) = (home.serve(&setup).await, other.serve(&setup).await);
    let (one, two) = (open(&a, "ann").await, open(&a, "ann").await);
    assert_eq!((one.status(), two.status()), (StatusCode::OK, StatusCode::OK));
    assert_eq!(open(&b, "ann").await.status(), StatusCode::TOO_MANY_REQUESTS);
    // Without it each counts by itself.
    redis.kill();
    assert_eq!(open(&a, "ann").await.status(), StatusCode::TOO_MANY_REQUESTS);
    // It comes back empty, and is told what is open.
    redis.run().await;
    b.until("they are known again", async || match redis.keys("answerd:open").await.first() {
        Some(key) => redis.command::<usize>("ZCARD", &[key]).await == 2,
        None => false,
    })
    .await;
    assert_eq!(open(&b, "ann").await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(open(&a, "ann").await.status(), StatusCode::TOO_MANY_REQUESTS);
    // What ends while it is away is not there when it is back.
    redis.kill();
    for response in [one, two] {
        let place = response.headers()["location"].to_str().expect("text").to_owned();
        let cancelled = a.http.delete(a.url(&place)).bearer_auth("ann").send().await.expect("a response");
        assert_eq!(cancelled.status(), StatusCode::NO_CONTENT);
    }
    a.until_idle().await;
    redis.run().await;
    b.until("there is room", async || open(&b, "ann").await.status() == StatusCode::OK).await;
}
