//! What is promised about answers whose readers leave, come again, fall behind, or stop them.

use crate::common;

use std::time::{Duration, Instant};

use common::upstream::{Fault, Script, Upstream, chat_on, said};
use common::{Event, Home, Server, Setup, one, problem, read_events, text_of};
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

/// An answerd whose model is a scripted server, with one document.
async fn serve(home: &Home, upstream: &Upstream, settings: &str) -> Server {
    let settings = format!("{}\n{settings}", chat_on(&[upstream]));
    let server = home.serve(&Setup { settings, ..Setup::default() }).await;
    server.put_visible("leave.md", "# Leave\n\nEvery employee has 28 days of annual leave.").await;
    server
}

async fn ask(server: &Server) -> Response {
    let response =
        server.ask(json!({ "question": "How many days of annual leave are there?", "max_tokens": 200 })).await;
    assert_eq!(response.status(), StatusCode::OK);
    response
}

/// Where the answer of a response is.
fn place(response: &Response) -> String {
    response.headers()["location"].to_str().expect("an address").to_owned()
}

async fn events_from(server: &Server, place: &str, last: Option<&str>) -> Response {
    let mut request = server.http.get(server.url(&format!("{place}/events")));
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    request.send().await.expect("a response")
}

/// Reads so many events and leaves.
async fn read_some(response: Response, most: usize) -> Vec<Event> {
    let events = response.bytes_stream().eventsource().take(most).map(|event| {
        let event = event.expect("an event");
        Event { id: event.id, name: event.event, data: serde_json::from_str(&event.data).expect("JSON") }
    });
    events.collect().await
}

#[tokio::test]
async fn a_reader_who_comes_again_misses_and_repeats_nothing() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(60, 10)));
    let server = serve(&home, &upstream, "answer.max_output_tokens=200").await;
    for cuts in [vec![1, 2, 3], vec![5, 1, 30], vec![17], vec![2; 20]] {
        let mut response = ask(&server).await;
        let place = place(&response);
        let mut seen: Vec<Event> = Vec::new();
        for cut in cuts {
            seen.extend(read_some(response, cut).await);
            response = events_from(&server, &place, seen.last().map(|event| event.id.as_str())).await;
        }
        seen.extend(read_events(response).await);
        assert_eq!(text_of(&seen), said(60));
        let positions: Vec<usize> =
            seen.iter().map(|event| event.id.rsplit_once(':').unwrap().1.parse().unwrap()).collect();
        assert_eq!(positions, (0..seen.len()).collect::<Vec<_>>());
        one(&seen, "done");
        // After the end the whole of it can be read again, as events and as one object.
        let again = read_events(events_from(&server, &place, None).await).await;
        assert_eq!(text_of(&again), said(60));
        let (_, whole) = server.get(&place).await;
        assert_eq!((&whole["answer"], &whole["status"]), (&json!(said(60)), &json!("ended")));
        // Past the last event there is nothing more.
        let last = again.last().unwrap().id.clone();
        assert!(read_events(events_from(&server, &place, Some(&last)).await).await.is_empty());
    }
    assert_eq!(upstream.asked().len(), 4, "each was generated once");
    server.until_idle().await;
}

#[tokio::test]
async fn an_answer_that_is_not_there_or_an_event_that_is_none_of_its_is_said() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(3, 0)));
    let server = serve(&home, &upstream, "").await;
    problem(&server.get("/v1/answers/nothing").await, 404, "not-found");
    problem(&server.get("/v1/answers/nothing/events").await, 404, "not-found");
    problem(&server.delete("/v1/answers/nothing").await, 404, "not-found");
    let response = ask(&server).await;
    let place = place(&response);
    read_events(response).await;
    for last in ["nonsense", "other:3", "x:-1", ":", "18446744073709551616"] {
        let response = events_from(&server, &place, Some(last)).await;
        let outcome = (response.status(), response.json::<Value>().await.unwrap());
        problem(&outcome, 422, "invalid-request");
    }
    problem(&server.post(&place, json!({})).await, 405, "method-not-allowed");
}

#[tokio::test]
async fn the_generation_stops_when_it_is_cancelled_and_what_was_said_can_still_be_read() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(500, 20)));
    let server = serve(&home, &upstream, "answer.max_output_tokens=500\nmodels.chat.context=8192").await;
    let response = server.ask(json!({ "question": "How many days of annual leave?", "max_tokens": 500 })).await;
    let place = place(&response);
    let reading = tokio::spawn(read_events(response));
    server.until("it is being said", async || upstream.open() == 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.delete(&place).await.0, StatusCode::NO_CONTENT);
    let seen = reading.await.unwrap();
    assert_eq!(one(&seen, "done")["finish_reason"], "cancelled");
    assert!(one(&seen, "usage")["completion_tokens"].as_u64().unwrap() < 500);
    let said_until_then = text_of(&seen);
    assert!(said(500).starts_with(&said_until_then));
    assert_eq!(server.get(&place).await.1["answer"], said_until_then);
    server.until("the model stopped", async || upstream.open() == 0).await;
    // A second time changes nothing.
    assert_eq!(server.delete(&place).await.0, StatusCode::NO_CONTENT);
    server.until_idle().await;
}

