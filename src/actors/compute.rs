//! Threads for what computes or blocks: parsing, searching, indexing, the disk. No arbiter does any of it.

use std::panic::AssertUnwindSafe;

use tokio::sync::oneshot;

/// A pool of compute threads with a name and a priority.
pub struct Compute {
    pool: rayon::ThreadPool,
}

impl Compute {
    /// Starts `threads` threads. `background` ones yield to the others: questions before ingestion.
    ///
    /// # Errors
    /// Where the system gives no threads.
    pub fn new(name: &'static str, threads: usize, background: bool) -> Result<Self, String> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(move |n| format!("{name}-{n}"))
            .start_handler(move |_| {
                if background {
                    yield_to_others();
                }
            })
            .build()
            .map_err(|error| format!("cannot start {threads} threads for {name}: {error}"))?;
        Ok(Self { pool })
    }

    /// Runs `work` on the pool. A panic of it is raised again where the result is awaited, so
    /// that it counts as a panic of the actor that asked.
    ///
    /// # Cancel safety
    /// Work that has begun runs to its end; its result is dropped.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (reply, result) = oneshot::channel();
        self.pool.spawn(move || {
            let _ = reply.send(std::panic::catch_unwind(AssertUnwindSafe(work)));
        });
        unwrap(result.await)
    }
}

/// Runs `work` on a thread that may block: the disk, mostly. It begins at once, not when it is waited for.
///
/// # Cancel safety
/// Work that has begun runs to its end; its result is dropped.
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> impl Future<Output = T> + Send {
    let result = tokio::task::spawn_blocking(work);
    async {
        match result.await {
            Ok(value) => value,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

fn unwrap<T>(result: Result<std::thread::Result<T>, oneshot::error::RecvError>) -> T {
    match result {
        Ok(Ok(value)) => value,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(_) => panic!("a compute thread ended without a result"),
    }
}

/// Lowers the calling thread's priority as far as it goes. Questions hardly notice a bulk load then, and ingestion still
/// gets on where all cores are busy for long; with `SCHED_IDLE` it got next to nothing (`make bench BENCH=events`).
pub fn yield_to_others() {
    // On Linux a "process" of setpriority is a thread; 0 is the calling one. Failing is harmless.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
    }
}
