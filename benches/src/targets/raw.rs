//! [`Raw`]: a process in the server's place that does nothing but the system calls: the reference of everything that goes
//! over a socket.
//!
//! It is this program, started with [`PEER_ARGUMENT`]; [`serve`] is its side. An order is four numbers on a connection;
//! what follows depends on the first.

use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use super::hindrance::Hindrance;
use super::rounds::Sample;
use super::scene::Scene;
use crate::process;

/// The argument that makes this program the peer.
pub const PEER_ARGUMENT: &str = "--raw-peer";

/// What clients leave HTTP/2's frames at, and the head of one.
const FRAME_BYTES: usize = 16 << 10;
const FRAME_HEAD_BYTES: usize = 9;
/// Bytes asked of the socket at once, as the load client does.
const READ_BYTES: usize = 256 << 10;
/// What is sent, again and again.
const SOURCE_BYTES: usize = 64 << 20;

/// What the peer is told, little-endian.
struct Order([u64; 4]);

const SEND: u64 = 1;
const RECEIVE: u64 = 2;
const ANSWER: u64 = 3;

impl Order {
    fn write(&self, mut stream: &TcpStream) -> io::Result<()> {
        let mut bytes = [0; 32];
        for (field, number) in bytes.chunks_exact_mut(8).zip(self.0) {
            field.copy_from_slice(&number.to_le_bytes());
        }
        stream.write_all(&bytes)
    }

    fn read(mut stream: &TcpStream) -> io::Result<Self> {
        let mut bytes = [0; 32];
        stream.read_exact(&mut bytes)?;
        let mut order = [0; 4];
        for (field, number) in bytes.chunks_exact(8).zip(&mut order) {
            *number = u64::from_le_bytes(field.try_into().expect("chunks of 8"));
        }
        Ok(Self(order))
    }
}

/// The peer's process, on the core of what is measured; ends when it is dropped.
#[derive(Debug)]
pub struct Raw {
    child: Child,
    stream: TcpStream,
}

impl Raw {
    /// Starts it.
    pub fn start(scene: &Scene) -> Result<Self, Hindrance> {
        let mut command = Command::new(&scene.program);
        // Its standard input ends with us, and that ends it.
        command.arg(PEER_ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped());
        let failed = Hindrance::to("start the raw peer");
        let mut child = scene.cores.on_measured(move || command.spawn()).map_err(&failed)?;
        let mut port = String::new();
        BufReader::new(child.stdout.take().expect("a piped stdout")).read_line(&mut port).map_err(&failed)?;
        let port: u16 = port.trim().parse().map_err(|_| failed(io::ErrorKind::InvalidData.into()))?;
        let stream = TcpStream::connect(("127.0.0.1", port)).map_err(&failed)?;
        stream.set_nodelay(true).map_err(&failed)?;
        Ok(Self { child, stream })
    }

