//! The vector index against exact comparison, over random histories, reopenings and damage.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const DIMENSIONS: usize = 24;

fn options(segment_chunks: usize) -> VectorOptions {
    VectorOptions {
        dimensions: DIMENSIONS,
        m: 16,
        ef_construction: 100,
        ef_search: 64,
        segment_chunks,
        rebuild_share: 0.3,
        // Graphs are searched even when small.
        exact_below: 0,
    }
}

/// A vector of one of eight clusters, the same for the same number.
fn vector(n: u32) -> Vec<f32> {
    let mut state = u64::from(n) * 0x9e37_79b9_7f4a_7c15 + 1;
    let mut vector: Vec<f32> = (0..DIMENSIONS)
        .map(|d| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let noise = (state % 2000) as f32 / 1000.0 - 1.0;
            noise + if d % 8 == (n % 8) as usize { 2.0 } else { 0.0 }
        })
        .collect();
    let norm = vectors::dot(&vector, &vector).sqrt();
    vector.iter_mut().for_each(|value| *value /= norm);
    vector
}

fn insert(index: &VectorIndex, chunks: impl Iterator<Item = u32>) {
    let made: Vec<(u32, Vec<f32>)> = chunks.map(|n| (n, vector(n))).collect();
    let slices: Vec<(u32, &[f32])> = made.iter().map(|(n, v)| (*n, v.as_slice())).collect();
    index.insert(&slices).expect("inserted");
}

fn open(folder: &Path, segment_chunks: usize) -> (VectorIndex, Option<String>) {
    VectorIndex::open(folder, options(segment_chunks)).expect("it opens")
}

#[test]
fn graphs_find_what_an_exact_comparison_finds() {
    let folder = tempfile::tempdir().expect("a folder");
    let (index, _) = open(folder.path(), 4000);
    insert(&index, 0..24_000);
    let live: RoaringBitmap = (0..24_000).collect();
    let mut hits = 0;
    for n in 0..200 {
        let query = vector(1_000_000 + n);
        let exact = index.search(&query, 10, &live, Plan::Exact).expect("found");
        let segments = index.segments.read().clone();
        let mut graph: Vec<Scored> = segments.iter().flat_map(|segment| segment.nearest(&query, 64)).collect();
        best(&mut graph, 10);
        hits += exact.iter().filter(|hit| graph.iter().any(|found| found.chunk == hit.chunk)).count();
    }
    assert!(hits as f64 / 2000.0 >= 0.97, "recall {}", hits as f64 / 2000.0);
}

#[test]
fn a_saved_index_is_found_again_and_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    {
        let (index, _) = open(folder.path(), 300);
        insert(&index, 0..700);
        index.save(7).expect("saved");
        insert(&index, 700..800);
    }
    let (index, trouble) = open(folder.path(), 300);
    assert_eq!((trouble, index.applied()), (None, 7));
    assert_eq!(index.chunks(), (0..700).collect());
    insert(&index, 700..800);
    index.save(8).expect("saved again");
    let (index, _) = open(folder.path(), 300);
    assert_eq!((index.chunks().len(), index.applied()), (800, 8));
    let live: RoaringBitmap = (0..800).collect();
    for n in [0, 299, 300, 799] {
        assert_eq!(index.search(&vector(n), 1, &live, Plan::Auto).expect("found")[0].chunk, n);
    }
}

#[test]
fn damaged_files_are_told_and_left_out_and_never_read() {
    for harm in 0..3 {
        let folder = tempfile::tempdir().expect("a folder");
        let (index, _) = open(folder.path(), 300);
        insert(&index, 0..700);
        index.save(7).expect("saved");
        let damaged = index.writing.lock().0[1].2.clone();
        drop(index);
        let path = folder.path().join(&damaged.folder).join(&damaged.files[0].0);
        let bytes = std::fs::read(&path).expect("the file");
        match harm {
            0 => std::fs::remove_file(&path).expect("removed"),
            1 => std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("cut"),
            _ => {
                let mut bytes = bytes;
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                std::fs::write(&path, bytes).expect("turned");
            }
        }
        let (index, trouble) = open(folder.path(), 300);
        assert!(trouble.expect("it is told").contains(&damaged.folder));
        assert_eq!(index.chunks(), (0..300).chain(600..700).collect());
        assert_eq!(index.applied(), 0);
    }
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(MANIFEST), "not json").expect("written");
    assert!(open(folder.path(), 300).1.is_some());
}

