//! The sockets that the server listens on: bound by us, or handed over by systemd.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;

use super::certificates::Certificates;
use super::current::Current;
use super::handover::Predecessor;
use super::unix::SocketFile;
use crate::config::{ListenAddress, Listener};
use crate::tls::TlsError;

/// Connections that may wait in the kernel for each socket. The kernel cuts it at
/// `net.core.somaxconn`, which is 4096 by default.
const BACKLOG: i32 = 4096;

/// An address that can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}")]
pub struct BindError {
    /// The address as configured.
    pub address: ListenAddress,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// Bound sockets, a set for each worker.
#[derive(Debug)]
pub struct Sockets {
    pub(super) sets: Vec<Vec<Bound>>,
    /// What they belong to, in the order of the configuration.
    pub(super) entrances: Vec<Arc<Entrance>>,
    /// The process that they were taken over from, which waits until this one serves.
    pub(super) predecessor: Option<Predecessor>,
}

/// One socket of one worker.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) socket: AnyListener,
    pub(super) entrance: Arc<Entrance>,
}

/// One listener of the configuration, for all workers. It stays the same when a new configuration
/// names the same address, whatever else that says of it.
#[derive(Debug)]
pub(super) struct Entrance {
    /// How the next connection is taken.
    pub(super) door: Current<Door>,
    /// Whether a new configuration does not name it any more.
    pub(super) removed: watch::Sender<bool>,
    /// The file of a unix socket, which goes when nobody listens any more.
    pub(super) file: Mutex<Option<SocketFile>>,
    /// The sockets of all workers, to be handed over to a successor.
    sockets: Mutex<Vec<AnyListener>>,
}

impl Entrance {
    fn new(door: Door) -> Self {
        Self {
            door: Current::new(door),
            removed: watch::Sender::new(false),
            file: Mutex::default(),
            sockets: Mutex::default(),
        }
    }

    /// Closes it: who has connected is still let in.
    pub(super) fn remove(&self) {
        self.remove_file();
        self.forget_sockets();
        self.removed.send_replace(true);
    }

    pub(super) fn remove_file(&self) {
        drop(lock(&self.file).take());
    }

    /// Lets the file of a unix socket be.
    pub(super) fn leave_file(&self) {
        if let Some(file) = lock(&self.file).take() {
            file.leave();
        }
    }

    /// Keeps no socket open that the workers close.
    pub(super) fn forget_sockets(&self) {
        lock(&self.sockets).clear();
    }

    /// All sockets, each with its address as configured.
    pub(super) fn copies(&self) -> io::Result<Vec<(String, AnyListener)>> {
        let address = self.door.get().listener.address.to_string();
        let sockets = lock(&self.sockets);
        let copies = sockets
            .iter()
            .map(|socket| Ok((address.clone(), socket.try_clone()?)));
        copies.collect()
    }

    fn remember(&self, socket: &AnyListener) -> io::Result<()> {
        lock(&self.sockets).push(socket.try_clone()?);
        Ok(())
    }
}

/// What a new configuration makes of the sockets, ready to be applied.
#[derive(Debug)]
pub(super) struct Changed {
    /// New ones, a set for each worker, and all entrances as they will be.
    pub(super) sockets: Sockets,
    /// How connections will be taken where nothing else changes.
    pub(super) doors: Vec<(Arc<Entrance>, Door)>,
    /// Those that go.
    pub(super) removed: Vec<Arc<Entrance>>,
}

/// How connections to one address are taken.
#[derive(Debug)]
pub(super) struct Door {
    /// What the configuration says.
    pub(super) listener: Listener,
    /// With TLS, what its handshakes are done with.
    pub(super) certificates: Option<Certificates>,
}

impl Door {
    fn open(listener: Listener) -> Result<Self, TlsError> {
        let tls = listener.tls.clone();
        let certificates = tls.map(|tls| Certificates::open(tls, listener.http2));
        Ok(Self {
            certificates: certificates.transpose()?,
            listener,
        })
    }

