//! Text generation with the real engine and a real model: what a sink may rely on, whatever else the engine does.
//!
//! Needs SmolLM2-135M-Instruct in `ANSWERD_MODELS` (default `~/.cache/answerd/models`); `make setup` fetches it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use answerd::models::chat::ChatTemplate;
use answerd::models::llama_cpp::{LlamaCpp, LlamaOptions};
use answerd::models::{
    Demand, FinishReason, Finished, Generator, ModelError, Prompt, Rejected, Sampling, Segment, Sequence, Sink,
};
use parking_lot::{RwLock, RwLockReadGuard};

/// Longer than anything here takes: a test that waits this long has hung.
const PATIENCE: Duration = Duration::from_secs(60);

/// Failpoints are of the whole process: who sets one keeps the others out meanwhile.
static FAULTS: RwLock<()> = RwLock::new(());

fn model() -> PathBuf {
    let models = std::env::var("ANSWERD_MODELS")
        .unwrap_or_else(|_| format!("{}/.cache/answerd/models", std::env::var("HOME").unwrap_or_default()));
    PathBuf::from(models).join("SmolLM2-135M-Instruct.Q4_1.gguf")
}

fn load(slots: usize) -> Arc<LlamaCpp> {
    let mut options = LlamaOptions::new(model(), "smollm2");
    // Tests run side by side, and threads of llama.cpp that wait for each other spin.
    (options.slots, options.threads) = (slots, 1);
    LlamaCpp::load(options).unwrap()
}

/// An engine of 8 slots that tests share, and with it the promise that nobody sets a failpoint now.
fn shared() -> (&'static Arc<LlamaCpp>, RwLockReadGuard<'static, ()>) {
    static ENGINE: OnceLock<Arc<LlamaCpp>> = OnceLock::new();
    let calm = FAULTS.read();
    (ENGINE.get_or_init(|| load(8)), calm)
}

#[derive(Debug)]
enum Event {
    Started,
    Text(String),
    Finished(Result<Finished, ModelError>),
}

/// A sink that passes all on.
struct Probe {
    wanted: Arc<AtomicBool>,
    events: Sender<Event>,
}

impl Sink for Probe {
    fn demand(&self) -> Demand {
        if self.wanted.load(Ordering::SeqCst) { Demand::Run } else { Demand::Stop }
    }
    fn started(&mut self) {
        let _ = self.events.send(Event::Started);
    }
    fn text(&mut self, text: &str) {
        let _ = self.events.send(Event::Text(text.to_owned()));
    }
    fn finish(&mut self, result: Result<Finished, ModelError>) {
        let _ = self.events.send(Event::Finished(result));
    }
}

/// The other end of a probe.
struct Reader {
    wanted: Arc<AtomicBool>,
    events: Receiver<Event>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::SeqCst);
    }
}

impl Reader {
    fn next(&self) -> Event {
        self.events.recv_timeout(PATIENCE).expect("the sink hears more")
    }

    fn first_text(&self) -> String {
        loop {
            match self.next() {
                Event::Text(text) => return text,
                Event::Started => {}
                Event::Finished(result) => panic!("no text before the end: {result:?}"),
            }
        }
    }

    /// All further text, and the end; checks that nothing follows it.
    fn end(&self) -> (String, Result<Finished, ModelError>) {
        let mut text = String::new();
        let result = loop {
            match self.next() {
                Event::Started => {}
                Event::Text(more) => {
                    assert!(!more.is_empty(), "an empty text");
                    text.push_str(&more);
                }
                Event::Finished(result) => break result,
            }
        };
        assert!(self.events.recv_timeout(PATIENCE).is_err(), "the sink hears something after the end");
        (text, result)
    }

    fn answer(&self) -> (String, Finished) {
        let (text, result) = self.end();
        (text, result.expect("it generates"))
    }
}

fn greedy() -> Sampling {
    Sampling::default()
}

