//! The door every actor is reached through, and the host that runs it.
//!
//! actix bounds neither its mailboxes nor restarts an actor that panicked, so both are done here:
//! a message needs a permit, which is held until its work ends (exact bound, exact depth); the work
//! runs under `catch_unwind`; an actor whose message panicked is rebuilt by its factory while its
//! mailbox is kept, with growing pauses when that goes on.
//!
//! An actor is a [`Role`]: state, and one handler. The handler changes the state at once and
//! returns a future for the slow part. That future owns what it needs, so a restart never
//! cancels the work of other messages.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix::prelude::*;
use arc_swap::ArcSwapOption;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::incidents::{Incidents, What};
use super::stats::{ActorStatus, Cause, State, Stats};
use crate::telemetry::trace;

/// What one actor does.
pub trait Role: Sized + Unpin + 'static {
    /// What it is asked.
    type Message: Send + 'static;
    /// What it answers.
    type Reply: Send + 'static;
    /// Why it could not.
    type Error: std::fmt::Display + Send + 'static;
    /// Whether one message is finished before the next is begun. Otherwise as many run at once
    /// as the door admits.
    const SERIAL: bool;
    /// Whether it is one of several that do the same: whether the service can do without it, its pool says.
    const POOLED: bool = false;

    /// Takes a message: changes the state now, and returns the rest of the work.
    fn handle(&mut self, message: Self::Message) -> LocalBoxFuture<'static, Result<Self::Reply, Self::Error>>;

    /// Resolves with a reason when something the role owns has died, so that it must be rebuilt.
    fn died(&self) -> LocalBoxFuture<'static, String> {
        std::future::pending().boxed_local()
    }
}

/// Builds a role, at first and after each panic. A factory may be slow; it must not block.
pub type Factory<R> = Arc<dyn Fn() -> LocalBoxFuture<'static, Result<R, String>> + Send + Sync>;

/// Says something about a role for the admin page.
pub type Detail = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// How an actor that fails is rebuilt.
#[derive(Debug, Clone, Copy)]
pub struct RestartPolicy {
    /// Pause before the first rebuild.
    pub backoff: Duration,
    /// Longest pause; each rebuild within `window` doubles it up to here.
    pub backoff_max: Duration,
    /// Rebuilds within this time count as one trouble.
    pub window: Duration,
    /// So many rebuilds within `window` make the service not ready.
    pub unhealthy: usize,
}

impl RestartPolicy {
    /// Pause before the rebuild that is the `recent`th within the window (counted from 1).
    pub fn pause(&self, recent: usize) -> Duration {
        let doublings = recent.saturating_sub(1).min(20) as u32;
        self.backoff.saturating_mul(1 << doublings).min(self.backoff_max)
    }
}

/// What a door needs to know of its actor.
pub struct Plan<R: Role> {
    /// Place in the tree, parts separated by `/`.
    pub name: String,
    /// Messages it admits at once.
    pub capacity: usize,
    /// Why so many.
    pub capacity_reason: &'static str,
    /// How it is rebuilt.
    pub policy: RestartPolicy,
    /// Builds it.
    pub factory: Factory<R>,
    /// Says more about it.
    pub detail: Option<Detail>,
    /// Where it is told what happens to it.
    pub incidents: Arc<Incidents>,
}

/// Why a message was not answered with a reply.
#[derive(Debug, thiserror::Error)]
pub enum DoorError<E: std::fmt::Display> {
    /// It admits no more now. Nothing was done.
    #[error("{name} is full: {capacity} messages are inside")]
    Full {
        /// The actor.
        name: String,
        /// Its capacity.
        capacity: usize,
    },
    /// The actor cannot work now.
    #[error("{name} is not working: {reason}")]
    Down {
        /// The actor.
        name: String,
        /// Why not.
        reason: String,
    },
    /// The message made the actor panic. The actor is being rebuilt.
    #[error("{name} failed unexpectedly: {message}")]
    Panicked {
        /// The actor.
        name: String,
        /// What the panic said.
        message: String,
    },
    /// The actor says why not.
    #[error("{0}")]
    Failed(E),
}

/// The way to one actor. Cheap to clone.
pub struct Door<R: Role>(Arc<Inner<R>>);

impl<R: Role> Clone for Door<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<R: Role> {
    plan: Plan<R>,
    slots: Arc<Semaphore>,
    stats: Arc<Stats>,
    arbiter: ArbiterHandle,
    addr: ArcSwapOption<Addr<Host<R>>>,
    closing: AtomicBool,
}

