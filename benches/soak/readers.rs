//! The load that reads: searches, documents, and questions over every protocol, by readers who stay, stall, vanish, or come
//! again, here or there.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use eventsource_stream::Eventsource;
use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::common::upstream::said_about;
use crate::faults::BUSY;
use crate::truth::{HANDBOOK, groups, marks, states_revisions};
use crate::world::{A, B, C, Caller, Dice, Kind, PATIENCE, World, broken, outcome};
use crate::writers::problem;

/// Readers of the replicas, and of the embedded one.
const READERS: u64 = 5;
/// The problem of an answer that rests on a document which was deleted.
const GONE: &str = "document-deleted";
/// Questions that are asked again.
const REMEMBERED: usize = 40;

pub fn start(world: &Rc<World>) -> Vec<JoinHandle<()>> {
    let questions = Rc::new(Questions::default());
    let mut tasks: Vec<_> =
        (0..READERS).map(|n| actix::spawn(ask(Rc::clone(world), Rc::clone(&questions), n))).collect();
    tasks.push(actix::spawn(ask_the_embedded_one(Rc::clone(world), Rc::clone(&questions))));
    tasks.push(actix::spawn(search(Rc::clone(world))));
    tasks
}

/// A question, and how much may be said to it.
#[derive(Clone)]
struct Question {
    text: String,
    /// What the scripted model speaks of.
    about: String,
    max_tokens: usize,
}

/// The questions so far.
#[derive(Default)]
struct Questions {
    asked: std::cell::Cell<u64>,
    lately: RefCell<Vec<Question>>,
}

impl Questions {
    /// One that nobody has asked.
    fn fresh(&self, dice: &Dice) -> Question {
        self.asked.set(self.asked.get() + 1);
        let about = format!("case{}", self.asked.get());
        let question = HANDBOOK[dice.below(HANDBOOK.len())].2;
        Question { text: format!("{question} in {about}?"), about, max_tokens: 8 + dice.below(180) }
    }

    /// One that was asked before, if any was.
    fn again(&self, dice: &Dice) -> Question {
        let known = {
            let lately = self.lately.borrow();
            lately.get(dice.below(lately.len())).cloned()
        };
        known.unwrap_or_else(|| self.fresh(dice))
    }

    fn remember(&self, question: &Question) {
        let mut lately = self.lately.borrow_mut();
        lately.push(question.clone());
        let surplus = lately.len().saturating_sub(REMEMBERED);
        lately.drain(..surplus);
    }
}

/// How somebody reads.
#[derive(Default)]
struct Manner {
    /// Breaks off after so many events, and comes again.
    cuts: Vec<usize>,
    /// Takes nothing for so long, after some events.
    stalls: Option<Duration>,
    /// Breaks off, and never comes again.
    vanishes: bool,
}

/// What was heard of an answer.
#[derive(Default)]
struct Heard {
    /// The answer's address.
    place: String,
    last_id: Option<String>,
    events: usize,
    text: String,
    /// What it rests on: documents and their revisions, once that was heard.
    sources: Vec<(String, u64)>,
    end: Option<(String, Value)>,
    /// Times that its reader came again.
    came_again: usize,
}

impl Heard {
    /// Takes an event.
    ///
    /// # Errors
    /// Where it is not the next one of this answer.
    fn take(&mut self, id: &str, name: &str, data: Value) -> Result<(), String> {
        let (answer, position) = id.rsplit_once(':').ok_or_else(|| format!("the event id is {id}"))?;
        if self.place.is_empty() {
            self.place = format!("/v1/answers/{answer}");
        }
        // Of an answer that is gone with a document, nothing is said but that.
        let gone = name == "error" && problem(&data) == GONE;
        if self.place != format!("/v1/answers/{answer}") || position != self.events.to_string() && !gone {
            return Err(format!("event {id} comes where {}:{} should", self.place, self.events));
        }
        if let Some((end, _)) = &self.end {
            return Err(format!("{name} comes after {end}"));
        }
        self.last_id = Some(id.to_owned());
        self.events += 1;
        match name {
            "token" => self.text.push_str(data["text"].as_str().unwrap_or_default()),
            "sources" => {
                let source =
                    |source: &Value| Some((source["document_id"].as_str()?.to_owned(), source["revision"].as_u64()?));
                self.sources = data["sources"].as_array().into_iter().flatten().filter_map(source).collect();
            }
            "done" | "error" => self.end = Some((name.to_owned(), data)),
            _ => {}
        }
        Ok(())
    }
}

