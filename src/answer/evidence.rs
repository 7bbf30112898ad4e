//! The keys of the cache: an answer is kept under what it rests on.
//!
//! What a question finds is kept under the question and the state of the index it was asked of; what the model said, under
//! the question *and the very passages in its prompt*. A document that changes changes the passages, and with them the key:
//! nothing has to be invalidated, and nothing stale can be found.

use std::sync::LazyLock;

use rust_stemmers::{Algorithm, Stemmer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::log::Source;
use super::prompt::{PROMPT_VERSION, render_passage};
use crate::models::Sampling;
use crate::models::chat::Message;
use crate::retrieval::filter::Filter;
use crate::retrieval::passage::Passage;
use crate::retrieval::sight::Sight;

/// A key: the SHA-256 hash of what it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(#[serde(with = "hex::serde")] [u8; 32]);

impl Key {
    /// The key of some parts; `kind` keeps the keys of different things apart, and those of other versions of this file.
    pub fn of(kind: &str, parts: &impl Serialize) -> Self {
        let mut hash = Sha256::new();
        hash.update(kind.as_bytes());
        hash.update([0, PROMPT_VERSION as u8]);
        // Numbers, texts and lists of them: JSON tells any two apart, and has all of them.
        hash.update(serde_json::to_vec(parts).unwrap_or_default());
        Self(hash.finalize().into())
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What is kept of a question, or is on its way to those who asked it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// What it finds.
    Evidence,
    /// What the model says to it.
    Answer,
    /// The same, as a stream that is being read.
    Stream,
}

/// A revision of a document that something rests on, by a number for the document and its store: who reads it learns no name,
/// and two that have the same number, which hardly ever happens, are forgotten together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestsOn {
    /// The document.
    pub document: u64,
    /// Its revision.
    pub revision: u64,
}

impl RestsOn {
    /// A revision of a document of the store with this id.
    pub fn new(store: &str, document: &str, revision: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(store.as_bytes());
        hash.update([0]);
        hash.update(document.as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
        Self { document: u64::from_be_bytes([a, b, c, d, e, f, g, h]), revision }
    }

    /// What a source of an answer is of, in the store with this id.
    pub fn source(store: &str, source: &Source) -> Self {
        Self::new(store, &source.document_id, source.revision)
    }

    /// All that these sources are of, in the store with this id, each document once.
    pub fn all(store: &str, sources: &[Source]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for source in sources {
            let one = Self::source(store, source);
            if !all.contains(&one) {
                all.push(one);
            }
        }
        all
    }
}

/// What an entry of the cache says of itself, to be forgotten with what it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    /// What it is.
    pub level: Level,
    /// What it rests on.
    pub documents: Vec<RestsOn>,
}

/// What decides which passages a question finds, how many of them fit its prompt, and where the answer is kept.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Asked<'a> {
    /// Names the models, the settings and whatever else is the same for all questions.
    pub setup: Key,
    /// The catalog's own name.
    pub index: &'a str,
    /// The catalog's commit that was searched.
    pub commit: u64,
    /// As [`normalised`].
    pub question: &'a str,
    /// The conversation before it.
    pub messages: &'a [Message],
    /// Which documents count.
    pub filter: Option<&'a Filter>,
    /// What its asker sees of them.
    pub sight: &'a Sight,
    /// The most tokens of the answer, which are kept free for it.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: &'a Sampling,
    /// Texts that end the answer.
    pub stop: &'a [String],
}

impl Asked<'_> {
    /// The key of what is found.
    pub fn key(&self) -> Key {
        Key::of("evidence", self)
    }
}

/// What decides what the model says, the question aside.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Manner<'a> {
    /// As in [`Asked`].
    pub setup: Key,
    /// The messages of the conversation that are in the prompt.
    pub earlier: &'a [Message],
    /// How tokens are chosen.
    pub sampling: &'a Sampling,
    /// The most tokens of the answer.
    pub max_tokens: usize,
    /// Texts that end it.
    pub stop: &'a [String],
}

