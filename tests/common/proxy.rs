//! A way to a server that can be cut and blocked, for servers that a test does not start itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// They go through.
    Open,
    /// They wait.
    Blocked,
    /// Connections end, and new ones too.
    Cut,
}

pub struct Proxy {
    pub address: String,
    way: Arc<watch::Sender<Way>>,
}

impl Proxy {
    /// A way to `target`, a host and a port.
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let way = Arc::new(watch::channel(Way::Open).0);
        let (target, ways) = (target.to_owned(), Arc::clone(&way));
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.expect("a connection");
                if *ways.borrow() == Way::Cut {
                    continue;
                }
                let Ok(far) = TcpStream::connect(&target).await else { continue };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::spawn(pass(near_in, far_out, ways.subscribe()));
                tokio::spawn(pass(far_in, near_out, ways.subscribe()));
            }
        });
        Self { address, way }
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn pass(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, mut way: watch::Receiver<Way>) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let count = tokio::select! {
            count = from.read(&mut bytes) => count.unwrap_or(0),
            cut = way.wait_for(|way| *way == Way::Cut) => { let _ = cut; return }
        };
        if count == 0 {
            return;
        }
        while *way.borrow() == Way::Blocked {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if *way.borrow() == Way::Cut || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