async fn ask(world: Rc<World>, questions: Rc<Questions>, reader: u64) {
    let dice = Dice::new(world.seed ^ (10 + reader));
    loop {
        world.pause(&dice, 3500).await;
        let _at_work = world.gate.read().await;
        if world.ending.get() {
            return;
        }
        let node = [A, B][dice.below(2)];
        let caller = Caller::ALL[dice.below(4)];
        let new = questions.fresh(&dice);
        let manner = Manner::default();
        match dice.below(16) {
            0..3 => events(&world, &dice, node, caller, &new, manner).await,
            3..6 => {
                let cuts = (0..1 + dice.below(3)).map(|_| 1 + dice.below(60)).collect();
                events(&world, &dice, node, caller, &new, Manner { cuts, ..manner }).await;
            }
            6 => events(&world, &dice, node, caller, &new, Manner { vanishes: true, ..manner }).await,
            7 => {
                let stalls = Some(dice.millis(2000, 9000));
                events(&world, &dice, node, caller, &new, Manner { stalls, ..manner }).await;
            }
            8 | 9 => socket(&world, &dice, node, caller, &questions).await,
            10 | 11 => object(&world, node, caller, &new).await,
            12 | 13 => {
                let known = questions.again(&dice);
                events(&world, &dice, node, caller, &known, manner).await;
            }
            // Several who ask the same at once, of both.
            _ => {
                let all = (0..4).map(|n| events(&world, &dice, [A, B][n % 2], caller, &new, Manner::default()));
                join_all(all).await;
            }
        }
        questions.remember(&new);
    }
}

/// The real model says what it says: the same to all who read it.
async fn ask_the_embedded_one(world: Rc<World>, questions: Rc<Questions>) {
    let dice = Dice::new(world.seed ^ 30);
    loop {
        world.pause(&dice, 8000).await;
        let _at_work = world.gate.read().await;
        if world.ending.get() {
            return;
        }
        let caller = Caller::ALL[dice.below(4)];
        let question = Question { max_tokens: 24, ..questions.fresh(&dice) };
        let cuts = if dice.one_in(2) { vec![2 + dice.below(12)] } else { Vec::new() };
        let vanishes = cuts.is_empty() && dice.one_in(5);
        events(&world, &dice, C, caller, &question, Manner { cuts, vanishes, ..Manner::default() }).await;
    }
}

fn body(question: &Question) -> Value {
    json!({ "question": question.text, "max_tokens": question.max_tokens, "filter": { "collection": ["handbook", "soak", "default"] } })
}

/// Asks, and reads server-sent events.
async fn events(world: &World, dice: &Dice, node: usize, caller: Caller, question: &Question, manner: Manner) {
    let began = Instant::now();
    world.counts.add("asked", 1);
    let about = format!("{} ({})", question.about, question.max_tokens);
    let at = &world.nodes[node];
    let request = at.request(&world.http, caller, Method::POST, "/v1/answers");
    let request = request.header("accept", "text/event-stream").json(&body(question));
    let mut response = match tokio::time::timeout(PATIENCE, request.send()).await {
        Ok(Ok(response)) if response.status() == StatusCode::OK => response,
        Ok(Ok(response)) => {
            let said = outcome(response).await.1;
            return refused(world, &[node], &said, began, &about);
        }
        Ok(Err(error)) => return broke(world, &[node], &broken(&error).0, began, &about),
        Err(_) => return broke(world, &[node], "no response", began, &about),
    };
    let place = response.headers().get("location").and_then(|place| place.to_str().ok());
    let mut heard = Heard { place: place.unwrap_or_default().to_owned(), ..Heard::default() };
    let (mut cuts, mut nodes) = (manner.cuts.into_iter(), vec![node]);
    let first_stop = manner.vanishes.then(|| 1 + dice.below(20));
    loop {
        let stop = cuts.next().or(first_stop);
        if let Some(stalls) = manner.stalls {
            tokio::time::sleep(stalls).await;
        }
        let read = read(world, caller, response, &mut heard, stop).await;
        if let Err(why) = &read {
            wrong(world, &format!("{about} at {nodes:?}: {why}"));
            return;
        }
        if heard.end.is_some() {
            break;
        }
        if manner.vanishes {
            world.counts.add("left", 1);
            return;
        }
        let from = if node == C { C } else { [A, B][dice.below(2)] };
        match come_again(world, from, caller, &mut heard, began, &mut nodes).await {
            Some(next) => response = next,
            // After the last event nothing comes any more.
            None if heard.end.is_some() => break,
            None => return broke(world, &nodes, "not-found", began, &about),
        }
    }
    judge(world, &nodes, question, &heard, began);
    // It can be read again, as one object.
    if node == C && heard.end.as_ref().is_some_and(|(name, _)| name == "done") {
        whole(world, node, caller, &heard, &about, began).await;
    }
}

