//! What was acknowledged of each document, and the comparison with what each answerd serves.
//!
//! A document's text names its version in every section, so that whatever is served of it says which version it is of.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::health;
use crate::support::WORDS;
use crate::world::{A, B, C, Caller, Kind, PATIENCE, World, mix};

/// Documents that are compared at once.
const AT_ONCE: usize = 6;
/// What the questions are about: title, text, question.
pub const HANDBOOK: [(&str, &str, &str); 6] = [
    (
        "Expenses",
        "The daily limit for meals on a journey is 48 euros.",
        "What is the daily limit for meals on a journey",
    ),
    ("Leave", "Every employee has 28 days of annual leave.", "How many days of annual leave does an employee have"),
    ("Pumps", "The seal of a pump is replaced every 4,000 hours.", "How often is the seal of a pump replaced"),
    ("Passwords", "A password has at least 14 characters.", "How many characters must a password have"),
    ("Backups", "Backups are made every night at two o'clock.", "At what time of the night are backups made"),
    ("Canteen", "The canteen serves lunch from noon until two.", "From when on does the canteen serve lunch"),
];

/// Who serves a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stores {
    /// The two replicas.
    Shared,
    /// The embedded one.
    Own,
    /// All three.
    Both,
}

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct State {
    pub version: u64,
    pub deleted: bool,
}

/// What is known of a document.
#[derive(Debug, Clone)]
struct Document {
    stores: Stores,
    /// What was acknowledged last, if anything was.
    acknowledged: Option<State>,
    /// What was sent after it and not acknowledged: it may have been taken.
    maybe: Vec<State>,
}

/// What was acknowledged.
#[derive(Default)]
pub struct Ledger {
    documents: RefCell<BTreeMap<String, Document>>,
    /// The newest version in which each was deleted, whether that was acknowledged or not.
    deleted: RefCell<BTreeMap<String, u64>>,
    /// Events that nobody can take, by their id.
    poison: RefCell<BTreeSet<String>>,
    /// The dead letters so far, by the id of their event, and up to which number of their stream.
    letters: RefCell<BTreeMap<String, u64>>,
    letters_read: Cell<u64>,
}

impl Ledger {
    fn with(&self, id: &str, stores: Stores, change: impl FnOnce(&mut Document)) {
        let new = || Document { stores, acknowledged: None, maybe: Vec::new() };
        change(self.documents.borrow_mut().entry(id.to_owned()).or_insert_with(new));
    }

    /// What is newest counts, in whichever order it is acknowledged.
    pub fn newest(&self, id: &str, stores: Stores, state: State) {
        self.with(id, stores, |document| document.acknowledged = document.acknowledged.max(Some(state)));
    }

    /// What is acknowledged now counts; what was sent before it cannot come any more where it states a revision.
    pub fn acknowledged(&self, id: &str, stores: Stores, state: State) {
        self.with(id, stores, |document| {
            document.acknowledged = Some(state);
            document.maybe.clear();
        });
    }

    /// Something was sent, and nobody knows what became of it.
    pub fn unknown(&self, id: &str, stores: Stores, state: State) {
        self.with(id, stores, |document| document.maybe.push(state));
    }

    /// Whether a document may be absent, as far as is known.
    pub fn may_be_absent(&self, id: &str) -> bool {
        let documents = self.documents.borrow();
        let Some(document) = documents.get(id) else { return true };
        document.acknowledged.is_none_or(|state| state.deleted) || document.maybe.iter().any(|state| state.deleted)
    }

    /// A document is about to be deleted.
    pub fn deleting(&self, id: &str, version: u64) {
        let mut deleted = self.deleted.borrow_mut();
        let newest = deleted.entry(id.to_owned()).or_default();
        *newest = version.max(*newest);
    }

    /// Whether a document may have been deleted since it had this revision.
    pub fn may_be_deleted(&self, id: &str, revision: u64) -> bool {
        let deleted = self.deleted.borrow();
        deleted.get(id).is_some_and(|version| *version > revision || !states_revisions(id))
    }

    pub fn poison(&self, event: &str) {
        self.poison.borrow_mut().insert(event.to_owned());
    }
}

fn hash(id: &str, version: u64) -> u64 {
    id.bytes().fold(mix(version), |hash, byte| mix(hash ^ u64::from(byte)))
}

/// Who may see a version of a document: these groups, or everybody.
pub fn groups(id: &str, version: u64) -> Option<&'static [&'static str]> {
    if !states_revisions(id) {
        return None;
    }
    match hash(id, version) % 6 {
        0 => Some(&["red"]),
        1 => Some(&["blue"]),
        2 => Some(&["red", "blue"]),
        _ => None,
    }
}

/// Whether a document's versions are its revisions.
pub fn states_revisions(id: &str) -> bool {
    id.starts_with("ev/") || id.starts_with("put/")
}

