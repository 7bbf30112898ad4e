use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;

const DIMENSIONS: usize = 16;

fn options() -> VectorOptions {
    VectorOptions {
        dimensions: DIMENSIONS,
        m: 8,
        ef_construction: 64,
        ef_search: 32,
        segment_chunks: 1000,
        rebuild_share: 0.3,
        exact_below: 50,
    }
}

fn read_and_open(folder: &Path, options: VectorOptions) -> (VectorIndex, Option<String>) {
    VectorIndex::open(SavedGraphs::read(folder, options).unwrap()).unwrap()
}

fn open(folder: &Path, options: VectorOptions) -> VectorIndex {
    let (index, reason) = read_and_open(folder, options);
    assert_eq!(reason, None);
    index
}

/// The vector of a chunk: one of a hundred directions, moved a little. The same for the same number.
fn vector(chunk: u32) -> Vec<f32> {
    let mut random = u64::from(chunk).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let mut direction = u64::from(chunk % 100).wrapping_add(7).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mut base = move || {
        direction ^= direction << 13;
        direction ^= direction >> 7;
        direction ^= direction << 17;
        (direction >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let v: Vec<f32> = (0..DIMENSIONS).map(|_| base() + 0.3 * next()).collect();
    let norm = dot(&v, &v).sqrt();
    v.iter().map(|x| x / norm).collect()
}

fn insert(index: &VectorIndex, chunks: impl IntoIterator<Item = u32>) {
    let vectors: Vec<(u32, Vec<f32>)> = chunks.into_iter().map(|chunk| (chunk, vector(chunk))).collect();
    let slices: Vec<(u32, &[f32])> = vectors.iter().map(|(chunk, v)| (*chunk, v.as_slice())).collect();
    index.insert(&slices).unwrap();
}

fn set(chunks: impl IntoIterator<Item = u32>) -> RoaringBitmap {
    chunks.into_iter().collect()
}

/// The best of `chunks` by comparing with each.
fn brute_force(query: &[f32], limit: usize, chunks: &RoaringBitmap) -> Vec<Scored> {
    let mut all: Vec<_> = chunks.iter().map(|chunk| Scored { chunk, score: dot(query, &vector(chunk)) }).collect();
    all.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.chunk.cmp(&b.chunk)));
    all.truncate(limit);
    all
}

fn always(live: RoaringBitmap) -> impl Fn(&mut dyn FnMut(&RoaringBitmap)) {
    move |work| work(&live)
}

#[test]
fn a_reopened_index_has_the_same_chunks_commit_and_results() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path(), options());
    index.save(3).unwrap();
    insert(&index, 0..2500);
    index.save(7).unwrap();
    let before = index.search(&vector(9999), 10, &set(0..2500), Plan::Graph).unwrap();
    drop(index);
    let index = open(folder.path(), options());
    assert_eq!((index.applied(), index.chunks()), (7, set(0..2500)));
    assert_eq!(index.stats(&set(0..2000)).segments, 3);
    assert_eq!(index.stats(&set(0..2000)).tombstones, 500);
    assert_eq!(index.search(&vector(9999), 10, &set(0..2500), Plan::Graph).unwrap(), before);
    // And it goes on growing.
    insert(&index, 2500..3500);
    index.save(8).unwrap();
    drop(index);
    let index = open(folder.path(), options());
    assert_eq!((index.applied(), index.chunks()), (8, set(0..3500)));
}

#[test]
fn a_save_writes_only_what_has_changed_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let names = || -> std::collections::BTreeSet<_> {
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    let index = open(folder.path(), options());
    insert(&index, 0..1500);
    index.save(1).unwrap();
    let first = names();
    index.save(2).unwrap();
    assert_eq!(names(), first);
    insert(&index, 1500..1600);
    index.save(3).unwrap();
    let second = names();
    assert_eq!((second.len(), second.intersection(&first).count()), (3, 2), "the full segment and the manifest stay");
    std::fs::create_dir(folder.path().join("segment-half-written")).unwrap();
    drop(index);
    open(folder.path(), options());
    assert_eq!(names(), second);
}

#[test]
fn what_cannot_be_saved_is_an_error_and_the_last_save_stays() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path(), options());
    insert(&index, 0..100);
    index.save(1).unwrap();
    insert(&index, 100..200);
    let elsewhere = tempfile::tempdir().unwrap();
    let moved = elsewhere.path().join("moved");
    std::fs::rename(folder.path(), &moved).unwrap();
    std::fs::write(folder.path(), "in the way").unwrap();
    assert!(matches!(index.save(2), Err(StoreError::Failed(_))));
    assert_eq!(index.applied(), 1);
    std::fs::remove_file(folder.path()).unwrap();
    std::fs::rename(&moved, folder.path()).unwrap();
    assert_eq!(open(folder.path(), options()).chunks(), set(0..100));
    index.save(2).unwrap();
    assert_eq!(open(folder.path(), options()).chunks(), set(0..200));
}