/// Reads events up to the end, a break of the connection, or so many.
///
/// # Errors
/// What is wrong with an event.
async fn read(
    world: &World,
    caller: Caller,
    response: Response,
    heard: &mut Heard,
    most: Option<usize>,
) -> Result<(), String> {
    let mut events = response.bytes_stream().eventsource();
    let mut count = 0;
    while most.is_none_or(|most| count < most) {
        let event = match tokio::time::timeout(PATIENCE, events.next()).await {
            Ok(Some(Ok(event))) => event,
            Ok(Some(Err(_)) | None) => break,
            Err(_) => {
                world.note(&format!("{} says nothing for {} s", heard.place, PATIENCE.as_secs()));
                break;
            }
        };
        let data: Value = serde_json::from_str(&event.data).map_err(|error| format!("{error} in {}", event.data))?;
        sources_are_seen(world, caller, &data["sources"]);
        heard.take(&event.id, &event.event, data)?;
        count += 1;
    }
    Ok(())
}

/// An answer rests on what its asker may see.
fn sources_are_seen(world: &World, caller: Caller, sources: &Value) {
    for source in sources.as_array().into_iter().flatten() {
        let (id, revision) = (source["document_id"].as_str().unwrap_or_default(), source["revision"].as_u64());
        if states_revisions(id) && revision.is_none_or(|revision| !caller.sees(groups(id, revision))) {
            world.violation(Kind::Shown, &format!("an answer to {caller:?} rests on {source}"));
        }
    }
}