/// A version of a document: some sections, each of which names it.
pub fn text(id: &str, version: u64) -> String {
    let mut random = hash(id, version);
    let mut next = |below: u64| {
        random = mix(random.wrapping_add(0x9e37_79b9_7f4a_7c15));
        random % below
    };
    let mut text = format!("# About {id}\n\n");
    for section in 0..=next(4) {
        text += &format!("## Part {section}\n\nThis is {} of {id}. ", mark(version));
        for _ in 0..30 + next(40) {
            text += WORDS[next(WORDS.len() as u64) as usize];
            text.push(' ');
        }
        text += "and that is all.\n\n";
    }
    text
}

/// The word by which a version is found.
pub fn mark(version: u64) -> String {
    format!("version{version}x")
}

/// The versions and documents that a text names.
pub fn marks(text: &str) -> Vec<(u64, &str)> {
    let after = text.split("This is version").skip(1);
    after
        .filter_map(|rest| {
            let (version, rest) = rest.split_once("x of ")?;
            Some((version.parse().ok()?, rest.split_once(". ")?.0))
        })
        .collect()
}

/// Puts the documents that the questions are about.
pub async fn handbook(world: &World) {
    for (n, (title, about, _)) in HANDBOOK.iter().enumerate() {
        let id = format!("handbook/{n}.md");
        let body = format!("# {title}\n\n{about} This is {} of {id}. It holds for everybody.", mark(1));
        for node in [A, C] {
            let request = world.nodes[node].request(
                &world.http,
                Caller::Root,
                reqwest::Method::PUT,
                &format!("/v1/documents/{id}?wait=true&collection=handbook"),
            );
            let request = request.header("content-type", "text/markdown").body(body.clone());
            let (status, said) = crate::world::Node::json(request).await.expect("a response");
            assert_eq!(status, StatusCode::OK, "{said}");
        }
        world.ledger.acknowledged(&id, Stores::Both, State { version: 1, deleted: false });
    }
}

/// Has all load and all faults pause, waits until everything rests, and compares.
pub async fn checkpoint(world: &Rc<World>, when: &str) {
    let began = Instant::now();
    let alone = tokio::time::timeout(PATIENCE * 3, world.gate.write()).await;
    let Ok(_alone) = alone else {
        world.violation(Kind::Stuck, &format!("{when}: what was at work did not end"));
        return;
    };
    let paused = began.elapsed();
    if let Err(why) = at_rest(world).await {
        // What is not taken yet is not lost.
        return world.violation(Kind::Stuck, &format!("{when}: {why}"));
    }
    let rested = began.elapsed();
    health::sample(world, true);
    world.counts.clear("documents compared");
    world.counts.clear("documents right");
    for node in [A, B, C] {
        compare(world, node).await;
    }
    letters(world).await;
    world.counts.add("comparisons", 1);
    let text = format!(
        "compared {when}: paused after {:.1} s, at rest after {:.1} s, done after {:.1} s; {} of {} documents right",
        paused.as_secs_f64(),
        rested.as_secs_f64(),
        began.elapsed().as_secs_f64(),
        world.counts.get("documents right"),
        world.counts.get("documents compared")
    );
    world.note(&text);
    eprintln!("{:6} s: {text}", world.age_s());
}