fn sequence(prompt: &[i32], max_tokens: usize, stop: &[&str]) -> (Sequence, Reader) {
    let (sender, events) = channel();
    let wanted = Arc::new(AtomicBool::new(true));
    let sink = Box::new(Probe { wanted: Arc::clone(&wanted), events: sender });
    let stop = stop.iter().map(|stop| (*stop).to_owned()).collect();
    let (prompt, span) = (Prompt::Tokens(prompt.to_vec()), tracing::Span::none());
    let sequence = Sequence { prompt, sampling: greedy(), max_tokens, stop, sink, span };
    (sequence, Reader { wanted, events })
}

fn start(engine: &LlamaCpp, prompt: &[i32], max_tokens: usize, stop: &[&str]) -> Reader {
    let (sequence, reader) = sequence(prompt, max_tokens, stop);
    engine.start(sequence).unwrap();
    reader
}

fn chat(engine: &LlamaCpp, system: &str, user: &str) -> Vec<i32> {
    let control = |text: &str| Segment::Control(text.to_owned());
    let text = |text: &str| Segment::Text(text.to_owned());
    engine.tokenize(&[
        control("<|im_start|>system\n"),
        text(system),
        control("<|im_end|>\n<|im_start|>user\n"),
        text(user),
        control("<|im_end|>\n<|im_start|>assistant\n"),
    ])
}

fn plain(engine: &LlamaCpp, text: &str) -> Vec<i32> {
    engine.tokenize(&[Segment::Text(text.to_owned())])
}