impl<R: Role> Inner<R> {
    fn happened(&self, what: What, message: Option<&str>) {
        self.plan.incidents.add(&self.plan.name, what, message.map(str::to_owned));
    }
}

impl<R: Role> Door<R> {
    /// Starts the actor on `arbiter`.
    pub fn open(plan: Plan<R>, arbiter: &ArbiterHandle) -> Self {
        let inner = Inner {
            slots: Arc::new(Semaphore::new(plan.capacity)),
            plan,
            stats: Arc::default(),
            arbiter: arbiter.clone(),
            addr: ArcSwapOption::empty(),
            closing: AtomicBool::new(false),
        };
        let door = Self(Arc::new(inner));
        door.spawn();
        door
    }

    fn spawn(&self) {
        let inner = Arc::downgrade(&self.0);
        let addr =
            Supervisor::start_in_arbiter(&self.0.arbiter, move |_| Host { inner, role: None, pause: Duration::ZERO });
        self.0.addr.store(Some(Arc::new(addr)));
    }

    /// Takes a place inside, if one is free: a full door is an answer, not a wait.
    ///
    /// # Errors
    /// [`DoorError::Full`], or [`DoorError::Down`] while the process stops.
    pub fn enter(&self) -> Result<Entry<R>, DoorError<R::Error>> {
        match Arc::clone(&self.0.slots).try_acquire_owned() {
            Ok(permit) => Ok(Entry { door: self.clone(), permit }),
            Err(TryAcquireError::Closed) => Err(self.down("the service is stopping")),
            Err(TryAcquireError::NoPermits) => {
                self.0.stats.refused();
                Err(DoorError::Full { name: self.name().to_owned(), capacity: self.0.plan.capacity })
            }
        }
    }

    /// Asks, if a permit is free.
    ///
    /// # Cancel safety
    /// A dropped future gives its answer away; work already begun goes on and keeps its permit.
    ///
    /// # Errors
    /// See [`DoorError`].
    pub async fn ask(&self, message: R::Message) -> Result<R::Reply, DoorError<R::Error>> {
        self.enter()?.ask(message).await
    }

    /// Asks, and waits for a permit: for stages of one path, where the wait is the back pressure.
    ///
    /// # Errors
    /// See [`DoorError`]; never `Full`.
    pub async fn ask_patiently(&self, message: R::Message) -> Result<R::Reply, DoorError<R::Error>> {
        match Arc::clone(&self.0.slots).acquire_owned().await {
            Ok(permit) => self.deliver(message, permit).await,
            Err(_) => Err(self.down("the service is stopping")),
        }
    }

    async fn deliver(
        &self,
        message: R::Message,
        permit: OwnedSemaphorePermit,
    ) -> Result<R::Reply, DoorError<R::Error>> {
        let (reply, answer) = oneshot::channel();
        self.0.stats.admitted();
        let addr = self.0.addr.load_full();
        // What the service does by itself, each second, is nobody's trace.
        let span = match Span::current().is_none() {
            true => Span::none(),
            false => trace::or_around(tracing::debug_span!(
                "actor",
                otel.name = self.name(),
                waited_us = Empty,
                otel.status_code = Empty,
                otel.status_description = Empty
            )),
        };
        match addr {
            Some(addr) if addr.connected() => {
                addr.do_send(Envelope { message, permit, reply, span, sent: Instant::now() });
            }
            _ => {
                self.0.stats.taken();
                self.revive();
                return Err(self.down("it stopped and is being started again"));
            }
        }
        match answer.await {
            Ok(answer) => answer,
            Err(_) => {
                self.revive();
                Err(self.down("it stopped without an answer"))
            }
        }
    }

    /// Starts the actor again where its mailbox has closed without a word.
    pub(super) fn revive(&self) {
        let lost = self.0.addr.load().as_ref().is_none_or(|addr| !addr.connected());
        if lost && !self.0.closing.load(Ordering::Relaxed) {
            const WHY: &str = "its mailbox closed";
            self.0.stats.restarting(Cause::Lost, WHY.into(), self.0.plan.policy.window);
            self.0.happened(What::Lost, Some(WHY));
            self.spawn();
        }
    }

    fn down(&self, reason: &str) -> DoorError<R::Error> {
        DoorError::Down { name: self.name().to_owned(), reason: reason.to_owned() }
    }

    /// Place in the tree.
    pub fn name(&self) -> &str {
        &self.0.plan.name
    }