#[test]
fn damaged_files_are_found_left_out_and_reported() {
    let original = tempfile::tempdir().unwrap();
    let index = open(original.path(), VectorOptions { segment_chunks: 40, ..options() });
    insert(&index, 0..100);
    index.save(5).unwrap();
    let segments: Vec<RoaringBitmap> = [set(0..40), set(40..80), set(80..100)].into();
    drop(index);
    let files: Vec<PathBuf> = std::fs::read_dir(original.path())
        .unwrap()
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect(),
                false => vec![path],
            }
        })
        .collect();
    assert_eq!(files.len(), 7);
    let check = |file: &Path, damage: &dyn Fn(&mut Vec<u8>) -> bool| {
        let copy = tempfile::tempdir().unwrap();
        for path in &files {
            let mut bytes = std::fs::read(path).unwrap();
            if path != file || damage(&mut bytes) {
                let target = copy.path().join(path.strip_prefix(original.path()).unwrap());
                std::fs::create_dir_all(target.parent().unwrap()).unwrap();
                std::fs::write(target, bytes).unwrap();
            }
        }
        let (index, reason) = read_and_open(copy.path(), options());
        let found = index.chunks();
        assert_eq!(index.applied(), 0);
        assert!(reason.is_some());
        if file.ends_with(MANIFEST) {
            assert!(found.is_empty());
        } else {
            assert!(segments.iter().any(|lost| found == set(0..100) - lost), "{found:?}");
        }
        insert(&index, 0..100);
        let all = set(0..100);
        assert_eq!(index.search(&vector(3), 100, &all, Plan::Auto).unwrap(), brute_force(&vector(3), 100, &all));
        index.save(6).unwrap();
        drop(index);
        assert_eq!(open(copy.path(), options()).chunks(), set(0..100));
    };
    for file in &files {
        let length = std::fs::metadata(file).unwrap().len() as usize;
        check(file, &|_| false);
        for kept in [0, 1, length / 2, length - 1] {
            check(file, &|bytes| {
                bytes.truncate(kept);
                true
            });
        }
        for n in 0..12 {
            check(file, &|bytes| {
                bytes[(length - 1) * n / 11] ^= 0x11;
                true
            });
        }
    }
}

#[test]
fn graphs_of_other_settings_are_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path(), options());
    insert(&index, 0..100);
    index.save(1).unwrap();
    let others = VectorOptions { m: 9, ..options() };
    // Perhaps the process ends for another reason, and the setting was a mistake.
    drop(SavedGraphs::read(folder.path(), others.clone()).unwrap());
    assert_eq!(open(folder.path(), options()).chunks(), set(0..100));
    let (index, reason) = read_and_open(folder.path(), others);
    assert!(reason.unwrap().contains("other settings"));
    assert!(index.chunks().is_empty());
    for bad in [
        VectorOptions { m: 1, ..options() },
        VectorOptions { m: 256, ..options() },
        VectorOptions { dimensions: 0, ..options() },
        VectorOptions { segment_chunks: 0, ..options() },
    ] {
        assert!(SavedGraphs::read(folder.path(), bad).is_err());
    }
}

#[test]
fn a_bad_vector_is_an_error_and_nothing_of_its_batch_is_added() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path(), options());
    let good = vector(1);
    let mut nan = good.clone();
    nan[3] = f32::NAN;
    let infinite = vec![f32::INFINITY; DIMENSIONS];
    let long: Vec<f32> = good.iter().map(|x| x * 2.0).collect();
    for bad in [&nan, &infinite, &long, &vec![0.0; DIMENSIONS], &good[1..].to_vec(), &vec![]] {
        assert!(index.insert(&[(1, &good), (2, bad)]).is_err());
        assert!(index.search(bad, 5, &set(0..9), Plan::Auto).is_err());
    }
    assert!(index.chunks().is_empty());
}

#[test]
fn a_chunk_inserted_twice_is_found_once() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path(), VectorOptions { segment_chunks: 30, ..options() });
    insert(&index, [5, 5, 6]);
    insert(&index, 0..100);
    insert(&index, 0..100);
    assert_eq!(index.stats(&set(0..100)).points, 100);
    for plan in [Plan::Auto, Plan::Graph, Plan::Exact] {
        let hits = index.search(&vector(5), 200, &set(0..200), plan).unwrap();
        assert_eq!(hits.len(), set(hits.iter().map(|hit| hit.chunk)).len() as usize);
        assert_eq!(hits[0], Scored { chunk: 5, score: dot(&vector(5), &vector(5)) });
    }
}

