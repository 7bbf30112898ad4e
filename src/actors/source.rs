//! The source takes document events from JetStream. An event is acknowledged once its operation is settled in the
//! catalog, or once it lies with the dead letters; until then the server is told that work goes on. What was not
//! available is tried again for as long as it takes. A bounded pull is all the back pressure: nothing is ever refused
//! back to the server. Events whose content is still to be fetched are counted apart, so that a service that does not
//! answer holds up its own documents and no others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_nats::header::HeaderMap;
use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::{Consumer, pull};
use dashmap::DashMap;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt, future::LocalBoxFuture};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::door::{Door, Factory, Role};
use super::ingestor::{Ingestor, Receive};
use crate::documents::cloudevent::{self, Delivery, DocumentEvent, EventKey, collection_of};
use crate::documents::event::Operation;
use crate::library::Library;
use crate::stores::dataref::{DatarefError, Datarefs};
use crate::stores::document_store::{OperationState, Origin, Outcome, Receipt};
use crate::stores::nats::{Bus, FETCHING, RETRY};
use crate::telemetry::trace::{self, Carried};

/// Events asked for in one pull.
const PULL: usize = 32;
/// Bytes of a message beyond its payload, about.
const PULL_MARGIN: usize = 8192;
/// A pull waits at most so long for the first event.
const PULL_WAIT: Duration = Duration::from_secs(3);
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// An event at work.
struct AtWork {
    bytes: usize,
    /// Its content is being fetched.
    fetching: bool,
    /// Why it waits to be tried again, if it does.
    held_up: Option<String>,
}

/// What the source shares with those who ask how it goes; it outlives a restart of the actor.
#[derive(Default)]
pub struct SourceState {
    bus: ArcSwapOption<Bus>,
    trouble: Mutex<Option<String>>,
    /// Events at work, by their number in the stream.
    at_work: Mutex<BTreeMap<u64, AtWork>>,
    taken: AtomicU64,
    changed_nothing: AtomicU64,
    buried: AtomicU64,
}

impl SourceState {
    /// Why events do not arrive, where they do not.
    pub fn trouble(&self) -> Option<String> {
        let told = self.trouble.lock().clone();
        told.or_else(|| self.bus.load().as_ref().and_then(|bus| bus.trouble()))
    }

    /// How many events that have arrived are held up.
    pub fn waiting(&self) -> usize {
        self.at_work.lock().values().filter(|event| event.held_up.is_some()).count()
    }

    /// What holds events up that have arrived.
    fn held_up(&self) -> Option<String> {
        let at_work = self.at_work.lock();
        let mut reasons = at_work.values().filter_map(|event| event.held_up.as_ref());
        let first = reasons.next()?;
        Some(format!("{} events wait to be tried again: {first}", reasons.count() + 1))
    }

    /// The connection to NATS, once there was one.
    pub fn bus(&self) -> Option<Arc<Bus>> {
        self.bus.load_full()
    }

    /// Events that were given up.
    pub fn dead_letters(&self) -> u64 {
        self.buried.load(Ordering::Relaxed)
    }

    /// For the admin page.
    pub fn describe(&self) -> Value {
        let at_work = self.at_work.lock().len();
        json!({
            "connected": self.trouble().is_none(),
            "trouble": self.trouble(),
            "at_work": at_work,
            "at_work_bytes": self.bytes_at_work(),
            "fetching": self.fetching(),
            "held_up": self.held_up(),
            "taken": self.taken.load(Ordering::Relaxed),
            "changed_nothing": self.changed_nothing.load(Ordering::Relaxed),
            "dead_letters": self.buried.load(Ordering::Relaxed),
        })
    }