    /// It sends answers of `answer_bytes` in frames, `batch_frames` a system call; counted in gigabytes.
    pub fn send(&self, answer_bytes: u64, batch_frames: u64, time: Duration) -> Result<Sample, Hindrance> {
        let mut buffer = vec![0; READ_BYTES];
        let frames = answer_bytes.div_ceil(FRAME_BYTES as u64);
        self.turn(time, answer_bytes as f64 / 1e9, |mut stream| {
            Order([SEND, answer_bytes, batch_frames, 0]).write(stream)?;
            let mut left = answer_bytes + frames * FRAME_HEAD_BYTES as u64;
            while left > 0 {
                match stream.read(&mut buffer)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    length => left -= length as u64,
                }
            }
            Ok(())
        })
    }

    /// It receives what it is sent, `upload_bytes` at a time; counted in gigabytes.
    pub fn receive(&self, upload_bytes: u64, time: Duration) -> Result<Sample, Hindrance> {
        let data = vec![1; READ_BYTES];
        self.turn(time, upload_bytes as f64 / 1e9, |mut stream| {
            Order([RECEIVE, upload_bytes, 0, 0]).write(stream)?;
            let mut left = upload_bytes as usize;
            while left > 0 {
                left -= stream.write(&data[..left.min(READ_BYTES)])?;
            }
            stream.read_exact(&mut [0; 8])
        })
    }

    /// It answers each request of `request_bytes` with `answer_bytes`, `in_flight` of them under way, as many a system call
    /// as there are; counted in requests.
    pub fn answer(
        &self,
        request_bytes: usize,
        answer_bytes: usize,
        in_flight: usize,
        time: Duration,
    ) -> Result<Sample, Hindrance> {
        /// Requests between looks at the clock.
        const REQUESTS: u64 = 2_000;
        let requests = if request_bytes > 10_000 { REQUESTS / 50 } else { REQUESTS };
        let outgoing = vec![1; request_bytes * in_flight];
        let mut buffer = vec![0; READ_BYTES];
        self.turn(time, requests as f64, |mut stream| {
            Order([ANSWER, requests, request_bytes as u64, answer_bytes as u64]).write(stream)?;
            let (mut sent, mut received_bytes) = (0, 0);
            loop {
                let answered = received_bytes / answer_bytes as u64;
                if answered == requests {
                    return Ok(());
                }
                let due = (requests - sent).min(in_flight as u64 - (sent - answered));
                stream.write_all(&outgoing[..due as usize * request_bytes])?;
                sent += due;
                match stream.read(&mut buffer)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    length => received_bytes += length as u64,
                }
            }
        })
    }

    /// Does `once` until the time is over, each time `units` more.
    fn turn(
        &self,
        time: Duration,
        units: f64,
        mut once: impl FnMut(&TcpStream) -> io::Result<()>,
    ) -> Result<Sample, Hindrance> {
        let failed = Hindrance::to("speak to the raw peer");
        // The first is not counted: pages are touched, buffers grow.
        once(&self.stream).map_err(&failed)?;
        let cpu = process::threads_time(self.child.id());
        let (begin, mut count) = (Instant::now(), 0);
        while begin.elapsed() < time || count == 0 {
            once(&self.stream).map_err(&failed)?;
            count += 1;
        }
        let seconds = begin.elapsed().as_secs_f64();
        let cpu = process::threads_time(self.child.id()).saturating_sub(cpu);
        Ok(Sample::new(units * f64::from(count), seconds, cpu.as_secs_f64()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The peer's side: says its port, takes one connection, follows orders until that ends or nobody is there any more.
pub fn serve() -> ExitCode {
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
    match follow() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("raw peer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn follow() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let source = crate::blob(1, SOURCE_BYTES);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let order = match Order::read(&stream) {
            Ok(order) => order,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        match order.0 {
            [SEND, total, batch, _] => send_frames(&stream, &source, total as usize, batch as usize)?,
            [RECEIVE, total, _, _] => {
                let mut left = total as usize;
                while left > 0 {
                    let room = left.min(READ_BYTES);
                    left -= read_some(&stream, &mut buffer[..room])?;
                }
                (&stream).write_all(&[0; 8])?;
            }
            [ANSWER, requests, request_bytes, answer_bytes] => {
                let (request_bytes, answer_bytes) = (request_bytes as usize, answer_bytes as usize);
                let (mut received, mut answered) = (0, 0);
                while answered < requests as usize {
                    received += read_some(&stream, &mut buffer)?;
                    let due = received / request_bytes - answered;
                    (&stream).write_all(&source[..due * answer_bytes])?;
                    answered += due;
                }
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn read_some(mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    match stream.read(buffer)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        length => Ok(length),
    }
}

/// `total` bytes in frames, `batch` of them a system call, nothing copied.
fn send_frames(mut stream: &TcpStream, source: &[u8], total: usize, batch: usize) -> io::Result<()> {
    let head = [0; FRAME_HEAD_BYTES];
    let mut left = total;
    while left > 0 {
        let mut slices = Vec::with_capacity(2 * batch);
        for _ in 0..batch {
            let length = left.min(FRAME_BYTES);
            if length == 0 {
                break;
            }
            let start = (total - left) % (SOURCE_BYTES - FRAME_BYTES);
            slices.push(IoSlice::new(&head));
            slices.push(IoSlice::new(&source[start..start + length]));
            left -= length;
        }
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            let written = stream.write_vectored(rest)?;
            IoSlice::advance_slices(&mut rest, written);
        }
    }
    Ok(())
}
