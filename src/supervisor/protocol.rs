//! What supervisor and worker tell each other, and the socket they do it over.
//!
//! A pair of Unix sockets that keep messages apart (`SOCK_SEQPACKET`): a note of a crash can come
//! from any thread at any time and must not end up in the middle of another message. What was sent
//! is there to be read after the sender's death. Messages are JSON, but for that note.

use std::borrow::Cow;
use std::io::{self, IoSlice, IoSliceMut};
use std::iter;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::catalog::Record;
use crate::engine::{CrashReport, Culprit};

/// To a worker that starts, in this order: `Start` with the listening socket, what it is to know,
/// `Go`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToWorker<'a> {
    Start {
        restarts: u64,
        /// The sender's process id.
        supervisor: u32,
    },
    /// A piece of the manifest in the next record; see [`manifest_parts`].
    ManifestPart(Cow<'a, str>),
    /// Was loaded when the last worker ended.
    Model(Cow<'a, Record>),
    Refuse(Refusal),
    Go,
}

/// Content that is not to be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// A `ContentHash::short`.
    pub content: u64,
    pub reason: String,
    /// How much longer it is refused.
    pub milliseconds: u64,
}

/// From a worker. A load or unload is told before whoever asked for it hears of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromWorker {
    Ready,
    /// A piece of the manifest in the next record that is `Loaded`; see [`manifest_parts`].
    ManifestPart(String),
    Loaded(Record),
    Unloaded {
        name: String,
    },
    /// Models of these contents (`ContentHash::short`) have been asked since the last such message.
    Used {
        contents: Vec<u64>,
    },
    /// Its HTTP threads make progress.
    Alive,
    /// It takes no new connections, and ends: runs of these contents are stuck, and another worker
    /// is to take its place.
    Replace {
        culprits: Vec<Culprit>,
    },
    /// It takes no new connections any more.
    Stopping,
}

/// A message of a worker's.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    Message(FromWorker),
    Crash(CrashReport),
}

/// Larger than any message: a name and a url have 4 KiB at most, a header is bounded by the HTTP
/// server, and of contents there are [`MAX_CONTENTS`] in one.
pub const MAX_MESSAGE: usize = 256 << 10;

/// Contents in a message; each takes 21 bytes at most.
pub const MAX_CONTENTS: usize = 8192;

/// Bytes of a manifest in a message. As a string in JSON they may be twice as many, and a socket
/// takes about 200 KiB at once.
const MANIFEST_PART: usize = 64 << 10;

/// The pieces in which a manifest is sent before the record that it belongs to.
pub fn manifest_parts(manifest: Option<&str>) -> impl Iterator<Item = &str> {
    let mut rest = manifest.unwrap_or_default();
    iter::from_fn(move || {
        let (part, more) = rest.split_at(rest.floor_char_boundary(MANIFEST_PART));
        rest = more;
        (!part.is_empty()).then_some(part)
    })
}

/// Puts the pieces of a manifest together: those that came since the last record are the next
/// one's.
#[derive(Debug, Default)]
pub struct ManifestParts(String);

impl ManifestParts {
    pub fn push(&mut self, part: &str) {
        self.0.push_str(part);
    }

    /// The record with its manifest.
    pub fn complete(&mut self, mut record: Record) -> Record {
        let manifest = mem::take(&mut self.0);
        record.manifest = (!manifest.is_empty()).then_some(manifest);
        record
    }
}

pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends `message`; waits for room unless `flags` say otherwise.
pub fn send_to(socket: impl AsFd, message: &impl Serialize, flags: SendFlags) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    send(socket, &json, flags | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// As [`send_to`], with a descriptor.
pub fn send_with(socket: impl AsFd, message: &impl Serialize, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    sendmsg(socket, &[IoSlice::new(&json)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message to a worker, and the descriptor that came with it. Waits for it.
pub fn receive_start(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(ToWorker<'static>, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    let json = &buffer[..received.bytes];
    if json.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((serde_json::from_slice(json)?, descriptor))
}

/// The next message of a worker, `None` after the last. Does not wait: without one it fails with
/// `WouldBlock`.
pub fn receive_from(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    let (_, length) = recv(socket, &mut *buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC)?;
    let Some(message) = buffer.get(..length) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    };
    if message.is_empty() {
        return Ok(None);
    }
    if let Some(note) = CrashReport::parse(message) {
        return Ok(Some(Received::Crash(note)));
    }
    Ok(Some(Received::Message(serde_json::from_slice(message)?)))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn record(name: &str) -> Record {
        Record {
            name: name.to_owned(),
            url: "/opt/ml/models/\"x\"\n/model".to_owned(),
            target_model: Some("☃.tar.gz".to_owned()),
            content: crate::engine::ContentHash::parse(&"0f".repeat(32)).unwrap(),
            manifest: None,
        }
    }

    #[test]
    fn a_worker_gets_the_listener_and_all_messages_in_order() {
        let (ours, theirs) = pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let messages = [
            ToWorker::Start {
                restarts: 3,
                supervisor: 1,
            },
            ToWorker::Model(Cow::Owned(record("a"))),
            ToWorker::Refuse(Refusal {
                content: u64::MAX,
                reason: "it crashed".to_owned(),
                milliseconds: 5,
            }),
            ToWorker::Go,
        ];
        send_with(&ours, &messages[0], listener.as_fd()).unwrap();
        drop(listener);
        for message in &messages[1..] {
            send_to(&ours, message, SendFlags::empty()).unwrap();
        }
        drop(ours);
        let mut buffer = vec![0; MAX_MESSAGE];
        let (first, descriptor) = receive_start(&theirs, &mut buffer).unwrap();
        assert_eq!(first, messages[0]);
        let listener = TcpListener::from(descriptor.unwrap());
        let mut client = TcpStream::connect(address).unwrap();
        drop(listener.accept().unwrap());
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        for message in &messages[1..] {
            let (received, descriptor) = receive_start(&theirs, &mut buffer).unwrap();
            assert_eq!(&received, message);
            assert!(descriptor.is_none());
        }
        let end = receive_start(&theirs, &mut buffer).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_long_manifest_comes_through_in_pieces_and_stays_with_its_record() {
        let (ours, theirs) = pair().unwrap();
        let manifest = "\"\u{2603}\\".repeat(60_000);
        let sender = {
            let manifest = manifest.clone();
            std::thread::spawn(move || {
                for part in manifest_parts(Some(&manifest)) {
                    send_to(&ours, &ToWorker::ManifestPart(Cow::Borrowed(part)), SendFlags::empty()).unwrap();
                }
                for name in ["with", "without"] {
                    send_to(&ours, &ToWorker::Model(Cow::Owned(record(name))), SendFlags::empty()).unwrap();
                }
            })
        };
        let (mut buffer, mut parts, mut records) = (vec![0; MAX_MESSAGE], ManifestParts::default(), Vec::new());
        while records.len() < 2 {
            match receive_start(&theirs, &mut buffer).unwrap().0 {
                ToWorker::ManifestPart(part) => parts.push(&part),
                ToWorker::Model(record) => records.push(parts.complete(record.into_owned())),
                other => panic!("{other:?}"),
            }
        }
        sender.join().unwrap();
        assert_eq!(records[0].manifest.as_deref(), Some(&*manifest));
        assert_eq!(records[1].manifest, None);
        assert_eq!(manifest_parts(None).count() + manifest_parts(Some("")).count(), 0);
    }

    #[test]
    fn what_a_worker_said_is_heard_after_its_end() {
        let (ours, theirs) = pair().unwrap();
        let mut buffer = vec![0; MAX_MESSAGE];
        let empty = receive_from(&ours, &mut buffer).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        send_to(&theirs, &FromWorker::Loaded(record("b")), SendFlags::empty()).unwrap();
        send_to(&theirs, &FromWorker::Ready, SendFlags::empty()).unwrap();
        drop(theirs);
        let mut next = || receive_from(&ours, &mut buffer).unwrap();
        assert_eq!(next(), Some(Received::Message(FromWorker::Loaded(record("b")))));
        assert_eq!(next(), Some(Received::Message(FromWorker::Ready)));
        assert_eq!(next(), None);
    }
}