/// A text of many tokens that the model does not soon end.
fn story(times: usize) -> String {
    "Day after day the old lighthouse keeper climbed the stairs, lit the lamp, and wrote down what he saw. "
        .repeat(times)
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_model_answers_a_question() {
    let (engine, _calm) = shared();
    let prompt = chat(engine, "You answer in one short sentence.", "What is the capital of France?");
    let (text, finished) = start(engine, &prompt, 40, &[]).answer();
    assert!(text.contains("Paris"), "{text}");
    assert_eq!(finished.reason, FinishReason::Stop);
    assert_eq!(finished.prompt_tokens, prompt.len());
    assert!(!text.contains("<|"), "a special token is shown: {text}");
    assert!(engine.template() == ChatTemplate::ChatMl);
}

#[test]
fn a_sequence_says_the_same_alone_and_beside_seven_others() {
    let _calm = FAULTS.read();
    let prompt_of = |engine: &LlamaCpp| chat(engine, "You are a helpful assistant.", "Why is the sky blue?");
    let engine = load(8);
    let alone = start(&engine, &prompt_of(&engine), 40, &[]).answer().0;
    drop(engine);
    let engine = load(8);
    let others: Vec<Reader> =
        (1..8).map(|n| start(&engine, &plain(&engine, &format!("{n}. {}", story(n * 2))), 30 + n, &[])).collect();
    let beside = start(&engine, &prompt_of(&engine), 40, &[]).answer().0;
    assert_eq!(alone, beside);
    for other in others {
        other.answer();
    }
}

#[test]
fn the_head_that_prompts_share_is_computed_once() {
    let _calm = FAULTS.read();
    let head = format!("Answer from this text only. {}", story(12));
    let (first, second) = ("Who climbed the stairs?", "What did he write down?");
    let engine = load(8);
    let uncached = start(&engine, &chat(&engine, &head, second), 24, &[]).answer();
    assert_eq!(uncached.1.cached_prompt_tokens, 0);
    drop(engine);

    let engine = load(8);
    start(&engine, &chat(&engine, &head, first), 24, &[]).answer();
    let cached = start(&engine, &chat(&engine, &head, second), 24, &[]).answer();
    let shared = plain(&engine, &head).len();
    assert!(cached.1.cached_prompt_tokens >= shared, "{} of {shared}", cached.1.cached_prompt_tokens);
    assert_eq!(cached.0, uncached.0);
    let totals = engine.totals();
    let all = chat(&engine, &head, first).len() + chat(&engine, &head, second).len();
    assert_eq!(totals.prefill_tokens + totals.cached_tokens, all as u64);
    assert_eq!(totals.cached_tokens, cached.1.cached_prompt_tokens as u64);
}

#[test]
fn sequences_that_come_together_share_a_head_too() {
    let _calm = FAULTS.read();
    let engine = load(8);
    let head = format!("Answer from this text only. {}", story(20));
    let prompts: Vec<Vec<i32>> = (0..6).map(|n| chat(&engine, &head, &format!("Question {n}: what then?"))).collect();
    let readers: Vec<Reader> = prompts.iter().map(|prompt| start(&engine, prompt, 12, &[])).collect();
    let cached: Vec<usize> = readers.iter().map(|reader| reader.answer().1.cached_prompt_tokens).collect();
    let shared = plain(&engine, &head).len();
    assert_eq!(cached[0], 0);
    assert!(cached[1..].iter().all(|cached| *cached >= shared), "{cached:?} of {shared}");
}

#[test]
fn a_head_can_be_copied_from_a_sequence_that_still_runs() {
    let _calm = FAULTS.read();
    let engine = load(2);
    let head = story(15);
    let busy = start(&engine, &plain(&engine, &format!("{head} One evening")), 400, &[]);
    busy.first_text();
    let prompt = plain(&engine, &format!("{head} The next morning"));
    let (beside, finished) = start(&engine, &prompt, 16, &[]).answer();
    assert!(finished.cached_prompt_tokens >= plain(&engine, &head).len() - 1, "{finished:?}");
    busy.wanted.store(false, Ordering::SeqCst);
    busy.end().1.unwrap();
    drop(engine);
    assert_eq!(beside, start(&load(1), &prompt, 16, &[]).answer().0);
}

#[test]
fn special_tokens_in_the_text_of_a_user_do_nothing() {
    let (engine, _calm) = shared();
    for special in ["<|im_end|>", "<|im_start|>", "<|endoftext|>"] {
        let control = engine.tokenize(&[Segment::Control(special.to_owned())]);
        assert_eq!(control.len(), 1, "{special}");
        for text in [special.to_owned(), format!("a{special}b"), format!(" {special}\n{special}")] {
            let tokens = plain(engine, &text);
            assert!(tokens.len() > 1 && !tokens.contains(&control[0]), "{text:?}: {tokens:?}");
            assert_eq!(engine.count_tokens(&text), tokens.len());
        }
    }
}

#[test]
fn a_stop_text_ends_the_output_wherever_tokens_end() {
    let (engine, _calm) = shared();
    let prompt = plain(engine, &story(2));
    let whole = start(engine, &prompt, 40, &[]).answer().0;
    let starts: Vec<usize> = whole.char_indices().map(|(at, _)| at).collect();
    for from in (5..starts.len() - 12).step_by(9) {
        let stop = &whole[starts[from]..starts[from + 9]];
        let (text, finished) = start(engine, &prompt, 40, &["never said", stop]).answer();
        assert_eq!(text, whole[..whole.find(stop).unwrap()], "stop text {stop:?}");
        assert_eq!(finished.reason, FinishReason::Stop);
        assert!(finished.completion_tokens <= 40);
    }
}

#[test]
fn characters_of_several_tokens_are_never_broken() {
    let (engine, _calm) = shared();
    for line in
        ["🦀漢字🦀漢字🦀漢字🦀漢字🦀漢字🦀漢字", "Ωmega → Ωmega → Ωmega → Ωmega →", "日本語、日本語、日本語、日本語、"]
    {
        for tokens in 20..24 {
            let (text, finished) = start(engine, &plain(engine, line), tokens, &[]).answer();
            assert!(!text.contains(char::REPLACEMENT_CHARACTER), "{text:?}");
            assert!(text.chars().any(|character| line.contains(character) && !character.is_ascii()), "{text:?}");
            // Some character took several tokens, so this has tested something.
            assert!(text.chars().count() < finished.completion_tokens * 4);
        }
    }
}

#[test]
fn no_more_than_max_tokens_are_generated_and_all_are_counted() {
    let (engine, _calm) = shared();
    let prompt = plain(engine, &story(3));
    for max in [1, 2, 17] {
        let (text, finished) = start(engine, &prompt, max, &[]).answer();
        assert_eq!((finished.reason, finished.completion_tokens), (FinishReason::Length, max));
        assert_eq!(finished.prompt_tokens, prompt.len());
        assert!(engine.count_tokens(&text) <= max, "{text:?}");
    }
    let (text, finished) = start(engine, &prompt, 0, &[]).answer();
    assert_eq!((text.as_str(), finished.reason, finished.completion_tokens), ("", FinishReason::Length, 0));
}

#[test]
fn a_seed_repeats_what_it_said_and_another_says_something_else() {
    let (engine, _calm) = shared();
    let say = |seed| {
        let (mut sequence, reader) = sequence(&plain(engine, "Once upon a time"), 30, &[]);
        sequence.sampling =
            Sampling { temperature: 1.0, top_p: 0.95, repeat_penalty: 1.1, seed: Some(seed), ..Sampling::default() };
        engine.start(sequence).unwrap();
        reader.answer().0
    };
    let first = say(1);
    assert_eq!(first, say(1));
    assert_ne!(first, say(2));
}

#[test]
fn who_leaves_gets_no_more_and_frees_the_slot() {
    let _calm = FAULTS.read();
    let engine = load(1);
    let reader = start(&engine, &plain(&engine, &story(3)), 1500, &[]);
    for _ in 0..3 {
        reader.first_text();
    }
    reader.wanted.store(false, Ordering::SeqCst);
    let (_, finished) = reader.answer();
    assert_eq!(finished.reason, FinishReason::Cancelled);
    assert!(finished.completion_tokens < 1500);
    // The only slot serves the next one.
    assert_eq!(start(&engine, &plain(&engine, "One two three"), 4, &[]).answer().1.completion_tokens, 4);
    eventually("nothing runs", || engine.load().running == 0);
}

#[test]
fn who_leaves_the_queue_costs_nothing() {
    let _calm = FAULTS.read();
    let engine = load(1);
    let busy = start(&engine, &plain(&engine, &story(3)), 1500, &[]);
    busy.first_text();
    let gone = start(&engine, &plain(&engine, &story(8)), 50, &[]);
    assert_eq!(engine.load().waiting, 1);
    gone.wanted.store(false, Ordering::SeqCst);
    // It hears so while the other still runs.
    let (text, finished) = gone.answer();
    assert_eq!((text.as_str(), finished.reason, finished.completion_tokens), ("", FinishReason::Cancelled, 0));
    assert_eq!((engine.load().waiting, engine.load().running), (0, 1));
    busy.wanted.store(false, Ordering::SeqCst);
    busy.answer();
}

#[test]
fn more_sequences_than_slots_all_finish() {
    let _calm = FAULTS.read();
    let engine = load(2);
    let readers: Vec<Reader> =
        (0..9).map(|n| start(&engine, &plain(&engine, &format!("{n} {}", story(1 + n % 3))), 5 + n, &[])).collect();
    for (n, reader) in readers.iter().enumerate() {
        assert_eq!(reader.answer().1.completion_tokens, 5 + n);
    }
    eventually("nothing runs", || engine.load().running == 0);
    let load = engine.load();
    assert_eq!((load.waiting, load.slots, load.context_size), (0, 2, 2 * 2048));
    assert!(load.context_used > 0 && load.context_used <= load.context_size);
    assert_eq!(engine.totals().decode_tokens, (5..14).sum::<u64>());
}

#[test]
fn a_long_prompt_does_not_freeze_a_running_stream() {
    let _calm = FAULTS.read();
    let engine = load(2);
    let stream = start(&engine, &plain(&engine, &story(2)), 300, &[]);
    stream.first_text();
    let long = start(&engine, &plain(&engine, &format!("Another. {}", story(70))), 1, &[]);
    assert!(matches!(long.next(), Event::Started));
    while stream.events.try_recv().is_ok() {}
    long.answer();
    let meanwhile = stream.events.try_iter().filter(|event| matches!(event, Event::Text(_))).count();
    assert!(meanwhile >= 5, "{meanwhile} tokens of the stream while a prompt of 1,500 tokens was read");
    stream.wanted.store(false, Ordering::SeqCst);
    stream.answer();
}

#[test]
fn what_does_not_fit_the_context_is_refused_with_its_counts() {
    let (engine, _calm) = shared();
    let prompt = plain(engine, &story(3));
    let (sequence_one, _reader) = sequence(&prompt, 2048, &[]);
    match engine.start(sequence_one) {
        Err(Rejected { error: ModelError::ContextTooSmall { prompt: 1.., output: 2048, context: 2048 }, .. }) => {}
        other => panic!("{other:?}"),
    }
    let fits = start(engine, &prompt, 2048 - prompt.len(), &[]);
    fits.first_text();
    fits.wanted.store(false, Ordering::SeqCst);
    // To its end: the process must not end while llama.cpp computes.
    fits.answer();
    assert!(engine.start(sequence(&[], 5, &[]).0).is_err(), "an empty prompt");
    assert!(engine.start(sequence(&[-1], 5, &[]).0).is_err(), "a token below the vocabulary");
    assert!(engine.start(sequence(&[49_152], 5, &[]).0).is_err(), "a token beyond the vocabulary");
}

#[test]
fn a_dropped_engine_tells_all_its_sequences() {
    let _calm = FAULTS.read();
    let engine = load(1);
    let running = start(&engine, &plain(&engine, &story(2)), 1500, &[]);
    running.first_text();
    let waiting = start(&engine, &plain(&engine, &story(2)), 5, &[]);
    drop(engine);
    for reader in [running, waiting] {
        assert!(matches!(reader.end().1, Err(ModelError::Stopped)));
    }
}

#[test]
fn a_file_that_is_no_whole_model_is_refused_with_its_name_and_the_reason() {
    let _calm = FAULTS.read();
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(model()).unwrap();
    let refused = |name: &str, bytes: Option<&[u8]>, reason: &str| {
        let path = folder.path().join(name);
        if let Some(bytes) = bytes {
            std::fs::write(&path, bytes).unwrap();
        }
        match LlamaCpp::load(LlamaOptions::new(&path, "bad")) {
            Err(ModelError::Load(text)) => {
                assert!(text.contains(name) && text.contains(reason), "{name}: {text}");
                let _ = std::fs::remove_file(&path);
            }
            Err(other) => panic!("{name}: {other}"),
            Ok(_) => panic!("{name} was loaded"),
        }
    };
    refused("missing.gguf", None, "No such file");
    refused("empty.gguf", Some(b""), "empty");
    refused("notes.gguf", Some(b"This is a text that somebody has renamed."), "This is a text");
    refused("page.gguf", Some(b"<!DOCTYPE html><html><body>404</body></html>"), "HTML");
    let random: Vec<u8> = (0..5000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    refused("random.gguf", Some(&random), "not a GGUF file");
    for length in [3, 7, 23, 100, 5_000, 1_000_000, 50_000_000, whole.len() - 1] {
        refused("part.gguf", Some(&whole[..length]), "cut short");
    }
    for (at, name) in [(8, "tensors"), (16, "entries")] {
        let mut absurd = whole[..2_000_000].to_vec();
        absurd[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        refused("absurd.gguf", Some(&absurd), name);
    }
    let mut unknown = whole.clone();
    let at = unknown.windows(5).position(|window| window == b"llama").unwrap();
    unknown[at..at + 5].copy_from_slice(b"lorem");
    refused("unknown.gguf", Some(&unknown), "lorem");
    std::fs::create_dir(folder.path().join("folder.gguf")).unwrap();
    refused("folder.gguf", None, "not a file");
}

#[test]
fn sequences_may_be_started_from_any_thread() {
    let (engine, _calm) = shared();
    let finished = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 0..12 {
            let finished = &finished;
            scope.spawn(move || {
                let prompt = plain(engine, &format!("Thread {n} says: {}", story(1)));
                assert_eq!(start(engine, &prompt, 6, &[]).answer().1.completion_tokens, 6);
                finished.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    assert_eq!(finished.into_inner(), 12);
}

#[cfg(feature = "failpoints")]
mod faults {
    use super::*;

    #[test]
    fn a_panic_fails_what_runs_and_hands_over_what_waits() {
        let _alone = FAULTS.write();
        let scenario = fail::FailScenario::setup();
        let engine = load(1);
        let running = start(&engine, &plain(&engine, &story(2)), 1500, &[]);
        running.first_text();
        let prompt = plain(&engine, "One two three four");
        let waiting = start(&engine, &prompt, 6, &[]);
        fail::cfg("engine::step", "1*panic(injected)").unwrap();
        match running.end().1 {
            Err(ModelError::Engine(reason)) => assert!(reason.contains("injected"), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert!(!engine.alive());
        assert!(matches!(engine.start(sequence(&prompt, 5, &[]).0), Err(Rejected { error: ModelError::Stopped, .. })));
        let orphans = engine.take_waiting();
        assert_eq!(orphans.iter().map(|orphan| &orphan.prompt).collect::<Vec<_>>(), [&Prompt::Tokens(prompt.clone())]);
        drop(engine);
        let successor = load(1);
        for orphan in orphans {
            successor.start(orphan).unwrap();
        }
        assert_eq!(waiting.answer().1.completion_tokens, 6);
        scenario.teardown();
    }

    #[test]
    fn a_step_that_fails_once_fails_nobody() {
        let _alone = FAULTS.write();
        let scenario = fail::FailScenario::setup();
        let engine = load(4);
        let prompts: Vec<Vec<i32>> = (0..3).map(|n| plain(&engine, &format!("{n} {}", story(2)))).collect();
        let say = || {
            let readers: Vec<Reader> = prompts.iter().map(|prompt| start(&engine, prompt, 20, &[])).collect();
            readers.iter().map(|reader| reader.answer().0).collect::<Vec<String>>()
        };
        let undisturbed = say();
        fail::cfg("engine::compute", "4*off->1*return->5*off->1*return->off").unwrap();
        assert_eq!(say(), undisturbed);
        scenario.teardown();
    }

    #[test]
    fn a_step_that_fails_for_one_sequence_fails_only_that_one() {
        let _alone = FAULTS.write();
        let scenario = fail::FailScenario::setup();
        let engine = load(4);
        let readers: Vec<Reader> =
            (0..3).map(|n| start(&engine, &plain(&engine, &format!("{n} {}", story(1))), 40, &[])).collect();
        for reader in &readers {
            reader.first_text();
        }
        // The step of all three, then that of the first one tried alone.
        fail::cfg("engine::compute", "2*return->off").unwrap();
        let results: Vec<Result<Finished, ModelError>> = readers.iter().map(|reader| reader.end().1).collect();
        let failed = results.iter().filter(|result| matches!(result, Err(ModelError::Engine(_)))).count();
        let whole = results.iter().filter(|result| matches!(result, Ok(done) if done.completion_tokens == 40)).count();
        assert_eq!((failed, whole), (1, 2), "{results:?}");
        assert!(engine.alive());
        assert_eq!(start(&engine, &plain(&engine, "One two"), 3, &[]).answer().1.completion_tokens, 3);
        scenario.teardown();
    }

    #[test]
    fn a_panic_while_loading_is_an_error() {
        let _alone = FAULTS.write();
        let scenario = fail::FailScenario::setup();
        fail::cfg("engine::load", "panic(injected)").unwrap();
        match LlamaCpp::load(LlamaOptions::new(model(), "bad")) {
            Err(ModelError::Load(text)) => assert!(text.contains("injected") && text.contains("SmolLM2"), "{text}"),
            other => panic!("{:?}", other.err()),
        }
        scenario.teardown();
    }
}
