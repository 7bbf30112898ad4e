//! The catalog against a model of it: random histories of writes, deletes, failures and reopenings.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::documents::event::{DocumentId, Operation, Upsert};
use crate::documents::{Format, ParsedDocument};
use crate::stores::document_store::{NewChunk, Outcome, Progress};

const DIMENSIONS: usize = 4;

fn open(folder: &Path) -> Catalog {
    Catalog::open(folder, "test-model", DIMENSIONS).expect("it opens")
}

fn upsert(id: &str, revision: Option<u64>, text: &str) -> Operation {
    Operation::Upsert(Upsert {
        id: DocumentId::parse(id).expect("an id"),
        revision,
        media_type: None,
        title: None,
        url: None,
        collection: "default".to_owned(),
        metadata: Metadata::new(),
        content: text.as_bytes().to_vec(),
    })
}

/// Carries an accepted upsert out, with a chunk for each word.
fn store(catalog: &Catalog, seq: u64, text: &str) -> Option<u64> {
    let parsed = ParsedDocument::new(Format::Text, None, text.to_owned());
    let mut at = 0;
    let chunks: Vec<NewChunk> = text
        .split(' ')
        .map(|word| {
            let span = at..at + word.len();
            at = span.end + 1;
            NewChunk {
                section: vec!["s".into()],
                span,
                page: None,
                tokens: 1,
                hash: [word.len() as u8; 32],
                vector: vec![0.5; DIMENSIONS],
            }
        })
        .collect();
    catalog.store_version(seq, &parsed, &chunks, Progress::default(), 1).expect("stored")
}

fn words(catalog: &Catalog, version: &Version) -> Vec<String> {
    catalog.chunk_texts(version.chunks.clone()).expect("texts").into_iter().map(|chunk| chunk.text).collect()
}

#[test]
fn nothing_of_what_was_removed_is_in_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let catalog = open(folder.path());
    let name = |n: usize| format!("d{n}");
    let mark = |n: usize| format!("<mark{n}>");
    // Short ones, that share a page, and long ones, that take several.
    let text = |n: usize| format!("{} {}", mark(n), "word ".repeat(n * n % 700)).trim_end().to_owned();
    let mut last = 0;
    for n in 0..200 {
        let seq = catalog.receive(&upsert(&name(n), None, &text(n)), None, 1).expect("received").seq;
        store(&catalog, seq, &text(n));
        // Some are replaced.
        if n % 5 == 0 {
            let again = text(n).replace("word", "other");
            let seq = catalog.receive(&upsert(&name(n), None, &again), None, 1).expect("received").seq;
            store(&catalog, seq, &again);
        }
    }
    let removed: Vec<usize> = (0..200).map(|n| n * 77 % 200).filter(|n| n % 3 > 0).collect();
    for n in &removed {
        let delete = Operation::Delete { id: DocumentId::parse(&name(*n)).expect("an id"), revision: None };
        let seq = catalog.receive(&delete, None, 2).expect("received").seq;
        last = catalog.store_delete(seq, 2).expect("deleted").expect("a commit");
    }
    assert_eq!(catalog.to_expunge(2, 0).expect("read"), None, "it is in the tables still");
    assert!(!catalog.purge(last).expect("purged").is_empty());
    assert!(catalog.truncate_log().expect("truncated"));
    assert_eq!((catalog.to_expunge(1, 0).expect("read"), catalog.to_expunge(2, 0).expect("read")), (None, Some(last)));
    let mut bytes = Vec::new();
    for file in std::fs::read_dir(folder.path()).expect("files") {
        bytes.extend(std::fs::read(file.expect("a file").path()).expect("bytes"));
    }
    let bytes = String::from_utf8_lossy(&bytes);
    let found: Vec<usize> = (0..200).filter(|n| bytes.contains(&mark(*n))).collect();
    assert_eq!(found, (0..200).filter(|n| n % 3 == 0).collect::<Vec<_>>());
    let gone = catalog.expunged(last).expect("read");
    assert_eq!(gone.len(), removed.len());
    // They are not done again, and remembered until their receipts say so.
    assert_eq!(catalog.to_expunge(i64::MAX, last).expect("read"), None);
    catalog.forget_deletions(&gone[1..]).expect("noted");
    assert_eq!(catalog.expunged(last).expect("read"), gone[..1]);
    catalog.forget_deletions(&gone).expect("noted");
    assert_eq!(catalog.to_expunge(i64::MAX, 0).expect("read"), None);
}