/// The keys of an answer: of this very question, and of all that ask the same in almost the same words.
pub fn answer_keys(question: &str, passages: &[&Passage], manner: &Manner<'_>) -> (Key, Key) {
    // Its document too: a citation names it.
    let shown: Vec<(&str, String)> = passages
        .iter()
        .zip(1..)
        .map(|(passage, n)| (passage.document_id.as_str(), render_passage(n, passage)))
        .collect();
    let exact = Key::of("answer", &(normalised(question), &shown, manner));
    (exact, Key::of("near", &(gist(question), &shown, manner)))
}

/// A question without what makes no difference to anybody: spaces, and the marks it ends with.
pub fn normalised(question: &str) -> String {
    let words: Vec<&str> = question.split_whitespace().collect();
    words.join(" ").trim_end_matches([' ', '?', '!', '.', '…']).to_owned()
}

/// Words that say nothing of what is asked.
const IDLE: [&str; 12] = ["a", "an", "the", "is", "are", "s", "re", "do", "does", "please", "kindly", "exactly"];
/// How a question may be led in.
const LEADS: [&[&str]; 6] = [
    &["can", "you", "tell", "me"],
    &["could", "you", "tell", "me"],
    &["tell", "me"],
    &["i", "want", "to", "know"],
    &["i", "would", "like", "to", "know"],
    &["hello"],
];

