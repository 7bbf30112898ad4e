//! The load that changes documents: events, some of them twice, late, or such that nobody can take them; puts and deletions
//! by HTTP, each read back; files of a watched folder.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_nats::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::truth::{State, Stores, groups, mark, marks, states_revisions, text};
use crate::world::{A, B, C, Caller, Dice, Kind, Node, World};

/// Documents of which events tell, with revisions and without, and those that are put.
const WITH_REVISIONS: usize = 120;
const WITHOUT: usize = 16;
const PUT: usize = 30;
const FILES: usize = 5;
/// Events that may come again.
const REMEMBERED: usize = 400;

pub fn start(world: &Rc<World>) -> Vec<JoinHandle<()>> {
    vec![
        actix::spawn(events(Rc::clone(world))),
        actix::spawn(plain_events(Rc::clone(world))),
        actix::spawn(by_http(Rc::clone(world), Stores::Shared)),
        actix::spawn(by_http(Rc::clone(world), Stores::Own)),
        actix::spawn(files(Rc::clone(world))),
    ]
}

/// An event to publish.
#[derive(Clone)]
struct Event {
    document: String,
    state: State,
    revision: Option<String>,
    id: String,
    body: String,
}

impl Event {
    fn new(document: String, state: State) -> Self {
        let id = format!("{document}@{}", state.version);
        let body = if state.deleted { String::new() } else { text(&document, state.version) };
        let revision = states_revisions(&document).then(|| state.version.to_string());
        Self { document, state, revision, id, body }
    }
}