    #[cfg(test)]
    pub(super) fn plain(listener: Listener) -> Self {
        Self {
            listener,
            certificates: None,
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub(super) enum AnyListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Sockets {
    /// Binds every address for each worker: TCP once for each of them (`SO_REUSEPORT`), so that
    /// the kernel spreads connections; unix sockets and those of systemd once for all.
    ///
    /// Sockets of systemd are taken from the process's environment (`LISTEN_FDS` and its kin).
    ///
    /// # Errors
    ///
    /// The first address that can't be bound.
    pub fn bind(listeners: &[Listener], workers: NonZeroUsize) -> Result<Self, BindError> {
        let mut sockets = Self::none(workers.get());
        let mut handed_over = HandedOver::default();
        let met = Predecessor::meet();
        if let (Some(listener), Err(source)) = (listeners.first(), &met) {
            return Err(BindError {
                address: listener.address.clone(),
                source: io::Error::new(source.kind(), format!("no handover: {source}")),
            });
        }
        if let Ok(Some((predecessor, inherited))) = met {
            sockets.predecessor = Some(predecessor);
            handed_over.inherited = inherited;
        }
        for listener in listeners {
            let entrance = Arc::new(Entrance::new(open(listener)?));
            sockets.add(entrance, listener, &mut handed_over)?;
        }
        Ok(sockets)
    }

    /// Binds what a new configuration names and `current` has not, and says what becomes of the
    /// rest. Nothing of `current` is touched.
    ///
    /// # Errors
    ///
    /// The first address that can't be bound, or whose certificates can't be used.
    pub(super) fn change(
        current: &[Arc<Entrance>],
        listeners: &[Listener],
        workers: usize,
    ) -> Result<Changed, BindError> {
        let mut removed = current.to_vec();
        let mut changed = Changed {
            sockets: Self::none(workers),
            doors: Vec::new(),
            removed: Vec::new(),
        };
        // systemd hands sockets over once, and what was not taken then is closed.
        let mut handed_over = HandedOver {
            systemd: Some(Vec::new()),
            ..HandedOver::default()
        };
        for listener in listeners {
            let door = open(listener)?;
            let is_here = |it: &Arc<Entrance>| it.door.get().listener.address == listener.address;
            if let Some(place) = removed.iter().position(is_here) {
                let kept = removed.remove(place);
                changed.sockets.entrances.push(Arc::clone(&kept));
                changed.doors.push((kept, door));
            } else {
                let entrance = Arc::new(Entrance::new(door));
                changed.sockets.add(entrance, listener, &mut handed_over)?;
            }
        }
        changed.removed = removed;
        Ok(changed)
    }

    fn none(workers: usize) -> Self {
        let mut sets: Vec<Vec<Bound>> = Vec::new();
        sets.resize_with(workers, Vec::new);
        Self {
            sets,
            entrances: Vec::new(),
            predecessor: None,
        }
    }

    /// The TCP addresses as they are, in the order as given: with port 0, the port that was chosen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let first = self.sets.first().into_iter().flatten();
        first
            .filter_map(|bound| match &bound.socket {
                AnyListener::Tcp(socket) => socket.local_addr().ok(),
                AnyListener::Unix(_) => None,
            })
            .collect()
    }

    /// All that is listened on, for people.
    pub(super) fn names(&self) -> Vec<String> {
        let first = self.sets.first().into_iter().flatten();
        let mut names: Vec<String> = first.map(Bound::name).collect();
        // A worker may have inherited several sockets of one address.
        names.dedup();
        names
    }

    fn add(
        &mut self,
        entrance: Arc<Entrance>,
        listener: &Listener,
        handed_over: &mut HandedOver,
    ) -> Result<(), BindError> {
        let listening = self.listen(&entrance, listener, handed_over);
        listening.map_err(|source| BindError {
            address: listener.address.clone(),
            source,
        })?;
        self.entrances.push(entrance);
        Ok(())
    }

    fn listen(
        &mut self,
        entrance: &Arc<Entrance>,
        listener: &Listener,
        handed_over: &mut HandedOver,
    ) -> io::Result<()> {
        let inherited = handed_over.inherit(&listener.address.to_string());
        match &listener.address {
            ListenAddress::Tcp(address) => self.listen_tcp(*address, inherited, entrance)?,
            _ if !inherited.is_empty() => {
                if let ListenAddress::Unix(path) = &listener.address {
                    *lock(&entrance.file) = SocketFile::adopt(path).ok();
                }
                for socket in inherited {
                    self.share(&socket, entrance)?;
                }
            }
            ListenAddress::Unix(path) => {
                let (socket, file) = SocketFile::listen(path, listener.mode, BACKLOG)?;
                *lock(&entrance.file) = Some(file);
                self.share(&AnyListener::Unix(socket), entrance)?;
            }
            ListenAddress::Systemd(name) => {
                for socket in handed_over.take(name.as_deref())? {
                    self.share(&socket, entrance)?;
                }
            }
        }
        Ok(())
    }

    /// Gives each worker a socket of its own. All that were inherited are used, since connections may
    /// wait in each.
    fn listen_tcp(
        &mut self,
        mut address: SocketAddr,
        inherited: Vec<AnyListener>,
        entrance: &Arc<Entrance>,
    ) -> io::Result<()> {
        let count = self.sets.len();
        let mut inherited = inherited.into_iter();
        for turn in 0.. {
            let socket = match inherited.next() {
                Some(socket) => socket,
                None if turn < count => AnyListener::Tcp(listen(address)?),
                None => break,
            };
            if let AnyListener::Tcp(socket) = &socket {
                // Port 0 is any port; the other workers need the same one.
                address = socket.local_addr()?;
            }
            entrance.remember(&socket)?;
            if let Some(set) = self.sets.get_mut(turn % count) {
                set.push(Bound {
                    socket,
                    entrance: Arc::clone(entrance),
                });
            }
        }
        Ok(())
    }

    /// Gives all workers the same socket.
    fn share(&mut self, socket: &AnyListener, entrance: &Arc<Entrance>) -> io::Result<()> {
        entrance.remember(socket)?;
        for set in &mut self.sets {
            set.push(Bound {
                socket: socket.try_clone()?,
                entrance: Arc::clone(entrance),
            });
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(listener: &Listener) -> Result<Door, BindError> {
    Door::open(listener.clone()).map_err(|error| BindError {
        address: listener.address.clone(),
        source: io::Error::other(error),
    })
}

impl Bound {
    fn name(&self) -> String {
        match (&self.socket, &self.entrance.door.get().listener.address) {
            (AnyListener::Tcp(socket), address) => match socket.local_addr() {
                Ok(address) => address.to_string(),
                Err(_) => address.to_string(),
            },
            // One that was moved into its place still says where it was made.
            (AnyListener::Unix(_), ListenAddress::Unix(path)) => {
                format!("unix:{}", path.display())
            }
            (AnyListener::Unix(socket), address) => {
                let path = socket.local_addr().ok();
                let path =
                    path.and_then(|at| at.as_pathname().map(|path| path.display().to_string()));
                path.map_or_else(|| address.to_string(), |path| format!("unix:{path}"))
            }
        }
    }
}

impl AsFd for AnyListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl AnyListener {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            Self::Unix(socket) => Self::Unix(socket.try_clone()?),
        })
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Without it, a restart would wait for the kernel to forget the old connections.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The sockets that were handed over to this process, until they are taken.
#[derive(Default)]
struct HandedOver {
    /// By the process before, with their addresses.
    inherited: Vec<(String, AnyListener)>,
    /// By systemd, with their names. `None` when nobody has looked: a process without such a listener
    /// leaves them alone.
    systemd: Option<Vec<(String, AnyListener)>>,
}

impl HandedOver {
    /// Takes those of this address.
    fn inherit(&mut self, address: &str) -> Vec<AnyListener> {
        let is_meant = |(of, _): &mut (String, AnyListener)| of == address;
        let taken = self.inherited.extract_if(.., is_meant);
        taken.map(|(_, socket)| socket).collect()
    }

    /// Takes those of this name, or all that are left.
    fn take(&mut self, name: Option<&str>) -> io::Result<Vec<AnyListener>> {
        let all = match &mut self.systemd {
            Some(all) => all,
            None => self.systemd.insert(from_systemd()?),
        };
        let is_meant =
            |(has, _): &mut (String, AnyListener)| name.is_none_or(|name| name == has.as_str());
        let taken: Vec<_> = all
            .extract_if(.., is_meant)
            .map(|(_, socket)| socket)
            .collect();
        if taken.is_empty() {
            let error = match name {
                Some(name) => {
                    format!("systemd handed over no socket with FileDescriptorName={name}")
                }
                None => "systemd handed over no socket".to_owned(),
            };
            return Err(io::Error::new(io::ErrorKind::NotFound, error));
        }
        Ok(taken)
    }
}

/// All sockets that were handed over to this process, in their order.
fn from_systemd() -> io::Result<Vec<(String, AnyListener)>> {
    let variable = |name| std::env::var(name).ok();
    // Whoever started us may have inherited them, with a number that is not ours.
    let is_ours =
        variable("LISTEN_PID").and_then(|pid| pid.parse().ok()) == Some(std::process::id());
    if !is_ours {
        return Ok(Vec::new());
    }
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut fds = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..fds.len() {
        // sd_listen_fds_with_names(3): one without a name is called so.
        let name = names.next().filter(|name| !name.is_empty());
        let name = name.unwrap_or("unknown").to_owned();
        let socket = match fds.take_tcp_listener(index) {
            Ok(socket) => socket.map(AnyListener::Tcp),
            Err(_not_tcp) => fds.take_unix_listener(index)?.map(AnyListener::Unix),
        };
        if let Some(socket) = socket {
            match &socket {
                AnyListener::Tcp(socket) => socket.set_nonblocking(true)?,
                AnyListener::Unix(socket) => socket.set_nonblocking(true)?,
            }
            sockets.push((name, socket));
        }
    }
    Ok(sockets)
}