/// The stems of what a question asks for, in its order: `who may approve` and `who may not approve` differ, and so do
/// `does Ann report to Bob` and `does Bob report to Ann`; `What's the limit?` and `please: what is the limit` do not.
pub fn gist(question: &str) -> Vec<String> {
    static ENGLISH: LazyLock<Stemmer> = LazyLock::new(|| Stemmer::create(Algorithm::English));
    let lower = question.to_lowercase();
    // `don't` says more than `do`.
    let lower = lower.replace("n't", " not").replace("n’t", " not");
    let words = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let mut words: Vec<&str> = words.collect();
    loop {
        let idle = words.first().is_some_and(|word| IDLE.contains(word));
        let led = LEADS.iter().find(|lead| words.starts_with(lead)).map_or(usize::from(idle), |lead| lead.len());
        // What is nothing but a lead is a question of its own.
        if led == 0 || led == words.len() {
            break;
        }
        words.drain(..led);
    }
    words.into_iter().filter(|word| !IDLE.contains(word)).map(|word| ENGLISH.stem(word).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::retrieval::passage::Scores;

    fn passage(document: &str, text: &str) -> Passage {
        Passage {
            document_id: document.to_owned(),
            revision: 1,
            title: "Leave".to_owned(),
            url: None,
            collection: String::new(),
            section: Vec::new(),
            page: None,
            start: 0,
            end: text.len(),
            text: text.to_owned(),
            updated_at: 0,
            metadata: Default::default(),
            scores: Scores { fused: 0.0, lexical: None, vector: None },
        }
    }

    fn keys(question: &str, passages: &[&Passage], manner: &Manner<'_>) -> (Key, Key) {
        answer_keys(question, passages, manner)
    }

    #[test]
    fn whatever_the_model_could_see_or_do_differently_makes_another_key() {
        let (a, b) = (passage("a", "28 days"), passage("b", "30 days"));
        let sampling = Sampling::default();
        let setup = Key::of("setup", &1);
        let plain = Manner { setup, earlier: &[], sampling: &sampling, max_tokens: 64, stop: &[] };
        let first = keys("How many?", &[&a, &b], &plain);
        let warm = Sampling { temperature: 0.5, ..sampling.clone() };
        let changed = passage("a", "29 days");
        let moved = Passage { document_id: "c".into(), ..a.clone() };
        let said = [Message { role: crate::models::chat::Role::User, content: "Hi".into() }];
        let others = [
            keys("How much?", &[&a, &b], &plain),
            keys("How many?", &[&b, &a], &plain),
            keys("How many?", &[&a], &plain),
            keys("How many?", &[&changed, &b], &plain),
            keys("How many?", &[&moved, &b], &plain),
            keys("How many?", &[&a, &b], &Manner { sampling: &warm, ..plain }),
            keys("How many?", &[&a, &b], &Manner { max_tokens: 65, ..plain }),
            keys("How many?", &[&a, &b], &Manner { stop: &["x".to_owned()], ..plain }),
            keys("How many?", &[&a, &b], &Manner { earlier: &said, ..plain }),
            keys("How many?", &[&a, &b], &Manner { setup: Key::of("setup", &2), ..plain }),
        ];
        for other in others {
            assert!(other.0 != first.0 && other.1 != first.1);
        }
        // What the model does not see makes none.
        let later = Passage { revision: 2, updated_at: 9, start: 5, end: 12, ..a.clone() };
        assert_eq!(keys(" How  many ", &[&later, &b], &plain), first);
    }

    #[test]
    fn the_same_question_in_other_clothes_has_the_same_gist() {
        for (one, other) in [
            ("What is the limit for meals?", "what's the limit for meals"),
            ("What is the limit for meals?", "Please tell me: what is the limit for a meal?"),
            ("Could you tell me how vacations are requested?", "How is the vacation requested?"),
            ("Who may approve travel?", "WHO MAY APPROVE TRAVEL"),
        ] {
            assert_eq!(gist(one), gist(other), "{one} / {other}");
        }
        for (one, other) in [
            ("Who may approve travel?", "Who may not approve travel?"),
            ("Does Ann report to Bob?", "Does Bob report to Ann?"),
            ("What do I do before a release?", "What do I do after a release?"),
            ("Is the limit 40 euros?", "Is the limit 48 euros?"),
            ("Can I carry over leave?", "Can't I carry over leave?"),
            ("What is the limit for hotels in Paris?", "What is the limit for hotels in London?"),
            ("Tell me", "Please"),
        ] {
            assert_ne!(gist(one), gist(other), "{one} / {other}");
        }
    }

    proptest! {
        #[test]
        fn spaces_and_end_marks_make_no_other_question(words in proptest::collection::vec("[a-zäé0-9]{1,6}", 1..8)) {
            let plain = words.join(" ");
            prop_assert_eq!(normalised(&format!("  {} ?! ", words.join("  \n"))), normalised(&plain));
            prop_assert_eq!(normalised(&plain), plain.clone());
            prop_assert_eq!(gist(&format!("{plain}?")), gist(&plain));
        }

        /// Callers who see other documents find other things: what one of them found is kept for no other.
        #[test]
        fn what_is_found_is_kept_for_those_who_see_the_same(
            one in proptest::collection::btree_set("[a-c]{1,2}", 0..3),
            other in proptest::collection::btree_set("[a-c]{1,2}", 0..3),
        ) {
            let sampling = Sampling::default();
            let key = |sight: &Sight| Asked {
                setup: Key::of("setup", &1),
                index: "index",
                commit: 1,
                question: "how many",
                messages: &[],
                filter: None,
                sight,
                max_tokens: 64,
                sampling: &sampling,
                stop: &[],
            }
            .key();
            let same = one == other;
            let (one, other) = (Sight::Groups(one), Sight::Groups(other));
            prop_assert_eq!(key(&one) == key(&other), same);
            prop_assert_ne!(key(&one), key(&Sight::All));
        }

        #[test]
        fn parts_cannot_be_shifted_into_each_other(a in ".{0,6}", b in ".{0,6}", c in ".{0,6}", d in ".{0,6}") {
            let same = (&a, &b) == (&c, &d);
            prop_assert_eq!(Key::of("x", &(a, b)) == Key::of("x", &(c, d)), same);
        }
    }
}
