//! The embedder: threads of its own, one batch each at a time, cut by tokens. Documents are embedded by as many
//! threads as configured, at low priority; questions by one more at normal priority, so that no question
//! waits for a document.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::compute::yield_to_others;
use super::door::{Factory, Role, panic_message};
use crate::models::{self, ModelError, Vector};

/// Texts to embed.
pub struct Embed {
    /// The texts.
    pub texts: Vec<String>,
    /// Whether somebody waits for the answer now: a question, not a document.
    pub urgent: bool,
}

/// The embedder; see the module.
pub struct Embedder {
    queue: Arc<Queue>,
}

/// One text of a request.
struct Item {
    text: String,
    tokens: usize,
    index: usize,
    request: Arc<Request>,
}

struct Request {
    state: Mutex<Collected>,
}

struct Collected {
    vectors: Vec<Vector>,
    missing: usize,
    reply: Option<oneshot::Sender<Outcome>>,
}

/// A panic of a thread is carried to the request, to be raised again in the actor.
type Outcome = Result<Result<Vec<Vector>, ModelError>, String>;

impl Request {
    fn finish(&self, outcome: Outcome) {
        if let Some(reply) = self.state.lock().reply.take() {
            let _ = reply.send(outcome);
        }
    }

    /// Whether nobody waits for it any more.
    fn departed(&self) -> bool {
        self.state.lock().reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn collect(&self, index: usize, vector: Vector) {
        let mut state = self.state.lock();
        state.vectors[index] = vector;
        state.missing -= 1;
        if state.missing == 0
            && let Some(reply) = state.reply.take()
        {
            let vectors = std::mem::take(&mut state.vectors);
            let _ = reply.send(Ok(Ok(vectors)));
        }
    }
}

#[derive(Default)]
struct Lines {
    urgent: VecDeque<Item>,
    patient: VecDeque<Item>,
    closed: bool,
}

#[derive(Default)]
struct Queue {
    lines: Mutex<Lines>,
    filled: Condvar,
}

impl Queue {
    /// Takes the next batch of questions or of documents: at most `tokens` in all, but at least one text.
    /// `None` once the queue is closed and empty.
    fn next_batch(&self, urgent: bool, tokens: usize) -> Option<Vec<Item>> {
        let mut lines = self.lines.lock();
        loop {
            let line = if urgent { &mut lines.urgent } else { &mut lines.patient };
            let mut batch: Vec<Item> = Vec::new();
            let mut sum = 0;
            while let Some(item) = line.pop_front() {
                if item.request.departed() {
                    continue;
                }
                if !batch.is_empty() && sum + item.tokens > tokens {
                    line.push_front(item);
                    break;
                }
                sum += item.tokens;
                batch.push(item);
            }
            if !batch.is_empty() {
                return Some(batch);
            }
            if lines.closed {
                return None;
            }
            self.filled.wait(&mut lines);
        }
    }
}

impl Embedder {
    /// The factory of the embedder: `threads` threads for documents and one for questions on one model,
    /// batches of at most `batch_tokens`.
    pub fn factory(model: Arc<dyn models::Embedder>, threads: usize, batch_tokens: usize) -> Factory<Self> {
        Arc::new(move || {
            let queue = Arc::new(Queue::default());
            let started = (0..=threads).try_for_each(|n| {
                let (queue, model) = (Arc::clone(&queue), Arc::clone(&model));
                std::thread::Builder::new()
                    .name(format!("embedder-{n}"))
                    .spawn(move || work(&queue, &*model, n == 0, batch_tokens))
                    .map(drop)
            });
            // Built before the check, so that its drop ends the threads that did start.
            let embedder = Self { queue };
            let result = started
                .map(|()| embedder)
                .map_err(|error| format!("cannot start {threads} embedding threads: {error}"));
            async move { result }.boxed_local()
        })
    }
}

impl Drop for Embedder {
    fn drop(&mut self) {
        // The threads finish what is queued: a restart loses no other request.
        self.queue.lines.lock().closed = true;
        self.queue.filled.notify_all();
    }
}

fn work(queue: &Queue, model: &dyn models::Embedder, urgent: bool, batch_tokens: usize) {
    if !urgent {
        yield_to_others();
    }
    while let Some(batch) = queue.next_batch(urgent, batch_tokens) {
        let texts: Vec<&str> = batch.iter().map(|item| item.text.as_str()).collect();
        let embedded = std::panic::catch_unwind(AssertUnwindSafe(|| {
            fail::fail_point!("embedder");
            model.embed(&texts)
        }));
        match embedded {
            Ok(Ok(vectors)) => {
                for (item, vector) in batch.iter().zip(vectors) {
                    item.request.collect(item.index, vector);
                }
            }
            Ok(Err(error)) => batch.iter().for_each(|item| item.request.finish(Ok(Err(error.clone())))),
            Err(panic) => {
                let message = panic_message(&*panic);
                batch.iter().for_each(|item| item.request.finish(Err(message.clone())));
            }
        }
    }
}

impl Role for Embedder {
    type Message = Embed;
    type Reply = Vec<Vector>;
    type Error = ModelError;
    const SERIAL: bool = false;

