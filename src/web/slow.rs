//! Time limits of connections: for the body of a request, for a client that takes nothing of its response, and for those
//! that are kept while the service stops.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{Extensions, Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::{ConnectionType, header};
use actix_web::middleware::Next;
use actix_web::rt::net::TcpStream;
use actix_web::{Error, HttpMessage, web};
use futures_util::{FutureExt, StreamExt, stream};

use super::ws;
use crate::app::App;

/// Ends the body of a request with an error once its time is up, whatever dribbles in. What is no body, a WebSocket,
/// has all the time there is.
///
/// # Errors
/// Those of the service.
pub async fn limit_body(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let has = |name: header::HeaderName| request.headers().contains_key(name);
    // With an upgrade, all that follows is a body to the parser, whatever the address.
    let body = (has(header::CONTENT_LENGTH) || has(header::TRANSFER_ENCODING) || has(header::UPGRADE))
        && request.match_info().as_str() != ws::PATH;
    let seconds = request.app_data::<web::Data<App>>().map(|app| app.config().server.body_timeout_s);
    if let Some(seconds) = seconds.filter(|_| body) {
        let late = move |()| {
            let detail = format!("the body did not come within {seconds} s ([server] body_timeout_s)");
            Err(PayloadError::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, detail)))
        };
        let late = actix_web::rt::time::sleep(Duration::from_secs(seconds)).map(late).into_stream();
        let body = request.take_payload();
        // Its end is an end for the time limit too.
        let body = body.map(Some).chain(stream::once(async { None }));
        let limited = stream::select(body, late.map(Some)).take_while(|item| std::future::ready(item.is_some()));
        let limited = limited.filter_map(std::future::ready);
        request.set_payload(Payload::Stream { payload: Box::pin(limited) });
    }
    next.call(request).await
}

/// Ends connections with their next response once the service is to stop: their clients find another one.
///
/// # Errors
/// Those of the service.
pub async fn end_connections(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let stopping = request.app_data::<web::Data<App>>().is_some_and(|app| *app.stopping().borrow());
    let mut response = next.call(request).await?;
    let head = response.response_mut().head_mut();
    if stopping && !head.upgrade() {
        head.set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

/// Bytes that the server, and the system after it, keep of what a client does not take. More of it would hide from an
/// answer that its reader is behind.
pub const UNSENT: usize = 16 << 10;

/// Has the system end a connection whose client takes nothing for so long (`TCP_USER_TIMEOUT`, RFC 5482): there is no
/// other limit for writing, and a client that stopped reading would hold its connection for ever. And has it keep little
/// that is not sent (`TCP_NOTSENT_LOWAT`), which costs no speed: what is on its way does not count.
pub fn limit_writes(app: Arc<App>) -> impl Fn(&dyn Any, &mut Extensions) + Send + Clone + 'static {
    move |connection, _| {
        #[cfg(target_os = "linux")]
        if let Some(stream) = connection.downcast_ref::<TcpStream>() {
            use std::os::fd::AsRawFd;
            let seconds = app.config().server.write_timeout_s;
            let milliseconds = u32::try_from(seconds.saturating_mul(1000)).unwrap_or(u32::MAX);
            for (option, value) in [(libc::TCP_USER_TIMEOUT, milliseconds), (libc::TCP_NOTSENT_LOWAT, UNSENT as u32)] {
                let size = size_of::<u32>() as libc::socklen_t;
                // SAFETY: the socket is open, and the option is a number of this size.
                unsafe {
                    libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const value).cast(), size);
                }
            }
        }
    }
}