/// Publishes an event until it is stored: a publisher that is not told so publishes it again.
async fn publish(world: &World, event: &Event) {
    if event.state.deleted {
        world.ledger.deleting(&event.document, event.state.version);
    }
    let action = if event.state.deleted { "deleted" } else { "upserted" };
    let mut headers = HeaderMap::new();
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-type", format!("soak.document.{action}").as_str());
    headers.insert("ce-source", "//soak");
    headers.insert("ce-id", event.id.as_str());
    headers.insert("ce-subject", event.document.as_str());
    headers.insert("content-type", "text/markdown");
    if let Some(revision) = &event.revision {
        headers.insert("ce-revision", revision.as_str());
    }
    if let Some(groups) = groups(&event.document, event.state.version) {
        headers.insert("ce-visibleto", groups.join(",").as_str());
    }
    loop {
        let sent = async {
            let body = event.body.clone().into();
            let stored = world.bus.publish_with_headers(format!("documents.soak.{action}"), headers.clone(), body);
            stored.await.map_err(|error| error.to_string())?.await.map_err(|error| error.to_string())
        };
        match tokio::time::timeout(Duration::from_secs(10), sent).await {
            Ok(Ok(_)) => break,
            Ok(Err(error)) => world.note(&format!("{} is published again: {error}", event.id)),
            Err(_) => world.note(&format!("{} is published again: no word of it", event.id)),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    world.counts.add("events sent", 1);
}

/// Documents whose events state revisions: they come in any order, and again at any time.
async fn events(world: Rc<World>) {
    let dice = Dice::new(world.seed ^ 1);
    let mut revisions = [0u64; WITH_REVISIONS];
    let mut before: VecDeque<Event> = VecDeque::new();
    let mut poison = 0;
    loop {
        world.pause(&dice, 1100).await;
        let _at_work = world.gate.read().await;
        if world.ending.get() {
            return;
        }
        let mut some: Vec<Event> = Vec::new();
        for _ in 0..1 + dice.below(5) {
            // Now and then several of one document, which overtake each other.
            let n = dice.below(WITH_REVISIONS);
            for _ in 0..=usize::from(dice.one_in(4)) * 2 {
                revisions[n] += 1;
                let state = State { version: revisions[n], deleted: dice.one_in(8) };
                some.push(Event::new(format!("ev/{n}.md"), state));
            }
        }
        before.extend(some.iter().cloned());
        before.drain(..before.len().saturating_sub(REMEMBERED));
        dice.shuffle(&mut some);
        // Late is what something newer of its document goes before.
        let late = some.iter().enumerate().filter(|(n, event)| {
            some[..*n].iter().any(|other| other.document == event.document && other.state.version > event.state.version)
        });
        world.counts.add("events late", late.count() as u64);
        if dice.one_in(3) {
            some.push(before[dice.below(before.len())].clone());
            world.counts.add("events sent again", 1);
        }
        if dice.one_in(12) {
            poison += 1;
            let mut event = Event::new(format!("poison/{poison}"), State { version: poison, deleted: false });
            match poison % 2 {
                0 => event.body = "a\0b\0\u{1}\u{2}\0".to_owned(),
                _ => event.revision = Some("newest".to_owned()),
            }
            world.ledger.poison(&event.id);
            world.counts.add("poison", 1);
            some.push(event);
        }
        for event in &some {
            publish(&world, event).await;
            if !event.document.starts_with("poison/") {
                world.ledger.newest(&event.document, Stores::Both, event.state);
            }
        }
    }
}

/// Documents whose events state none: each is published when the one before it is stored.
async fn plain_events(world: Rc<World>) {
    let dice = Dice::new(world.seed ^ 2);
    let mut versions = [0u64; WITHOUT];
    loop {
        world.pause(&dice, 2500).await;
        let _at_work = world.gate.read().await;
        if world.ending.get() {
            return;
        }
        let n = dice.below(WITHOUT);
        versions[n] += 1;
        let event = Event::new(format!("plain/{n}.md"), State { version: versions[n], deleted: dice.one_in(10) });
        publish(&world, &event).await;
        world.ledger.newest(&event.document, Stores::Both, event.state);
    }
}

/// Puts and deletes documents, and looks whether it finds its own writes.
async fn by_http(world: Rc<World>, stores: Stores) {
    let shared = stores == Stores::Shared;
    let dice = Dice::new(world.seed ^ if shared { 3 } else { 4 });
    let mut versions = [0u64; PUT];
    loop {
        world.pause(&dice, 1800).await;
        let _at_work = world.gate.read().await;
        if world.ending.get() {
            return;
        }
        let n = dice.below(PUT);
        versions[n] += 1;
        let (id, state) = (
            format!("{}/{n}.md", if shared { "put" } else { "own" }),
            State { version: versions[n], deleted: versions[n] > 1 && dice.one_in(8) },
        );
        let node = if shared { [A, B][dice.below(2)] } else { C };
        write(&world, &dice, node, &id, stores, state).await;
    }
}

async fn write(world: &World, dice: &Dice, node: usize, id: &str, stores: Stores, state: State) {
    let began = Instant::now();
    let wait = dice.one_in(3);
    let revision = if states_revisions(id) { format!("&revision={}", state.version) } else { String::new() };
    let path = format!("/v1/documents/{id}?wait={wait}{revision}");
    let at = &world.nodes[node];
    if state.deleted {
        world.ledger.deleting(id, state.version);
    }
    let request = match state.deleted {
        true => at.request(&world.http, Caller::Root, Method::DELETE, &path),
        false => {
            let request = at.request(&world.http, Caller::Root, Method::PUT, &path);
            let envelope = json!({
                "content": text(id, state.version), "media_type": "text/markdown",
                "visible_to": groups(id, state.version)
            });
            request.json(&envelope)
        }
    };
    world.counts.add("writes by HTTP", 1);
    let said = match Node::json(request).await {
        Ok((StatusCode::OK | StatusCode::ACCEPTED, said)) => said,
        Ok((StatusCode::NOT_FOUND, said)) if state.deleted => {
            if !world.ledger.may_be_absent(id) {
                world.violation(Kind::Lost, &format!("{id} is to be deleted and not there: {said}"));
            }
            return world.ledger.acknowledged(id, stores, state);
        }
        Ok((_, said)) => {
            world.ledger.unknown(id, stores, state);
            return world.failed(&[node], &problem(&said), began, &format!("a write of {id}: {said}"));
        }
        Err(error) => {
            world.ledger.unknown(id, stores, state);
            return world.failed(&[node], "connection", began, &format!("a write of {id}: {error:?}"));
        }
    };
    world.ledger.acknowledged(id, stores, state);
    if said["outcome"] != "accepted" {
        world.violation(Kind::Wrong, &format!("{id} in version {}: {said}", state.version));
    }
    // Whoever is asked, with `min_seq`, knows it.
    let reader = match node {
        C => C,
        node => A + B - node,
    };
    let search = json!({
        "query": mark(state.version), "mode": "lexical", "filter": { "id": id }, "min_seq": said["seq"], "limit": 50
    });
    let began = Instant::now();
    world.counts.add("searches for an own write", 1);
    world.counts.add("searches", 1);
    let found = world.nodes[reader].post(&world.http, Caller::Root, "/v1/search", &search).await;
    match found {
        Ok((StatusCode::OK, found)) => {
            let texts = found["results"].as_array().into_iter().flatten();
            let texts: Vec<&str> = texts.filter_map(|passage| passage["text"].as_str()).collect();
            let right = texts.iter().all(|text| marks(text).iter().all(|(version, _)| *version == state.version));
            if !right || texts.is_empty() != state.deleted {
                let name = world.nodes[reader].name;
                world.violation(Kind::Lost, &format!("{name} does not know {id} as {state:?}: {found}"));
            }
        }
        Ok((_, said)) => world.failed(&[reader], &problem(&said), began, &format!("a search with min_seq: {said}")),
        Err(error) => world.failed(&[reader], "connection", began, &format!("a search with min_seq: {error:?}")),
    }
}

/// The kind of a problem document; whatever else comes is named so.
pub fn problem(said: &Value) -> String {
    let kind = said["type"].as_str().and_then(|kind| kind.strip_prefix("urn:answerd:problem:"));
    kind.unwrap_or("no problem document").to_owned()
}

/// Files that change.
async fn files(world: Rc<World>) {
    let dice = Dice::new(world.seed ^ 5);
    let mut versions = [0u64; FILES];
    loop {
        world.pause(&dice, 12_000).await;
        let _at_work = world.gate.read().await;
        if world.ending.get() {
            return;
        }
        let n = dice.below(FILES);
        versions[n] += 1;
        let id = format!("w{n}.md");
        let state = State { version: versions[n], deleted: versions[n] > 1 && dice.one_in(6) };
        let file = world.watched.path().join("files").join(&id);
        if state.deleted {
            world.ledger.deleting(&id, state.version);
            let _ = std::fs::remove_file(&file);
        } else {
            let new = world.watched.path().join("new");
            std::fs::write(&new, text(&id, state.version)).expect("written");
            std::fs::rename(&new, &file).expect("renamed");
        }
        world.counts.add("files written", 1);
        world.ledger.acknowledged(&id, Stores::Own, state);
    }
}
