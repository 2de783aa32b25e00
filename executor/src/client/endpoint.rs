//! The address of a server, as people write it, and a channel to it.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::ClientError;

/// Receive windows: at 1 MiB in flight a fast cache would wait for us on every network that is not loopback.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Executions are silent for long, and a peer whose machine is gone says nothing either. Of TCP and not of HTTP/2: many
/// servers end connections that ping them.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Connects to `grpc://host:port`, `http://host:port`, plain `host:port` or `unix:/path/of/a/socket`.
pub async fn connect(endpoint: &str) -> Result<Channel, ClientError> {
    let connected = parse(endpoint)?.connect().await;
    connected.map_err(|source| ClientError::Connect { endpoint: endpoint.to_owned(), source })
}

/// Settings and address of a channel, not connected yet.
fn parse(endpoint: &str) -> Result<Endpoint, ClientError> {
    let refused = |reason: &str| ClientError::Endpoint { endpoint: endpoint.to_owned(), reason: reason.to_owned() };
    let address = if let Some(path) = endpoint.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') {
            return Err(refused("the path of a socket is absolute: unix:/path"));
        }
        format!("unix:{path}")
    } else {
        let (scheme, authority) = endpoint.split_once("://").unwrap_or(("grpc", endpoint));
        match scheme {
            "grpc" | "http" => format!("http://{authority}"),
            "grpcs" | "https" => return Err(refused("TLS is not supported yet")),
            _ => return Err(refused("it begins with neither grpc:// nor http:// nor unix:")),
        }
    };
    let parsed = Endpoint::from_shared(address).map_err(|error| refused(&error.to_string()))?;
    Ok(parsed
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}
