//! Row `idle`: what connections cost that made a request once and are quiet now, as those of builds between two builds.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::hindrance::Hindrance;
use super::line::{Bound, Line, Unit};
use super::scene::Scene;
use super::server::{PATIENCE, Server};
use crate::process::anonymous_memory_of;

const CONNECTIONS: u64 = 10_000;
/// Descriptors beside those of connections.
const DESCRIPTORS_SPARE: u64 = 200;

const FIND_MISSING: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs";

pub(super) fn measure(scene: &Scene, lines: &mut Vec<Line>) -> Result<(), Hindrance> {
    let allowed = raise_descriptors(CONNECTIONS + DESCRIPTORS_SPARE);
    let count = if scene.pace.is_quick { CONNECTIONS / 5 } else { CONNECTIONS };
    let count = count.min(allowed.saturating_sub(DESCRIPTORS_SPARE));
    if count < 100 {
        return Err(Hindrance::Lacking(format!("this process may have {allowed} files and sockets only")));
    }
    let server = Server::start_with(
        scene,
        "1GiB",
        &["--lease", "0s", "--lease-floor", "0s", "--max-connections", &(CONNECTIONS + 100).to_string()],
    )?;
    let failed = Hindrance::to("hold a connection");
    // What the first ones make the server allocate once and for all is not theirs.
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(quiet(server.address()).map_err(&failed)?);
    }
    let before = anonymous_memory_of(server.pid());
    for _ in 0..count {
        held.push(quiet(server.address()).map_err(&failed)?);
    }
    let bytes_each = anonymous_memory_of(server.pid()).saturating_sub(before) as f64 / count as f64;
    let what = format!("{count} idle connections, a request behind each: memory of one");
    lines.push(
        Line::new("idle", what, Bound::AtMost(20e3), Unit::Bytes, bytes_each)
            .that_is("anonymous memory of the server; the kernel's own buffers not counted"),
    );
    Ok(())
}

/// Raises what this process and its children may open; what that is now.
fn raise_descriptors(wanted: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // `None` is no limit.
    let wanted = maximum.map_or(wanted, |maximum| wanted.min(maximum));
    if current.is_some_and(|current| current < wanted)
        && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_ok()
    {
        return wanted;
    }
    current.unwrap_or(u64::MAX)
}

/// A connection that asked which of no blobs are missing, and got its answer.
fn quiet(address: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, SETTINGS, 0, 0, &[]);
    frame(&mut bytes, SETTINGS, ACKNOWLEDGED, 0, &[]);
    frame(&mut bytes, HEADERS, END_OF_HEADERS, 1, &headers());
    // A gRPC message of no bytes.
    frame(&mut bytes, DATA, END_OF_STREAM, 1, &[0; 5]);
    stream.write_all(&bytes)?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        io::copy(&mut (&mut stream).take(u64::from(length)), &mut io::sink())?;
        match head[3] {
            HEADERS if head[4] & END_OF_STREAM != 0 => return Ok(stream),
            GOAWAY | RST_STREAM => return Err(io::ErrorKind::ConnectionReset.into()),
            _ => {}
        }
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ACKNOWLEDGED: u8 = 1;
const END_OF_STREAM: u8 = 1;
const END_OF_HEADERS: u8 = 4;

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The request's header block, names by their numbers in HPACK's static table, nothing kept for later.
fn headers() -> Vec<u8> {
    // `:method: POST` and `:scheme: http`, whole.
    let mut block = vec![0x83, 0x86];
    let mut value = |name: &[u8], value: &str| {
        block.extend_from_slice(name);
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    };
    value(&[0x04], FIND_MISSING);
    value(&[0x01], "localhost");
    // `content-type` is number 31, which takes a second byte; `te` has no number.
    value(&[0x0f, 0x10], "application/grpc");
    value(&[0x00, 2, b't', b'e'], "trailers");
    block
}