    fn handle(&mut self, message: Embed) -> LocalBoxFuture<'static, Result<Vec<Vector>, ModelError>> {
        if message.texts.is_empty() {
            return async { Ok(Vec::new()) }.boxed_local();
        }
        let (reply, answer) = oneshot::channel();
        let count = message.texts.len();
        let request = Arc::new(Request {
            state: Mutex::new(Collected { vectors: vec![Vec::new(); count], missing: count, reply: Some(reply) }),
        });
        let items = message.texts.into_iter().enumerate().map(|(index, text)| Item {
            // An estimate: counting exactly would tokenise twice. Four bytes make about a token.
            tokens: 2 + text.len() / 4,
            text,
            index,
            request: Arc::clone(&request),
        });
        {
            let mut lines = self.queue.lines.lock();
            if message.urgent { lines.urgent.extend(items) } else { lines.patient.extend(items) }
        }
        self.queue.filled.notify_all();
        async move {
            match answer.await {
                Ok(Ok(result)) => result,
                Ok(Err(panic)) => std::panic::resume_unwind(Box::new(panic)),
                Err(_) => Err(ModelError::Stopped),
            }
        }
        .boxed_local()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(tokens: usize, request: &Arc<Request>) -> Item {
        Item { text: String::new(), tokens, index: 0, request: Arc::clone(request) }
    }

    fn request() -> (Arc<Request>, oneshot::Receiver<Outcome>) {
        let (reply, answer) = oneshot::channel();
        let state = Mutex::new(Collected { vectors: vec![Vec::new(); 9], missing: 9, reply: Some(reply) });
        (Arc::new(Request { state }), answer)
    }

    #[test]
    fn questions_wait_for_no_document_batches_are_cut_by_tokens_and_the_departed_are_skipped() {
        let queue = Queue::default();
        let (waiting, _answer) = request();
        let (gone, answer) = request();
        drop(answer);
        {
            let mut lines = queue.lines.lock();
            lines.patient.extend([item(60, &waiting), item(30, &gone), item(30, &waiting), item(30, &waiting)]);
            lines.urgent.push_back(item(5, &waiting));
            lines.closed = true;
        }
        let sizes = |batch: Option<Vec<Item>>| batch.map(|b| b.iter().map(|i| i.tokens).collect::<Vec<_>>());
        assert_eq!(sizes(queue.next_batch(true, 100)), Some(vec![5]));
        assert_eq!(sizes(queue.next_batch(false, 100)), Some(vec![60, 30]));
        assert_eq!(sizes(queue.next_batch(false, 10)), Some(vec![30]));
        assert_eq!(sizes(queue.next_batch(false, 10)), None);
    }
}