#[test]
fn vectors_that_are_none_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (index, _) = open(folder.path(), 300);
    let short = vec![1.0; DIMENSIONS - 1];
    let mut nan = vector(1);
    nan[3] = f32::NAN;
    let long = vec![1.0; DIMENSIONS];
    for wrong in [&short, &nan, &long] {
        assert!(index.insert(&[(1, wrong.as_slice())]).is_err());
        assert!(index.search(wrong, 1, &RoaringBitmap::new(), Plan::Auto).is_err());
    }
    assert!(index.chunks().is_empty());
}

#[test]
fn a_rebuild_drops_the_tombstones_and_searches_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let (index, _) = open(folder.path(), 1000);
    insert(&index, 0..1500);
    let live: RoaringBitmap = (0..1500).filter(|n| *n >= 1000 || n % 2 == 0).collect();
    let with_live = |work: &mut dyn FnMut(&RoaringBitmap)| work(&live);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for n in 0..300 {
                let found = index.search(&vector(n), 5, &live, Plan::Auto).expect("found");
                assert!(found.len() == 5 && found.iter().all(|hit| live.contains(hit.chunk)));
            }
        });
        let report = index.compact(&with_live).expect("a graph was worth it");
        assert_eq!((report.kept, report.dropped), (500, 500));
    });
    assert_eq!(index.chunks(), live);
    assert!(index.compact(&with_live).is_none());
    index.save(1).expect("saved");
    assert_eq!(open(folder.path(), 1000).0.chunks(), live);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever is inserted, allowed, saved and rebuilt: an exact search is the exact order, and no search gives what is
    /// not allowed or gives anything twice.
    #[test]
    fn any_history_gives_allowed_chunks_only_in_the_right_order(
        steps in proptest::collection::vec((0u8..5, 0u32..400, 1u32..80), 1..14), segment in 50usize..200
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut index = open(folder.path(), segment).0;
        let mut held: BTreeMap<u32, bool> = BTreeMap::new();
        for (step, from, count) in steps {
            match step {
                0 | 1 => {
                    let new: Vec<u32> = (from..from + count).filter(|n| !held.contains_key(n)).collect();
                    insert(&index, new.iter().copied());
                    held.extend(new.into_iter().map(|n| (n, true)));
                }
                2 => held.range_mut(from..from + count).for_each(|(_, live)| *live = false),
                3 => {
                    let live: RoaringBitmap = held.iter().filter(|(_, live)| **live).map(|(n, _)| *n).collect();
                    index.compact(&|work: &mut dyn FnMut(&RoaringBitmap)| work(&live));
                    held.retain(|n, live| *live || index.chunks().contains(*n));
                }
                _ => {
                    index.save(1).expect("saved");
                    index = open(folder.path(), segment).0;
                }
            }
            let live: RoaringBitmap = held.iter().filter(|(_, live)| **live).map(|(n, _)| *n).collect();
            let query = vector(9_000_000 + from);
            let mut expected: Vec<Scored> =
                live.iter().map(|chunk| Scored { chunk, score: vectors::dot(&query, &vector(chunk)) }).collect();
            best(&mut expected, 20);
            prop_assert_eq!(index.search(&query, 20, &live, Plan::Exact).expect("found"), expected.clone());
            let found = index.search(&query, 20, &live, Plan::Auto).expect("found");
            prop_assert_eq!(found.len(), expected.len());
            let distinct: std::collections::BTreeSet<u32> = found.iter().map(|hit| hit.chunk).collect();
            prop_assert_eq!(distinct.len(), found.len());
            prop_assert!(found.iter().all(|hit| live.contains(hit.chunk)));
        }
    }
}