    /// Messages inside now: waiting or at work.
    pub fn depth(&self) -> usize {
        self.0.plan.capacity.saturating_sub(self.0.slots.available_permits())
    }

    /// Messages it admits at once.
    pub fn capacity(&self) -> usize {
        self.0.plan.capacity
    }
}

/// A place inside, taken before the message is ready: so that the limit is known before work is begun.
pub struct Entry<R: Role> {
    door: Door<R>,
    permit: OwnedSemaphorePermit,
}

impl<R: Role> Entry<R> {
    /// Asks; see [`Door::ask`].
    ///
    /// # Errors
    /// See [`DoorError`]; never `Full`.
    pub async fn ask(self, message: R::Message) -> Result<R::Reply, DoorError<R::Error>> {
        self.door.deliver(message, self.permit).await
    }
}

/// What the overseer sees of any actor.
pub trait Watched: Send + Sync {
    /// A snapshot.
    fn status(&self) -> ActorStatus;
    /// Why this actor makes the service not ready, if it does.
    fn trouble(&self) -> Option<String>;
    /// Folds the last second into the averages, and starts the actor again where it was lost.
    fn tend(&self);
    /// Admits nothing from now on. What is inside may end.
    fn close(&self);
}

impl<R: Role> Watched for Door<R> {
    fn status(&self) -> ActorStatus {
        let plan = &self.0.plan;
        let detail = plan.detail.as_ref().map_or(serde_json::Value::Null, |detail| detail());
        self.0.stats.status(&plan.name, self.depth(), plan.capacity, plan.capacity_reason, detail)
    }

    fn trouble(&self) -> Option<String> {
        let policy = &self.0.plan.policy;
        let (recent, last) = self.0.stats.recent_restarts(policy.window);
        let last = last.map_or_else(|| "no error was recorded".to_owned(), |error| error.message);
        match self.0.stats.state() {
            State::Failed | State::Starting if R::POOLED => None,
            State::Failed => Some(format!("{} cannot start: {last}", self.name())),
            State::Starting if recent == 0 => Some(format!("{} is starting", self.name())),
            _ if recent >= policy.unhealthy => Some(format!(
                "{} was restarted {recent} times in {} s; last: {last}",
                self.name(),
                policy.window.as_secs()
            )),
            _ => None,
        }
    }

    fn tend(&self) {
        self.0.stats.sample();
        self.revive();
    }

    fn close(&self) {
        if !self.0.closing.swap(true, Ordering::Relaxed) {
            self.0.happened(What::Stopped, None);
        }
        self.0.slots.close();
        self.0.stats.stopped();
    }
}

type Answer<R> = Result<<R as Role>::Reply, DoorError<<R as Role>::Error>>;

/// A message on its way, with the permit that bounds it.
struct Envelope<R: Role> {
    message: R::Message,
    permit: OwnedSemaphorePermit,
    reply: oneshot::Sender<Answer<R>>,
    /// From when it was sent to its answer.
    span: Span,
    sent: Instant,
}

impl<R: Role> Message for Envelope<R> {
    type Result = ();
}

/// The work of a message panicked, outside of the host's own task.
#[derive(Message)]
#[rtype(result = "()")]
struct Broken(String);

/// The actix actor around a role.
struct Host<R: Role> {
    inner: std::sync::Weak<Inner<R>>,
    role: Option<R>,
    pause: Duration,
}

impl<R: Role> Actor for Host<R> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.build(ctx);
    }
}

impl<R: Role> Supervised for Host<R> {
    fn restarting(&mut self, _: &mut Self::Context) {
        // Dropped before the factory runs: it may hold a lock that the next one takes.
        // A drop that panics must not take the mailbox with it.
        let role = self.role.take();
        let _ = std::panic::catch_unwind(AssertUnwindSafe(move || drop(role)));
    }
}

impl<R: Role> Host<R> {
    /// Builds the role after the pause. Messages wait in the mailbox meanwhile.
    fn build(&mut self, ctx: &mut Context<Self>) {
        let Some(inner) = self.inner.upgrade() else { return ctx.terminate() };
        let pause = std::mem::take(&mut self.pause);
        let build = async move {
            if !pause.is_zero() {
                actix_rt::time::sleep(pause).await;
            }
            let made = async { (inner.plan.factory)().await };
            AssertUnwindSafe(made).catch_unwind().await.unwrap_or_else(|panic| Err(panic_message(&*panic)))
        };
        ctx.wait(build.into_actor(self).map(|made, host, ctx| match made {
            Ok(role) => host.built(role, ctx),
            Err(reason) => host.unbuildable(reason, ctx),
        }));
    }