#[test]
fn the_smallest_indexes_are_searched() {
    for size in 0..25 {
        let folder = tempfile::tempdir().unwrap();
        let index = open(folder.path(), VectorOptions { exact_below: 0, ..options() });
        insert(&index, 0..size);
        index.save(1).unwrap();
        for plan in [Plan::Auto, Plan::Graph, Plan::Exact] {
            let hits = index.search(&vector(77), 100, &set(0..size), plan).unwrap();
            assert_eq!(hits, brute_force(&vector(77), 100, &set(0..size)), "{size} {plan:?}");
        }
        assert_eq!(open(folder.path(), options()).chunks(), set(0..size));
    }
}

#[test]
fn the_graphs_find_at_least_97_of_100_nearest() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path(), VectorOptions { segment_chunks: 3000, exact_below: 0, ..options() });
    insert(&index, 0..8000);
    for allowed in [set(0..8000), set((0..8000).filter(|n| n % 3 != 0))] {
        let (mut hits, mut all) = (0, 0);
        for query in (100_000..100_200).map(vector) {
            let exact = index.search(&query, 10, &allowed, Plan::Exact).unwrap();
            assert_eq!(exact, brute_force(&query, 10, &allowed));
            let graph = index.search(&query, 10, &allowed, Plan::Graph).unwrap();
            assert!(graph.iter().all(|hit| allowed.contains(hit.chunk)));
            all += exact.len();
            hits += exact.iter().filter(|hit| graph.contains(hit)).count();
        }
        let recall = hits as f64 / all as f64;
        assert!(recall >= 0.97, "recall@10 {recall}");
    }
}

#[test]
fn where_the_graph_finds_too_few_all_allowed_chunks_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let wide = VectorOptions { segment_chunks: 60_000, exact_below: 0, ef_search: 1, ..options() };
    let index = open(folder.path(), wide);
    insert(&index, 0..6000);
    // Allowed is only what is far from the query: of the hundred directions, those unlike that of the query.
    let query = vector(0);
    let far = set((0..6000).filter(|n| dot(&vector(*n), &query) < 0.0));
    assert!(far.len() > 1500);
    let hits = index.search(&query, 3, &far, Plan::Auto).unwrap();
    assert_eq!(hits, brute_force(&query, 3, &far));
    assert!(index.search(&query, 3, &far, Plan::Graph).unwrap().len() < 3);
}

#[test]
fn a_rebuild_drops_the_dead_of_one_graph_and_keeps_the_live() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path(), options());
    insert(&index, 0..2500);
    let live = set(600..2500);
    // Below the share in the other graphs: nothing to do there.
    let report = index.compact(&always(live.clone())).unwrap();
    assert_eq!((report.kept, report.dropped), (400, 600));
    assert_eq!(index.chunks(), live);
    assert!(index.compact(&always(live.clone())).is_none());
    assert_eq!(index.search(&vector(700), 10, &live, Plan::Exact).unwrap(), brute_force(&vector(700), 10, &live));
    // The open one, and one that is dead as a whole.
    let live = set(1000..2100);
    while index.compact(&always(live.clone())).is_some() {}
    index.save(1).unwrap();
    drop(index);
    let index = open(folder.path(), options());
    assert!(live.is_subset(&index.chunks()));
    assert_eq!(index.search(&vector(1700), 10, &live, Plan::Auto).unwrap(), brute_force(&vector(1700), 10, &live));
    assert!(index.compact(&always(set([]))).is_some());
    while index.compact(&always(set([]))).is_some() {}
    assert!(index.chunks().is_empty());
}

#[test]
fn of_the_graphs_that_had_tombstones_each_is_rebuilt_once_whatever_dies_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path(), options());
    insert(&index, 0..2500);
    // One in the first and one in the open graph; not enough for a rebuild by itself.
    let live = std::cell::RefCell::new(set((0..2500).filter(|n| *n != 7 && *n != 2400)));
    let with_live = |work: &mut dyn FnMut(&RoaringBitmap)| work(&live.borrow());
    assert!(index.compact(&with_live).is_none());
    let mut stale = index.with_tombstones(&with_live);
    assert_eq!(stale.len(), 2);
    // One that had none then is left alone.
    live.borrow_mut().remove(1500);
    let open_one = stale.pop().unwrap();
    assert_eq!(index.rebuild(&open_one, &with_live).map(|report| (report.kept, report.dropped)), Some((499, 1)));
    assert!(index.rebuild(&open_one, &with_live).is_none(), "it is gone");
    // What was moved already, and dies after that, is not moved again.
    live.borrow_mut().remove(2300);
    let report = index.rebuild(&stale.pop().unwrap(), &with_live);
    assert_eq!(report.map(|report| (report.kept, report.dropped)), Some((999, 1)));
    assert_eq!(index.chunks(), set((0..2500).filter(|n| *n != 7 && *n != 2400)));
    assert_eq!(index.with_tombstones(&with_live).len(), 2);
    index.save(1).unwrap();
    drop(index);
    assert_eq!(open(folder.path(), options()).chunks(), set((0..2500).filter(|n| *n != 7 && *n != 2400)));
}