/// Goes on reading an answer, where it can be had.
async fn come_again(
    world: &World,
    mut from: usize,
    caller: Caller,
    heard: &mut Heard,
    began: Instant,
    nodes: &mut Vec<usize>,
) -> Option<Response> {
    heard.came_again += 1;
    let since = Instant::now();
    // A process that was killed is back within some seconds; where an answer is read elsewhere it is known a little later.
    while since.elapsed() < Duration::from_secs(25) {
        if !nodes.contains(&from) {
            nodes.push(from);
        }
        let mut request =
            world.nodes[from].request(&world.http, caller, Method::GET, &format!("{}/events", heard.place));
        if let Some(last) = &heard.last_id {
            request = request.header("last-event-id", last);
        }
        match tokio::time::timeout(PATIENCE, request.send()).await {
            Ok(Ok(response)) if response.status() == StatusCode::OK => return Some(response),
            Ok(Ok(response)) => {
                let (status, said) = outcome(response).await;
                world.note(&format!("{} at {}: {status} {said}", heard.place, world.nodes[from].name));
                // One that it does not know is looked for at the other one at once, and at both for a while.
                if status == StatusCode::NOT_FOUND && since.elapsed() > Duration::from_secs(8) {
                    return None;
                }
                if problem(&said) == GONE {
                    heard.end = Some(("error".to_owned(), said));
                    return None;
                }
                if !matches!(status, StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE) {
                    world.failed(nodes, &problem(&said), began, &format!("{} read on: {said}", heard.place));
                    return None;
                }
            }
            Ok(Err(_)) | Err(_) => {}
        }
        from = if from == C { C } else { A + B - from };
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    None
}

/// An answer that came to its end is what the model says to its question.
fn judge(world: &World, nodes: &[usize], question: &Question, heard: &Heard, began: Instant) {
    let Some((name, data)) = &heard.end else { return };
    let about = format!("{} ({}), {}", question.about, question.max_tokens, heard.place);
    if name == "error" && problem(data) == GONE {
        world.counts.add("withdrawn", 1);
        let deleted = |(id, revision): &(String, u64)| world.ledger.may_be_deleted(id, *revision);
        if !heard.sources.is_empty() && !heard.sources.iter().any(deleted) {
            wrong(world, &format!("{about} is gone, and none of {:?} was deleted", heard.sources));
        }
        return;
    }
    if name == "error" {
        return refused(world, nodes, data, began, &about);
    }
    let reason = data["finish_reason"].as_str().unwrap_or_default();
    if reason == "cancelled" {
        // Its reader was away for longer than the grace.
        return broke(world, nodes, "cancelled", began, &about);
    }
    let right = match nodes.contains(&C) {
        true => !heard.text.trim().is_empty() && ["stop", "length"].contains(&reason),
        false => heard.text.trim() == said_about(&question.about, question.max_tokens).trim() && reason == "length",
    };
    // Where nothing could be found, because a part of the search was away, that is said.
    if !right && reason == "not_found" && world.spells.excuses(nodes, "degraded", began) {
        return world.counts.add("broken off", 1);
    }
    if !right {
        return wrong(world, &format!("{about} at {nodes:?} is {:?}, {data}", heard.text));
    }
    world.counts.add("complete", 1);
    world.counts.add("resumed", u64::from(heard.came_again > 0));
    world.counts.add("cached", u64::from(data["cached"] == true));
}

fn wrong(world: &World, text: &str) {
    world.counts.add("answers wrong", 1);
    world.violation(Kind::Wrong, &format!("an answer: {text}"));
}

/// An answer that ended with a problem.
fn refused(world: &World, nodes: &[usize], said: &Value, began: Instant, about: &str) {
    let kind = problem(said);
    world.counts.add(if BUSY.contains(&&*kind) { "refused" } else { "broken off" }, 1);
    world.failed(nodes, &kind, began, &format!("{about}: {said}"));
}

/// An answer of which there is no end.
fn broke(world: &World, nodes: &[usize], trouble: &str, began: Instant, about: &str) {
    world.counts.add("broken off", 1);
    let kind = if ["not-found", "cancelled"].contains(&trouble) { trouble } else { "connection" };
    world.failed(nodes, kind, began, &format!("{about}: {trouble}"));
}

/// Asks for one JSON object.
async fn object(world: &World, node: usize, caller: Caller, question: &Question) {
    let began = Instant::now();
    world.counts.add("asked", 1);
    let about = format!("{} ({}) as JSON", question.about, question.max_tokens);
    match world.nodes[node].post(&world.http, caller, "/v1/answers", &body(question)).await {
        Ok((StatusCode::OK, said)) => {
            sources_are_seen(world, caller, &said["sources"]);
            let text = said["answer"].as_str().unwrap_or_default().to_owned();
            let heard = Heard { text, end: Some(("done".to_owned(), said)), ..Heard::default() };
            judge(world, &[node], question, &heard, began);
        }
        Ok((_, said)) => {
            let heard = Heard { end: Some(("error".to_owned(), said)), ..Heard::default() };
            judge(world, &[node], question, &heard, began);
        }
        Err(error) => broke(world, &[node], &error.0, began, &about),
    }
}

/// Reads an answer again that was read to its end.
async fn whole(world: &World, node: usize, caller: Caller, heard: &Heard, about: &str, began: Instant) {
    match world.nodes[node].get(&world.http, caller, &heard.place).await {
        Ok((StatusCode::OK, said)) if said["answer"] == heard.text && said["status"] == "ended" => {}
        Ok((_, said)) if problem(&said) == GONE || problem(&said["error"]) == GONE => {}
        Ok((StatusCode::OK, said)) => wrong(world, &format!("{about} was {:?} and is {said}", heard.text)),
        Ok((_, said)) => world.failed(&[node], &problem(&said), began, &format!("{about} read again: {said}")),
        Err(error) => world.failed(&[node], "connection", began, &format!("{about} read again: {error:?}")),
    }
}

/// Asks several questions over one WebSocket; what breaks off is read on as server-sent events.
async fn socket(world: &World, dice: &Dice, node: usize, caller: Caller, questions: &Questions) {
    let began = Instant::now();
    let asked: Vec<Question> = (0..1 + dice.below(3)).map(|_| questions.fresh(dice)).collect();
    world.counts.add("asked", asked.len() as u64);
    let url = world.nodes[node].base.replace("http://", "ws://") + "/v1/ws";
    let mut request = url.into_client_request().expect("an address");
    let key = format!("Bearer {}", world.nodes[node].keys.of(caller)).parse().expect("a header");
    request.headers_mut().insert("authorization", key);
    let opened = tokio::time::timeout(PATIENCE, connect_async(request)).await;
    let mut socket = match opened {
        Ok(Ok((socket, _))) => socket,
        Ok(Err(error)) => {
            return asked.iter().for_each(|one| broke(world, &[node], &error.to_string(), began, &one.about));
        }
        Err(_) => return asked.iter().for_each(|one| broke(world, &[node], "no WebSocket", began, &one.about)),
    };
    let mut heard: Vec<Heard> = asked.iter().map(|_| Heard::default()).collect();
    for (n, question) in asked.iter().enumerate() {
        let mut frame = body(question);
        (frame["type"], frame["id"]) = ("ask".into(), n.to_string().into());
        if socket.send(Message::text(frame.to_string())).await.is_err() {
            break;
        }
    }
    while heard.iter().any(|heard| heard.end.is_none()) {
        let Ok(Some(Ok(message))) = tokio::time::timeout(PATIENCE, socket.next()).await else { break };
        let Message::Text(text) = message else { continue };
        let frame: Value = serde_json::from_str(&text).unwrap_or_default();
        let n: Option<usize> = frame["id"].as_str().and_then(|id| id.parse().ok());
        let Some(one) = n.and_then(|n| heard.get_mut(n)) else {
            wrong(world, &format!("a frame of no question: {frame}"));
            return;
        };
        let name = frame["event"].as_str().unwrap_or_default();
        sources_are_seen(world, caller, &frame["data"]["sources"]);
        // A question that was not taken has no events.
        let taken = match frame["event_id"].as_str() {
            Some(id) => one.take(id, name, frame["data"].clone()),
            None => {
                one.end = Some((name.to_owned(), frame["data"].clone()));
                Ok(())
            }
        };
        if let Err(why) = taken {
            wrong(world, &format!("{} over a WebSocket: {why}", asked[n.unwrap_or_default()].about));
            return;
        }
    }
    drop(socket);
    for (question, mut heard) in asked.iter().zip(heard) {
        let mut nodes = vec![node];
        while heard.end.is_none() {
            if heard.place.is_empty() {
                broke(world, &nodes, "the WebSocket ended", began, &question.about);
                break;
            }
            let from = A + B - node;
            let Some(response) = come_again(world, from, caller, &mut heard, began, &mut nodes).await else {
                broke(world, &nodes, "not-found", began, &question.about);
                break;
            };
            if let Err(why) = read(world, caller, response, &mut heard, None).await {
                return wrong(world, &format!("{} after a WebSocket: {why}", question.about));
            }
        }
        judge(world, &nodes, question, &heard, began);
    }
}

/// Searches, and reads documents, as everybody.
async fn search(world: Rc<World>) {
    const WORDS: [&str; 8] = [
        "invoice for travel",
        "pump seal",
        "backup",
        "canteen meeting",
        "password report",
        "delivery order",
        "safety",
        "part",
    ];
    let dice = Dice::new(world.seed ^ 40);
    loop {
        world.pause(&dice, 700).await;
        let _at_work = world.gate.read().await;
        if world.ending.get() {
            return;
        }
        let (node, caller, began) = ([A, B, C][dice.below(3)], Caller::ALL[dice.below(4)], Instant::now());
        let at = &world.nodes[node];
        if dice.one_in(4) {
            let id = format!("{}/{}.md", ["ev", "put"][dice.below(2)], dice.below(30));
            match at.get(&world.http, caller, &format!("/v1/documents/{id}")).await {
                Ok((StatusCode::OK, shown)) => {
                    is_seen(&world, node, caller, &id, None, shown["text"].as_str().unwrap_or_default());
                }
                Ok((StatusCode::NOT_FOUND, _)) => {}
                Ok((_, said)) => world.failed(&[node], &problem(&said), began, &format!("reading {id}: {said}")),
                Err(error) => world.failed(&[node], "connection", began, &format!("reading {id}: {error:?}")),
            }
            continue;
        }
        let mode = ["hybrid", "hybrid", "lexical", "vector"][dice.below(4)];
        let query = json!({ "query": WORDS[dice.below(WORDS.len())], "mode": mode, "limit": 20 });
        world.counts.add("searches", 1);
        match at.post(&world.http, caller, "/v1/search", &query).await {
            Ok((StatusCode::OK, found)) => {
                for passage in found["results"].as_array().into_iter().flatten() {
                    let id = passage["document_id"].as_str().unwrap_or_default();
                    let text = passage["text"].as_str().unwrap_or_default();
                    is_seen(&world, node, caller, id, passage["revision"].as_u64(), text);
                }
            }
            Ok((_, said)) => world.failed(&[node], &problem(&said), began, &format!("a search: {said}")),
            Err(error) => world.failed(&[node], "connection", began, &format!("a search: {error:?}")),
        }
    }
}

/// What is shown of a document is of it, of the revision that is named, and for whom it is shown to.
fn is_seen(world: &World, node: usize, caller: Caller, id: &str, revision: Option<u64>, text: &str) {
    let name = world.nodes[node].name;
    for (version, of) in marks(text) {
        if of != id || states_revisions(id) && revision.is_some_and(|revision| revision != version) {
            world.violation(Kind::Wrong, &format!("{name} shows as revision {revision:?} of {id}: {text}"));
        }
    }
    let versions = marks(text).into_iter().map(|(version, _)| version).chain(revision);
    for version in versions.filter(|_| states_revisions(id)) {
        if !caller.sees(groups(id, version)) {
            world.violation(Kind::Shown, &format!("{name} shows {id} in version {version} to {caller:?}"));
        }
    }
}
