use proptest::prelude::*;

use super::*;

const MEMORY: usize = 16 << 20;

fn entry(chunk: ChunkId, text: &str) -> LexicalEntry {
    LexicalEntry { chunk, title: String::new(), section: String::new(), text: text.to_owned() }
}

fn open(folder: &Path) -> LexicalIndex {
    let (index, reason) = LexicalIndex::open(folder, MEMORY).unwrap();
    assert_eq!(reason, None);
    index
}

fn set(chunks: impl IntoIterator<Item = ChunkId>) -> RoaringBitmap {
    chunks.into_iter().collect()
}

fn found(snapshot: &LexicalSnapshot, query: &str, allowed: Option<&RoaringBitmap>) -> Vec<ChunkId> {
    snapshot.search(query, 100, allowed).unwrap().into_iter().map(|hit| hit.chunk).collect()
}

#[test]
fn a_reopened_index_has_the_same_chunks_and_stands_for_the_same_commit() {
    let folder = tempfile::tempdir().unwrap();
    let mut index = open(folder.path());
    assert_eq!((index.applied().unwrap(), index.chunks().unwrap().len()), (0, 0));
    index.apply(&[entry(1, "one"), entry(2, "two"), entry(70_000, "three")], &set([]), 7).unwrap();
    index.apply(&[entry(4, "four")], &set([2]), 9).unwrap();
    drop(index);
    let index = open(folder.path());
    assert_eq!(index.applied().unwrap(), 9);
    assert_eq!(index.chunks().unwrap(), set([1, 4, 70_000]));
    assert_eq!(index.num_docs(), 3);
    assert!(index.size_on_disk() > 0);
}

#[test]
fn title_section_and_text_are_searched_by_stems_without_case_and_accents() {
    let folder = tempfile::tempdir().unwrap();
    let mut index = open(folder.path());
    let mut entries = vec![entry(1, "Résumés of candidates"), entry(2, "running"), entry(3, "other")];
    entries[2].section = "Holidays > Paid leave".to_owned();
    entries[1].title = "Handbook".to_owned();
    let snapshot = index.apply(&entries, &set([]), 1).unwrap();
    assert_eq!(found(&snapshot, "RESUME", None), [1]);
    assert_eq!(found(&snapshot, "who runs?", None), [2]);
    assert_eq!(found(&snapshot, "handbooks", None), [2]);
    assert_eq!(found(&snapshot, "a holiday", None), [3]);
    assert_eq!(found(&snapshot, "nowhere", None), [] as [ChunkId; 0]);
}

#[test]
fn a_query_is_words_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut index = open(folder.path());
    let snapshot = index.apply(&[entry(1, "title of a colon"), entry(2, "stars")], &set([]), 1).unwrap();
    for query in ["title:colon", "+title -colon", "\"colon", "((colon", "colon^9 AND NOT OR", "[a TO colon}"] {
        assert_eq!(found(&snapshot, query, None), [1], "{query}");
    }
    for query in ["", " ", "*", "()", "the of and", "\0"] {
        assert_eq!(found(&snapshot, query, None), [] as [ChunkId; 0], "{query}");
    }
    assert_eq!(snapshot.search("colon", 0, None).unwrap(), []);
}

#[test]
fn a_repeated_word_counts_once_and_a_huge_query_is_cut_to_its_rarest_words() {
    let folder = tempfile::tempdir().unwrap();
    let mut index = open(folder.path());
    let mut entries: Vec<_> = (0..300).map(|n| entry(n, &format!("common word{n}"))).collect();
    entries.push(entry(300, "needle"));
    let snapshot = index.apply(&entries, &set([]), 1).unwrap();
    let once = snapshot.search("common needle", 5, None).unwrap();
    assert_eq!(snapshot.search("needle common needle Needles", 5, None).unwrap(), once);
    let long: String = (0..5000).map(|n| format!("absent{n} ")).collect::<String>() + "common needle";
    assert!(long.len() < MOST_QUERY_BYTES);
    assert_eq!(snapshot.search(&long, 5, None).unwrap(), once);
    // More words that are there than count: the one that is everywhere is left out.
    let many: String = (0..=MOST_TERMS).map(|n| format!("word{n} ")).collect::<String>() + "common";
    assert_eq!(found(&snapshot, &many, None).len(), MOST_TERMS);
    // A cut in the middle of a character.
    let huge = "é".repeat(MOST_QUERY_BYTES) + &"x ".repeat(1 << 20);
    assert_eq!(snapshot.search(&huge, 5, None).unwrap(), []);
}

