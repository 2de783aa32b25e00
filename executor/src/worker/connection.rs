//! Channels to the server and to the runner: connected when they are first used, and again whenever they broke.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server whose machine vanished says nothing: it is asked.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// An address that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{address}` is no address: {reason}; write grpc://HOST:PORT or unix:/path")]
pub struct AddressError {
    /// As given.
    pub address: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A channel to `grpc://HOST:PORT`, `http://HOST:PORT`, `HOST:PORT` or `unix:/path`. Nobody is asked yet. Within a runtime.
pub(crate) fn channel(address: &str) -> Result<Channel, AddressError> {
    let refused = |reason: &str| AddressError { address: address.to_owned(), reason: reason.to_owned() };
    let tuned = |endpoint: Endpoint| {
        endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
    };
    if let Some(path) = address.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path).to_owned();
        if path.is_empty() {
            return Err(refused("it names no socket"));
        }
        let connect = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        return Ok(tuned(Endpoint::from_static("http://localhost")).connect_with_connector_lazy(connect));
    }
    let authority = match address.split_once("://") {
        None | Some(("grpc" | "http", _)) => address.rsplit("://").next().unwrap_or(address),
        Some(("grpcs" | "https", _)) => return Err(refused("TLS is not supported yet")),
        Some(_) => return Err(refused("it begins with neither grpc:// nor unix:")),
    };
    let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|error| refused(&error.to_string()))?;
    Ok(tuned(endpoint).connect_lazy())
}