    /// How many events were taken.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    fn bytes_at_work(&self) -> usize {
        self.at_work.lock().values().map(|event| event.bytes).sum()
    }

    fn fetching(&self) -> usize {
        self.at_work.lock().values().filter(|event| event.fetching).count()
    }

    fn set_fetching(&self, event: u64, fetching: bool) {
        if let Some(event) = self.at_work.lock().get_mut(&event) {
            event.fetching = fetching;
        }
    }

    /// Notes why an event waits; returns what it waited for before.
    fn set_held_up(&self, event: u64, reason: Option<String>) -> Option<String> {
        let mut at_work = self.at_work.lock();
        at_work.get_mut(&event).and_then(|event| std::mem::replace(&mut event.held_up, reason))
    }

    /// Tries something that may not be available for an event, however often it takes.
    async fn until_done<T>(&self, event: u64, doing: &str, mut attempt: impl AsyncFnMut() -> Result<T, String>) -> T {
        let mut pause = Duration::from_millis(100);
        loop {
            match attempt().await {
                Ok(value) => {
                    self.set_held_up(event, None);
                    return value;
                }
                Err(reason) => {
                    // Told once; what holds events up is in the status as long as it does.
                    if self.set_held_up(event, Some(reason.clone())).is_none() {
                        tracing::warn!(doing, reason, "not possible now; it is tried again until it is");
                    }
                    actix_rt::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// Take events until the connection fails.
pub struct TakeEvents;

/// The source; see the module.
pub struct Source(Arc<Shared>);

struct Shared {
    library: Arc<Library>,
    ingestor: Door<Ingestor>,
    datarefs: Arc<Datarefs>,
    state: Arc<SourceState>,
    /// Events on their way to the catalog. One that was published twice is known again only once it is there, and the
    /// second one taken first would count as the newer content.
    turns: Turns,
}

/// The last one in line for each event: its number, and what ends when it is done.
type Turns = DashMap<[u8; 16], (u64, oneshot::Receiver<()>)>;

impl Source {
    /// The factory of the source.
    pub fn factory(
        library: Arc<Library>,
        ingestor: Door<Ingestor>,
        datarefs: Arc<Datarefs>,
        state: Arc<SourceState>,
    ) -> Factory<Self> {
        let shared = Arc::new(Shared { library, ingestor, datarefs, state, turns: DashMap::new() });
        Arc::new(move || {
            let source = Self(Arc::clone(&shared));
            async move { Ok(source) }.boxed_local()
        })
    }
}

impl Role for Source {
    type Message = TakeEvents;
    type Reply = ();
    type Error = String;
    const SERIAL: bool = false;

    fn handle(&mut self, _: TakeEvents) -> LocalBoxFuture<'static, Result<(), String>> {
        let shared = Arc::clone(&self.0);
        async move {
            // Whatever was at work is delivered again.
            shared.state.at_work.lock().clear();
            let ended = shared.take_events().await;
            shared.state.at_work.lock().clear();
            *shared.state.trouble.lock() = ended.as_ref().err().cloned();
            ended
        }
        .boxed_local()
    }
}

/// An event as JetStream delivers it.
struct Arrival {
    /// Its number in the stream.
    sequence: u64,
    /// When the stream took it, in nanoseconds since the Unix epoch.
    published: i64,
    /// How often it was delivered, this time included.
    deliveries: i64,
    /// Names it where it has no name of its own.
    key: EventKey,
    /// It was given up before, and published again by hand.
    retried: bool,
}

/// What is to become of an event.
enum Verdict {
    /// Its operation is settled, or changed nothing.
    Settled,
    /// It cannot be taken, whoever tries.
    Poison(String),
    /// The store took it, and what it says cannot be carried out.
    Failed(String, [u8; 16]),
}

/// A delivery's place in the line of its event; the last one takes the line away.
struct Turn<'s> {
    turns: &'s Turns,
    event: [u8; 16],
    number: u64,
    before: Option<oneshot::Receiver<()>>,
    _done: oneshot::Sender<()>,
}

impl<'s> Turn<'s> {
    /// The last place.
    fn take(turns: &'s Turns, event: [u8; 16], number: u64) -> Self {
        let (done, ended) = oneshot::channel();
        let before = turns.insert(event, (number, ended)).map(|(_, ended)| ended);
        Self { turns, event, number, before, _done: done }
    }

    /// Waits until those before it are done.
    async fn come(&mut self) {
        if let Some(before) = &mut self.before {
            // What ends it is that its other end is dropped.
            let _ = before.await;
            self.before = None;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.remove_if(&self.event, |_, (number, _)| *number == self.number);
    }
}

/// A message as it was read.
struct Opened<'s> {
    message: async_nats::jetstream::Message,
    arrival: Arrival,
    event: Result<(DocumentEvent, Turn<'s>), String>,
}

/// The span of an event, in the trace of its publisher: of the message's header, or of the event's own extension
/// (<https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/distributed-tracing.md>). Its attributes are those
/// of OpenTelemetry for messaging.
fn span_of(message: &async_nats::jetstream::Message, arrival: &Arrival, event: Option<&DocumentEvent>) -> Span {
    let carried = Carried::of(|name| Some(message.headers.as_ref()?.get(name)?.as_str()));
    let own = Carried { parent: event.and_then(|event| event.traceparent.as_deref()), state: None };
    let above = trace::carried(if carried.parent.is_some() { &carried } else { &own });
    trace::begin(above, || {
        tracing::error_span!(
            "event",
            event = event.map_or(arrival.key.id.as_str(), |event| event.key.id.as_str()),
            trace_id = Empty,
            otel.name = format_args!("process {}", message.subject),
            otel.kind = "consumer",
            messaging.system = "nats",
            messaging.operation.name = "process",
            messaging.destination.name = %message.subject,
            messaging.message.body.size = message.payload.len(),
        )
    })
}

impl Shared {
    async fn take_events(&self) -> Result<(), String> {
        let settings = self.library.config();
        let config = &settings.nats;
        let bus = match self.state.bus.load_full().filter(|bus| !bus.ended()) {
            Some(bus) => bus,
            None => {
                self.state.bus.store(None);
                let bus = Arc::new(Bus::connect(config).await?);
                self.state.bus.store(Some(Arc::clone(&bus)));
                bus
            }
        };
        let consumer = bus.consumer(self.library.store.id()).await?;
        self.state.buried.store(bus.buried_count().await?, Ordering::Relaxed);
        *self.state.trouble.lock() = None;
        self.library.bus.redelivery(consumer.cached_info().num_pending);
        tracing::info!(stream = config.stream, consumer = config.consumer, "taking events from NATS");
        let mut work = FuturesUnordered::new();
        let mut deliveries = 0;
        loop {
            let apart = self.state.fetching().min(FETCHING);
            let free = config.max_in_flight.saturating_sub(work.len().saturating_sub(apart));
            let bytes = config.max_in_flight_bytes.saturating_sub(self.state.bytes_at_work());
            if free == 0 || bytes == 0 {
                // Work may wait for the bus too: a connection that ended is not waited for.
                let waited = tokio::time::timeout(PULL_WAIT, work.next()).await;
                if bus.ended() {
                    return Err("the connection to NATS is lost".to_owned());
                }
                if waited.is_err() {
                    self.count_waiting(&bus, &consumer).await?;
                }
                continue;
            }
            // At least one message of any size.
            let bytes = bytes.max(bus.max_payload() + PULL_MARGIN);
            let pull = consumer.batch().max_messages(free.min(PULL)).max_bytes(bytes).expires(PULL_WAIT).messages();
            let mut batch = pull.await.map_err(|error| format!("cannot pull events: {error}"))?;
            let mut came = false;
            loop {
                tokio::select! {
                    Some(()) = work.next(), if !work.is_empty() => {}
                    message = batch.next() => match message {
                        Some(Ok(message)) => {
                            came = true;
                            // In the order of the stream, before any of them is worked on.
                            deliveries += 1;
                            if let Some(opened) = self.open(message, deliveries) {
                                work.push(self.take(Arc::clone(&bus), opened));
                            }
                        }
                        Some(Err(error)) => return Err(format!("the pull of events broke: {error}")),
                        None => break,
                    },
                }
            }
            // A pull ends in the same way where there is nothing to be had and where NATS does not answer.
            if !came {
                self.count_waiting(&bus, &consumer).await?;
            }
        }
    }

    /// Asks how many events wait on the bus, for what is said of the lag, and how many were given up.
    async fn count_waiting(&self, bus: &Bus, consumer: &Consumer<pull::Config>) -> Result<(), String> {
        let asked = tokio::time::timeout(PULL_WAIT, consumer.get_info()).await;
        let info = asked.map_err(|_| "NATS does not answer".to_owned())?.map_err(|error| format!("NATS: {error}"))?;
        self.library.bus.waiting(info.num_pending);
        // Others bury too, and operators take out.
        self.state.buried.store(bus.buried_count().await?, Ordering::Relaxed);
        Ok(())
    }

    /// Reads a message, and takes its place in the line of its event.
    fn open(&self, message: async_nats::jetstream::Message, number: u64) -> Option<Opened<'_>> {
        let arrival = match message.info() {
            Ok(info) => {
                let (sequence, published) = (info.stream_sequence, info.published.unix_timestamp_nanos() as i64);
                self.library.bus.delivered(sequence, published / 1_000_000, info.pending);
                Arrival {
                    sequence,
                    published,
                    deliveries: info.delivered,
                    key: EventKey { source: format!("stream:{}", info.stream), id: format!("{sequence}@{published}") },
                    retried: message.headers.as_ref().is_some_and(|headers| headers.get(RETRY).is_some()),
                }
            }
            Err(error) => {
                tracing::error!(%error, "a message that JetStream did not send is left alone");
                return None;
            }
        };
        let at_work = AtWork { bytes: message.payload.len(), fetching: false, held_up: None };
        self.state.at_work.lock().insert(arrival.sequence, at_work);
        let headers = message.headers.iter().flat_map(HeaderMap::iter);
        let read = cloudevent::read(&Delivery {
            headers: headers
                .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.to_string())))
                .collect(),
            body: &message.payload,
            bus_subject: Some(&message.subject),
            fallback_id: arrival.key.id.clone(),
        });
        let event = match read {
            Ok(event) => {
                // Until its turn comes it is held up as by what those before it wait for.
                self.state.set_fetching(arrival.sequence, event.dataref.is_some());
                let turn = Turn::take(&self.turns, event.key.hash(), number);
                Ok((event, turn))
            }
            Err(error) => Err(error.to_string()),
        };
        Some(Opened { message, arrival, event })
    }

    /// Takes one event, and tells the server while it works.
    async fn take(&self, bus: Arc<Bus>, opened: Opened<'_>) {
        let Opened { message, arrival, event } = opened;
        let sequence = arrival.sequence;
        let span = span_of(&message, &arrival, event.as_ref().ok().map(|(event, _)| event));
        let mut work = std::pin::pin!(self.see_through(&bus, &message, &arrival, event).instrument(span.clone()));
        let mut tick = actix_rt::time::interval(Duration::from_secs(self.library.config().nats.ack_wait_s) / 3);
        tick.tick().await;
        loop {
            tokio::select! {
                () = &mut work => break,
                _ = tick.tick() => if let Err(error) = message.ack_with(AckKind::Progress).await {
                    tracing::debug!(%error, sequence, "could not tell NATS that work goes on");
                },
            }
        }
        // One whose acknowledgement is lost is delivered again, and changes nothing then.
        if let Err(error) = message.double_ack().instrument(span).await {
            tracing::debug!(%error, sequence, "an acknowledgement was lost");
        }
        self.state.at_work.lock().remove(&sequence);
        self.library.bus.taken(sequence);
        self.state.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// Carries an event out, or gives it to the dead letters.
    async fn see_through(
        &self,
        bus: &Bus,
        message: &async_nats::jetstream::Message,
        arrival: &Arrival,
        event: Result<(DocumentEvent, Turn<'_>), String>,
    ) {
        fail::fail_point!("source");
        let none = HeaderMap::new();
        let headers = message.headers.as_ref().unwrap_or(&none);
        let (key, collection, verdict) = match event {
            Err(error) => (arrival.key.clone(), None, Verdict::Poison(error)),
            Ok((event, turn)) => {
                let key = event.key.clone();
                let collection = match &event.operation {
                    Operation::Upsert(upsert) => Some(upsert.collection.clone()),
                    Operation::Delete { .. } => None,
                };
                (key, collection, self.carry_out(bus, event, turn, arrival).await)
            }
        };
        let (reason, taken) = match verdict {
            Verdict::Settled => return,
            Verdict::Poison(reason) => (reason, None),
            Verdict::Failed(reason, event) => (reason, Some(event)),
        };
        // An event is buried once, however often it is delivered.
        let grave = EventKey { source: format!("buried:{}", key.source), id: key.id }.hash();
        let collection = collection.or_else(|| collection_of(&message.subject).map(str::to_owned)).unwrap_or_default();
        let doing = "giving an event to the dead letters";
        let buried = self.state.until_done(arrival.sequence, doing, async || {
            fail::fail_point!("burial", |_| Err("refused by a failpoint".to_owned()));
            let store = &self.library.store;
            let knows = store.knows_event(grave).await.map_err(|error| error.to_string())?;
            let mut new = false;
            if !knows || arrival.retried {
                let about = (message.subject.as_str(), reason.as_str(), arrival.deliveries);
                let mut id = hex::encode(grave);
                if arrival.retried {
                    id = format!("{id}-{}", arrival.key.id);
                }
                new = bus.bury(&collection, headers, message.payload.clone(), about, &id).await?;
                store.remember_event(grave).await.map_err(|error| error.to_string())?;
            }
            // Its operation need not be remembered for it any more.
            if let Some(event) = taken {
                store.remember_event(event).await.map_err(|error| error.to_string())?;
            }
            Ok(new)
        });
        if buried.await {
            self.state.buried.fetch_add(1, Ordering::Relaxed);
            // The reason is with the dead letter: it may quote the event, and so a document.
            tracing::warn!(subject = %message.subject, "an event went to the dead letters; `answerd dlq list` says why");
            tracing::debug!(reason, "why");
        }
    }

    /// Carries an event out, trying again what was not available.
    async fn carry_out(&self, bus: &Bus, event: DocumentEvent, mut turn: Turn<'_>, arrival: &Arrival) -> Verdict {
        let DocumentEvent { key, mut operation, dataref, .. } = event;
        turn.come().await;
        let about = format!("an event about {}", operation.id());
        let mut room = None;
        if let Some(dataref) = &dataref {
            let fetch = async || match self.datarefs.complete(&mut operation, dataref, Some(bus)).await {
                Ok(room) => Ok(Ok(room)),
                Err(DatarefError::Unavailable(reason)) => Err(reason),
                Err(DatarefError::Refused(reason)) => Ok(Err(reason)),
            };
            let fetched = self.state.until_done(arrival.sequence, &about, fetch).await;
            self.state.set_fetching(arrival.sequence, false);
            match fetched {
                Ok(taken) => room = taken,
                Err(reason) => return Verdict::Poison(reason),
            }
        }
        let limit = self.library.config().ingest.max_document_bytes;
        if let Operation::Upsert(upsert) = &operation
            && upsert.content.len() > limit
        {
            let bytes = upsert.content.len();
            return Verdict::Poison(format!(
                "the document has {bytes} bytes, the limit is {limit} ([ingest] max_document_bytes)"
            ));
        }
        let origin = Origin { event: key.hash(), position: Some(arrival.published) };
        let by = format!("event:{}#{}", key.source, key.id);
        let receive = async || self.receive(operation.clone(), origin, &by, arrival).await;
        let receipt = self.state.until_done(arrival.sequence, &about, receive).await;
        // From here on it is an operation, and on disk.
        self.library.bus.taken(arrival.sequence);
        drop((room, operation, turn));
        if receipt.outcome != Outcome::Accepted {
            self.state.changed_nothing.fetch_add(1, Ordering::Relaxed);
        }
        if matches!(receipt.outcome, Outcome::Outdated | Outcome::Absent) || receipt.seq == 0 {
            return Verdict::Settled;
        }
        let outcome = async || {
            // As long as it takes: it is carried out in any case.
            while !self
                .library
                .store
                .settle(receipt.seq, Duration::from_secs(600))
                .await
                .map_err(|error| error.to_string())?
            {}
            self.library.store.outcome(receipt.seq).await.map_err(|error| error.to_string())
        };
        match self.state.until_done(arrival.sequence, &about, outcome).await {
            Some((OperationState::Failed, reason)) => Verdict::Failed(reason.unwrap_or_default(), origin.event),
            _ => Verdict::Settled,
        }
    }

    /// Has an operation accepted.
    ///
    /// # Errors
    /// What was not available: to be tried again.
    async fn receive(
        &self,
        operation: Operation,
        origin: Origin,
        by: &str,
        arrival: &Arrival,
    ) -> Result<Receipt, String> {
        if arrival.retried {
            self.library.store.forget_event(origin.event).await.map_err(|error| error.to_string())?;
        }
        let receive = Receive { operation, origin: Some(origin), by: by.to_owned() };
        self.ingestor.ask_patiently(receive).await.map_err(|error| error.to_string())
    }
}