#[test]
fn steady_replacement_does_not_pile_up_graphs() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path(), options());
    let mut live = set([]);
    for round in 0..40 {
        insert(&index, round * 300..(round + 1) * 300);
        live.insert_range(round * 300..(round + 1) * 300);
        // An unlucky choice for any one graph: some of each survive for long.
        live = live.iter().filter(|n| (n * 7 + round) % 3 != 0 || n % 50 == 0).collect();
        index.compact(&always(live.clone()));
        let stats = index.stats(&live);
        assert!(live.is_subset(&index.chunks()));
        assert!(stats.segments as u64 <= 3 + stats.points / 1000, "{stats:?}");
        assert!(stats.points < 3 * live.len() + 1500, "{stats:?}, {} live", live.len());
    }
}

#[test]
fn what_becomes_live_during_a_rebuild_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path(), options());
    insert(&index, 0..1000);
    let calls = std::cell::Cell::new(0);
    let report = index.compact(&|work| {
        calls.set(calls.get() + 1);
        work(&if calls.get() == 1 { set(0..500) } else { set(0..550) });
    });
    assert_eq!(report.map(|report| (report.kept, report.dropped)), Some((550, 450)));
    assert_eq!(index.chunks(), set(0..550));
}

#[test]
fn searches_beside_inserts_rebuilds_and_saves_give_only_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path(), VectorOptions { exact_below: 0, segment_chunks: 2000, ..options() });
    insert(&index, 0..3000);
    let allowed = set(1000..3000);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let searchers: Vec<_> = [Plan::Auto, Plan::Graph, Plan::Exact]
            .into_iter()
            .map(|plan| {
                let (index, allowed, done) = (&index, &allowed, &done);
                scope.spawn(move || {
                    let mut searches = 0;
                    while !done.load(Ordering::Relaxed) {
                        let query = vector(50_000 + searches);
                        let hits = index.search(&query, 10, allowed, plan).unwrap();
                        assert!(hits.iter().all(|hit| allowed.contains(hit.chunk)));
                        if plan == Plan::Exact {
                            assert_eq!(hits, brute_force(&query, 10, allowed));
                        }
                        searches += 1;
                    }
                    searches
                })
            })
            .collect();
        for round in 0..10 {
            insert(&index, 3000 + round * 100..3100 + round * 100);
            index.compact(&always(&allowed | set(3000..3100 + round * 100)));
            index.save(u64::from(round)).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(searchers.into_iter().all(|searcher| searcher.join().unwrap() > 0));
    });
    drop(index);
    assert_eq!(open(folder.path(), options_of(2000)).chunks(), set(1000..4000));
}

fn options_of(segment_chunks: usize) -> VectorOptions {
    VectorOptions { segment_chunks, ..options() }
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u32),
    Remove(Vec<u32>),
    Compact,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..120u32).prop_map(Step::Insert),
        4 => prop::collection::vec(0..600u32, 1..150).prop_map(Step::Remove),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn after_any_history_a_search_gives_the_nearest_of_the_live(
        history in prop::collection::vec(step(), 1..12),
        limit in 1..40usize,
        query in 90_000..99_000u32,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let options = || VectorOptions { segment_chunks: 100, exact_below: 5, ef_search: 1, ..options() };
        let mut index = open(folder.path(), options());
        let (mut live, mut next) = (BTreeMap::new(), 0);
        for (n, step) in history.into_iter().enumerate() {
            match step {
                Step::Insert(count) => {
                    insert(&index, next..next + count);
                    live.extend((next..next + count).map(|chunk| (chunk, ())));
                    next += count;
                }
                Step::Remove(chunks) => chunks.iter().for_each(|chunk| { live.remove(chunk); }),
                Step::Compact => { index.compact(&always(set(live.keys().copied()))); }
                Step::Reopen => {
                    index.save(n as u64).unwrap();
                    drop(index);
                    index = open(folder.path(), options());
                    prop_assert_eq!(index.applied(), n as u64);
                }
            }
        }
        let live = set(live.into_keys());
        prop_assert!(live.is_subset(&index.chunks()));
        let query = vector(query);
        let nearest = brute_force(&query, limit, &live);
        prop_assert_eq!(&index.search(&query, limit, &live, Plan::Exact).unwrap(), &nearest);
        let graph = index.search(&query, limit, &live, Plan::Graph).unwrap();
        prop_assert!(graph.len() <= limit && graph.iter().all(|hit| live.contains(hit.chunk)));
        prop_assert_eq!(index.search(&query, limit, &live, Plan::Auto).unwrap().len(), nearest.len());
    }
}