#[test]
fn what_was_to_be_deleted_when_a_later_write_came_first_goes_from_the_files_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let catalog = open(folder.path());
    let first = catalog.receive(&upsert("a", None, "one"), None, 1).expect("received").seq;
    store(&catalog, first, "one");
    let delete = Operation::Delete { id: DocumentId::parse("a").expect("an id"), revision: None };
    let deleted = catalog.receive(&delete, None, 2).expect("received").seq;
    let second = catalog.receive(&upsert("a", None, "two"), None, 3).expect("received").seq;
    store(&catalog, second, "two");
    assert!(catalog.operation(deleted).expect("read").is_none() && catalog.outcome(deleted).expect("read").is_none());
    catalog.purge(u64::MAX >> 1).expect("purged");
    let commit = catalog.to_expunge(i64::MAX, 0).expect("read").expect("a commit");
    assert_eq!(catalog.expunged(commit).expect("read"), [deleted]);
}

#[test]
fn a_deletion_that_is_not_due_is_not_expunged_with_one_that_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let catalog = open(folder.path());
    let deleted = |id: &str, at_ms| {
        let receipt = catalog.receive(&upsert(id, None, "one two"), None, 1).expect("received");
        store(&catalog, receipt.seq, "one two");
        let delete = Operation::Delete { id: DocumentId::parse(id).expect("an id"), revision: None };
        let seq = catalog.receive(&delete, None, at_ms).expect("received").seq;
        (seq, catalog.store_delete(seq, at_ms).expect("deleted").expect("a commit"))
    };
    let (old, young) = (deleted("old", 10), deleted("young", 90));
    catalog.purge(young.1).expect("purged");
    let due = |at_ms| catalog.to_expunge(at_ms, 0).expect("read");
    assert_eq!([due(9), due(10), due(89), due(90)], [None, Some(old.1), Some(old.1), Some(young.1)]);
    assert_eq!(catalog.expunged(old.1).expect("read"), [old.0]);
    catalog.forget_deletions(&[old.0]).expect("noted");
    assert_eq!((due(89), due(90)), (None, Some(young.1)));
}

#[test]
fn an_accepted_operation_outlives_the_process_that_accepted_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let receipt = open(folder.path()).receive(&upsert("a", None, "one two"), None, 7).expect("received");
    let catalog = open(folder.path());
    assert_eq!(catalog.pending().expect("pending"), [(receipt.seq, "a".to_owned(), 7)]);
    let pending = catalog.operation(receipt.seq).expect("read").expect("there");
    assert_eq!(pending.content.expect("content").bytes, b"one two");
}

#[test]
fn changes_are_cut_at_commits_and_name_each_document_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let catalog = open(folder.path());
    for (id, text) in [("a", "one two"), ("b", "three"), ("a", "four five six"), ("c", "seven")] {
        let receipt = catalog.receive(&upsert(id, None, text), None, 0).expect("received");
        store(&catalog, receipt.seq, text);
    }
    let first = catalog.changes(0, 2).expect("changes");
    assert_eq!((first.commit, first.more), (1, true));
    assert_eq!(words(&catalog, &first.added[0]), ["one", "two"]);
    let rest = catalog.changes(first.commit, 100).expect("changes");
    assert_eq!((rest.commit, rest.more), (4, false));
    assert_eq!(rest.added.iter().map(|v| v.document.as_str()).collect::<Vec<_>>(), ["b", "a", "c"]);
    assert_eq!(rest.retired.iter().map(|v| v.chunks.clone()).collect::<Vec<_>>(), [first.added[0].chunks.clone()]);
    // Retired chunks can still be read, until they are purged.
    assert_eq!(words(&catalog, &first.added[0]), ["one", "two"]);
    assert_eq!(catalog.purge(rest.commit).expect("purged"), [first.added[0].chunks.start]);
    assert_eq!(words(&catalog, &first.added[0]), Vec::<String>::new());
}

#[test]
fn another_embedding_model_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(open(folder.path()));
    let error = Catalog::open(folder.path(), "another-model", DIMENSIONS).err().expect("refused").to_string();
    assert!(error.contains("test-model") && error.contains("another-model"), "{error}");
}