#[test]
fn equal_scores_are_ordered_by_number_also_where_the_limit_cuts_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut index = open(folder.path());
    // In several segments, the higher numbers first.
    for part in (0..5).rev() {
        let entries: Vec<_> = (0..40).rev().map(|n| entry(part * 40 + n, "the same words")).collect();
        index.apply(&entries, &set([]), 1).unwrap();
    }
    let hits = index.snapshot().search("same words", 25, None).unwrap();
    assert_eq!(hits.iter().map(|hit| hit.chunk).collect::<Vec<_>>(), (0..25).collect::<Vec<_>>());
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut index = open(folder.path());
    let before = index.apply(&[entry(1, "word")], &set([]), 1).unwrap();
    let after = index.apply(&[entry(2, "word")], &set([1]), 2).unwrap();
    assert_eq!(found(&before, "word", None), [1]);
    assert_eq!(found(&after, "word", None), [2]);
}

#[test]
fn a_locked_index_is_an_error_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut index = open(folder.path());
    index.apply(&[entry(1, "word")], &set([]), 1).unwrap();
    assert!(matches!(LexicalIndex::open(folder.path(), MEMORY), Err(StoreError::Locked(_))));
    std::fs::write(folder.path().join("meta.json"), "damaged").unwrap();
    assert!(matches!(LexicalIndex::open(folder.path(), MEMORY), Err(StoreError::Locked(_))));
    assert_eq!(found(&index.snapshot(), "word", None), [1]);
}

#[test]
fn an_index_of_another_schema_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = Schema::builder();
    builder.add_u64_field("chunk", FAST);
    Index::create_in_dir(folder.path(), builder.build()).unwrap();
    let (index, reason) = LexicalIndex::open(folder.path(), MEMORY).unwrap();
    assert!(reason.unwrap().contains("another schema"));
    assert_eq!(index.num_docs(), 0);
}

#[test]
fn a_change_that_failed_can_be_applied_again_and_adds_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut index = open(folder.path());
    index.apply(&[entry(1, "word")], &set([]), 1).unwrap();
    // As after a commit that was made, but reported as failed.
    index.writer = None;
    let snapshot = index.apply(&[entry(1, "word"), entry(2, "word")], &set([]), 2).unwrap();
    assert_eq!(found(&snapshot, "word", None), [1, 2]);
    assert_eq!((index.num_docs(), index.applied().unwrap()), (2, 2));
}

/// Writes anew what is to be written anew, and removes what is left of it.
fn rid(index: &mut LexicalIndex) {
    until(|| index.rewrite());
    index.apply(&[], &set([]), 99).unwrap();
    until(|| index.collect());
}

fn until(mut done: impl FnMut() -> Result<bool, StoreError>) {
    let began = std::time::Instant::now();
    while !done().unwrap() {
        assert!(began.elapsed().as_secs() < 60, "it takes too long");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// How many deleted chunks are in the files still, by segment.
fn deleted(index: &LexicalIndex) -> Vec<u32> {
    let metas = index.index.searchable_segment_metas().unwrap();
    let mut deleted: Vec<u32> = metas.iter().map(SegmentMeta::num_deleted_docs).collect();
    deleted.sort_unstable();
    deleted
}

/// Two segments of 50 chunks each: too few to be merged by themselves, and a deleted one is too few as well.
fn two_segments(folder: &Path) -> LexicalIndex {
    let mut index = open(folder);
    for part in 0..2 {
        let entries: Vec<_> = (0..50).map(|n| entry(part * 50 + n, &format!("word{n}"))).collect();
        index.apply(&entries, &set([]), 1).unwrap();
    }
    index
}

#[test]
fn the_segments_that_had_something_deleted_are_written_anew_and_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut index = two_segments(folder.path());
    index.apply(&[], &set([7]), 2).unwrap();
    index.rewrite().unwrap();
    // What is deleted meanwhile is for the next time.
    index.apply(&[], &set([77]), 3).unwrap();
    rid(&mut index);
    assert_eq!(deleted(&index), [0, 1]);
    assert!(index.strangers().unwrap().is_empty());
    rid(&mut index);
    assert_eq!((deleted(&index), index.num_docs()), (vec![0, 0], 98));
}

#[test]
fn where_another_merge_took_a_segment_what_came_of_it_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut index = two_segments(folder.path());
    index.apply(&[], &set([7]), 2).unwrap();
    let metas = index.index.searchable_segment_metas().unwrap();
    index.expunging = Some(Expunging::of(&metas));
    let all: Vec<SegmentId> = metas.iter().map(SegmentMeta::id).collect();
    drop(metas);
    index.writer.as_mut().unwrap().merge(&all).wait().unwrap();
    // As what the merge did not know of yet when it ended.
    index.apply(&[], &set([77]), 3).unwrap();
    assert_eq!(deleted(&index), [1]);
    rid(&mut index);
    assert_eq!((deleted(&index), index.num_docs()), (vec![0], 98));
    assert!(index.strangers().unwrap().is_empty());
}