#[tokio::test]
async fn the_generation_goes_on_for_a_grace_after_its_reader_left_and_no_longer() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(500, 20)));
    let settings =
        "answer.resume_grace_s=1\nanswer.max_output_tokens=500\nmodels.chat.context=8192\nanswer.window=4096";
    let server = serve(&home, &upstream, settings).await;
    let response = server.ask(json!({ "question": "How many days of annual leave?", "max_tokens": 500 })).await;
    let place = place(&response);
    let seen = read_some(response, 10).await;
    // Who comes again in time keeps it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let again = read_some(events_from(&server, &place, Some(&seen[9].id)).await, 10).await;
    assert_eq!(again.len(), 10);
    server.until("the model stopped", async || upstream.open() == 0).await;
    let (_, whole) = server.get(&place).await;
    assert_eq!(whole["finish_reason"], "cancelled", "{whole}");
    server.until_idle().await;
}

#[tokio::test]
async fn a_reader_who_takes_nothing_stalls_its_own_answer_only_and_loses_it_in_time() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(100_000, 1)));
    let settings = "answer.max_output_tokens=100000\nmodels.chat.context=200000\nanswer.window=8\n\
                    answer.stall_timeout_s=3\nanswer.max_question_tokens=64";
    let server = serve(&home, &upstream, settings).await;
    // One that sends its question and never reads: what fits the buffers of the connection goes out, and then no more.
    let stalled = {
        use std::io::Write;
        let host = server.base.trim_start_matches("http://").to_owned();
        let mut stream = std::net::TcpStream::connect(&host).expect("a connection");
        let body = json!({ "question": "How many days of annual leave?", "max_tokens": 100_000 }).to_string();
        let length = body.len();
        write!(
            stream,
            "POST /v1/answers HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .expect("sent");
        stream
    };
    server
        .until("it is parked", async || server.actor("read/model-pool/worker-1").await["detail"]["load"]["parked"] == 1)
        .await;
    upstream.play(Script::paced(50, 1));
    let began = Instant::now();
    let live = read_events(ask(&server).await).await;
    assert_eq!(text_of(&live), said(50));
    println!("a live answer beside a stalled one took {} ms", began.elapsed().as_millis());
    server.until("the stalled one has ended", async || upstream.open() == 0).await;
    server.until_idle().await;
    assert!(server.log_text().contains("error=\"stalled\""));
    drop(stalled);
}

#[tokio::test]
async fn an_answer_whose_time_is_up_ends_with_that_reason_wherever_it_is() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(1000, 20)));
    let server = serve(&home, &upstream, "answer.max_output_tokens=500\nmodels.chat.context=8192").await;
    let late = async |max_tokens: usize| {
        let body = json!({ "question": "How many days of annual leave?", "max_tokens": max_tokens, "timeout_ms": 700 });
        read_events(server.ask(body).await).await
    };
    // While it is said.
    let events = late(500).await;
    assert_eq!(one(&events, "error")["type"], "urn:answerd:problem:too-late");
    assert!(!text_of(&events).is_empty());
    // Before its first token.
    upstream.play(Script::failing(Fault::Silent));
    let events = late(500).await;
    assert_eq!(one(&events, "error")["type"], "urn:answerd:problem:too-late");
    server.until_idle().await;
    server.until("the model stopped", async || upstream.open() == 0).await;
}

#[tokio::test]
async fn an_answer_in_line_is_told_its_place_and_can_be_cancelled_there() {
    let (home, upstream) = (Home::new(), Upstream::start(Script::paced(200, 100)));
    let server = serve(&home, &upstream, "models.chat.slots=1\nanswer.resume_grace_s=0").await;
    let running = ask(&server).await;
    server.until("it is being said", async || upstream.open() == 1).await;
    let (mut places, mut readers) = (Vec::new(), Vec::new());
    for n in 1..=3 {
        // One after the other: at once they come into the line in any order.
        let response = ask(&server).await;
        let place = place(&response);
        readers.push(tokio::spawn(read_events(response)));
        server.until("it is in line", async || server.get(&place).await.1["queue_position"] == n).await;
        places.push(place);
    }
    let queued = |events: &[Event]| -> Vec<u64> {
        events.iter().filter_map(|event| event.data["queue_position"].as_u64()).collect()
    };
    // The second in line goes; the third moves up.
    let (_, second) = server.get(&places[1]).await;
    assert_eq!(second["status"], "running");
    assert_eq!(server.delete(&places[1]).await.0, StatusCode::NO_CONTENT);
    server.until("the third moves up", async || server.get(&places[2]).await.1["queue_position"] == 2).await;
    drop(running);
    upstream.play(Script::paced(5, 0));
    let mut ended = Vec::new();
    for reader in readers {
        ended.push(reader.await.unwrap());
    }
    assert_eq!(one(&ended[1], "done")["finish_reason"], "cancelled");
    assert!(text_of(&ended[1]).is_empty());
    for n in [0, 2] {
        assert_eq!(one(&ended[n], "done")["finish_reason"], "stop", "{:?}", ended[n]);
    }
    let first_places: Vec<u64> = ended.iter().filter_map(|events| queued(events).first().copied()).collect();
    assert_eq!(first_places, [1, 2, 3]);
    let third = queued(&ended[2]);
    assert!(third == [3, 2] || third == [3, 2, 1], "{ended:?}");
    server.until_idle().await;
}
