//! The listening sockets pass from one process to its successor.
//!
//! The old process starts the new one with one end of a pair of sockets as its standard input, sends
//! every listening socket by it (`SCM_RIGHTS`), and goes on accepting. The new one takes those that its
//! configuration names and answers when it serves; only then does the old one stop. Both accept from
//! the same sockets meanwhile, so no connection that waits in one of them is lost. A new process that
//! ends first, or says nothing for too long, changes nothing.
//!
//! Each message is one socket with the address as it is configured; an empty address ends them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::parent_id;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use socket2::{Domain, SockRef};
use tokio::sync::oneshot;
use tracing::info;

use super::sockets::AnyListener;

/// Says in a process's environment whose successor it is: the number of its parent. Whoever is started
/// later and inherits it has another parent.
const VARIABLE: &str = "SUCCESSOR_OF_PYCKET";
/// How long a successor may take until it serves.
const PATIENCE: Duration = Duration::from_mins(1);
/// No address is longer: paths of unix sockets have 108 bytes, names of systemd 255.
const MAX_ADDRESS: usize = 512;
/// What a successor says when it serves.
const SERVING: &[u8] = b"serving";

/// A socket, with its address as it is configured.
pub(super) type Named = (String, AnyListener);

/// Why there is no successor.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandoverError {
    #[error("can't start it")]
    Start(#[source] io::Error),
    #[error("can't hand the sockets over")]
    Send(#[source] io::Error),
    #[error("it has ended before it served: {0}")]
    Ended(String),
    #[error("it does not serve after {} s", PATIENCE.as_secs())]
    Silent,
}

/// Starts `command` as the successor, which gets these sockets. What becomes of it is told when it
/// serves, or when it won't.
pub(super) fn begin(
    mut command: Command,
    sockets: Vec<Named>,
) -> oneshot::Receiver<Result<(), HandoverError>> {
    let (tell, told) = oneshot::channel();
    // It waits for another process, which the runtime must not.
    let waiting = move || {
        let outcome = hand_over(&mut command, &sockets);
        // Nobody waits for it when we are told to stop meanwhile.
        tell.send(outcome).unwrap_or_default();
    };
    let thread = thread::Builder::new().name("handover".to_owned());
    // Without a thread, nobody tells, which is an answer, too.
    drop(thread.spawn(waiting));
    told
}

fn hand_over(command: &mut Command, sockets: &[Named]) -> Result<(), HandoverError> {
    let (ours, theirs) = pair().map_err(HandoverError::Start)?;
    command
        .env(VARIABLE, std::process::id().to_string())
        .stdin(Stdio::from(theirs));
    let mut child = command.spawn().map_err(HandoverError::Start)?;
    // It holds the other end, whose closing tells us that the successor has ended.
    command.stdin(Stdio::null());
    info!(pid = child.id(), "a successor was started");
    let outcome = tell(&ours, sockets).and_then(|()| listen(&ours, &mut child));
    if outcome.is_err() {
        // It may have ended already. Whoever does not serve must not begin to later.
        child.kill().unwrap_or_default();
        drop(child.wait());
    }
    outcome
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = SocketType::SEQPACKET;
    let pair = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    SockRef::from(&pair.0).set_read_timeout(Some(PATIENCE))?;
    SockRef::from(&pair.0).set_write_timeout(Some(PATIENCE))?;
    Ok(pair)
}

fn tell(to: &OwnedFd, sockets: &[Named]) -> Result<(), HandoverError> {
    let send = || {
        for (address, socket) in sockets {
            send(to, address.as_bytes(), &[socket.as_fd()])?;
        }
        // What is left to say has no socket, and a message has at least one byte.
        send(to, b"\0", &[])
    };
    match send() {
        // It has ended; the exit code says more.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(HandoverError::Send),
    }
}

fn listen(from: &OwnedFd, child: &mut Child) -> Result<(), HandoverError> {
    let mut bytes = [0; SERVING.len()];
    match rustix::io::read(from, &mut bytes) {
        Ok(length) if bytes.get(..length) == Some(SERVING) => Ok(()),
        Err(error) if error == rustix::io::Errno::AGAIN => Err(HandoverError::Silent),
        Ok(_) | Err(_) => {
            let status = child.wait().map_err(HandoverError::Start)?;
            Err(HandoverError::Ended(status.to_string()))
        }
    }
}

fn send(to: &OwnedFd, text: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() {
        // There is room for the one.
        let _has_room = control.push(SendAncillaryMessage::ScmRights(sockets));
    }
    sendmsg(to, &[IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The process that this one takes over from.
#[derive(Debug)]
pub(super) struct Predecessor(OwnedFd);

impl Predecessor {
    /// Takes the sockets that were handed over to this process; `None` when it is nobody's successor.
    pub(super) fn meet() -> io::Result<Option<(Self, Vec<Named>)>> {
        let named = std::env::var(VARIABLE).ok();
        if named.and_then(|id| id.parse().ok()) != Some(parent_id()) {
            return Ok(None);
        }
        let channel = io::stdin().as_fd().try_clone_to_owned()?;
        SockRef::from(&channel).set_read_timeout(Some(PATIENCE))?;
        let mut sockets = Vec::new();
        while let Some(socket) = receive(&channel)? {
            sockets.push(socket);
        }
        Ok(Some((Self(channel), sockets)))
    }

    /// Says that this process serves.
    pub(super) fn dismiss(self) -> io::Result<()> {
        Ok(rustix::io::write(&self.0, SERVING).map(drop)?)
    }
}

fn receive(from: &OwnedFd) -> io::Result<Option<(String, AnyListener)>> {
    let mut text = [0; MAX_ADDRESS];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        from,
        &mut [IoSliceMut::new(&mut text)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let socket = control.drain().find_map(|message| {
        if let RecvAncillaryMessage::ScmRights(mut sockets) = message {
            sockets.next()
        } else {
            None
        }
    });
    let Some(socket) = socket else {
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        return Ok(None);
    };
    let address = text.get(..received.bytes).unwrap_or_default();
    let address = String::from_utf8_lossy(address).into_owned();
    let is_unix = SockRef::from(&socket).domain()? == Domain::UNIX;
    let socket = if is_unix {
        AnyListener::Unix(UnixListener::from(socket))
    } else {
        AnyListener::Tcp(TcpListener::from(socket))
    };
    Ok(Some((address, socket)))
}