#[derive(Debug, Clone)]
enum Step {
    Upsert { id: u8, revision: Option<u64>, text: String },
    Delete { id: u8, revision: Option<u64> },
    Fail,
    Reopen,
    Purge,
}

fn step() -> impl Strategy<Value = Step> {
    let revision = || proptest::option::weighted(0.5, 1u64..6);
    prop_oneof![
        6 => (0u8..3, revision(), "[a-c]{1,2}( [a-c]{1,2}){0,2}").prop_map(|(id, revision, text)| Step::Upsert { id, revision, text }),
        2 => (0u8..3, revision()).prop_map(|(id, revision)| Step::Delete { id, revision }),
        1 => Just(Step::Fail),
        1 => Just(Step::Reopen),
        1 => Just(Step::Purge),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The catalog serves, for each document, the text of its highest accepted revision, and no chunk number is ever given
    /// twice.
    #[test]
    fn any_history_serves_the_newest_revision_of_each_document(steps in proptest::collection::vec(step(), 1..40)) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut catalog = open(folder.path());
        // Served text and last revision, by document.
        let mut model: BTreeMap<String, (Option<String>, u64)> = BTreeMap::new();
        let mut given = std::collections::BTreeSet::new();
        let mut fail_next = false;
        for step in steps {
            match step {
                Step::Upsert { id, revision, text } => {
                    let id = format!("d{id}");
                    let receipt = catalog.receive(&upsert(&id, revision, &text), None, 0).expect("received");
                    let known = model.get(&id).cloned();
                    let newer = known.as_ref().is_none_or(|(_, last)| revision.is_none_or(|r| r > *last));
                    if receipt.outcome == Outcome::Accepted {
                        if std::mem::take(&mut fail_next) {
                            catalog.give_up(receipt.seq, "injected", 1).expect("given up");
                            let served = known.and_then(|(text, _)| text);
                            // What failed may come again with its revision.
                            model.insert(id, (served, receipt.revision - 1));
                            continue;
                        }
                        prop_assert!(newer, "{id} {revision:?} after {known:?}");
                        prop_assert!(store(&catalog, receipt.seq, &text).is_some());
                        model.insert(id, (Some(text), receipt.revision));
                    } else if receipt.outcome == Outcome::Unchanged {
                        prop_assert_eq!(known.and_then(|(served, _)| served), Some(text.clone()));
                        model.insert(id, (Some(text), receipt.revision));
                    } else {
                        prop_assert!(!newer, "{id} {revision:?} after {known:?}");
                    }
                }
                Step::Delete { id, revision } => {
                    let id = format!("d{id}");
                    let operation = Operation::Delete { id: DocumentId::parse(&id).expect("an id"), revision };
                    let receipt = catalog.receive(&operation, None, 0).expect("received");
                    if receipt.outcome == Outcome::Accepted {
                        prop_assert!(catalog.store_delete(receipt.seq, 1).expect("stored").is_some());
                        model.insert(id, (None, receipt.revision));
                    } else if receipt.outcome == Outcome::Absent
                        && let Some((_, last)) = model.get_mut(&id)
                    {
                        // Deleted already; a newer deletion still voids what is older than it.
                        *last = (*last).max(revision.unwrap_or(0));
                    }
                }
                Step::Fail => fail_next = true,
                Step::Reopen => {
                    drop(catalog);
                    catalog = open(folder.path());
                }
                Step::Purge => {
                    catalog.purge(u64::MAX >> 1).expect("purged");
                }
            }
            let (_, live) = catalog.live_versions().expect("the documents");
            let served: BTreeMap<String, String> =
                live.iter().map(|version| (version.document.clone(), words(&catalog, version).join(" "))).collect();
            let expected: BTreeMap<String, String> =
                model.iter().filter_map(|(id, (text, _))| Some((id.clone(), text.clone()?))).collect();
            prop_assert_eq!(served, expected);
            given.extend(live.into_iter().map(|version| (version.version, version.chunks.start)));
        }
        let firsts: std::collections::BTreeSet<u32> = given.iter().map(|(_, first)| *first).collect();
        prop_assert_eq!(firsts.len(), given.len(), "a chunk number was given twice");
    }
}