/// Waits until everybody is ready, has taken everything, and does nothing; for as long as there is less to do each time.
async fn at_rest(world: &World) -> Result<(), String> {
    let (mut last, mut changed, mut told) = (String::new(), Instant::now(), Instant::now());
    loop {
        let mut why = None;
        for node in &world.nodes {
            if why.is_none() {
                why = match node.get(&world.http, Caller::Root, "/admin/status").await {
                    Err(error) => Some(format!("{}: {error:?}", node.name)),
                    Ok((_, status)) => unrest(&status).map(|why| format!("{}: {why}", node.name)),
                };
            }
        }
        for consumer in ["answerd", "embedded"] {
            if why.is_none() {
                why = waiting(world, consumer).await;
            }
        }
        if why.is_none() && world.upstream.open() > 0 {
            why = Some(format!("{} streams of the model elsewhere are open", world.upstream.open()));
        }
        let Some(why) = why else { return Ok(()) };
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            eprintln!("{:6} s: not at rest: {why}", world.age_s());
        }
        if why != last {
            (last, changed) = (why, Instant::now());
        } else if changed.elapsed() > PATIENCE * 2 {
            return Err(why);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What of an answerd does not rest.
fn unrest(status: &Value) -> Option<String> {
    let wanted = [
        ("/ready", json!(true)),
        ("/freshness/lag_events", json!(0)),
        ("/catalog/pending", json!(0)),
        ("/events/connected", json!(true)),
        ("/events/at_work", json!(0)),
    ];
    for (path, wanted) in wanted {
        let found = status.pointer(path).unwrap_or(&Value::Null);
        if *found != wanted {
            return Some(format!("{path} is {found}, {}", status["troubles"]));
        }
    }
    // The source is always at work, and looks into the answers come and go.
    let mut branches: Vec<&Value> = status["actors"].as_array()?.iter().collect();
    while let Some(branch) = branches.pop() {
        branches.extend(branch["children"].as_array().into_iter().flatten());
        if branch["name"] != "write/source" && branch["depth"].as_u64() > Some(0) && branch["part"] != "maintainer" {
            return Some(format!("{} is at work: {} messages", branch["name"], branch["depth"]));
        }
    }
    None
}

async fn waiting(world: &World, consumer: &str) -> Option<String> {
    let info = async { world.bus.get_stream("DOCUMENTS").await.ok()?.consumer_info(consumer).await.ok() };
    match info.await {
        None => Some(format!("NATS tells nothing of the consumer {consumer}")),
        Some(info) if info.num_pending == 0 && info.num_ack_pending == 0 => None,
        Some(info) => Some(format!(
            "the consumer {consumer} has {} events to come and {} at work",
            info.num_pending, info.num_ack_pending
        )),
    }
}

/// Compares what one answerd serves.
async fn compare(world: &World, node: usize) {
    let here = |stores: Stores| stores == Stores::Both || (stores == Stores::Own) == (node == C);
    let documents: Vec<(String, Document)> = world.ledger.documents.borrow().clone().into_iter().collect();
    let documents: Vec<(String, Document)> =
        documents.into_iter().filter(|(_, document)| here(document.stores)).collect();
    let compared = futures_util::stream::iter(&documents).map(async |(id, document)| {
        let mut found = verify(world, node, id, document).await;
        // A file is seen some time after it was written.
        let began = Instant::now();
        while found.is_err() && id.starts_with('w') && began.elapsed() < Duration::from_secs(20) {
            tokio::time::sleep(Duration::from_millis(200)).await;
            found = verify(world, node, id, document).await;
        }
        if let Err((kind, why)) = &found {
            let name = world.nodes[node].name;
            world.violation(*kind, &format!("{id} at {name}: {why}; known is {document:?}"));
        }
        found.is_ok()
    });
    let right: Vec<bool> = compared.buffer_unordered(AT_ONCE).collect().await;
    world.counts.add("documents compared", right.len() as u64);
    world.counts.add("documents right", right.iter().filter(|right| **right).count() as u64);
    // Nothing else is there.
    match listed(world, node).await {
        Err(why) => world.violation(Kind::Wrong, &format!("the list of documents: {why}")),
        Ok(listed) => {
            let known: BTreeSet<&str> = documents.iter().map(|(id, _)| id.as_str()).collect();
            for (id, (times, failed)) in listed {
                let name = world.nodes[node].name;
                // What cannot be read is there as that.
                if id.starts_with("poison/") && failed {
                    continue;
                }
                if failed {
                    world.violation(Kind::Wrong, &format!("{id} at {name} has failed"));
                } else if !known.contains(id.as_str()) {
                    world.violation(Kind::Doubled, &format!("{id} at {name} was never put"));
                } else if times > 1 {
                    world.violation(Kind::Doubled, &format!("{id} at {name} is listed {times} times"));
                }
            }
        }
    }
}

/// The documents that are listed: how often, and whether they have failed.
async fn listed(world: &World, node: usize) -> Result<BTreeMap<String, (usize, bool)>, String> {
    let mut all: BTreeMap<String, (usize, bool)> = BTreeMap::new();
    let mut after = String::new();
    loop {
        let path = format!("/v1/documents?limit=100{after}");
        let page = world.nodes[node].get(&world.http, Caller::Root, &path).await;
        let (_, page) = page.map_err(|error| format!("{error:?}"))?;
        for document in page["documents"].as_array().ok_or_else(|| page.to_string())? {
            let id = document["id"].as_str().unwrap_or_default();
            let (times, failed) = all.entry(id.to_owned()).or_default();
            *times += 1;
            *failed |= document["status"] == "failed";
        }
        match page["next"].as_str() {
            None => return Ok(all),
            Some(next) => after = format!("&after={next}"),
        }
    }
}

/// Whether a document is served as it must be: one version, whole, once, by both indexes.
async fn verify(world: &World, node: usize, id: &str, known: &Document) -> Result<(), (Kind, String)> {
    let unread = |error: String| (Kind::Wrong, format!("it cannot be read: {error}"));
    let node = &world.nodes[node];
    let shown = node.get(&world.http, Caller::Root, &format!("/v1/documents/{id}")).await;
    let (status, shown) = shown.map_err(|error| unread(error.0))?;
    let served = match status {
        StatusCode::NOT_FOUND => None,
        StatusCode::OK => {
            let text = shown["text"].as_str().unwrap_or_default();
            let versions: BTreeSet<u64> = marks(text).iter().map(|(version, _)| *version).collect();
            match (versions.first(), versions.len()) {
                (Some(version), 1) => Some(*version),
                _ => return Err((Kind::Wrong, format!("its text names the versions {versions:?}: {shown}"))),
            }
        }
        status => return Err(unread(format!("{status} {shown}"))),
    };
    let allowed: Vec<State> = known.acknowledged.into_iter().chain(known.maybe.iter().copied()).collect();
    let fits = |state: &State| match served {
        None => state.deleted,
        Some(version) => !state.deleted && state.version == version,
    };
    let absent_still = served.is_none() && known.acknowledged.is_none();
    if !allowed.iter().any(fits) && !absent_still {
        let newest = allowed.iter().map(|state| state.version).max().unwrap_or_default();
        let kind = if served > Some(newest) { Kind::Wrong } else { Kind::Lost };
        return Err((kind, format!("served is version {served:?}: {shown}")));
    }
    if let Some(version) = served
        && states_revisions(id)
    {
        let visible_to = groups(id, version).map_or(Value::Null, |groups| json!(groups));
        if shown["served_revision"] != version || shown["visible_to"] != visible_to {
            return Err((Kind::Wrong, format!("version {version} is described as {shown}")));
        }
    }
    for mode in ["vector", "lexical"] {
        let query = served.map_or_else(|| "version".to_owned(), mark);
        let search = json!({ "query": query, "mode": mode, "filter": { "id": id }, "limit": 100 });
        let found = node.post(&world.http, Caller::Root, "/v1/search", &search).await;
        let (status, found) = found.map_err(|error| unread(error.0))?;
        let Some(passages) = found["results"].as_array().filter(|_| status == StatusCode::OK) else {
            return Err(unread(format!("{mode} search: {status} {found}")));
        };
        let mut places = BTreeSet::new();
        for passage in passages {
            let text = passage["text"].as_str().unwrap_or_default();
            let marks = marks(text);
            if passage["document_id"] != id || marks.iter().any(|(version, of)| Some(*version) != served || *of != id) {
                return Err((Kind::Doubled, format!("{mode} search finds beside version {served:?}: {passage}")));
            }
            if !places.insert((passage["start"].as_u64(), passage["end"].as_u64())) {
                return Err((Kind::Doubled, format!("{mode} search finds a passage twice: {passage}")));
            }
        }
        let chunks = shown["chunks"].as_u64().unwrap_or_default() as usize;
        let enough = match (served, mode) {
            (None, _) => passages.is_empty(),
            (Some(_), "vector") => passages.len() == chunks && chunks > 0,
            (Some(_), _) => !passages.is_empty(),
        };
        if !enough {
            let kind = if passages.len() < chunks { Kind::Lost } else { Kind::Doubled };
            return Err((kind, format!("{mode} search finds {} passages of {chunks}", passages.len())));
        }
    }
    Ok(())
}

/// Reads the dead letters that are new: each poison is one, of each consumer at most, and nothing else is.
async fn letters(world: &World) {
    let ledger = &world.ledger;
    let Ok(mut stream) = world.bus.get_stream("ANSWERD_DLQ").await else {
        if !ledger.poison.borrow().is_empty() {
            world.violation(Kind::Lost, "there are no dead letters");
        }
        return;
    };
    let Ok(last) = stream.info().await.map(|info| info.state.last_sequence) else {
        return world.violation(Kind::Stuck, "NATS tells nothing of the dead letters");
    };
    for number in ledger.letters_read.get() + 1..=last {
        match stream.get_raw_message(number).await {
            Ok(letter) => {
                let id = letter.headers.get("ce-id").map(ToString::to_string).unwrap_or_default();
                if !ledger.poison.borrow().contains(&id) {
                    let reason = letter.headers.get("Answerd-Reason").map(ToString::to_string);
                    world.violation(Kind::Lost, &format!("the event {id} was given up: {reason:?}"));
                }
                *ledger.letters.borrow_mut().entry(id).or_default() += 1;
            }
            Err(error) => world.violation(Kind::Stuck, &format!("dead letter {number} cannot be read: {error}")),
        }
    }
    ledger.letters_read.set(last);
    for event in ledger.poison.borrow().iter() {
        match ledger.letters.borrow().get(event).copied().unwrap_or_default() {
            1 | 2 => {}
            0 => world.violation(Kind::Lost, &format!("the poison {event} is no dead letter")),
            times => world.violation(Kind::Doubled, &format!("the poison {event} is {times} dead letters")),
        }
    }
}