#[test]
fn whatever_is_damaged_the_index_opens_whole_or_empty() {
    let original = tempfile::tempdir().unwrap();
    let mut index = open(original.path());
    for part in 0..3u32 {
        let entries: Vec<_> = (0..20).map(|n| entry(part * 20 + n, &format!("word{n} common"))).collect();
        index.apply(&entries, &set([part]), 1).unwrap();
    }
    let whole = index.chunks().unwrap();
    drop(index);
    let files: Vec<_> = std::fs::read_dir(original.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let (mut intact, mut rebuilt) = (0, 0);
    let mut check = |file: &Path, damage: &dyn Fn(&mut Vec<u8>) -> bool| {
        let copy = tempfile::tempdir().unwrap();
        for path in &files {
            let mut bytes = std::fs::read(path).unwrap();
            if path != file || damage(&mut bytes) {
                std::fs::write(copy.path().join(path.file_name().unwrap()), bytes).unwrap();
            }
        }
        let (mut index, reason) = LexicalIndex::open(copy.path(), MEMORY).unwrap();
        let chunks = index.chunks().unwrap();
        if chunks == whole {
            intact += 1;
        } else {
            assert!(chunks.is_empty(), "{} gave {chunks:?}", file.display());
            rebuilt += 1;
            assert!(reason.is_some());
        }
        index.apply(&[entry(99, "added")], &set([]), 2).unwrap();
        assert_eq!(found(&index.snapshot(), "added", None), [99]);
        found(&index.snapshot(), "common word3", None);
    };
    for file in &files {
        let length = std::fs::metadata(file).unwrap().len() as usize;
        check(file, &|_| false);
        check(file, &|bytes| {
            bytes.truncate(bytes.len() / 2);
            true
        });
        for n in 0..4 {
            let at = length * n / 4;
            check(file, &|bytes| {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 0x11;
                }
                true
            });
        }
    }
    assert!(intact > 0 && rebuilt > intact, "{intact} intact, {rebuilt} rebuilt");
}

/// The words of the chunks to add, and the chunks to remove.
fn step() -> impl Strategy<Value = (Vec<u8>, Vec<ChunkId>)> {
    (prop::collection::vec(0..8u8, 0..12), prop::collection::vec(0..60u32, 0..6))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_found_is_what_was_added_and_not_removed_and_is_allowed(
        history in prop::collection::vec(step(), 1..8),
        allowed in prop::collection::btree_set(0..60u32, 0..40),
        limit in 1..20usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut index = open(folder.path());
        let mut words = std::collections::BTreeMap::new();
        let mut next = 0;
        for (step, (added, removed)) in history.iter().enumerate() {
            let removed: RoaringBitmap = removed.iter().copied().filter(|chunk| *chunk < next).collect();
            let text = |word: &u8| format!("word{word} filler");
            let entries: Vec<_> = added.iter().zip(next..).map(|(word, chunk)| entry(chunk, &text(word))).collect();
            words.extend(added.iter().zip(next..).map(|(word, chunk)| (chunk, *word)));
            words.retain(|chunk, _| !removed.contains(*chunk));
            next += added.len() as u32;
            index.apply(&entries, &removed, step as u64).unwrap();
        }
        let allowed = set(allowed);
        let snapshot = index.snapshot();
        prop_assert_eq!(index.chunks().unwrap(), set(words.keys().copied()));
        for word in 0..8 {
            let query = format!("word{word} missing");
            let expected: Vec<_> = words.iter().filter(|(_, w)| **w == word).map(|(chunk, _)| *chunk).collect();
            prop_assert_eq!(found(&snapshot, &query, None), expected.clone());
            let expected: Vec<_> = expected.into_iter().filter(|chunk| allowed.contains(*chunk)).collect();
            let hits = snapshot.search(&query, limit, Some(&allowed)).unwrap();
            let first: Vec<_> = expected.into_iter().take(limit).collect();
            prop_assert_eq!(hits.iter().map(|hit| hit.chunk).collect::<Vec<_>>(), first);
        }
        // Pruning changes nothing: the first of all are the first of few.
        let all = snapshot.search("word1 word2 filler", 100, Some(&allowed)).unwrap();
        let few = snapshot.search("word1 word2 filler", limit, Some(&allowed)).unwrap();
        prop_assert_eq!(&few[..], &all[..all.len().min(limit)]);
    }
}