    fn built(&mut self, role: R, ctx: &mut Context<Self>) {
        let Some(inner) = self.inner.upgrade() else { return ctx.terminate() };
        ctx.spawn(role.died().into_actor(self).map(|reason, host, ctx| host.fall(Cause::Died, reason, ctx)));
        self.role = Some(role);
        let before = inner.stats.running();
        inner.happened(if before { What::Recovered } else { What::Started }, None);
    }

    fn unbuildable(&mut self, reason: String, ctx: &mut Context<Self>) {
        let Some(inner) = self.inner.upgrade() else { return ctx.terminate() };
        tracing::error!(actor = inner.plan.name, reason, "the actor could not be started");
        inner.happened(What::Failed, Some(&reason));
        let recent = inner.stats.restarting(Cause::Died, reason.clone(), inner.plan.policy.window);
        inner.stats.unbuildable(reason);
        // Not a `wait`: the mailbox stays open, so that callers hear at once that it is down.
        let pause = inner.plan.policy.pause(recent + 4);
        ctx.run_later(pause, |host, ctx| host.build(ctx));
    }

    /// Ends this life of the actor; the supervisor begins the next one with the same mailbox.
    fn fall(&mut self, cause: Cause, reason: String, ctx: &mut Context<Self>) {
        let Some(inner) = self.inner.upgrade() else { return ctx.terminate() };
        if inner.closing.load(Ordering::Relaxed) {
            return ctx.terminate();
        }
        tracing::error!(actor = inner.plan.name, ?cause, reason, "the actor is restarted");
        inner.happened(cause.into(), Some(&reason));
        let policy = &inner.plan.policy;
        self.pause = policy.pause(inner.stats.restarting(cause, reason, policy.window));
        ctx.stop();
    }
}

impl<R: Role> Handler<Broken> for Host<R> {
    type Result = ();

    fn handle(&mut self, Broken(reason): Broken, ctx: &mut Self::Context) {
        self.fall(Cause::Panic, reason, ctx);
    }
}

impl<R: Role> Handler<Envelope<R>> for Host<R> {
    type Result = ();

    fn handle(&mut self, envelope: Envelope<R>, ctx: &mut Self::Context) {
        let Some(inner) = self.inner.upgrade() else { return ctx.terminate() };
        inner.stats.taken();
        let Envelope { message, permit, reply, span, sent } = envelope;
        span.record("waited_us", sent.elapsed().as_micros() as u64);
        let name = inner.plan.name.clone();
        let Some(role) = &mut self.role else {
            let reason = inner.stats.recent_restarts(Duration::MAX).1.map_or_else(String::new, |e| e.message);
            let _ = reply.send(Err(DoorError::Down { name, reason }));
            return;
        };
        let began = Instant::now();
        let stats = Arc::clone(&inner.stats);
        // A panic of the synchronous part is carried into the future, where one place catches both.
        let work = std::panic::catch_unwind(AssertUnwindSafe(|| span.in_scope(|| role.handle(message))))
            .unwrap_or_else(|panic| async move { std::panic::resume_unwind(panic) }.boxed_local());
        let about = span.clone();
        let work = async move {
            let result = AssertUnwindSafe(work).catch_unwind().await;
            let (answer, broken) = match result {
                Ok(Ok(value)) => (Ok(value), None),
                Ok(Err(error)) => (Err(DoorError::Failed(error)), None),
                Err(panic) => {
                    let message = panic_message(&*panic);
                    stats.panicked();
                    (Err(DoorError::Panicked { name, message: message.clone() }), Some(message))
                }
            };
            let error = answer.as_ref().err().map(ToString::to_string);
            if let Some(error) = &error {
                about.record("otel.status_code", "ERROR").record("otel.status_description", error);
            }
            stats.answered(began.elapsed(), error);
            drop(permit);
            let _ = reply.send(answer);
            broken
        };
        let work = work.instrument(span);
        if R::SERIAL {
            ctx.wait(work.into_actor(self).map(|broken, host, ctx| {
                if let Some(reason) = broken {
                    host.fall(Cause::Panic, reason, ctx);
                }
            }));
        } else {
            let addr = ctx.address();
            actix_rt::spawn(async move {
                if let Some(reason) = work.await {
                    addr.do_send(Broken(reason));
                }
            });
        }
    }
}

/// What a panic said.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
