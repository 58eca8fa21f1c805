//! Unix sockets that are bound by us, and their files.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a unix socket. It is removed with this, unless somebody else has put another one in
/// its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode, which tell it from another one's. `None` when it is not ours any more.
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    /// Listens at `path`. A file that a process left behind is replaced; one that somebody listens
    /// at, or that is no socket, is an error.
    ///
    /// The socket is made beside its place and moved there when it is ready: nobody meets it before
    /// it has its permissions and listens.
    pub(super) fn listen(
        path: &Path,
        mode: Option<u32>,
        backlog: i32,
    ) -> io::Result<(UnixListener, Self)> {
        make_room(path)?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        if fs::symlink_metadata(&beside).is_ok_and(|file| file.file_type().is_socket()) {
            fs::remove_file(&beside)?;
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(&beside)?)?;
        let ready = || {
            if let Some(mode) = mode {
                fs::set_permissions(&beside, Permissions::from_mode(mode))?;
            }
            socket.listen(backlog)?;
            let file = fs::symlink_metadata(&beside)?;
            fs::rename(&beside, path)?;
            Ok((file.dev(), file.ino()))
        };
        let identity = ready().inspect_err(|_: &io::Error| {
            // What is reported is why it was not made.
            fs::remove_file(&beside).unwrap_or_default();
        })?;
        let file = Self {
            path: path.to_owned(),
            identity: Some(identity),
        };
        Ok((socket.into(), file))
    }

    /// The file of a socket that was made by the process before this one.
    pub(super) fn adopt(path: &Path) -> io::Result<Self> {
        let file = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            identity: Some((file.dev(), file.ino())),
        })
    }

    /// Lets the file be: it is another process's now.
    pub(super) fn leave(mut self) {
        self.identity = None;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| Some((file.dev(), file.ino())) == self.identity);
        if is_ours {
            // One that is left behind is replaced at the next start.
            fs::remove_file(&self.path).unwrap_or_default();
        }
    }
}

/// Checks that a socket may be put at this path.
fn make_room(path: &Path) -> io::Result<()> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !file.file_type().is_socket() {
        let text = "there is a file that is no socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            let text = "another process listens on it";
            Err(io::Error::new(io::ErrorKind::AddrInUse, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let left_behind = UnixListener::bind(&path).unwrap();
        drop(left_behind);
        let (listener, file) = SocketFile::listen(&path, Some(0o620), 8).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o620);
        UnixStream::connect(&path).unwrap();

        let error = SocketFile::listen(&path, None, 8).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop((listener, file));
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        fs::write(&path, "precious").unwrap();
        let error = SocketFile::listen(&path, None, 8).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn the_file_of_a_successor_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (listener, file) = SocketFile::listen(&path, None, 8).unwrap();
        drop(listener);
        let (_successor, _its_file) = SocketFile::listen(&path, None, 8).unwrap();
        drop(file);
        UnixStream::connect(&path).unwrap();
    }
}
